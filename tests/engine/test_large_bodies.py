"""Bodies that take long to read are read beside the event loop, and come to the same answers."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzz.plane import Plane, plane
from kit.pipelines import revision
from midstream_engine.codec import AT_ONCE
from reference import wire
from reference.pipelines import Pipeline, Place, Step
from reference.values import Column
from reference.wire import Sent
from reference.zoo import Model, Output, onnx_model

WIDTH = 100
ROWS = AT_ONCE // (2 * WIDTH) + 1
"""Rows of single digits that are more than AT_ONCE bytes of JSON."""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Plane]:
    with plane(tmp_path / "engine") as made:
        made.serve(revision(pipeline(tmp_path).spec()))
        yield made


def model(folder: Path, name: str) -> Model:
    column = Column("x", "float32", (WIDTH,))
    return onnx_model(folder, (column,), [Output("y", "times", ("x",), 2)], name=name)


def pipeline(folder: Path) -> Pipeline:
    places = (Place(model(folder, "one"), "a"), Place(model(folder, "two"), "b"))
    return Pipeline((Step("s", "split", places),))


def rows(first: int = 0) -> list[dict[str, list[int]]]:
    return [{"x": [(first + row) % 10] * WIDTH} for row in range(ROWS)]


def test_large_bodies_have_the_answers_of_their_rows(engine: Plane) -> None:
    """Also many at a time, and packed."""
    sent = [Sent(json.dumps(rows(n), separators=(",", ":")).encode()) for n in range(6)]
    packed = Sent(gzip.compress(sent[0].body), headers={"content-encoding": "gzip"})
    answers = engine.infer([*sent, packed])
    for first, answer in zip([*range(6), 0], answers, strict=True):
        assert 200 == answer.status
        got = [row["out.y"] for row in wire.read(answer).rows]
        assert [[2.0 * each for each in row["x"]] for row in rows(first)] == got


def test_large_bodies_that_are_wrong_are_refused(engine: Plane) -> None:
    """With the same words as small ones, and the next one is answered."""
    right = json.dumps(rows()).encode()
    wrong = [right[:-1], right.replace(b"[1,", b"[NaN,", 1), b"[" + b"{}," * AT_ONCE + b"{}]"]
    answers = engine.infer([Sent(body) for body in (*wrong, right)])
    assert [400, 400, 400, 200] == [answer.status for answer in answers]
    reasons = [json.loads(answer.body)["reason"] for answer in answers[:3]]
    assert ["NotJSON", "MissingValue", "TooManyRows"] == reasons
