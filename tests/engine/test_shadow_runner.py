"""Challengers off the critical path: real threads and a real event loop; the champion's side never waits for them."""

import asyncio
import functools
import gc
import logging
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit import models
from midstream_engine.comparison import ShadowCounts, Tally, VariableTally
from midstream_engine.errors import SidekickFailed, SidekickTimedOut, StepFailed
from midstream_engine.sessions import Session, run_bounded
from midstream_engine.shadow import ShadowRunner
from midstream_engine.shadowjob import Arrays, ShadowJob
from midstream_engine.worker import Worker

WAIT_SECONDS = 30.0
"""The longest a test waits for an event before it fails."""

Story = Callable[..., Coroutine[Any, Any, None]]


def story(function: Story) -> Callable[..., None]:
    """Make an async test one that pytest can run, with its fixtures; it must leave no task behind."""

    async def told(**fixtures: Any) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            await function(**fixtures)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    @functools.wraps(function)
    def run(**fixtures: Any) -> None:
        asyncio.run(told(**fixtures))

    return run


def column(*values: float) -> Arrays:
    """Outputs of one variable."""
    return {"v": np.array(values, dtype=np.float32)}


class Lease:
    """What a revision is to its challengers."""

    def __init__(self) -> None:
        self.taken = 0
        self.back = 0
        self.ready = True

    def acquire(self) -> bool:
        """As a revision does."""
        self.taken += self.ready
        return self.ready

    def release(self) -> None:
        """As a revision does."""
        self.back += 1

    @property
    def out(self) -> int:
        """Leases that are not back."""
        return self.taken - self.back


class Held:
    """A challenger that runs in a thread until it is let go."""

    def __init__(self, answer: Arrays | BaseException) -> None:
        self.runs = 0
        self.began = threading.Event()
        self._may_end = threading.Event()
        self._answer = answer

    def __call__(self, _seconds: float) -> Arrays:
        """Run."""
        self.runs += 1
        self.began.set()
        assert self._may_end.wait(WAIT_SECONDS)
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer

    async def running(self) -> None:
        """Wait until it runs."""
        assert await asyncio.to_thread(self.began.wait, WAIT_SECONDS)

    def let_go(self) -> None:
        """End this run and all that follow."""
        self._may_end.set()


class Bench:
    """A runner, the lease of a revision, and what has come of the jobs so far."""

    def __init__(self, **settings: Any) -> None:
        self.counts = ShadowCounts()
        self.runner = ShadowRunner(self.counts, **settings)
        self.lease = Lease()
        self.ends: list[Arrays | None] = []
        self._more = asyncio.Event()

    def job(self, run: Any = None, **fields: Any) -> ShadowJob:
        """A job for the challenger `rival`."""
        if "call" not in fields:
            fields["run"] = run
        given: dict[str, Any] = {
            "step": "predict",
            "challenger": "rival",
            "revision": self.lease,
            "rows": 1,
            "seconds": WAIT_SECONDS,
            "done": self._ended,
        }
        return ShadowJob(**{**given, **fields})

    def offer(self, run: Any = None, **fields: Any) -> bool:
        """Offer a job for the challenger `rival`."""
        return self.runner.offer(self.job(run, **fields))

    async def ended(self, number: int) -> list[Arrays | None]:
        """Wait until so many jobs have ended; what they gave."""
        while len(self.ends) < number:
            self._more.clear()
            await self._more.wait()
        return self.ends

    def tally(self, challenger: str = "rival") -> Tally:
        """What was counted."""
        return self.counts.of("predict", challenger)

    def outcomes(self, challenger: str = "rival") -> dict[str, int]:
        """What jobs came to, without what none came to."""
        return {str(k): n for k, n in self.tally(challenger).outcomes.items() if n}

    def is_clean(self) -> bool:
        """All leases are back, once each, and nothing is kept."""
        return (0, 0, 0) == (self.lease.out, self.counts.jobs, self.counts.bytes)

    def _ended(self, outputs: Arrays | None) -> None:
        self.ends.append(outputs)
        self._more.set()


# A job's way


@story
async def test_what_a_challenger_answers_is_handed_on_and_counted() -> None:
    """Outputs, rows, time, and how far they are from the champion's."""
    bench = Bench()
    assert bench.offer(
        lambda _: column(1, 5), rows=2, champion={**column(1, 2), "other": np.zeros(2)}
    )
    (outputs,) = await bench.ended(1)
    assert outputs is not None
    assert [1, 5] == outputs["v"].tolist()
    tally = bench.tally()
    assert ({"answered": 1}, 2) == (bench.outcomes(), tally.rows)
    assert tally.run_ns > 0
    assert {"v": VariableTally(rows=2, unequal=1, values=2, absolute=3.0)} == tally.variables
    assert (1, True) == (bench.lease.taken, bench.is_clean())
    await bench.runner.close()


@story
async def test_a_job_does_not_start_before_the_champion_has_answered() -> None:
    """What the event loop does now ends first: the answer is written before a challenger wants the processor."""
    bench = Bench()
    held = Held(column(1))
    assert bench.offer(held)
    assert not held.began.is_set()
    assert 1 == bench.lease.out
    held.let_go()
    await bench.ended(1)
    await bench.runner.close()


@story
async def test_jobs_of_a_challenger_run_one_after_the_other_in_order() -> None:
    """In threads as in coroutines; each sees the time it has."""
    bench = Bench()
    seen: list[tuple[str, int, float]] = []
    running = 0

    def run(number: int, seconds: float) -> Arrays:
        nonlocal running
        running += 1
        assert 1 == running
        seen.append(("thread", number, seconds))
        running -= 1
        return column(number)

    async def call(number: int, seconds: float) -> Arrays:
        nonlocal running
        running += 1
        await asyncio.sleep(0)
        assert 1 == running
        seen.append(("task", number, seconds))
        running -= 1
        return column(number)

    for number in range(10):
        bench.offer(functools.partial(run, number), seconds=7)
    await bench.ended(10)
    for number in range(10):
        bench.offer(call=functools.partial(call, number), seconds=8, champion=column(0))
    ends = await bench.ended(20)
    wanted = [*(("thread", n, 7) for n in range(10)), *(("task", n, 8) for n in range(10))]
    assert wanted == seen
    assert [*range(10), *range(10)] == [int(each["v"][0]) for each in ends if each is not None]
    assert {"answered": 20} == bench.outcomes()
    assert VariableTally(10, 9, 10, 45.0) == bench.tally().variables["v"]
    assert bench.is_clean()
    await bench.runner.close()


@story
async def test_challengers_do_not_wait_for_each_other() -> None:
    """Each has a queue and a thread of its own."""
    bench = Bench()
    slow = Held(column(1))
    bench.offer(slow, challenger="slow")
    await slow.running()
    bench.offer(lambda _: column(2), challenger="fast")
    (outputs,) = await bench.ended(1)
    assert outputs is not None
    assert [2] == outputs["v"].tolist()
    slow.let_go()
    await bench.ended(2)
    await bench.runner.close()


@story
async def test_real_models_differ_by_what_they_compute(tmp_path: Path) -> None:
    """A challenger in onnxruntime, bounded in time, against a champion's outputs."""
    champion, challenger = (
        Session(models.scaled(tmp_path / f"{factor}.onnx", factor), str(factor))
        for factor in (2, 3)
    )
    feed = {"tensor": np.arange(36, dtype=np.float32).reshape(2, 18)}
    names = ["variable"]
    bench = Bench()

    def run(seconds: float) -> Arrays:
        return dict(zip(names, run_bounded(challenger, names, feed, seconds), strict=True))

    outputs = dict(zip(names, champion.run(names, feed), strict=True))
    assert bench.offer(run, rows=2, champion=outputs)
    await bench.ended(1)
    assert {"variable": VariableTally(2, 2, 2, float(sum(range(36))))} == bench.tally().variables
    await bench.runner.close()


@story
async def test_threads_of_challengers_yield_to_requests() -> None:
    """Their niceness is 15 more, but for those that a request waits for."""
    bench = Bench()
    nice: dict[str, int] = {}

    def run(name: str, _seconds: float) -> Arrays:
        nice[name] = os.getpriority(os.PRIO_PROCESS, 0)
        return column(1)

    bench.offer(functools.partial(run, "offered"))
    asked = bench.runner.ask([bench.job(functools.partial(run, "asked"))])
    await asked.answers(column(1))
    await bench.ended(2)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert {"offered": min(19, own + 15), "asked": own} == nice
    await bench.runner.close()


# What does not fit


@story
async def test_what_does_not_fit_into_the_queue_is_dropped_and_counted() -> None:
    """A challenger that sleeps costs the champion nothing, and its queue stays as long as it may be."""
    bench = Bench(max_jobs=4)
    held = Held(column(1))
    taken = [bench.offer(held) for _ in range(10)]
    assert [True] * 4 + [False] * 6 == taken
    assert ({"dropped": 6}, 4, 4) == (bench.outcomes(), bench.lease.out, bench.counts.jobs)
    assert [None] * 6 == bench.ends
    await held.running()
    assert not bench.offer(held)
    held.let_go()
    await bench.ended(11)
    assert ({"dropped": 7, "answered": 4}, 4) == (bench.outcomes(), held.runs)
    assert bench.is_clean()
    assert bench.offer(held)
    await bench.ended(12)
    await bench.runner.close()


@story
async def test_a_job_that_would_be_dropped_need_not_be_made() -> None:
    """Asking whether there is room counts the drop, and costs next to nothing in a busy engine."""
    bench = Bench(max_jobs=2)
    held = Held(column(1))
    assert bench.runner.has_room("predict", "rival")
    assert bench.offer(held)
    assert bench.runner.has_room("predict", "rival")
    assert bench.offer(held)
    assert not bench.runner.has_room("predict", "rival")
    assert bench.runner.has_room("predict", "another")
    assert {"dropped": 1} == bench.outcomes()
    held.let_go()
    await bench.ended(2)
    assert bench.runner.has_room("predict", "rival")
    assert {"dropped": 1, "answered": 2} == bench.outcomes()
    await bench.runner.close()


@story
async def test_bytes_are_bounded_over_all_challengers() -> None:
    """A huge batch is dropped, and so is one that fits no more; what has ended makes room."""
    bench = Bench(max_bytes=1000)
    held = Held(column(1))
    assert not bench.offer(held, size=1001)
    assert bench.offer(held, size=600)
    assert not bench.offer(held, size=401, challenger="another")
    assert bench.offer(held, size=400, challenger="another")
    assert 1000 == bench.counts.bytes
    held.let_go()
    await bench.ended(4)
    assert bench.is_clean()
    assert bench.offer(held, size=1000)
    await bench.ended(5)
    assert ({"dropped": 1, "answered": 2}, {"dropped": 1, "answered": 1}) == (
        bench.outcomes(),
        bench.outcomes("another"),
    )
    await bench.runner.close()


@story
async def test_nothing_is_kept_in_memory_after_the_end() -> None:
    """A thread that waits for more holds neither rows nor outputs of what it did last."""
    bench = Bench()
    taken, given, compared = np.zeros(1000), np.zeros(1000), np.zeros(1000)
    watched = [weakref.ref(each) for each in (taken, given, compared)]

    def run(given: Arrays, taken: Arrays, _seconds: float) -> Arrays:
        assert taken
        return given

    bench.offer(functools.partial(run, {"v": given}, {"v": taken}), champion={"v": compared})
    del taken, given, compared
    await bench.ended(1)
    bench.ends.clear()
    # The thread's own references go when it has come round; the next job says that it has.
    bench.offer(lambda _: column(1))
    await bench.ended(1)
    gc.collect()
    assert [None, None, None] == [each() for each in watched]
    await bench.runner.close()


# What goes wrong


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


# Swaps and the end


@story
async def test_a_swap_waits_for_what_runs_not_for_what_waits() -> None:
    """The waiting jobs of the old revision are given up at once; those of the new one stay, in order."""
    bench = Bench()
    held = Held(column(1))
    new = Lease()
    ran: list[str] = []

    def run(name: str, _seconds: float) -> Arrays:
        ran.append(name)
        return column(2)

    bench.offer(held)
    for number in range(5):
        bench.offer(functools.partial(run, f"old {number}"))
        bench.offer(functools.partial(run, f"new {number}"), revision=new)
    await held.running()
    assert (6, 5) == (bench.lease.out, new.out)
    bench.runner.discard(bench.lease)
    assert (1, 5) == (bench.lease.out, new.out)
    held.let_go()
    await bench.ended(11)
    assert [f"new {number}" for number in range(5)] == ran
    assert {"answered": 6, "discarded": 5} == bench.outcomes()
    assert (True, 0) == (bench.is_clean(), new.out)
    await bench.runner.close()


@story
async def test_a_revision_that_takes_no_more_work_gets_none() -> None:
    """A request that was under way when the swap came brings no new job."""
    bench = Bench()
    bench.lease.ready = False
    assert not bench.offer(lambda _: column(1))
    assert ([None], {"discarded": 1}, 0) == (bench.ends, bench.outcomes(), bench.lease.back)
    await bench.runner.close()


@story
async def test_close_ends_everything() -> None:
    """What waits is given up, coroutines are cancelled, threads end, and every lease is back."""
    bench = Bench()
    held = Held(column(1))
    begun = asyncio.Event()

    async def call(_seconds: float) -> Arrays:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    for _ in range(3):
        bench.offer(held)
        bench.offer(call=call, challenger="remote")
    await held.running()
    await begun.wait()
    threads = [each for each in threading.enumerate() if each.name == "midstream-shadow"]
    closing = asyncio.create_task(bench.runner.close(WAIT_SECONDS))
    await bench.ended(5)
    held.let_go()
    await closing
    assert ({"discarded": 2, "answered": 1}, {"discarded": 3}) == (
        bench.outcomes(),
        bench.outcomes("remote"),
    )
    assert (6, True) == (bench.lease.taken, bench.is_clean())
    for each in threads:
        await asyncio.to_thread(each.join, WAIT_SECONDS)
        assert not each.is_alive()
    assert not bench.offer(held)
    assert 1 == held.runs


@story
async def test_close_leaves_a_thread_behind_that_does_not_end() -> None:
    """Its lease is given back once, and what it gives later changes nothing."""
    bench = Bench()
    held = Held(column(1))
    bench.offer(held)
    await held.running()
    (thread,) = (each for each in threading.enumerate() if each.name == "midstream-shadow")
    await bench.runner.close(0)
    assert ({"discarded": 1}, [None], True) == (bench.outcomes(), bench.ends, bench.is_clean())
    held.let_go()
    await asyncio.to_thread(thread.join, WAIT_SECONDS)
    await asyncio.sleep(0)
    assert ({"discarded": 1}, 1) == (bench.outcomes(), bench.lease.back)


@story
async def test_closing_without_work_is_quick_and_repeatable() -> None:
    """There is nothing to wait for."""
    bench = Bench()
    await bench.runner.close()
    await bench.runner.close()
    assert bench.is_clean()


@story
async def test_idle_threads_end_and_come_back() -> None:
    """A challenger that gets no rows keeps no thread."""
    bench = Bench(idle_seconds=0.01)
    for number in range(3):
        bench.offer(lambda _: column(1))
        bench.offer(call=_one, challenger="remote", champion=column(2))
        await bench.ended(2 * number + 2)
        for name in ("midstream-shadow", "midstream-compare"):
            for thread in [each for each in threading.enumerate() if each.name == name]:
                await asyncio.to_thread(thread.join, WAIT_SECONDS)
                assert not thread.is_alive()
    assert ({"answered": 3}, {"answered": 3}) == (bench.outcomes(), bench.outcomes("remote"))
    await bench.runner.close()


async def _one(_seconds: float) -> Arrays:
    """A challenger that answers 1."""
    return column(1)


def test_a_worker_ends_without_a_loop() -> None:
    """When the loop is gone, the thread that has something to tell ends by itself."""
    may_end = threading.Event()
    workers = []

    async def start() -> None:
        worker = Worker("test", first=True, idle=lambda: None)
        worker.put(lambda: may_end.wait(WAIT_SECONDS), lambda _: None)
        workers.append(worker)

    asyncio.run(start())
    (thread,) = (each for each in threading.enumerate() if each.name == "midstream-test")
    may_end.set()
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive()


# Requests that wait


@story
async def test_challengers_run_beside_a_champion_that_waits_for_them() -> None:
    """All of them are under way at the same time; the answer has the outputs of each by name."""
    bench = Bench()
    meeting = threading.Barrier(3, timeout=WAIT_SECONDS)

    def run(value: float, _seconds: float) -> Arrays:
        meeting.wait()
        return column(value)

    asked = bench.runner.ask(
        [
            bench.job(functools.partial(run, 2), challenger="second"),
            bench.job(functools.partial(run, 3), challenger="third"),
        ]
    )
    champion = await asyncio.to_thread(run, 1, 0)
    found = await asked.answers(champion)
    assert ["second", "third"] == list(found)
    assert [[2], [3]] == [each["v"].tolist() for each in found.values() if each is not None]
    await bench.runner.close()
    assert [VariableTally(1, 1, 1, 1.0), VariableTally(1, 1, 1, 2.0)] == [
        bench.tally(name).variables["v"] for name in found
    ]
    assert bench.is_clean()


@story
async def test_a_challenger_that_fails_is_none_in_the_answer() -> None:
    """The champion's request does not fail with it, and the others are there."""
    bench = Bench()

    def fails(_seconds: float) -> Arrays:
        raise StepFailed("no")

    asked = bench.runner.ask(
        [
            bench.job(fails, challenger="broken"),
            bench.job(call=_one, challenger="remote"),
            bench.job(lambda _: column(3), challenger="huge", size=2**40),
        ]
    )
    found = await asked.answers(column(1))
    assert [True, False, True] == [each is None for each in found.values()]
    assert ({"failed": 1}, {"dropped": 1}) == (bench.outcomes("broken"), bench.outcomes("huge"))
    await bench.runner.close()
    assert VariableTally(1, 0, 1, 0.0) == bench.tally("remote").variables["v"]
    assert bench.is_clean()


@story
async def test_a_request_waits_no_longer_than_a_challenger_may_take() -> None:
    """Then its outputs are None; its lease is back, and it is counted as timed out, when it ends."""
    bench = Bench()
    held = Held(column(1))
    asked = bench.runner.ask(
        [
            bench.job(held, challenger="slow", seconds=0.1),
            bench.job(call=_one, challenger="remote", seconds=0.1),
        ]
    )
    await held.running()
    found = await asked.answers(column(1))
    assert [True, False] == [each is None for each in found.values()]
    assert ({}, 1) == (bench.outcomes("slow"), bench.lease.out)
    held.let_go()
    assert None in await bench.ended(2)
    assert {"timed_out": 1} == bench.outcomes("slow")
    assert bench.is_clean()
    await bench.runner.close()


@story
async def test_a_job_whose_turn_does_not_come_in_time_is_not_run() -> None:
    """It is counted as timed out; nobody waits for it any more."""
    bench = Bench()
    held = Held(column(1))
    first = bench.runner.ask([bench.job(held)])
    await held.running()
    second = bench.runner.ask([bench.job(held, seconds=0.01)])
    assert {"rival": None} == await second.answers(column(1))
    assert ({"timed_out": 1}, 1) == (bench.outcomes(), bench.lease.out)
    held.let_go()
    found = await first.answers(column(1))
    assert found["rival"] is not None
    assert (1, True) == (held.runs, bench.is_clean())
    await bench.runner.close()


@story
async def test_many_requests_may_wait_at_once() -> None:
    """A queue of requests that wait is not cut at the length of one that nobody waits for."""
    bench = Bench(max_jobs=1)
    asked = [bench.runner.ask([bench.job(lambda _: column(1))]) for _ in range(100)]
    asked += [bench.runner.ask([bench.job(call=_one, challenger="remote")]) for _ in range(100)]
    for each in asked:
        (outputs,) = (await each.answers(column(1))).values()
        assert outputs is not None
    assert ({"answered": 100}, True) == (bench.outcomes(), bench.is_clean())
    await bench.runner.close()


@story
async def test_a_request_that_is_gone_leaves_nothing_behind() -> None:
    """What waits is given up, what runs ends by itself, and all leases come back."""
    bench = Bench()
    held = Held(column(1))
    requests = [
        asyncio.create_task(bench.runner.ask([bench.job(held)]).answers(column(1)))
        for _ in range(3)
    ]
    await held.running()
    for each in requests:
        each.cancel()
    await asyncio.gather(*requests, return_exceptions=True)
    assert all(each.cancelled() for each in requests)
    assert 1 == bench.lease.out
    held.let_go()
    await bench.ended(3)
    assert ({"answered": 1, "discarded": 2}, True) == (bench.outcomes(), bench.is_clean())
    await bench.runner.close()


@story
async def test_a_champion_that_fails_gives_its_challengers_up() -> None:
    """What has not begun is not run; what runs is counted as what it comes to."""
    bench = Bench()
    held = Held(column(1))
    first = bench.runner.ask([bench.job(held)])
    await held.running()
    second = bench.runner.ask([bench.job(held)])
    for each in (second, first):
        each.give_up()
    assert (1, {"discarded": 1}) == (bench.lease.out, bench.outcomes())
    held.let_go()
    await bench.ended(2)
    assert ({"answered": 1, "discarded": 1}, True) == (bench.outcomes(), bench.is_clean())
    await bench.runner.close()


@story
async def test_requests_that_wait_are_answered_when_the_engine_closes() -> None:
    """Without their challengers, at once."""
    bench = Bench()
    held = Held(column(1))
    asked = bench.runner.ask([bench.job(held)])
    await held.running()
    waiting = asyncio.create_task(asked.answers(column(1)))
    await bench.runner.close(0)
    assert {"rival": None} == await waiting
    assert bench.is_clean()
    held.let_go()
