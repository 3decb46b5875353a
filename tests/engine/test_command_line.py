"""`midstream validate` and `midstream plan` on real files, against a real engine."""

import hashlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from kit import models
from kit.engine import engine
from kit.folder import ConfigFolder
from midstream import cli, manifest, resolve
from midstream_api import version
from midstream_artifacts.cache import Cache


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two models and the manifest of one step."""
    models.scaled(tmp_path / "rf.onnx", 1.0)
    models.scaled(tmp_path / "gbr.onnx", 2.0)
    write(tmp_path, "rf")
    return tmp_path


def write(folder: Path, model: str, extra: str = "", rollout: str = "") -> Path:
    """Write the manifest of one step; `extra` are lines of the model, `rollout` of the spec."""
    path = folder / "pipeline.yaml"
    path.write_text(
        f"""\
apiVersion: midstream.dev/v1alpha1
kind: Pipeline
metadata: {{name: house-price}}
spec:
  steps:
    - name: predict
      model:
        name: {model}
        source:
          uri: {model}.onnx
{extra}{rollout}"""
    )
    return path


def sha256(path: Path) -> str:
    """The digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str, str]:
    """Run a command in this process: exit code, output, errors."""
    code = cli.main([str(arg) for arg in args])
    said = capsys.readouterr()
    return code, said.out, said.err


# validate


def test_valid_manifest_is_told_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0, and one line that says what was read."""
    path = folder / "pipeline.yaml"
    assert run(capsys, "validate", path) == (
        0,
        f"{path} is valid: pipeline house-price, steps: predict (rf)\n",
        "",
    )


def test_every_problem_of_every_file_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, problems in lines that editors understand, valid files named too."""
    broken = folder / "broken.yaml"
    broken.write_text("apiVersion: midstream.dev/v1alpha1\nkind: Pipeline\nmetadata: {name: 3}\n")
    code, out, errors = run(capsys, "validate", broken, folder / "pipeline.yaml")
    assert code == 1
    assert errors.splitlines() == [
        f"{broken}:1:1: spec: missing field 'spec'; write spec: {{steps: [...]}}",
        f'{broken}:3:12: metadata.name: expected a string, got the number 3; write "3"',
    ]
    assert (
        out == f"{folder / 'pipeline.yaml'} is valid: pipeline house-price, steps: predict (rf)\n"
    )


def test_a_file_that_is_not_there_is_told_alike(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`validate` and `plan` write it to standard error, with the name that was meant."""
    path = folder / "pipelin.yaml"
    told = (1, "", f"{path}: no such file; did you mean '{folder / 'pipeline.yaml'}'?\n")
    assert run(capsys, "validate", path) == told
    assert run(capsys, "plan", path, "--cache", folder / "cache") == told


def test_model_file_that_does_not_exist_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the line of the address; with --no-sources nobody looks."""
    path = write(folder, "xgb")
    code, _, errors = run(capsys, "validate", path)
    assert code == 1
    assert errors.startswith(
        f"{path}:10:11: spec.steps[0].model.source.uri: {folder}/xgb.onnx does not exist"
    )
    assert run(capsys, "validate", "--no-sources", path)[0] == 0


def test_model_that_is_a_folder_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder is no model."""
    (folder / "xgb.onnx").mkdir()
    code, _, errors = run(capsys, "validate", write(folder, "xgb"))
    assert code == 1
    assert "spec.steps[0].model.source.uri: " in errors
    assert "is a directory; name the model file in it" in errors


def test_model_with_another_sha256_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the line of the digest, with both digests."""
    path = write(folder, "rf", extra=f"        sha256: {'ab' * 32}\n")
    code, _, errors = run(capsys, "validate", path)
    assert code == 1
    assert errors.startswith(f"{path}:11:9: spec.steps[0].model.sha256: ")
    assert sha256(folder / "rf.onnx") in errors


def test_address_that_is_none_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Remote addresses are understood, though not asked."""
    path = folder / "pipeline.yaml"
    path.write_text(path.read_text().replace("rf.onnx", "s3://bucket/rf.onnx"))
    code, _, errors = run(capsys, "validate", path)
    assert code == 1
    assert "unsupported scheme 's3:'" in errors


PREPROCESS = """\
def process(inputs):
    return {"tensor": inputs["tensor"] * 2}
"""
WHOLE = """\
apiVersion: midstream.dev/v1alpha1
kind: Pipeline
metadata: {name: house-price}
spec:
  steps:
    - name: prepare
      model: {name: double, framework: Python, source: {uri: double.py}}
    - name: round
      model:
        name: round
        framework: Python
        source:
          inline: |
            def process(inputs):
                return {"tensor": inputs["tensor"].round()}
    - name: predict
      split:
        variants:
          - {name: control, weight: 2, model: {name: rf, source: {uri: rf.onnx}}}
          - {name: rival, model: {name: gbr, source: {uri: gbr.onnx}}}
    - name: judge
      shadow:
        champion: {name: first, model: {name: plain, source: {uri: plain.onnx}}}
        challengers: [{name: second, model: {name: rounded, source: {uri: plain.onnx}}}]
  validations:
    - {name: high, expression: "out.price[0] < 100.0"}
"""


@pytest.fixture
def whole(folder: Path) -> Path:
    """A manifest of every kind of step, with a file and a piece of code."""
    (folder / "double.py").write_text(PREPROCESS)
    models.linear(folder / "plain.onnx", n_features=1, input_name="variable", output_name="price")
    path = folder / "whole.yaml"
    path.write_text(WHOLE)
    return path


def test_every_kind_of_step_is_told(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line that says what was read names the models of splits and shadows, too."""
    code, out, errors = run(capsys, "validate", whole)
    assert (code, errors) == (0, "")
    assert out.endswith(
        "steps: prepare (double), round (round), predict (split: rf, gbr), judge (shadow: plain, rounded)\n"
    )


def test_code_that_is_no_python_is_told(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the line in a file, and the manifest's own line for a block of code in it."""
    (whole.parent / "double.py").write_text(PREPROCESS.replace("):", ")"))
    whole.write_text(WHOLE.replace("round()}", "round(}"))
    code, _, errors = run(capsys, "validate", whole)
    assert code == 1
    assert [line.partition("not Python")[0] for line in errors.splitlines()] == [
        f"{whole}:7:57: spec.steps[0].model.source.uri: double.py, line 1: ",
        f"{whole}:15:1: spec.steps[1].model.source.inline: the code, line 2: ",
    ]
    code, _, errors = run(capsys, "validate", "--no-sources", whole)
    assert (code, len(errors.splitlines())) == (1, 1)


def test_missing_file_of_a_variant_is_told_at_the_variant(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each model of a split and a shadow is looked at."""
    challenger = "rounded, source: {uri: "
    changed = WHOLE.replace("gbr.onnx", "none.onnx").replace(
        f"{challenger}plain", f"{challenger}none"
    )
    whole.write_text(changed)
    _, _, errors = run(capsys, "validate", whole)
    assert [line.split(": ")[1] for line in errors.splitlines()] == [
        "spec.steps[2].split.variants[1].model.source.uri",
        "spec.steps[3].shadow.challengers[0].model.source.uri",
    ]


def test_manifest_that_no_cluster_has_room_for_is_told(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is fetched or pushed: where the bytes are, how many, and what to do."""
    code = "".join(f"            # {number:050}\n" for number in range(1000))
    step = (
        "    - name: s{0}\n      model: {{name: m, framework: Python, source: {{inline: *code}}}}\n"
    )
    text = WHOLE.replace("inline: |\n", f"inline: &code |\n{code}")
    whole.write_text(
        text.replace("  validations:", "".join(map(step.format, range(7))) + "  validations:")
    )
    for command, *more in (["validate"], ["push", "--to", "oci://registry.example/models"]):
        exit_code, _, said = run(capsys, command, whole, *more)
        assert exit_code == 1
        assert ":13:11: spec.steps[1].model.source.inline: the revision's document has 4" in said
        assert "and at most 409600 fit; put it into a file, and give its uri instead" in said


# resolving


def test_every_model_of_every_step_is_pinned(whole: Path) -> None:
    """Files by their bytes, code by its own; validations are part of the document and of the version."""
    resolved = resolve.resolve(manifest.load(whole), Cache(whole.parent / "cache"))
    assert [(one.title, one.model.name) for one in resolved.models] == [
        ("prepare", "double"),
        ("round", "round"),
        ("predict (control)", "rf"),
        ("predict (rival)", "gbr"),
        ("judge (first)", "plain"),
        ("judge (second)", "rounded"),
    ]
    assert [one.model for one in resolved.models] == resolved.document.models()
    double, inline, rf = (one.model for one in resolved.models[:3])
    assert double.sha256 == hashlib.sha256(PREPROCESS.encode()).hexdigest()
    assert (inline.uri, inline.size) == (None, len((inline.inline or "").encode()))
    assert inline.sha256 == hashlib.sha256((inline.inline or "").encode()).hexdigest()
    assert rf.sha256 == sha256(whole.parent / "rf.onnx")
    checks = manifest.load(whole).pipeline.spec.validations
    assert resolved.document.validations == checks
    assert resolved.version == version.version_of("house-price", resolved.document.steps, checks)
    assert resolved.version != version.version_of("house-price", resolved.document.steps)


def test_code_is_held_to_its_digest(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sha256 beside code in the manifest is checked as that of a file."""
    whole.write_text(
        WHOLE.replace(
            "        name: round\n", f"        name: round\n        sha256: {'ab' * 32}\n"
        )
    )
    with pytest.raises(resolve.ResolveError) as caught:
        resolve.resolve(manifest.load(whole), Cache(whole.parent / "cache"))
    assert (caught.value.reason, caught.value.transient) == ("DigestMismatch", False)
    _, _, errors = run(capsys, "validate", whole)
    assert errors.startswith(f"{whole}:11:9: spec.steps[1].model.sha256: the code in source.inline")


def test_resolved_revision_holds_what_an_engine_needs(folder: Path) -> None:
    """Digest, size and absolute address; the index entry fits the document's bytes."""
    resolved = resolve.resolve(manifest.load(folder / "pipeline.yaml"), Cache(folder / "cache"))
    model = resolved.document.steps[0].main
    path = folder / "rf.onnx"
    assert (model.sha256, model.size, model.uri) == (
        sha256(path),
        path.stat().st_size,
        path.as_uri(),
    )
    assert resolved.total_bytes == path.stat().st_size
    assert resolved.version == version.version_of("house-price", resolved.document.steps)
    assert resolved.entry().sha256 == hashlib.sha256(resolved.dump()).hexdigest()
    assert resolved.entry().revision == version.revision_id(resolved.document)
    assert resolved.models[0].path is not None
    assert resolved.models[0].path.read_bytes() == path.read_bytes()


def test_same_content_in_another_folder_is_the_same_version(folder: Path) -> None:
    """A laptop and a cluster agree on versions."""
    other = folder / "other"
    other.mkdir()
    (other / "rf.onnx").write_bytes((folder / "rf.onnx").read_bytes())
    found = [
        resolve.resolve(manifest.load(path), Cache(path.parent / "cache"))
        for path in (folder / "pipeline.yaml", write(other, "rf"))
    ]
    assert found[0].version == found[1].version
    assert found[0].document.steps[0].main.uri != found[1].document.steps[0].main.uri


def test_equal_bytes_under_another_name_are_a_new_version(folder: Path) -> None:
    """A name is part of what a pipeline answers with."""
    (folder / "copy.onnx").write_bytes((folder / "rf.onnx").read_bytes())
    cache = Cache(folder / "cache")
    first = resolve.resolve(manifest.load(folder / "pipeline.yaml"), cache)
    second = resolve.resolve(manifest.load(write(folder, "copy")), cache)
    assert first.document.steps[0].main.sha256 == second.document.steps[0].main.sha256
    assert first.version != second.version


def test_pinned_model_in_the_cache_needs_no_source(folder: Path) -> None:
    """A digest that the cache has is enough, though the file is gone."""
    digest = sha256(folder / "rf.onnx")
    path = write(folder, "rf", extra=f"        sha256: {digest}\n")
    cache = Cache(folder / "cache")
    assert not resolve.resolve(manifest.load(path), cache).models[0].from_cache
    (folder / "rf.onnx").unlink()
    assert resolve.resolve(manifest.load(path), cache).models[0].from_cache


def test_resolve_error_says_where_and_why(folder: Path) -> None:
    """File, line, field, and a reason that programs understand."""
    path = write(folder, "xgb")
    with pytest.raises(resolve.ResolveError) as caught:
        resolve.resolve(manifest.load(path), Cache(folder / "cache"))
    assert str(caught.value).startswith(f"{path}:10:11: spec.steps[0].model.source.uri: ")
    assert (caught.value.reason, caught.value.transient) == ("SourceNotFound", False)


def test_a_pipeline_without_steps_is_valid_and_nothing_to_serve(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Undeployed it may be empty; a plan says so instead of making one of nothing."""
    path = folder / "pipeline.yaml"
    text = path.read_text()
    path.write_text(text[: text.index("  steps:")] + "  steps: []\n  deployed: false\n")
    assert run(capsys, "validate", path)[:2] == (
        0,
        f"{path} is valid: pipeline house-price, steps: none\n",
    )
    code, _, errors = run(capsys, "plan", path, "--cache", folder / "cache")
    assert code == 1
    assert "spec.steps: is empty, so there is nothing to serve; add a step" in errors


def test_document_that_no_engine_would_read_is_refused(folder: Path) -> None:
    """Golden rows may be many, but the revision must fit into a ConfigMap."""
    rows = ", ".join([f"{{text: &long {'x' * 20_000}}}", *["{text: *long}"] * 70])
    outputs = ", ".join(["{variable: 1}"] * 71)
    path = write(
        folder, "rf", extra=f"        verify: {{inputs: [{rows}], outputs: [{outputs}]}}\n"
    )
    with pytest.raises(resolve.ResolveError, match="at most 409600 fit") as caught:
        resolve.resolve(manifest.load(path), Cache(folder / "cache"))
    assert (caught.value.reason, caught.value.transient) == ("DocumentTooLarge", False)


def test_cancelled_resolving_ends(folder: Path) -> None:
    """A newer manifest stops the work for an older one."""
    with pytest.raises(resolve.ResolveError) as caught:
        resolve.resolve(
            manifest.load(folder / "pipeline.yaml"),
            Cache(folder / "cache"),
            cancelled=lambda: True,
        )
    assert (caught.value.reason, caught.value.transient) == ("FetchCancelled", True)


def test_progress_names_the_step(folder: Path) -> None:
    """A long download is told step by step."""
    seen: list[tuple[str, int]] = []
    resolve.resolve(
        manifest.load(folder / "pipeline.yaml"),
        Cache(folder / "cache"),
        progress=lambda step, progress: seen.append((step, progress.done)),
    )
    assert seen == [("predict", (folder / "rf.onnx").stat().st_size)]


# plan


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """A server that answers everything with `body`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A real engine that serves the folder's manifest; its address."""
    resolved = resolve.resolve(manifest.load(folder / "pipeline.yaml"), Cache(folder / "cache"))
    ConfigFolder(folder / "config").write(resolved.document)
    with engine(folder) as running:
        running.wait("serving")
        yield f"http://127.0.0.1:{running.port}"


def plan(
    capsys: pytest.CaptureFixture[str], folder: Path, against: str, path: Path
) -> tuple[int, dict[str, Any]]:
    """Run `plan --json`: exit code and document."""
    code, out, _ = run(
        capsys, "plan", path, "--cache", folder / "cache", "--against", against, "--json"
    )
    return code, json.loads(out)


def test_plan_against_a_running_engine(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing, a swap, and a refused change of outputs, each as the engine would do it."""
    with serving(folder) as url:
        code, said = plan(capsys, folder, url, folder / "pipeline.yaml")
        assert (code, said["action"], said["loads"]) == (0, "nothing", 0)
        assert said["inputs"] == [{"name": "tensor", "dtype": "float32", "shape": [18]}]

        code, said = plan(capsys, folder, url, write(folder, "gbr"))
        assert (code, said["action"], said["loads"]) == (0, "swap", 1)
        assert said["changes"][0] == "step predict: model rf becomes gbr"
        assert said["models"][0]["sha256"] == sha256(folder / "gbr.onnx")

        models.two_outputs(folder / "two.onnx")
        code, said = plan(capsys, folder, url, write(folder, "two"))
        assert (code, said["action"]) == (1, "refused")
        assert said["schemaChanges"] == [
            "output 'variable' (float32[1]) is gone",
            "output 'total' (float32[1]) is new",
            "output 'largest' (int64) is new",
        ]
        allowed = write(folder, "two", rollout="  rollout: {allowSchemaChange: true}\n")
        assert plan(capsys, folder, url, allowed)[1]["action"] == "swap"


def test_plan_for_people_ends_with_what_would_happen(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text says the same as the document."""
    with serving(folder) as url:
        path = write(folder, "gbr")
        code, out, _ = run(capsys, "plan", path, "--cache", folder / "cache", "--against", url)
    assert code == 0
    assert out.splitlines()[-1] == "applying it would load 1 model and swap while requests go on"


def test_plan_refuses_what_the_engine_could_not_load(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is no model is found out before anything is applied, and told first, where it is named."""
    models.not_onnx(folder / "text.onnx")
    with serving(folder) as url:
        path = write(folder, "text")
        code, said = plan(capsys, folder, url, path)
        _, out, errors = run(capsys, "plan", path, "--cache", folder / "cache", "--against", url)
    assert (code, said["action"]) == (1, "refused")
    (problem,) = said["problems"]
    assert problem.startswith(
        f"{path}:10:11: spec.steps[0].model.source.uri: step 'predict', model 'text': "
    )
    assert errors == f"{problem}\n"
    assert out.splitlines()[-1] == "applying it would be refused: house-price cannot be loaded"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("", "", None),
        (
            'inputs["tensor"] * 2',
            'inputs["tensor"] * two',
            None,  # only a request finds out
        ),
        (
            "def process",
            "def proces",
            ":7:57: spec.steps[0].model.source.uri: step 'prepare', model 'double': ",
        ),
        ("uri: gbr.onnx", "uri: two.onnx", ":19:40: spec.steps[2].split.variants[0].model: "),
        (
            "out.price[0] < 100.0",
            "out.cost[0] < 100.0",
            ":26:20: spec.validations[0].expression: validation 'high', column ",
        ),
    ],
    ids=["as it is", "fails later", "no entry point", "variants differ", "validation"],
)
def test_plan_knows_every_rule_of_the_engine(
    whole: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, said: str | None
) -> None:
    """Code is imported, variants are compared and validations compiled, as when it is applied."""
    models.two_outputs(whole.parent / "two.onnx")
    code = whole.parent / "double.py"
    code.write_text(code.read_text().replace(old, new))
    whole.write_text(whole.read_text().replace(old, new, 1))
    exit_code, out, errors = run(capsys, "plan", whole, "--cache", whole.parent / "cache")
    assert (exit_code, errors.startswith(f"{whole}{said}") or errors) == (
        (0, "") if said is None else (1, True)
    )
    if said is None:
        assert "  takes what only running it tells" in out.splitlines()
        assert "  gives 'price' (float32[1])" in out.splitlines()


def test_plan_tries_golden_rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a candidate would be refused for is known before it is one."""
    rows = f"{{inputs: [{{tensor: {[1.0] * 18}}}], outputs: [{{variable: 17.0}}]}}"
    path = write(folder, "rf", extra=f"        verify: {rows}\n")
    code, _, errors = run(capsys, "plan", path, "--cache", folder / "cache")
    assert code == 1
    assert errors.startswith(f"{path}:11:9: spec.steps[0].model.verify: step 'predict', model 'rf'")
    assert "expected [17.0]" in errors or "expected 17.0" in errors


def test_plan_where_another_server_has_the_port_is_for_a_start(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no engine was named, what else answers there is no error, and not called nothing."""
    with answering(b"hello") as url:
        monkeypatch.setattr("midstream.plan.DEFAULT_URL", url)
        code, out, _ = run(capsys, "plan", folder / "pipeline.yaml", "--cache", folder / "cache")
    assert code == 0
    assert out.splitlines()[-2:] == [
        f"no Midstream serves at {url}",
        "running it would load 1 model",
    ]


def test_plan_against_an_engine_that_is_not_there_is_an_error(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where an engine was named, its absence is told."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        code, _, errors = run(
            capsys, "plan", folder / "pipeline.yaml", "--cache", folder / "cache", "--against", url
        )
    assert (code, errors) == (1, f"nothing answers at {url}: Connection refused\n")


@pytest.mark.parametrize(
    "body", [b"hello", b"[]", b"{}", b'{"serving": {"revision": "x"}, "revisions": []}']
)
def test_plan_against_something_else_is_an_error(
    folder: Path, capsys: pytest.CaptureFixture[str], body: bytes
) -> None:
    """Another server on the port is told as such."""
    with answering(body) as url:
        code, _, errors = run(
            capsys, "plan", folder / "pipeline.yaml", "--cache", folder / "cache", "--against", url
        )
    assert (code, errors) == (1, f"what answers at {url} is not a Midstream engine\n")


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "http://127.0.0.1:99999", "http://[::1"])
def test_plan_against_what_is_no_address_is_an_error(
    folder: Path, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    """The message shows the form of one."""
    code, _, errors = run(
        capsys, "plan", folder / "pipeline.yaml", "--cache", folder / "cache", "--against", url
    )
    assert (code, errors.partition("; ")[2]) == (1, "write http://host:port\n")


def test_plan_is_not_led_astray_by_what_lies_in_the_folder(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's own `numpy.py` is not what the inspection of the models imports."""
    with serving(folder) as url:
        (folder / "numpy.py").write_text("raise SystemExit('not the library')\n")
        monkeypatch.chdir(folder)
        code, said = plan(capsys, folder, url, Path("pipeline.yaml"))
    assert (code, said["action"]) == (0, "nothing")


def test_plan_of_a_broken_manifest_says_what_is_wrong(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `validate` does, and as a document with --json."""
    path = write(folder, "xgb")
    code, _, errors = run(capsys, "plan", path, "--cache", folder / "cache")
    assert (code, errors.startswith(f"{path}:10:11: ")) == (1, True)
    code, out, _ = run(capsys, "plan", path, "--cache", folder / "cache", "--json")
    assert (code, json.loads(out)["error"].startswith(f"{path}:10:11: ")) == (1, True)


def test_validate_needs_no_engine(folder: Path) -> None:
    """What only reads manifests starts fast and works without onnxruntime."""
    program = f"""
import sys
from midstream import cli
code = cli.main(["validate", {str(folder / "pipeline.yaml")!r}])
print(code, [name for name in ("midstream_engine", "numpy", "onnxruntime") if name in sys.modules])
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "0 []"
