"""Rows that differ in shape, or have holes, between steps: who takes them, and how they are refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fuzz.plane import Plane, plane
from kit import models
from kit.folder import model as resolved
from kit.pipelines import python, revision
from midstream_engine.errors import BadInput, SidekickFailed
from midstream_engine.schema import Field
from midstream_engine.sessions import Session
from midstream_engine.steps.units import bind_onnx, conformed, stacked
from reference import wire, zoo
from reference.values import Column
from reference.wire import Sent
from reference.zoo import Output, onnx_model


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Plane]:
    with plane(tmp_path / "engine") as made:
        yield made


def above(folder: Path) -> dict[str, Any]:
    """A model that gives as `y` those values of a row's `x` that are greater than 1."""
    x = (Column("x", "float32", (None,)),)
    output = Output("y", "above", ("x",), 1)
    return onnx_model(folder, x, [output], name="above", single=True).entry


def times(folder: Path, *, single: bool = False) -> dict[str, Any]:
    """A model that doubles `y`."""
    y = (Column("y", "float32", (None,)),)
    output = Output("z", "times", ("y",), 2)
    return onnx_model(folder, y, [output], name="times", single=single).entry


def chain(*models: dict[str, Any]) -> dict[str, Any]:
    return {"steps": [{"name": f"s{n}", "model": model} for n, model in enumerate(models)]}


def rows_of(*values: list[Any]) -> Sent:
    return Sent(wire.records([{"x": each} for each in values]))


@pytest.mark.parametrize("in_threads", [False, True])
def test_rows_of_different_shapes_are_refused_by_a_model_that_takes_all_rows(
    engine: Plane, tmp_path: Path, *, in_threads: bool
) -> None:
    """No tensor holds them: the message names the step, the input, the row and both shapes. One shape is taken."""
    engine.serve(revision(chain(above(tmp_path), times(tmp_path))))
    uneven, even = rows_of([0.5, 2, 3], [2, 4, 5], [2, 0, 0]), rows_of([0.5, 2, 3], [2, 3, 0])
    refused, taken = engine.infer([uneven, even], in_threads=in_threads)
    assert {
        "error": "step 's1': input 'y' has the shape [3] in row 1 and [2] in row 0, and no tensor holds both; "
        "send one row in a request",
        "reason": "RaggedOutput",
        "field": "y",
        "row": 1,
    } == json.loads(refused.body)
    assert 400 == refused.status
    assert [[4.0, 6.0], [4.0, 6.0]] == [row["out.z"] for row in wire.read(taken).rows]


def test_text_of_different_shapes_is_refused_too(tmp_path: Path) -> None:
    """onnxruntime would take for text what such rows print as."""
    path = models.identity(tmp_path / "words.onnx", "string", (None,))
    model = resolved(path)
    taken = bind_onnx("step 'look'", None, model, Session(path, model.sha256))
    ((_, name),) = taken.feeds
    rows = stacked([np.array(["a", "b"], object), np.array(["c"], object)])
    with pytest.raises(BadInput, match=r"step 'look'.*\[1\] in row 1 and \[2\] in row 0"):
        taken.run({name: rows}, 2)
    assert ["a", "b"] == taken.run({name: np.array(["a", "b"], object)}, 2)["variable"].tolist()


def test_rows_that_differ_between_the_parts_of_a_split_are_taken(
    engine: Plane, tmp_path: Path
) -> None:
    """A variant gets its rows alone, and of these it is asked that they have one shape."""
    variants = [{"name": name, "model": times(tmp_path)} for name in "ab"]
    split = {"variants": variants, "key": "who", "options": {"a": "a"}, "default": "b"}
    spec = chain(above(tmp_path))
    spec["steps"].append({"name": "s1", "split": split})
    engine.serve(revision(spec))
    values = [("a", [2, 3]), ("b", [2, 0]), ("a", [4, 5]), ("b", [0, 6])]
    asked = [{"who": who, "x": row} for who, row in values]
    good, refused = engine.infer(
        [Sent(wire.records(each)) for each in (asked, asked[:2] * 2 + [{"who": "a", "x": [0, 7]}])]
    )
    assert [[4, 6], [4], [8, 10], [12]] == [row["out.z"] for row in wire.read(good).rows]
    assert b"step 's1', variant 'a': input 'y'" in refused.body


def test_a_challenger_that_takes_all_rows_fails_alone(engine: Plane, tmp_path: Path) -> None:
    """What rows of different shapes do to a challenger is none of the champion's business."""
    shadow = {
        "champion": {"name": "champion", "model": times(tmp_path, single=True)},
        "challengers": [{"name": "rival", "model": times(tmp_path)}],
        "wait": True,
    }
    spec = chain(above(tmp_path))
    spec["steps"].append({"name": "s1", "shadow": shadow})
    engine.serve(revision(spec))
    (answer,) = engine.infer([rows_of([2, 3], [2, 0])])
    rows = wire.read(answer).rows
    assert [[4, 6], [4]] == [row["out.z"] for row in rows]
    assert [None, None] == [row["out_rival"] for row in rows]


@pytest.mark.parametrize("found", [np.array([[1.0], [2.0]]), stacked([np.ones(2), np.ones(3)])])
def test_rows_of_code_become_what_is_wanted_one_by_one(found: Any) -> None:
    """Also where they differ in shape, as those of a split's variants may."""
    wanted = [Field("x", "float32", (None,))]
    given = conformed({"x": found}, wanted, "the code gives", SidekickFailed)["x"]
    assert [row.tolist() for row in found] == [row.tolist() for row in given]
    assert {"float32"} == {row.dtype.name for row in given}
    with pytest.raises(
        SidekickFailed, match=r"rows of the shape \[.\], wanted is 'x' \(float32\[4\]"
    ):
        conformed({"x": found}, [Field("x", "float32", (4,))], "the code gives", SidekickFailed)


def test_text_may_have_holes_for_code_that_takes_anything(engine: Plane) -> None:
    """Null among strings reaches such code as None, from every format."""
    engine.serve(revision(chain(python(zoo.TOTALS))))
    words = (Column("word", "string"),)
    rows: list[dict[str, Any]] = [{"word": "abc"}, {"word": None}]
    asked = [
        Sent(wire.records(rows)),
        Sent(wire.columnar(rows, ["word"]), headers={"content-type": wire.COLUMNAR}),
        Sent(
            wire.arrow(rows, words, file=True, fixed=False),
            headers={"content-type": wire.ARROW_FILE},
        ),
    ]
    accepts = (wire.RECORDS, wire.COLUMNAR, wire.ARROW_FILE)
    for sent in asked:
        for accept in accepts:
            sent.headers["accept"] = accept
            (answer,) = engine.infer([sent])
            found = [(row["in.word"], row["out.total"]) for row in wire.read(answer).rows]
            assert [("abc", [3.0]), (None, [0.0])] == found
