"""Random pipelines and random rows: the engine answers what a plain reference of the documents' semantics says."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fuzz.plane import Plane, plane
from kit.pipelines import revision
from reference import wire
from reference.manifests import CODES, inputs, pipelines, requests
from reference.pipelines import Pipeline, Place, Step
from reference.trials import SENDINGS, Trial, same
from reference.values import Refused, Table, read_rows
from reference.wire import Sent
from reference.zoo import Output, onnx_model

EXAMPLES = int(os.environ.get("MIDSTREAM_EXAMPLES", "150"))
"""Of each property; `make fuzz` asks for more."""

examples = settings(
    max_examples=EXAMPLES,
    deadline=None,
    report_multiple_bugs=False,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where models' files are."""
    return tmp_path_factory.mktemp("zoo")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with plane(tmp_path_factory.mktemp("engine")) as made:
        for code in CODES:
            made.keep(code)
        yield made


def test_engine_and_reference_answer_the_same(engine: Plane, folder: Path) -> None:
    """Every value of every answer, in every format, whichever way a request runs."""

    @examples
    @given(st.data())
    def agree(data: st.DataObject) -> None:
        pipeline = data.draw(pipelines(folder), "pipeline")
        engine.serve(revision(pipeline.spec()))
        asked = data.draw(requests(pipeline), "rows")
        for sending in SENDINGS:
            trial = Trial(pipeline, asked, sending)
            sent = data.draw(trial.sent(), sending)
            (answer,) = engine.infer([sent], in_threads=data.draw(st.booleans(), "in threads"))
            trial.check(answer)

    agree()


def test_bodies_that_are_alike_are_told_apart(engine: Plane, folder: Path) -> None:
    """Arrow is read and written by what earlier bodies had in common: each answer is that of its own rows."""

    @examples
    @given(st.data())
    def agree(data: st.DataObject) -> None:
        pipeline = data.draw(pipelines(folder), "pipeline")
        engine.serve(revision(pipeline.spec()))
        trial = Trial(pipeline, data.draw(requests(pipeline), "rows"), data.draw(ARROW, "sent as"))
        sent = data.draw(trial.sent(), "sent")
        sent.headers["accept"] = data.draw(st.sampled_from((wire.ARROW_FILE, wire.ARROW_STREAM)))
        tried = [(trial, sent), trial.turned(sent)]
        asked = [tried[number] for number in (0, 0, 1, 0, 1, 1)]
        for (each, _), answer in zip(asked, engine.infer([s for _, s in asked]), strict=True):
            each.check(answer)

    agree()


ARROW = st.sampled_from(("arrow", "stream"))


def test_engine_and_reference_refuse_the_same(engine: Plane, folder: Path) -> None:
    """Rows with something in them that may not fit: both take them, or neither."""

    @examples
    @given(st.data())
    def agree(data: st.DataObject) -> None:
        columns = data.draw(inputs(), "columns")
        outputs = [Output(f"o{n}", "same", (column.name,)) for n, column in enumerate(columns)]
        model = onnx_model(folder, columns, outputs, name="m", rename="tensor")
        pipeline = Pipeline((Step("s", "model", (Place(model),)),))
        engine.serve(revision(pipeline.spec()))
        for _ in range(10):
            rows = data.draw(spoilt(data.draw(requests(pipeline)).rows), "rows")
            try:
                table: Table | None = read_rows(columns, rows)
            except Refused:
                table = None
            (answer,) = engine.infer([Sent(json.dumps(rows).encode())])
            assert answer.status == (400 if table is None else 200), answer.body.decode()
            if table is not None:
                for number, row in enumerate(wire.read(answer).rows):
                    for output in outputs:
                        value = table[output.sources[0]][number]
                        assert same(value, row[f"out.{output.name}"], lossless=False)

    agree()


WRONG: tuple[Any, ...] = (
    *(None, True, 0, -1, 300, 1.5, 70000.0, 1e39, 1e-50, 2**63, "a", "", "1"),
    *([], [1.0], [[1.0]], [None], [True], ["a"], {}, {"a": 1}, [[], []], [1, 2, 3], [1, [2], 3]),
)
"""What does not fit somewhere."""


@st.composite
def spoilt(draw: st.DrawFn, rows: list[Any]) -> list[Any]:
    """The rows with another value somewhere, or with a field more or less; or as they were."""
    rows = json.loads(json.dumps(rows))
    row = draw(st.sampled_from(rows))
    name = draw(st.sampled_from(sorted(row)))
    match draw(st.sampled_from(("value", "leaf", "leaf", "remove", "add", "row", "nothing"))):
        case "value":
            row[name] = draw(st.sampled_from(WRONG))
        case "leaf":
            holder: Any = row
            place: Any = name
            while isinstance(holder[place], list) and holder[place] and draw(st.booleans()):
                holder = holder[place]
                place = draw(st.integers(0, len(holder) - 1))
            holder[place] = draw(st.sampled_from(WRONG))
        case "remove":
            del row[name]
        case "add":
            row[f"{name}x"] = 1
        case "row":
            rows[rows.index(row)] = draw(st.sampled_from(WRONG))
    return rows
