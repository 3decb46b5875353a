"""`midstream` as its tests call it: on a folder with two models and the manifest of one step."""

import hashlib
from pathlib import Path

import pytest

from kit import models
from midstream import cli

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


def house(folder: Path) -> Path:
    """Fill a folder with two models and the manifest of one step."""
    models.scaled(folder / "rf.onnx", 1.0)
    models.scaled(folder / "gbr.onnx", 2.0)
    write(folder, "rf")
    return folder


def whole(folder: Path) -> Path:
    """Add a manifest of every kind of step, with a file and a piece of code."""
    (folder / "double.py").write_text(PREPROCESS)
    models.linear(folder / "plain.onnx", n_features=1, input_name="variable", output_name="price")
    path = folder / "whole.yaml"
    path.write_text(WHOLE)
    return path


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
