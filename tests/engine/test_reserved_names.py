"""Outputs by names under which an answer says something else: refused, so that an answer says one thing only."""

from pathlib import Path
from typing import Any

import pytest

from kit import models
from kit.engine import engine
from kit.folder import ConfigFolder
from kit.pipelines import onnx, python, revision

ROW = {"tensor": [1.0] * 18}


def named(folder: Path, output: str) -> dict[str, Any]:
    """An ONNX model that gives what it takes, by this name."""
    path = folder / f"{len(list(folder.iterdir()))}.onnx"
    return onnx(models.elementwise(path, 1.0, input_name="tensor", output_name=output), "model")


def code(folder: Path, output: str) -> dict[str, Any]:
    """The same in Python, which declares nothing."""
    del folder
    return python(f"def process(inputs):\n    return {{{output!r}: inputs['tensor']}}\n", "model")


def declared(folder: Path, output: str) -> dict[str, Any]:
    """The same, declared."""
    fields = {"dtype": "float64", "shape": [18]}
    return {
        **code(folder, output),
        "inputs": [{"name": "tensor", **fields}],
        "outputs": [{"name": output, **fields}],
    }


def spec(kind: str, model: Any, other: Any) -> dict[str, Any]:
    """A pipeline whose answers say something under `_model_split`, `out_b.y` or `anomaly.count`."""
    pair = ({"name": "a", "model": model}, {"name": "b", "model": other})
    if kind == "split":
        return {"steps": [{"name": "predict", "split": {"variants": list(pair)}}]}
    if kind == "shadow":
        shadow = {"champion": pair[0], "challengers": [pair[1]], "wait": True}
        return {"steps": [{"name": "predict", "shadow": shadow}]}
    check = {"name": "low", "expression": "in.tensor[0] < 5"}
    return {"steps": [{"name": "predict", "model": model}], "validations": [check]}


KINDS = {"split": "_model_split", "shadow": "out_b.y", "validations": "anomaly.count"}


@pytest.mark.parametrize("make", [named, declared], ids=["onnx", "python"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_reserved_name_is_refused_with_its_revision(tmp_path: Path, kind: str, make: Any) -> None:
    """Where the name is known before the first request; the step and the model are named."""
    config = ConfigFolder(tmp_path / "config")
    name = KINDS[kind]
    if (kind, make) == ("validations", declared):
        name = "anomaly.low"
    config.write(revision(spec(kind, make(tmp_path, name), make(tmp_path, name))))
    with engine(tmp_path) as running:
        refused = running.wait("refused")
    assert refused["reason"] == "ReservedName"
    for part in ("step 'predict'", "model 'model'", repr(name)):
        assert part in refused["message"]


@pytest.mark.parametrize("kind", KINDS)
def test_code_that_gives_a_reserved_name_fails(tmp_path: Path, kind: str) -> None:
    """Where only its answer tells: each request is answered with an error that names step and output."""
    name = KINDS[kind]
    config = ConfigFolder(tmp_path / "config")
    config.write(revision(spec(kind, code(tmp_path, name), code(tmp_path, name))))
    with engine(tmp_path) as running:
        running.wait("serving")
        reply = running.post([ROW])
        assert (502, "SidekickFailed") == (reply.status, reply.json()["reason"])
        for part in ("step 'predict'", repr(name), "give the output another name"):
            assert part in reply.json()["error"]


def test_such_names_are_free_where_nothing_else_has_them(tmp_path: Path) -> None:
    """In a step that is not the last, for a challenger, and in a pipeline that says nothing under the name."""
    config = ConfigFolder(tmp_path / "config")
    middle = {"name": "prepare", "model": named(tmp_path, "_model_split")}
    pair = [
        {
            "name": name,
            "model": python(
                "def process(inputs):\n    return {'y': inputs['_model_split']}\n", name
            ),
        }
        for name in "ab"
    ]
    split = {"name": "predict", "split": {"variants": pair}}
    plain = {"name": "predict", "model": named(tmp_path, "_model_split")}
    for steps in ([middle, split], [plain]):
        config.write(revision({"steps": steps}))
        with engine(tmp_path) as running:
            running.wait("serving")
            assert 200 == running.post([ROW]).status
