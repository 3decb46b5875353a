"""Defects that fuzzing and properties have found and that are not mended yet: a mend makes its test fail here.

Then the mark goes, and so does what looks past the defect: `fuzz.campaign.REPORTED`, `holes` in `reference.manifests`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fuzz.plane import Plane, plane
from kit.pipelines import revision
from reference import wire, zoo
from reference.pipelines import Pipeline, Place, Step
from reference.values import Column
from reference.wire import Sent
from reference.zoo import Model, Output, code_model, onnx_model

X = (Column("x", "float32", (None,)),)
Y = (Column("y", "float32", (None,)),)

ROWS: list[dict[str, Any]] = [{"x": [0.5, 2.0, 3.0]}, {"x": [2.0, 0.0, 0.0]}]
"""Of which the first has two values that are greater than 1, the second has one."""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Plane]:
    with plane(tmp_path / "engine") as made:
        yield made


def above(folder: Path) -> Model:
    """Of each row the values that are greater than 1."""
    return onnx_model(folder, X, [Output("y", "above", ("x",), 1)], name="above", single=True)


def served(engine: Plane, *models: Model) -> None:
    """A step for each model."""
    steps = tuple(Step(f"s{n}", "model", (Place(model),)) for n, model in enumerate(models))
    engine.serve(revision(Pipeline(steps).spec()))


@pytest.mark.xfail(
    reason="the size of text with null in it cannot be told: InternalError", strict=True
)
def test_text_may_have_holes_for_code_that_takes_anything(engine: Plane) -> None:
    """Null among strings reaches such code as None."""
    served(engine, code_model(zoo.TOTALS, name="totals"))
    sent = Sent(b'[{"word":"abc"},{"word":null}]', headers={"accept": wire.COLUMNAR})
    (answer,) = engine.infer([sent])
    assert [[3.0], [0.0]] == [row["out.total"] for row in wire.read(answer).rows]


@pytest.mark.xfail(reason="it is StepFailed, and speaks of text", strict=True)
def test_rows_of_different_shapes_are_refused_by_a_model_with_batches(
    engine: Plane, tmp_path: Path
) -> None:
    """No tensor holds them: a request of such rows is refused, as the Open Inference Protocol does with answers."""
    served(
        engine,
        above(tmp_path),
        onnx_model(tmp_path, Y, [Output("z", "times", ("y",), 2)], name="times"),
    )
    (answer,) = engine.infer([Sent(wire.records(ROWS))])
    assert 400 == answer.status
    assert b"'y'" in answer.body
