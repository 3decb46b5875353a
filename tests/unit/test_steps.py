"""Steps: renaming a model's inputs, connecting models by name, and running them one after the other."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit import models
from kit.folder import model
from midstream_api.engineconfig import ResolvedStep
from midstream_engine.batch import Batch
from midstream_engine.errors import LoadError, StepFailed
from midstream_engine.sessions import Session
from midstream_engine.steps.connect import assemble, check_connected, place_of
from midstream_engine.steps.flow import run_here
from midstream_engine.steps.kinds import ModelStep, Run
from midstream_engine.steps.units import OnnxUnit, bind_onnx


def step(path: Path, name: str = "predict", **fields: Any) -> ModelStep:
    """A step of a real model file; fields are those of its model in a manifest."""
    resolved = model(path, **fields)
    made = assemble(
        ResolvedStep(name=name, model=resolved),
        lambda step, placed: bind_onnx(
            place_of(step, placed.variant),
            placed.variant,
            placed.model,
            Session(path, resolved.sha256),
        ),
    )
    assert isinstance(made, ModelStep)
    return made


def unit(path: Path, **fields: Any) -> OnnxUnit:
    """The model of such a step."""
    found = step(path, **fields).unit
    assert isinstance(found, OnnxUnit)
    return found


def ran(
    steps: list[ModelStep],
    tensor: np.ndarray[Any, Any],
    name: str = "tensor",
    seconds: float | None = None,
) -> Run:
    """What one input of this name became."""
    run = Run(Batch({name: tensor}, len(tensor)))
    run_here(steps, run, seconds)
    return run


def refusal(*steps: ModelStep) -> str:
    """Why these steps do not connect."""
    with pytest.raises(LoadError) as caught:
        check_connected(steps)
    assert "NamesDoNotConnect" == caught.value.reason
    return caught.value.message


def refused(path: Path, **fields: Any) -> LoadError:
    """Why a model cannot be bound."""
    with pytest.raises(LoadError) as caught:
        step(path, **fields)
    return caught.value


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A model with two inputs, `input_1` [10] and `input_2` [5]."""
    return models.two_inputs(tmp_path / "two.onnx")


def test_without_names_the_model_s_own_are_used(two: Path) -> None:
    """Callers see what the file says."""
    bound = unit(two)
    assert ["input_1", "input_2"] == [field.name for field in bound.inputs]
    assert (("input_1", "input_1"), ("input_2", "input_2")) == bound.feeds
    assert ["variable"] == bound.output_names


def test_names_are_given_by_position(two: Path) -> None:
    """The first name is for the model's first input."""
    bound = unit(two, inputs=[{"name": "house"}, {"name": "garden"}])
    assert (("input_1", "house"), ("input_2", "garden")) == bound.feeds


def test_names_are_given_by_tensor(two: Path) -> None:
    """A name can say which input it is for, in any order."""
    bound = unit(
        two,
        inputs=[{"name": "garden", "tensor": "input_2"}, {"name": "house", "tensor": "input_1"}],
    )
    assert (("input_1", "house"), ("input_2", "garden")) == bound.feeds
    assert ["house", "garden"] == [field.name for field in bound.inputs]


def test_too_few_names_are_refused(two: Path) -> None:
    """The message counts both sides and lists the model's inputs."""
    error = refused(two, inputs=[{"name": "house"}])
    assert "InvalidInputs" == error.reason
    assert (
        "step 'predict', model 'two': inputs lists 1 names, the model has 2: "
        "'input_1' (float32[10]), 'input_2' (float32[5])"
    ) == error.message


def test_a_tensor_that_the_model_does_not_have_is_refused(two: Path) -> None:
    """The message names the place in the manifest and what the model has."""
    error = refused(two, inputs=[{"name": "house"}, {"name": "garden", "tensor": "input_3"}])
    assert "inputs[1].tensor names 'input_3', the model has 'input_1'" in error.message


def test_two_names_for_one_tensor_are_refused(two: Path) -> None:
    """By position and by name at once, for instance."""
    error = refused(two, inputs=[{"name": "house"}, {"name": "garden", "tensor": "input_1"}])
    assert "inputs has two entries for the model's 'input_1'" in error.message


def test_missing_values_need_a_float(tmp_path: Path) -> None:
    """There is no NaN among whole numbers."""
    path = models.linear(tmp_path / "whole.onnx", dtype="int64")
    error = refused(path, inputs=[{"name": "house", "missing": "Allow"}])
    assert "InvalidInputs" == error.reason
    assert "input 'house' has `missing: Allow`, which needs a float; the model takes int64" in (
        error.message
    )


def test_missing_values_may_be_allowed_for_a_float(tmp_path: Path) -> None:
    """The field says so to whoever reads requests."""
    path = models.linear(tmp_path / "float.onnx")
    bound = unit(path, inputs=[{"name": "tensor", "missing": "Allow"}])
    assert [True] == [field.allow_missing for field in bound.inputs]


def test_steps_connect_by_name_type_and_length(tmp_path: Path) -> None:
    """An output that is called like the next step's input goes there."""
    first = step(models.elementwise(tmp_path / "first.onnx", 2.0), "prepare")
    second = step(models.scaled(tmp_path / "second.onnx", 3.0))
    check_connected([first, second])
    run = ran([first, second], np.ones((2, 18), np.float32), "house")
    assert [[108.0], [108.0]] == next(iter(run.steps["predict"].values())).tolist()
    assert 2 == len(run.elapsed)


def test_a_name_that_does_not_connect_is_told_with_both_ends(tmp_path: Path) -> None:
    """The message says what is taken, what is given, and how to rename."""
    first = step(models.elementwise(tmp_path / "a.onnx", 2.0, output_name="rooms"), "prepare")
    second = step(models.scaled(tmp_path / "b.onnx", 3.0))
    assert (
        "step 'predict' takes 'tensor' (float32[18]), step 'prepare' before it gives "
        "'rooms' (float32[18]); rename with `inputs: [{name: …}]` on step 'predict'"
    ) == refusal(first, second)


def test_a_type_that_does_not_connect_is_told_with_both_ends(tmp_path: Path) -> None:
    """Nothing is converted between steps."""
    first = step(models.identity(tmp_path / "a.onnx", "float64", (None, 18)), "prepare")
    second = step(models.linear(tmp_path / "b.onnx", input_name="variable", output_name="price"))
    assert (
        "step 'prepare' gives 'variable' (float64[18]), step 'predict' takes 'variable' (float32[18])"
    ) == refusal(first, second)


def test_a_length_that_does_not_connect_is_told_with_both_ends(tmp_path: Path) -> None:
    """The number of features belongs to the type of a row."""
    first = step(models.elementwise(tmp_path / "a.onnx", 2.0, 10), "prepare")
    second = step(models.scaled(tmp_path / "b.onnx", 3.0))
    said = refusal(first, second)
    assert "step 'prepare' gives 'tensor' (float32[10])" in said
    assert "step 'predict' takes 'tensor' (float32[18])" in said


def test_an_unknown_length_connects(tmp_path: Path) -> None:
    """What the file does not say is found out at warm-up."""
    first = step(models.identity(tmp_path / "a.onnx", "float32", (None, None)), "prepare")
    second = step(models.linear(tmp_path / "b.onnx", input_name="variable", output_name="price"))
    check_connected([first, second])


def test_a_model_that_swallows_rows_is_caught(tmp_path: Path) -> None:
    """One row for three would answer two requests with somebody else's value."""
    collapsing = step(models.collapses_batch(tmp_path / "c.onnx"))
    with pytest.raises(StepFailed, match=r"'variable' has the shape \[1, 18\] for 3 rows"):
        ran([collapsing], np.ones((3, 18), np.float32))


@pytest.mark.parametrize("seconds", [None, 20.0])
def test_a_model_s_own_error_names_the_step(tmp_path: Path, seconds: float | None) -> None:
    """Bounded or not, the message starts with the step."""
    failing = step(models.fails_at_run(tmp_path / "f.onnx"))
    with pytest.raises(StepFailed, match="step 'predict': onnxruntime refuses it") as caught:
        ran([failing], np.ones((1, 18), np.float32), seconds=seconds)
    assert "StepFailed" == caught.value.reason


def test_a_model_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    """The message has the step and the bound, and the thread is free again."""
    hanging = step(models.hangs(tmp_path / "h.onnx"))
    with pytest.raises(StepFailed) as caught:
        ran([hanging], np.zeros((1, 18), np.float32), seconds=0.1)
    assert "StepTimedOut" == caught.value.reason
    assert "step 'predict': the model did not answer within 0.1 s" == caught.value.message
