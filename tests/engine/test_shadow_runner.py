"""Challengers off the critical path: real threads and a real event loop; a job's way, queues, swaps, the end."""

import asyncio
import functools
import gc
import os
import threading
import weakref
from pathlib import Path

import numpy as np

from kit import models
from kit.challengers import WAIT_SECONDS, Bench, Held, Lease, column, one, story
from midstream_engine.sessions import Session, run_bounded
from midstream_engine.shadow.comparison import VariableTally
from midstream_engine.shadow.job import Arrays
from midstream_engine.shadow.worker import Worker

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
        bench.offer(call=one, challenger="remote", champion=column(2))
        await bench.ended(2 * number + 2)
        for name in ("midstream-shadow", "midstream-compare"):
            for thread in [each for each in threading.enumerate() if each.name == name]:
                await asyncio.to_thread(thread.join, WAIT_SECONDS)
                assert not thread.is_alive()
    assert ({"answered": 3}, {"answered": 3}) == (bench.outcomes(), bench.outcomes("remote"))
    await bench.runner.close()


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
