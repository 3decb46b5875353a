"""Every kind of step, asked in the Open Inference Protocol."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit import models, oip
from kit.engine import EngineProcess
from kit.oip_engines import not_zero, serving
from kit.pipelines import onnx, python, revision

ROWS = np.ones((40, 18), np.float32)
TENSOR = oip.tensor("tensor", "FP32", ROWS.shape, ROWS.tolist())


def infer(
    running: EngineProcess, *inputs: dict[str, Any], **more: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON of an answer, and its outputs by name."""
    reply = running.post(oip.body(*inputs, **more), "/v2/models/house-price/infer")
    assert reply.status == 200, reply.body
    return oip.unpacked(reply.body, reply.headers)


def scaled(folder: Path, factor: float) -> dict[str, Any]:
    """A model that answers `factor` times the sum, named after it."""
    return onnx(models.scaled(folder / f"x{factor:g}.onnx", factor))


@pytest.mark.parametrize("binary", [True, False])
def test_the_key_of_a_split_comes_along_as_an_input(tmp_path: Path, binary: bool) -> None:
    """Rows of a key go to one variant, which the answer tells row by row and in sum."""
    variants = [{"name": name, "model": scaled(tmp_path, f)} for name, f in (("a", 1), ("b", 2))]
    step = {"name": "predict", "split": {"hashKey": "session", "variants": variants}}
    keys = [f"user-{number}" for number in range(40)]
    asked = [
        {"name": name, "parameters": {"binary_data": binary}}
        for name in ("_model_split", "variable")
    ]
    with serving(tmp_path, revision({"steps": [step]})) as running:
        key = oip.tensor("session", "BYTES", (40,), keys)
        document, outputs = infer(running, TENSOR, key, outputs=asked)
        names = [json.loads(text)["name"] for text in outputs["_model_split"]]
        assert outputs["variable"][:, 0].tolist() == [{"x1": 18, "x2": 36}[name] for name in names]
        summed = json.loads(document["parameters"]["model_split"])
        assert {(each["variant"], each["rows"]) for each in summed} == {
            ("a", names.count("x1")),
            ("b", names.count("x2")),
        }
        assert len(summed) == 2
        turned = oip.tensor("session", "BYTES", (40, 1), keys[::-1])
        _, again = infer(running, TENSOR, turned, outputs=asked)
        assert again["variable"].tolist() == outputs["variable"][::-1].tolist()
        infer(running, TENSOR)  # without a key: by chance


def test_failed_validations_are_told(tmp_path: Path) -> None:
    """In sum, and row by row for the asking."""
    spec = {
        "steps": [{"name": "predict", "model": scaled(tmp_path, 1)}],
        "validations": [
            {"name": "small", "expression": "out.variable[0] < 20.0"},
            {"name": "negative", "failWhen": "out.variable[0] < 0.0"},
        ],
    }
    rows = [[1.0] * 18, [2.0] * 18]
    with serving(tmp_path, revision(spec)) as running:
        sent = oip.tensor("tensor", "FP32", (2, 18), rows)
        names = ("anomaly.count", "anomaly.small", "anomaly.negative")
        document, outputs = infer(running, sent, outputs=[{"name": name} for name in names])
        assert [outputs[name].tolist() for name in names] == [[0, 1], [False, True], [False, False]]
        assert document["parameters"]["anomaly_count"] == 1
        (failed,) = json.loads(document["parameters"]["check_failures"])
        assert (failed["name"], failed["rows"]) == ("small", 1)
        assert list(failed["failure"]) == ["False"]


def test_challengers_that_are_waited_for_answer_too(tmp_path: Path) -> None:
    """Beside the champion, under their own names."""
    shadow = {
        "champion": {"name": "first", "model": scaled(tmp_path, 1)},
        "challengers": [{"name": "second", "model": scaled(tmp_path, 2)}],
        "wait": True,
    }
    with serving(tmp_path, revision({"steps": [{"name": "predict", "shadow": shadow}]})) as running:
        _, outputs = infer(running, TENSOR)
        assert list(outputs) == ["variable", "out_second.variable"]
        assert outputs["variable"][0] == 18
        assert outputs["out_second.variable"][0] == 36
        _, outputs = infer(running, TENSOR, outputs=[{"name": "out_second.variable"}])
        assert list(outputs) == ["out_second.variable"]


CODE = """
import numpy as np

def process(inputs):
    said = [f"{k}:{v.dtype}{list(v.shape)}" for k, v in sorted(inputs.items())]
    rows = len(next(iter(inputs.values())))
    return {"said": np.array([said] * rows, object)}
"""


def test_code_may_take_any_tensors(tmp_path: Path) -> None:
    """It declares no inputs, and gets what is sent."""
    with serving(
        tmp_path, revision({"steps": [{"name": "prepare", "model": python(CODE)}]})
    ) as running:
        body, length = oip.binary(
            ("a", "INT16", (2, 3), oip.packed("INT16", [[1, 2, 3]] * 2)),
            ("b", "BYTES", (2,), oip.packed("BYTES", ["x", "y"])),
        )
        headers = {"inference-header-content-length": str(length)}
        reply = running.post(body, "/v2/models/house-price/infer", headers=headers)
        assert reply.status == 200, reply.body
        document, outputs = oip.unpacked(reply.body, reply.headers)
        assert document["outputs"][0]["shape"] == [2, 2]
        assert outputs["said"][:2] == ["a:int16[2, 3]", "b:object[2]"]


def test_rows_of_different_shapes_are_no_tensor(tmp_path: Path) -> None:
    """Equal ones are; others are refused with what to do."""
    step = {"name": "find", "model": onnx(not_zero(tmp_path / "places.onnx"), batch="Single")}
    with serving(tmp_path, revision({"steps": [step]})) as running:
        equal = oip.tensor("tensor", "FP32", (2, 4), [[0, 1, 0, 1], [1, 1, 0, 0]])
        _, outputs = infer(running, equal)
        assert outputs["places"].tolist() == [[[1, 3]], [[0, 1]]]
        ragged = oip.tensor("tensor", "FP32", (2, 4), [[0, 1, 0, 1], [1, 1, 1, 0]])
        reply = running.post(oip.body(ragged), "/v2/models/house-price/infer")
        assert (reply.status, reply.json()["reason"], reply.json()["row"]) == (
            400,
            "RaggedOutput",
            1,
        )
        one = oip.tensor("tensor", "FP32", (1, 4), [[1, 1, 1, 0]])
        assert infer(running, one)[1]["places"].tolist() == [[[0, 1, 2]]]
