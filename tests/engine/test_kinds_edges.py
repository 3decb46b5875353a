"""Steps of several kinds where they meet: numbers of rows, rows of different shapes, time, and what is left behind."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest

from kit import models
from kit.engine import EngineProcess, engine
from kit.folder import ConfigFolder
from kit.pipelines import onnx, python, revision
from midstream_api.engineconfig import RevisionDocument
from midstream_engine.batch import Batch
from midstream_engine.errors import SidekickFailed, StepFailed
from midstream_engine.schema import Field
from midstream_engine.sessions import Arrays, Session
from midstream_engine.steps.flow import run_beside
from midstream_engine.steps.kinds import Run, ShadowStep
from midstream_engine.steps.units import OnnxUnit, bind_onnx, conformed

ROW = {"tensor": [1.0] * 18}
SAME = "def process(inputs):\n    return inputs\n"


@contextmanager
def serving(folder: Path, spec: dict[str, Any], *options: str) -> Iterator[EngineProcess]:
    """An engine that serves a spec."""
    config = ConfigFolder(folder / "config")
    wanted = revision(spec)
    config.write(wanted)
    with engine(folder, *options) as running:
        running.wait("serving", version=wanted.version)
        yield running


def shadow(champion: Path, challenger: Path) -> dict[str, Any]:
    return {
        "champion": {"name": "champion", "model": onnx(champion)},
        "challengers": [{"name": "rival", "model": onnx(challenger)}],
    }


def unit(document: RevisionDocument) -> OnnxUnit:
    """The model of a document's only step, bound."""
    (model,) = document.models()
    path = Path(str(model.uri).removeprefix("file://"))
    return bind_onnx("step 'look'", None, model, Session(path, model.sha256))


def test_a_later_step_says_how_many_rows_a_request_has(tmp_path: Path) -> None:
    """A model with a fixed batch behind code refuses other numbers of rows as the caller's mistake."""
    fixed = models.fixed_batch(tmp_path / "fixed.onnx", 4)
    spec = {
        "steps": [{"name": "pass", "model": python(SAME)}, {"name": "sum", "model": onnx(fixed)}]
    }
    with serving(tmp_path, spec) as running:
        assert [[18.0]] * 4 == [row["out"]["variable"] for row in running.post([ROW] * 4).json()]
        refused = running.post([ROW])
        assert (400, "WrongBatch") == (refused.status, refused.json()["reason"])


def test_models_with_other_fixed_batches_do_not_load(tmp_path: Path) -> None:
    """The message names both ends; and a challenger does not tell callers how many rows they may send."""
    four = models.fixed_batch(tmp_path / "four.onnx", 4)
    three = models.fixed_batch(tmp_path / "three.onnx", 3)
    free = models.scaled(tmp_path / "free.onnx", 1.0)
    between = {"name": "pass", "model": python(SAME.replace("inputs\n", "{'tensor': 1}\n"))}
    config = ConfigFolder(tmp_path / "config")
    config.write(revision({"steps": [{"name": "predict", "shadow": shadow(free, four)}]}))
    with engine(tmp_path) as running:
        refused = running.wait("refused", reason="FixedBatch")
        assert "variant 'rival', model 'four' takes exactly 4 rows" in refused["message"]
        assert "any number" in refused["message"]
        steps = [
            {"name": "a", "model": onnx(four)},
            between,
            {"name": "b", "model": onnx(three)},
        ]
        config.write(revision({"steps": steps}))
        refused = running.wait("refused", reason="FixedBatch")
        assert "step 'a' takes exactly 4 rows, step 'b' exactly 3" in refused["message"]


def test_rows_of_different_shapes_go_on_one_by_one(tmp_path: Path) -> None:
    """A model without batches takes each row as the one before it gave it."""
    first = models.places(tmp_path / "places.onnx")
    second = models.identity(tmp_path / "same.onnx", "int64", (1, None))
    (name,) = (each.name for each in Session(second, "").inputs)
    (given,) = (each.name for each in Session(second, "").outputs)
    renamed = [{"name": "variable", "tensor": name}]
    spec = {
        "steps": [
            {"name": "find", "model": onnx(first, batch="Single")},
            {"name": "same", "model": onnx(second, batch="Single", inputs=renamed)},
        ]
    }
    with serving(tmp_path, spec) as running:
        rows = [{"tensor": [1.0] * count + [0.0] * (18 - count)} for count in (2, 3)]
        found = [row["out"][given] for row in running.post(rows).json()]
        assert [[[0, 1]], [[0, 1, 2]]] == found


def test_rows_that_run_one_by_one_share_the_time_of_the_step(tmp_path: Path) -> None:
    """What is over is told of the step as a whole, whichever row was at work."""
    path = models.hangs(tmp_path / "hangs.onnx")
    taken = unit(revision({"steps": [{"name": "look", "model": onnx(path)}]}))
    taken.single = True
    fields = {name: np.zeros((3, 1, 18), np.float32) for _, name in taken.feeds}
    with pytest.raises(StepFailed, match=r"step 'look'.*all rows within 0\.2 s") as found:
        taken.run_bounded(fields, 3, 0.2)
    assert "StepTimedOut" == found.value.reason


def test_the_rows_kept_in_memory_count_as_what_they_are(tmp_path: Path) -> None:
    """An answer that shows little of a large request is as large for `POST /logs`."""
    code = "def process(inputs):\n    return {'total': inputs['tensor'].sum(axis=1)}\n"
    with serving(tmp_path, {"steps": [{"name": "sum", "model": python(code)}]}) as running:
        row = {"tensor": [1.0] * 200_000}
        for _ in range(8):
            reply = running.post([row], "/pipelines/house-price?dataset=out")
            assert [{"out": {"total": 200_000.0}}] == reply.json()
        assert 0 < len(running.post({}, "/logs").json()) < 4


def test_a_champion_answers_however_many_wait_for_its_challengers(tmp_path: Path) -> None:
    """A challenger that sleeps takes no place of those that need a thread: nobody is refused for it."""
    step = shadow(models.scaled(tmp_path / "one.onnx", 1.0), tmp_path / "one.onnx")
    step["challengers"][0]["model"] = python(
        "import time\ndef process(inputs):\n    time.sleep(60)\n"
    )
    spec = {"steps": [{"name": "sum", "shadow": {**step, "wait": True, "timeoutSeconds": 1}}]}
    options = ("--threads", "1", "--max-queued", "1")
    with serving(tmp_path, spec, *options) as running, ThreadPoolExecutor(20) as clients:
        answers = list(clients.map(lambda _: running.post([ROW]), range(20)))
    assert {200} == {each.status for each in answers}
    assert [None] * 20 == [each.json()[0]["out_rival"] for each in answers]


def order_of_fields() -> str:
    """Code that gives the names in the order that it sees them."""
    return (
        "import json\n"
        "def wallaroo_json(data):\n"
        "    given = json.loads(data)\n"
        "    return {'tensor_fields': ['names'],\n"
        "            'names': [','.join(given['colnames'])] * len(given['query'])}\n"
    )


def number(name: str) -> dict[str, str]:
    return {"name": name, "dtype": "float64"}


def test_code_sees_fields_in_the_order_of_the_first_row(tmp_path: Path) -> None:
    """Also where the manifest declares them in another order, and whatever the format is."""
    declared = [number("b"), number("a"), {"name": "text", "dtype": "string"}]
    model = python(order_of_fields(), inputs=declared)
    spec = {"steps": [{"name": "look", "model": model}]}
    table = pa.table({"a": [1.0], "text": ["x"], "b": [2.0]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    tensors = [
        {"name": name, "shape": [1], "datatype": datatype, "data": [value]}
        for name, datatype, value in (("a", "FP64", 1), ("text", "BYTES", "x"), ("b", "FP64", 2))
    ]
    rows = [{"a": 1, "text": "x", "b": 2}, {"b": 2, "text": "y", "a": 1}]
    with serving(tmp_path, spec) as running:
        for body in (rows, {name: [row[name] for row in rows] for name in rows[0]}):
            reply = running.post(body)
            assert ["a,text,b"] * 2 == [row["out"]["names"] for row in reply.json()]
        kind = "application/vnd.apache.arrow.stream"
        for _ in range(3):
            reply = running.post(sink.getvalue().to_pybytes(), "/infer", kind)
            assert ["a,text,b"] == [row["out"]["names"] for row in reply.json()]
        reply = running.post({"inputs": tensors}, "/v2/models/house-price/infer")
        assert [["a,text,b"]] == [each["data"] for each in reply.json()["outputs"]]


def test_code_sees_the_outputs_of_a_step_in_their_order(tmp_path: Path) -> None:
    """Also where its own inputs are declared in another order; what it does not declare it does not see."""
    first = python("def process(inputs):\n    return {name: inputs['x'] for name in 'zyx'}\n")
    model = python(order_of_fields(), "look", inputs=[number("y"), number("z")])
    spec = {"steps": [{"name": "make", "model": first}, {"name": "look", "model": model}]}
    with serving(tmp_path, spec) as running:
        assert "z,y" == running.post([{"x": 1.5}]).json()[0]["out"]["names"]


def test_a_champion_that_fails_gives_its_challengers_up_at_once(tmp_path: Path) -> None:
    """Not only when whoever has the error has forgotten it."""
    path = models.fails_at_run(tmp_path / "fails.onnx")
    taken = unit(revision({"steps": [{"name": "look", "model": onnx(path)}]}))
    step = ShadowStep("look", taken, [taken], wait=True, seconds=1.0)
    told: list[str] = []

    class Asked:
        def give_up(self) -> None:
            told.append("given up")

        async def answers(self, champion: Arrays) -> dict[str, Arrays | None]:
            raise AssertionError(champion)

    class Runner:
        def ask(self, step: ShadowStep, fields: Arrays, rows: int) -> Asked:
            del step, fields, rows
            return Asked()

        def offer(self, step: ShadowStep, fields: Arrays, rows: int, champion: Arrays) -> None:
            raise AssertionError((step, fields, rows, champion))

    fields = {name: np.zeros((1, 18), np.float32) for _, name in taken.feeds}

    async def execute(function: Any) -> Arrays:
        return await asyncio.to_thread(function)

    run = Run(Batch(fields, 1), runner=Runner())
    with pytest.raises(StepFailed) as found:
        asyncio.run(run_beside([step], run, 5.0, 1e9, execute))
    assert ["given up"] == told, found


@pytest.mark.parametrize(
    ("dtype", "value"), [("float32", 1e300), ("float16", 1e5), ("int64", 2.0**63), ("int8", 128)]
)
def test_a_number_of_code_that_does_not_fit_is_refused(dtype: str, value: float) -> None:
    """It does not become infinite, nor another number."""
    with pytest.raises(SidekickFailed, match="values that it cannot hold"):
        conformed(
            {"x": np.array([value])}, [Field("x", dtype, ())], "the code gives", SidekickFailed
        )
