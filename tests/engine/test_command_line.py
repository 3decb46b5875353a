"""`midstream validate` on real files, and what resolving makes of them."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from kit import commands
from kit.commands import PREPROCESS, WHOLE, run, sha256, write
from midstream import manifest, resolve
from midstream_api import version
from midstream_artifacts.cache import Cache


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two models and the manifest of one step."""
    return commands.house(tmp_path)


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


@pytest.fixture
def whole(folder: Path) -> Path:
    """A manifest of every kind of step, with a file and a piece of code."""
    return commands.whole(folder)


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
