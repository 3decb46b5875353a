"""What goes wrong with a challenger is counted and told, and costs nobody but itself."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit import models
from kit.challengers import Bench, Lease, column, story
from midstream_engine.errors import SidekickFailed, SidekickTimedOut, StepFailed
from midstream_engine.sessions import Session, run_bounded
from midstream_engine.shadow.job import Arrays


@pytest.mark.parametrize("blocking", [True, False], ids=["thread", "coroutine"])
@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (StepFailed("no"), "failed"),
        (SidekickFailed("no"), "failed"),
        (ValueError("no"), "failed"),
        (MemoryError(), "failed"),
        (StepFailed("slow", reason="StepTimedOut"), "timed_out"),
        (SidekickTimedOut("slow"), "timed_out"),
        (TimeoutError(), "timed_out"),
    ],
)
@story
async def test_errors_are_counted_and_the_next_job_runs(
    error: Exception, outcome: str, blocking: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a challenger raises ends its job, returns its lease, and is told once, not for every request."""
    bench = Bench()

    def run(_seconds: float) -> Arrays:
        raise error

    async def call(_seconds: float) -> Arrays:
        raise error

    fields: dict[str, Any] = {"run": run} if blocking else {"call": call}
    for _ in range(2):
        assert bench.offer(**fields, champion=column(1))
    bench.offer(lambda _: column(1))
    ends = await bench.ended(3)
    assert [None, None] == ends[:2]
    assert ends[2] is not None
    assert {outcome: 2, "answered": 1} == bench.outcomes()
    assert {} == bench.tally().variables
    assert bench.is_clean()
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert 1 == len(told)
    assert f"challenger 'rival' of step 'predict' {outcome}" in told[0]
    await bench.runner.close()


@story
async def test_an_exit_in_a_challenger_ends_its_job_only() -> None:
    """Its thread goes on with the next."""
    bench = Bench()

    def run(_seconds: float) -> Arrays:
        raise SystemExit(1)

    bench.offer(run)
    bench.offer(lambda _: column(1))
    ends = await bench.ended(2)
    assert [True, False] == [each is None for each in ends]
    assert ({"failed": 1, "answered": 1}, True) == (bench.outcomes(), bench.is_clean())
    await bench.runner.close()


@story
async def test_a_model_that_never_ends_is_stopped(tmp_path: Path) -> None:
    """onnxruntime is told to stop after the job's seconds; the champion's side is free all the time."""
    session = Session(models.hangs(tmp_path / "hangs.onnx"), "hangs")
    feed = {"tensor": np.ones((1, 18), np.float32)}

    def run(seconds: float) -> Arrays:
        run_bounded(session, ["variable"], feed, seconds)
        return {}

    bench = Bench()
    bench.offer(run, seconds=0.05)
    assert [None] == await bench.ended(1)
    assert ({"timed_out": 1}, True) == (bench.outcomes(), bench.is_clean())
    await bench.runner.close()


@story
async def test_a_coroutine_that_does_not_keep_its_time_is_cancelled() -> None:
    """Its own time-out comes first; this one is for a challenger that has none."""
    bench = Bench(grace_seconds=0)
    cancelled = []

    async def call(_seconds: float) -> Arrays:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        raise AssertionError

    bench.offer(call=call, seconds=0.01)
    assert [None] == await bench.ended(1)
    assert ([True], {"timed_out": 1}) == (cancelled, bench.outcomes())
    assert bench.is_clean()
    await bench.runner.close()


@story
async def test_a_challenger_rests_after_three_time_outs_in_a_row() -> None:
    """Each of them may have left a busy thread behind; a swap gives it another chance."""
    bench = Bench(rest_seconds=1000)

    def late(_seconds: float) -> Arrays:
        raise StepFailed("slow", reason="StepTimedOut")

    def answer(_seconds: float) -> Arrays:
        return column(1)

    for number, run in enumerate((late, late, answer, late, late, late)):
        assert bench.offer(run)
        await bench.ended(number + 1)
    assert not bench.offer(answer)
    assert {"timed_out": 5, "answered": 1, "dropped": 1} == bench.outcomes()
    assert bench.offer(answer, challenger="another")
    bench.runner.discard(Lease())
    assert bench.offer(answer)
    await bench.ended(9)
    assert ({"answered": 1}, True) == (bench.outcomes("another"), bench.is_clean())
    await bench.runner.close()


@story
async def test_a_rest_ends() -> None:
    """After its time it is offered rows again."""
    bench = Bench(rest_seconds=0)

    def late(_seconds: float) -> Arrays:
        raise TimeoutError

    for number in range(5):
        assert bench.offer(late)
        await bench.ended(number + 1)
    assert {"timed_out": 5} == bench.outcomes()
    await bench.runner.close()


@story
async def test_whoever_takes_the_outputs_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    """The lease is back, the next job runs, and the log says why."""
    bench = Bench()

    def broken(_outputs: Arrays | None) -> None:
        raise OSError("disk full")

    bench.offer(lambda _: column(1), done=broken)
    bench.offer(lambda _: column(2))
    await bench.ended(1)
    assert ({"answered": 2}, True) == (bench.outcomes(), bench.is_clean())
    assert any("could not be handed on" in r.getMessage() for r in caplog.records)
    await bench.runner.close()


@story
async def test_outputs_that_cannot_be_compared_are_handed_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A defect in the comparison is the engine's, and not a failure of the challenger."""
    bench = Bench()
    strange: Any = object()
    bench.offer(lambda _: column(1), champion={"v": strange})
    (outputs,) = await bench.ended(1)
    assert outputs is not None
    assert ({"answered": 1}, {}) == (bench.outcomes(), bench.tally().variables)
    assert any("cannot be compared" in r.getMessage() for r in caplog.records)
    await bench.runner.close()


@story
async def test_offering_never_raises(caplog: pytest.LogCaptureFixture) -> None:
    """Not even when the revision does; it is logged, and the champion goes on."""
    bench = Bench()

    class Broken(Lease):
        def acquire(self) -> bool:
            raise RuntimeError("broken")

    assert not bench.offer(lambda _: column(1), revision=Broken())
    found = await bench.runner.ask([bench.job(lambda _: column(1), revision=Broken())]).answers({})
    assert {"rival": None} == found
    assert 2 == sum(r.levelno == logging.ERROR for r in caplog.records)
    assert bench.is_clean()
    await bench.runner.close()


@story
async def test_a_job_without_anything_to_run_fails() -> None:
    """A defect of whoever made it ends this job, and no other."""
    bench = Bench()
    bench.offer(None)
    bench.offer(lambda _: column(1))
    await bench.ended(2)
    assert ({"failed": 1, "answered": 1}, True) == (bench.outcomes(), bench.is_clean())
    await bench.runner.close()
