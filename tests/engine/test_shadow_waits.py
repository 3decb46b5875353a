"""Requests that wait for challengers, as `wait: true` has it: for so long, and in any case with an answer."""

import asyncio
import functools
import threading

from kit.challengers import WAIT_SECONDS, Bench, Held, column, one, story
from midstream_engine.errors import Overloaded, StepFailed
from midstream_engine.shadow.comparison import VariableTally
from midstream_engine.shadow.job import Arrays


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
            bench.job(call=one, challenger="remote"),
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
            bench.job(call=one, challenger="remote", seconds=0.1),
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
    asked += [bench.runner.ask([bench.job(call=one, challenger="remote")]) for _ in range(100)]
    for each in asked:
        (outputs,) = (await each.answers(column(1))).values()
        assert outputs is not None
    assert ({"answered": 100}, True) == (bench.outcomes(), bench.is_clean())
    await bench.runner.close()


@story
async def test_more_requests_than_may_wait_go_on_at_once() -> None:
    """Beyond the bound, and where a sidekick has as many calls as it takes, a challenger is dropped."""
    bench = Bench(max_asked=1)
    held = Held(column(1))
    first = bench.runner.ask([bench.job(held)])
    await held.running()
    assert {"rival": None} == await bench.runner.ask([bench.job(held)]).answers(column(1))

    async def full(_seconds: float) -> Arrays:
        raise Overloaded("64 requests wait for a worker already")

    busy = bench.runner.ask([bench.job(call=full, challenger="busy")])
    assert {"busy": None} == await busy.answers(column(1))
    assert ({"dropped": 1}, {"dropped": 1}) == (bench.outcomes(), bench.outcomes("busy"))
    held.let_go()
    assert (await first.answers(column(1)))["rival"] is not None
    assert bench.is_clean()
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
