"""Fields of a manifest are changed in its text; everything else stays as it was."""

from pathlib import Path

import pytest

from midstream import manifest, models
from midstream.problems import FieldPath
from midstream.rewrite import CannotRewrite, Setting, rewrite

URI = f"oci://registry.example/models/rf@sha256:{'ab' * 32}"
SHA256 = "cd" * 32
HEAD = """\
# A comment at the top.
apiVersion: midstream.dev/v1alpha1
kind: Pipeline
metadata: {name: house-price}
spec:
  steps:
"""


def settings(step: int = 0, uri: str = URI, *, insecure: bool = False) -> list[Setting]:
    """Return what a push sets in a step."""
    model: FieldPath = ("spec", "steps", step, "model")
    flag = [Setting((*model, "source", "insecure"), value=True, behind="uri")] if insecure else []
    return [
        Setting((*model, "source", "uri"), uri),
        *flag,
        Setting((*model, "sha256"), SHA256, behind="source"),
    ]


def rewritten(tmp_path: Path, text: str, changes: list[Setting]) -> str:
    """Change a manifest, look that the result is one, and return it."""
    path = tmp_path / "pipeline.yaml"
    path.write_bytes(text.encode())
    path.write_bytes((new := rewrite(manifest.load(path), changes)).encode())
    model = manifest.load(path).pipeline.spec.steps[0].main
    assert (model.source.uri, model.sha256) == (URI, SHA256)
    return new


BLOCK = f"""{HEAD}\
    - name: predict   # the step
      model:
        # which model
        name: rf
        source:
          uri: models/rf.onnx     # where it is
          # nothing else yet

        inputs:   # renamed
        - name: x
"""


def test_block_style(tmp_path: Path) -> None:
    """Comments, blank lines and indentation stay; a new field has a line of its own behind its neighbour."""
    assert rewritten(tmp_path, BLOCK, settings()) == BLOCK.replace(
        "models/rf.onnx     # where it is\n", f"{URI}     # where it is\n        sha256: {SHA256}\n"
    )


def test_new_fields_inside_and_behind_a_source(tmp_path: Path) -> None:
    """The one that belongs into the source stands in it."""
    new = rewritten(tmp_path, BLOCK, settings(insecure=True))
    assert f"where it is\n          insecure: true\n        sha256: {SHA256}\n" in new


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "    - {name: a, model: {name: rf, source: {uri: rf.onnx}}}  # all in one\n",
            (
                f"    - {{name: a, model: {{name: rf, source: {{uri: {URI}, insecure: true}}, sha256: {SHA256}}}}}"
                "  # all in one\n"
            ),
        ),
        (
            "    - name: a\n      model: {source: {uri: 'rf.onnx'},\n        name: rf,}\n",
            (
                f"    - name: a\n      model: {{source: {{uri: '{URI}', insecure: true}}, sha256: {SHA256},\n"
                "        name: rf,}\n"
            ),
        ),
        (
            '    - name: a\n      model:\n        source: {"uri": "rf.onnx"}\n        name: rf',
            (
                f'    - name: a\n      model:\n        source: {{"uri": "{URI}", "insecure": true}}\n'
                f"        sha256: {SHA256}\n        name: rf"
            ),
        ),
        (
            "    - name: a\n      model:\n        name: rf\n        source:\n          uri: rf.onnx",
            (
                f"    - name: a\n      model:\n        name: rf\n        source:\n          uri: {URI}\n"
                f"          insecure: true\n        sha256: {SHA256}"
            ),
        ),
        (
            (
                "    - name: a\n      model:\n        sha256:\n        name: rf\n        source:\n"
                "          insecure: no\n          uri: >-\n            rf.onnx\n"
            ),
            (
                f"    - name: a\n      model:\n        sha256: {SHA256}\n        name: rf\n        source:\n"
                f"          insecure: true\n          uri: {URI}\n"
            ),
        ),
        (
            "    - name: a\r\n      model:\r\n        name: rf\r\n        source:\r\n          uri: rf.onnx\r\n",
            (
                f"    - name: a\r\n      model:\r\n        name: rf\r\n        source:\r\n          uri: {URI}\r\n"
                f"          insecure: true\r\n        sha256: {SHA256}\r\n"
            ),
        ),
    ],
    ids=["braces", "braces over lines", "JSON", "no line break at the end", "replaced", "CRLF"],
)
def test_other_styles(old: str, new: str, tmp_path: Path) -> None:
    """Whatever way a manifest is written, it is written so afterwards."""
    assert rewritten(tmp_path, HEAD + old, settings(insecure=True)) == HEAD + new


def test_a_digest_that_looks_like_a_number_is_quoted(tmp_path: Path) -> None:
    """Else it would be read as one."""
    path = tmp_path / "pipeline.yaml"
    path.write_text(BLOCK)
    digest = "1" * 64
    at: FieldPath = ("spec", "steps", 0, "model", "sha256")
    new = rewrite(manifest.load(path), [Setting(at, digest, behind="source")])
    assert f'sha256: "{digest}"\n' in new


SHARED = f"""{HEAD}\
    - name: a
      model: &one
        name: rf
        source:
          uri: rf.onnx
    - name: b
      model: *one
"""


def test_steps_that_share_a_model_by_an_anchor(tmp_path: Path) -> None:
    """Both get the new address by one change; where they should differ, they must be written out."""
    new = rewritten(tmp_path, SHARED, [*settings(), *settings(1)])
    assert new.count(URI) == 1
    path = tmp_path / "pipeline.yaml"
    path.write_text(SHARED)
    other = URI.replace("rf", "other")
    with pytest.raises(CannotRewrite, match="without anchors") as caught:
        rewrite(manifest.load(path), [*settings(), *settings(1, other)])
    assert caught.value.problem.line == 11


VARIANTS = f"""{HEAD}\
    - name: prepare
      model: {{name: clean, framework: Python, source: {{uri: clean.py}}}}
    - name: predict
      split:
        variants:
          - name: control
            weight: 2    # of three
            model:
              name: rf
              source:
                uri: rf.onnx
          - {{name: rival, model: {{name: xgb, source: {{uri: xgb.onnx}}}}}}
    - name: judge
      shadow:
        champion: {{name: a, model: {{name: a, source: {{uri: a.onnx}}}}}}
        challengers:
        - name: b
          model:
            name: b
            source: {{uri: b.onnx}}
"""


def test_models_of_variants_are_changed_where_they_stand(tmp_path: Path) -> None:
    """Each model of a split or shadow gets its own address, at its own place."""
    path = tmp_path / "pipeline.yaml"
    path.write_text(VARIANTS)
    loaded = manifest.load(path)
    changes = []
    for number, one in enumerate(models.written(loaded)):
        changes.append(Setting(one.source, f"oci://r.example/m{number}@sha256:{'ab' * 32}"))
        changes.append(Setting((*one.at, "sha256"), f"{number}{'c' * 63}", behind="source"))
    path.write_text(new := rewrite(loaded, changes))
    found = [one.model for one in models.written(manifest.load(path))]
    for number, model in enumerate(found):
        assert str(model.source.uri).startswith(f"oci://r.example/m{number}@")
        assert model.sha256 == f"{number}{'c' * 63}"
    assert len(found) == 5
    assert "weight: 2    # of three\n" in new
