"""Challengers whose time is over: told to stop, and left behind when they do not."""

import asyncio
import threading
from pathlib import Path

import numpy as np
import onnxruntime

from kit import models
from kit.challengers import WAIT_SECONDS, Bench, Held, column, story
from midstream_engine.errors import StepFailed
from midstream_engine.sessions import Session
from midstream_engine.shadow.job import Arrays


@story
async def test_a_run_that_can_be_stopped_is_stopped_when_its_time_is_over(tmp_path: Path) -> None:
    """The event loop tells onnxruntime: no second thread is needed to watch each run."""
    session = Session(models.hangs(tmp_path / "hangs.onnx"), "hangs")
    feed = {"tensor": np.ones((1, 18), np.float32)}
    options = onnxruntime.RunOptions()
    options.log_severity_level = 4

    def run(_seconds: float) -> Arrays:
        session.run(["variable"], feed, options)
        raise AssertionError

    bench = Bench()
    bench.offer(run, stop=lambda: setattr(options, "terminate", True), seconds=0.05)
    assert [None] == await bench.ended(1)
    assert ({"timed_out": 1}, True) == (bench.outcomes(), bench.is_clean())
    await bench.runner.close()


@story
async def test_a_thread_that_does_not_come_back_is_left_behind() -> None:
    """Its lease is given back, so that no swap waits for it, and the next job runs in another thread."""
    bench = Bench(stuck_seconds=0.01)
    stuck = Held(column(1))
    told: list[str] = []
    bench.offer(stuck, seconds=0.01, stop=lambda: told.append("stop"))
    await stuck.running()
    behind = [each for each in threading.enumerate() if each.name == "midstream-shadow"]
    bench.offer(lambda _: column(2))
    first, second = await bench.ended(2)
    assert first is None
    assert second is not None
    assert (["stop"], {"timed_out": 1, "answered": 1}) == (told, bench.outcomes())
    assert bench.is_clean()
    stuck.let_go()
    for thread in behind:
        await asyncio.to_thread(thread.join, WAIT_SECONDS)
        assert not thread.is_alive()
    await asyncio.sleep(0)
    assert ({"timed_out": 1, "answered": 1}, 2) == (bench.outcomes(), bench.lease.back)
    await bench.runner.close()


@story
async def test_a_stop_that_fails_leaves_the_thread_behind() -> None:
    """The event loop logs it, and the job ends as one that cannot be stopped."""
    bench = Bench(stuck_seconds=0.01)
    stuck = Held(column(1))

    def stop() -> None:
        raise RuntimeError("broken")

    bench.offer(stuck, seconds=0.01, stop=stop)
    assert [None] == await bench.ended(1)
    assert ({"timed_out": 1}, True) == (bench.outcomes(), bench.is_clean())
    stuck.let_go()
    await bench.runner.close()


@story
async def test_what_ends_in_time_is_not_told_to_stop() -> None:
    """A failure stays a failure, and an answer an answer."""
    bench = Bench()
    told: list[str] = []

    def fails(_seconds: float) -> Arrays:
        raise StepFailed("no")

    for run in (fails, lambda _: column(1)):
        bench.offer(run, stop=lambda: told.append("stop"))
    await bench.ended(2)
    await bench.runner.close()
    assert ([], {"failed": 1, "answered": 1}) == (told, bench.outcomes())
