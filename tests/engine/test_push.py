"""`midstream push`: local models go to a real registry, and the manifest that names them there is served."""

import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit import client, folder, models
from kit import registry as registries
from kit.registry import Registry
from kit.serving import manifest_of, serving
from kit.started import started
from midstream import cli, manifest
from midstream.models import written
from midstream.push import place
from midstream_api.model import Model, Source
from midstream_artifacts import layout, push
from midstream_artifacts.references import Reference
from midstream_artifacts.registry import RegistryAccess


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Return a registry that is open to everybody."""
    registries.require()
    with registries.running(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture(autouse=True)
def _no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """Return a manifest of three steps: two share a file, one is fetched from elsewhere."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "one.onnx").write_bytes(b"one")
    path = tmp_path / "pipeline.yaml"
    path.write_text(
        "# of houses\n"
        "apiVersion: midstream.dev/v1alpha1\n"
        "kind: Pipeline\n"
        "metadata: {name: house-price}\n"
        "spec:\n"
        "  steps:\n"
        "    - name: a\n"
        "      model: {name: One, version: 1.0+b, source: {uri: models/one.onnx}}\n"
        "    - name: b\n"
        "      model:\n"
        "        name: two   # the same file\n"
        "        source:\n"
        f"          uri: {(tmp_path / 'models' / 'one.onnx').as_uri()}\n"
        "    - name: c\n"
        "      model: {name: three, source: {uri: 'https://models.example/three.onnx'}}\n"
    )
    return path


def run(registry: Registry, path: Path, repository: str, *more: str) -> int:
    """Push a manifest as a user does."""
    return cli.main(["push", str(path), "--to", registry.uri(repository), "--plain-http", *more])


def test_pushed_manifest(
    registry: Registry, pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every local source is named by digest, with its SHA-256; others and comments stay."""
    out = tmp_path / "out.yaml"
    assert run(registry, pipeline, "first", "-o", str(out)) == 0
    digest = hashlib.sha256(b"one").hexdigest()
    loaded = manifest.load(out)
    one, two, three = (step.main for step in loaded.pipeline.spec.steps)
    assert str(one.source.uri).startswith(registry.uri("first/one:1.0-b@sha256:"))
    assert str(two.source.uri).startswith(registry.uri(f"first/two:{digest[:12]}@sha256:"))
    assert three.source == Source(uri="https://models.example/three.onnx")
    assert (one.sha256, two.sha256, three.sha256) == (digest, digest, None)
    assert one.source.insecure
    assert two.source.insecure
    assert out.read_text().startswith("# of houses\n")
    assert "two   # the same file\n" in out.read_text()
    said = capsys.readouterr()
    assert said.out == ""
    assert "step a: one.onnx: pushed" in said.err
    assert "step b: one.onnx: the registry has its bytes" in said.err
    assert "step c: https://models.example/three.onnx is not a local file" in said.err


def test_second_push_changes_nothing(
    registry: Registry, pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is sent, and the same manifest is printed; pushing that one has nothing to do."""
    assert run(registry, pipeline, "second") == 0
    first = capsys.readouterr().out
    written = registry.written()
    assert run(registry, pipeline, "second") == 0
    said = capsys.readouterr()
    assert said.out == first
    assert said.err.count("nothing to do") == 2
    pipeline.write_text(first)
    assert run(registry, pipeline, "second") == 0
    assert capsys.readouterr().out == first
    assert registry.written() == written


def test_pushed_manifest_is_served(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`midstream run` fetches what `midstream push` brought to the registry; the file is not needed any more."""
    model = models.scaled(tmp_path / "two.onnx", 2.0)
    local = tmp_path / "pipeline.yaml"
    local.write_text(manifest_of(("two", model)))
    (there := tmp_path / "there").mkdir()
    assert run(registry, local, "served", "-o", str(there / "pipeline.yaml")) == 0
    model.unlink()
    assert cli.main(["validate", str(there / "pipeline.yaml")]) == 0
    assert cli.main(["plan", str(there / "pipeline.yaml"), "--cache", str(tmp_path / "c")]) == 0
    assert "fetched" in capsys.readouterr().out
    with serving(there / "pipeline.yaml") as service:
        service.wait_for("serving")
        assert client.infer(service.port).outputs == [36.0]


def test_engine_logs_in(tmp_path: Path) -> None:
    """An engine fetches from a registry with passwords; the Docker config appears after it was started."""
    registries.require()
    file = models.scaled(tmp_path / "two.onnx", 2.0)
    with registries.running(tmp_path / "registry", "password") as server:
        config = registries.docker_config(tmp_path / "own.json", server.address)
        access = RegistryAccess(config, insecure=True)
        pinned = push.push(file, Reference.parse(server.uri("team/two:v1")), access).pinned
        resolved = folder.model(file).model_copy(update={"uri": pinned.uri, "insecure": True})
        logins = tmp_path / "logins" / "config.json"
        with started(tmp_path, "--registry-config", str(logins)) as engine:
            logins.parent.mkdir()
            config.rename(logins)
            file.unlink()
            candidate = folder.document(resolved)
            engine.config.write(engine.stable, candidate)
            engine.wait("serving", candidate)
            assert engine.value() == 36.0


def test_every_model_of_every_step_is_pushed(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Variants, challengers, code in files and archives; code in the manifest stays there."""
    for name in ("rf.onnx", "gbr.onnx", "prepare.py"):
        (tmp_path / name).write_bytes(f"# {name}\n".encode())
    with zipfile.ZipFile(tmp_path / "judge.zip", "w") as archive:
        archive.writestr("model.py", "x = 1\n")
    path = tmp_path / "pipeline.yaml"
    path.write_text(
        """\
apiVersion: midstream.dev/v1alpha1
kind: Pipeline
metadata: {name: house-price}
spec:
  steps:
    - name: prepare
      model:
        name: prepare
        framework: Python
        source: {uri: prepare.py}
    - name: predict
      split:
        variants:
          - {name: control, model: {name: rf, source: {uri: rf.onnx}}}
          - name: rival
            model:
              name: gbr     # the new one
              source:
                uri: gbr.onnx
    - name: judge
      shadow:
        champion:
          name: plain
          model: {name: plain, framework: Python, source: {inline: "def process(inputs): ..."}}
        challengers:
          - {name: packed, model: {name: packed, framework: Python, source: {uri: judge.zip}}}
"""
    )
    out = tmp_path / "out.yaml"
    assert run(registry, path, "whole", "-o", str(out)) == 0
    found = {one.title: one.model for one in written(manifest.load(out))}
    for title, file, kind in (
        ("prepare", "prepare.py", layout.PYTHON),
        ("predict (control)", "rf.onnx", layout.ONNX),
        ("predict (rival)", "gbr.onnx", layout.ONNX),
        ("judge (packed)", "judge.zip", layout.PYTHON),
    ):
        model = found[title]
        content = (tmp_path / file).read_bytes()
        assert model.sha256 == hashlib.sha256(content).hexdigest()
        pushed = Reference.parse(str(model.source.uri))
        assert pushed.digest is not None
        body = registry.blob(pushed.digest).read_bytes()
        assert layout.model_layer(body, "it") == layout.Layer(
            model.sha256, len(content), file, kind
        )
    assert found["judge (plain)"].source.inline == "def process(inputs): ..."
    assert found["judge (plain)"].sha256 is None
    assert "# the new one\n" in out.read_text()
    said = capsys.readouterr().err
    assert "step judge (plain): its code stands in the manifest and stays there" in said
    assert "step predict (rival): gbr.onnx: pushed: " in said


def test_moved_tag_is_told(
    registry: Registry, pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other bytes under the same version are pushed, and what loses its tag is named."""
    assert run(registry, pipeline, "moved") == 0
    (pipeline.parent / "models" / "one.onnx").write_bytes(b"another")
    assert run(registry, pipeline, "moved") == 0
    assert "step a: the tag has moved from sha256:" in capsys.readouterr().err


def test_what_cannot_be_pushed(
    registry: Registry, pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message has line and field, and no manifest is written."""
    out = tmp_path / "out.yaml"
    (pipeline.parent / "models" / "one.onnx").unlink()
    assert run(registry, pipeline, "never", "-o", str(out)) == 1
    assert "pipeline.yaml:8:" in (said := capsys.readouterr().err)
    assert "spec.steps[0].model.source.uri" in said
    pipeline.write_text(pipeline.read_text().replace("version: 1.0+b,", f"sha256: {'0' * 64},"))
    (pipeline.parent / "models" / "one.onnx").write_bytes(b"one")
    assert run(registry, pipeline, "never", "-o", str(out)) == 1
    assert "spec.steps[0].model.sha256" in capsys.readouterr().err
    assert not out.exists()


def test_plain_http_must_be_asked_for(
    registry: Registry, pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the option a registry that speaks plain HTTP is refused, and the option is named."""
    assert cli.main(["push", str(pipeline), "--to", registry.uri("plain")]) == 1
    assert "--plain-http" in capsys.readouterr().err


@pytest.mark.parametrize(
    "to", ["registry.example/models", "oci://registry.example", "oci://r/models:v1", "oci://r/a@b"]
)
def test_target_that_is_none(to: str, pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake in --to is one of the command line."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["push", str(pipeline), "--to", to])
    assert caught.value.code == 2
    assert "oci://" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "version", "repository", "tag"),
    [
        ("rf", "3", "base/rf", "3"),
        ("My.Model--x", "v1", "base/my.model--x", "v1"),
        ("a._.b", "1.0+build 7", "base/a-b", "1.0-build-7"),
        ("a__b", ".hidden", "base/a__b", "_.hidden"),
        ("a", "ä" * 128, "base/a", "_" + "-" * 127),
        ("a", None, "base/a", None),
    ],
)
def test_place(name: str, version: str | None, repository: str, tag: str | None) -> None:
    """Names and versions that a registry cannot hold are written with what it can."""
    model = Model(name=name, version=version, source=Source(uri="x"))
    found = place(Reference.parse("oci://r/base"), model)
    assert (found.repository, found.tag) == (repository, tag)
