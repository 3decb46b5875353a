"""From what an engine says to the line of the manifest."""

import zipfile
from pathlib import Path

import pytest

from midstream import blame, resolve
from midstream import manifest as manifests
from midstream_artifacts.cache import Cache

MANIFEST = """\
apiVersion: midstream.dev/v1alpha1
kind: Pipeline
metadata: {name: house-price}
spec:
  steps:
  - name: prepare
    model:
      name: pre
      framework: Python
      source:
        inline: |
          import math

          def process(inputs):
              return inputs
  - name: same
    model: {name: twin, framework: Python, source: {uri: shop bad.py}}
  - name: last
    model: {name: post, framework: Python, source: {uri: shop bad.py}}
  - name: packed
    model: {name: zip, framework: Python, source: {uri: code.zip}}
  validations:
  - {name: high, expression: "out.price[0] < 5"}
"""


@pytest.mark.parametrize(
    ("reason", "message", "said"),
    [
        (
            "InvalidCode",
            "step 'prepare', model 'pre': syntax error in pre/model.py, line 3: invalid syntax: def",
            (
                "14:1: spec.steps[0].model.source.inline: step 'prepare', model 'pre': "
                "syntax error in the code, line 3: invalid syntax: def"
            ),
        ),
        (
            "InvalidCode",
            (
                "step 'prepare', model 'pre': it raised KeyError: 'a' when it was imported\n"
                '  File "pre/model.py", line 3, in <module>\n  File "pre/model.py", line 1, in f'
            ),
            (
                "12:1: spec.steps[0].model.source.inline: step 'prepare', model 'pre': "
                "it raised KeyError: 'a' when it was imported\n"
                '  File "the code", line 3, in <module>\n  File "the code", line 1, in f'
            ),
        ),
        (
            "InvalidCode",
            "step 'last', model 'post': syntax error in post/model.py, line 5: invalid syntax",
            (
                "19:53: spec.steps[2].model.source.uri: step 'last', model 'post': "
                "syntax error in shop bad.py, line 5: invalid syntax"
            ),
        ),
        (
            "InvalidCode",
            "step 'last', model 'post': syntax error in twin/model.py, line 5: invalid syntax",
            (
                "19:53: spec.steps[2].model.source.uri: step 'last', model 'post': "
                "syntax error in shop bad.py, line 5: invalid syntax"
            ),
        ),
        (
            "InvalidCode",
            "step 'packed', model 'zip': syntax error in zip/model.py, line 1: invalid syntax",
            (
                "21:52: spec.steps[3].model.source.uri: step 'packed', model 'zip': "
                "syntax error in zip/model.py, line 1: invalid syntax"
            ),
        ),
        (
            "InvalidValidation",
            "validation 'high', column 1 of 'out.price[0] < 5': no",
            (
                "23:18: spec.validations[0].expression: "
                "validation 'high', column 1 of 'out.price[0] < 5': no"
            ),
        ),
    ],
    ids=["inline", "raised", "file", "shared file", "archive", "validation"],
)
def test_a_refusal_has_file_line_and_the_user_s_names(
    tmp_path: Path, reason: str, message: str, said: str
) -> None:
    """An engine's own names for files of code become the user's; a line of inline code is the manifest's."""
    path = tmp_path / "shop.yaml"
    path.write_text(MANIFEST)
    (tmp_path / "shop bad.py").write_text("def process(inputs): return inputs")
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
        archive.writestr("model.py", "def process(inputs): return inputs")
    manifest = manifests.load(path)
    resolved = resolve.resolve(manifest, Cache(tmp_path / "cache"))
    assert blame.located(manifest, resolved, reason, message) == f"{path}:{said}"
    unplaced = "worker 0 did not answer"
    assert blame.located(manifest, resolved, "DeadlineExceeded", unplaced) == unplaced
