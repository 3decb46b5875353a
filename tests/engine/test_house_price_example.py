"""What the house-price example promises: its answers, rows that tell models apart, edits that swap."""

import json
import os
from itertools import combinations
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported

import numpy as np
import onnxruntime as ort
import pytest
import yaml

from midstream_api.pipeline import Pipeline

EXAMPLE = Path(__file__).parents[2] / "examples" / "house-price"
PRICES = ("rf", "gbr", "xgb")
SAMPLES = ("one-row", "large-house", "rows-1000", "distinct-rows")
Array = np.ndarray[Any, Any]


def answers(name: str, rows: Array) -> Array:
    """What one of the example's models makes of rows, in one thread as in the engine."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    path = EXAMPLE / "models" / f"{name}.onnx"
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    (out,) = session.run(None, {given.name: rows})
    return np.asarray(out)


def column(document: list[dict[str, list[float]]], field: str) -> Array:
    """One field of records as an array of rows."""
    return np.array([row[field] for row in document], np.float32)


def sample(name: str) -> Array:
    """The rows of a sample request."""
    return column(json.loads((EXAMPLE / "samples" / f"{name}.json").read_text()), "tensor")


@pytest.mark.parametrize("name", PRICES)
@pytest.mark.parametrize("rows", SAMPLES)
def test_models_give_the_expected_answers(name: str, rows: str) -> None:
    """Every committed answer is what the committed model says to the committed sample."""
    expected = json.loads((EXAMPLE / "expected" / f"{name}.json").read_text())[rows]
    np.testing.assert_allclose(answers(name, sample(rows)), column(expected, "variable"), rtol=1e-6)


def test_every_answer_to_a_distinct_row_tells_who_gave_it() -> None:
    """All models, and all pairs of two steps, are more than 1 % apart on each of the rows."""
    rows = sample("distinct-rows")
    prepared = [rows, answers("prepare-a", rows), answers("prepare-b", rows)]
    given = np.stack([answers(name, given)[:, 0] for name in PRICES for given in prepared])
    for one, other in combinations(given, 2):
        assert (np.abs(one - other) / np.maximum(one, other)).min() > 0.01
    assert len(rows) >= 20


@pytest.mark.parametrize("manifest", ["pipeline.yaml", "two-steps.yaml", "verified.yaml"])
def test_manifests_are_valid_and_their_models_are_there(manifest: str) -> None:
    """Every manifest of the example is a Pipeline, and its paths lead to files."""
    pipeline = Pipeline.model_validate(yaml.safe_load((EXAMPLE / manifest).read_text()))
    for step in pipeline.spec.steps:
        assert (EXAMPLE / str(step.main.source.uri)).is_file()


@pytest.mark.parametrize("manifest", ["pipeline.yaml", "two-steps.yaml"])
def test_the_edits_of_the_readme_name_one_model_throughout(manifest: str) -> None:
    """Replacing the first `rf` of each indented line, and so on around, leads from model to model and back."""
    text = original = (EXAMPLE / manifest).read_text()
    for before, after in (("rf", "xgb"), ("xgb", "gbr"), ("gbr", "rf")):
        text = "\n".join(
            line.replace(before, after, 1) if line.startswith(" ") else line
            for line in text.split("\n")
        )
        model = Pipeline.model_validate(yaml.safe_load(text)).spec.steps[-1].main
        assert (model.name, model.source.uri) == (f"{after}-house-price", f"models/{after}.onnx")
    assert text == original


def test_golden_rows_are_what_the_model_answers() -> None:
    """The golden rows of verified.yaml are the forest's own answers, well within their tolerance."""
    pipeline = Pipeline.model_validate(yaml.safe_load((EXAMPLE / "verified.yaml").read_text()))
    verify = pipeline.spec.steps[0].main.verify
    assert verify is not None
    rows = np.array([row["tensor"] for row in verify.inputs], np.float32)
    wanted = np.array([row["variable"] for row in verify.outputs], np.float32)
    np.testing.assert_allclose(answers("rf", rows), wanted, rtol=verify.tolerance)
