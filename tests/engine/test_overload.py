"""More work than the engine can take: some is refused with a time to come back, the rest is answered right."""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit import models
from kit.engine import engine
from kit.folder import ConfigFolder, document, model
from kit.http import ROWS, check, http_engine, request
from kit.raw import eventually, metric, post, raw
from kit.rounds import stops_for_nothing

MANY = 12


def test_more_large_batches_than_fit_are_503(tmp_path: Path) -> None:
    """One thread, two that wait: the next ones are told to come back, the accepted ones are answered right."""
    options = ("--threads", "1", "--max-queued", "2")
    with http_engine(tmp_path, *options) as running, contextlib.ExitStack() as stack:
        accepted = [stack.enter_context(raw(running)) for _ in range(3)]
        for number, connection in enumerate(accepted):
            connection.send(request("thread", number))
        eventually(lambda: metric(running, "queued_batches") == 3, "all of them are taken")
        for _ in range(MANY):
            with raw(running) as connection:
                connection.send(request("thread", 9))
                answer = connection.answer()
                assert (answer.status, answer.reason) == (503, "Overloaded")
                assert answer.headers["retry-after"] == "1"
                assert "3 requests are waiting" in answer.json()["error"]
                connection.send(request("hot", 5))
                check("hot", 5, connection.answer())
        for number, connection in enumerate(accepted):
            check("thread", number, connection.answer())
        assert metric(running, "requests_total", code="503") == MANY
        with raw(running) as connection:
            connection.send(request("thread", 4))
            check("thread", 4, connection.answer())
        assert running.stop() == 0
        assert running.stderr == ""


def test_bodies_that_wait_for_a_thread_count(tmp_path: Path) -> None:
    """Large bodies fill the room for bodies before the queue is full."""
    options = ("--threads", "1", "--max-buffered", "1000000")
    with http_engine(tmp_path, *options) as running, contextlib.ExitStack() as stack:
        body = request("thread", 1).partition(b"\r\n\r\n")[2].ljust(400_000)
        connections = [stack.enter_context(raw(running)) for _ in range(4)]
        for connection in connections:
            connection.send(post(body))
        answers = [connection.answer() for connection in connections]
        assert {answer.status for answer in answers} == {200, 503}
        for answer in answers:
            if answer.status == 200:
                check("thread", 1, answer)
            else:
                assert answer.reason == "Overloaded"
                assert answer.headers["retry-after"] == "1"
        eventually(lambda: metric(running, "buffered_bytes") == 0, "all are given back")


def test_who_waits_too_long_for_a_thread_is_503(tmp_path: Path) -> None:
    """A model that does not come back holds the only thread: those behind it are not held for ever."""
    options = ("--threads", "1", "--infer-seconds", "1")
    with http_engine(tmp_path, *options) as running, raw(running) as stuck, raw(running) as behind:
        stuck.send(post([{"tensor": [1e15, 0]}] + [{"tensor": [0, 0]}] * (ROWS - 1)))
        eventually(lambda: metric(running, "queued_batches") == 1, "the thread is taken")
        behind.send(request("thread", 2))
        assert stuck.answer().reason == "StepTimedOut"
        check("thread", 2, behind.answer())
        assert metric(running, "queued_batches") == 0


def test_a_model_that_cannot_be_stopped_costs_its_thread_alone(tmp_path: Path) -> None:
    """The request is answered all the same, and so are others; the engine ends when it is told to."""
    path = stops_for_nothing(tmp_path / "m.onnx")
    ConfigFolder(tmp_path / "config").write(document(model(path)))
    options = (
        "--threads",
        "2",
        "--infer-seconds",
        "0.5",
        "--inline-ns",
        "0",
        "--drain-seconds",
        "1",
    )
    with engine(tmp_path, *options) as running:
        running.wait("serving")
        reply = running.post([{"tensor": [1, 0]}])
        assert (reply.status, reply.json()["reason"]) == (500, "StepTimedOut")
        assert "step 'step-0'" in reply.json()["error"]
        assert "does not stop" in reply.json()["error"]
        assert metric(running, "queued_batches") == 1
        assert running.post([{"tensor": [0, 1]}]).status == 200
        assert running.get("/livez").status == 200
        assert running.stop() == 0


def test_a_big_model_is_run_beside_the_loop(tmp_path: Path) -> None:
    """While it works on a batch, small requests and questions are answered."""
    with http_engine(tmp_path, "--threads", "1") as running, raw(running) as large:
        large.send(request("thread", 1))
        eventually(lambda: metric(running, "queued_batches") == 1, "it works")
        with raw(running) as small:
            for number in range(20):
                small.send(request("hot", number) + request("get", number))
                check("hot", number, small.answer())
                check("get", number, small.answer())
        assert running.get("/status").json()["ready"] is True
        check("thread", 1, large.answer())


@pytest.mark.parametrize("steps", [1, 2])
def test_answers_do_not_depend_on_where_they_are_computed(tmp_path: Path, steps: int) -> None:
    """At once or in a thread, one row or a thousand: bit for bit the same."""
    rng = np.random.default_rng(3)
    name = "tensor" if steps == 1 else "house"
    rows = [{name: row} for row in rng.standard_normal((1000, 18), np.float32).tolist()]
    first = models.elementwise(tmp_path / "e.onnx", 1.7)
    last = models.big_mlp(tmp_path / "mlp.onnx", 1)
    chain = [model(path) for path in (first, last)[2 - steps :]]
    ConfigFolder(tmp_path / "config").write(document(*chain))
    answered: dict[str, Any] = {}
    for where, nanoseconds in (("inline", 10**12), ("thread", 0)):
        with engine(tmp_path, "--inline-ns", str(nanoseconds)) as running:
            running.wait("serving")
            all_at_once = running.post(rows).json()
            answered[where] = [row["out"] for row in all_at_once]
            alone = [running.post([row]).json()[0]["out"] for row in rows[:20]]
            answered[f"{where}, alone"] = alone
    assert answered["inline"] == answered["thread"]
    assert answered["inline, alone"] == answered["thread, alone"]
    assert len({json.dumps(out) for out in answered["inline"]}) > 900
