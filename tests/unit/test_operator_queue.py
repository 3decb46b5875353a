"""The queue of keys: never twice, never with two workers, never forgotten, and patient with what fails."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit import virtual
from midstream_operator.queue import PATIENCE, Lane, Queue, Result

Look = Callable[[str], Awaitable[float | None]]


class Looks:
    """Notes when each key was looked at, and answers as told."""

    def __init__(self, takes: float = 0.0) -> None:
        self.takes = takes
        self.begun: defaultdict[str, list[float]] = defaultdict(list)
        self.order: list[str] = []
        self.answers: defaultdict[str, list[float | Exception | None]] = defaultdict(list)

    async def __call__(self, key: str) -> float | None:
        self.begun[key].append(asyncio.get_running_loop().time())
        self.order.append(key)
        await asyncio.sleep(self.takes)
        answer = self.answers[key].pop(0) if self.answers[key] else None
        if isinstance(answer, Exception):
            raise answer
        return answer


def during(
    queue: Queue[str], looks: Look, workers: int, script: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Run a script beside the workers."""

    async def run() -> None:
        running = asyncio.create_task(queue.run(looks, workers))
        await script()
        queue.close()
        await running

    virtual.run(run())


def gaps(times: list[float]) -> list[float]:
    return [round(b - a, 3) for a, b in itertools.pairwise(times)]


def never() -> float:
    return 0.0


def test_a_key_that_is_added_often_is_looked_at_once() -> None:
    """A hundred reasons to look at a key that waits are one reason."""
    looks, queue = Looks(), Queue[str]()

    async def script() -> None:
        for _ in range(100):
            queue.add("a")
        await asyncio.sleep(1)

    during(queue, looks, 4, script)
    assert looks.order == ["a"]


def test_a_key_added_while_it_is_looked_at_is_looked_at_once_more() -> None:
    """What happens during a look is seen by another look after it, by one."""
    looks, queue = Looks(takes=1), Queue[str]()

    async def script() -> None:
        queue.add("a")
        await asyncio.sleep(0.5)
        queue.add("a")
        queue.add("a")
        await asyncio.sleep(10)

    during(queue, looks, 4, script)
    assert gaps(looks.begun["a"]) == [1.0]


def test_a_look_that_asks_for_another_gets_it_in_time() -> None:
    """The seconds that a look returns are the seconds until the next."""
    looks, queue = Looks(), Queue[str]()
    looks.answers["a"] = [2.0, 5.0, None]

    async def script() -> None:
        queue.add("a")
        await asyncio.sleep(100)

    during(queue, looks, 1, script)
    assert gaps(looks.begun["a"]) == [2.0, 5.0]


def test_the_earliest_of_several_wishes_counts() -> None:
    """A later wish does not put off an earlier one, and is met by it."""
    looks, queue = Looks(), Queue[str]()

    async def script() -> None:
        begin = asyncio.get_running_loop().time()
        queue.add_after("a", 10)
        queue.add_after("a", 3)
        queue.add_after("a", 20)
        await asyncio.sleep(100)
        assert looks.begun["a"] == [begin + 3]

    during(queue, looks, 1, script)


def test_a_key_that_fails_waits_twice_as_long_each_time_up_to_a_limit() -> None:
    """From a quarter of a second to five minutes; a success forgets it all."""
    results: list[Result] = []
    looks = Looks()
    queue = Queue[str](jitter=never, on_done=lambda _k, result, _s, _e: results.append(result))
    looks.answers["a"] = [*(RuntimeError() for _ in range(13)), 1.0, RuntimeError(), None]

    async def script() -> None:
        queue.add("a")
        await asyncio.sleep(3600)

    during(queue, looks, 1, script)
    expected = [0.25 * 2**n for n in range(11)] + [300.0, 300.0, 1.0, 0.25]
    assert gaps(looks.begun["a"]) == expected
    assert results == [Result.FAILED] * 13 + [Result.AGAIN, Result.FAILED, Result.DONE]


def test_chance_shortens_a_delay_by_at_most_a_quarter() -> None:
    """Many keys that fail at once do not come back at once."""
    looks, queue = Looks(), Queue[str](jitter=lambda: 1.0)
    looks.answers["a"] = [RuntimeError(), RuntimeError()]

    async def script() -> None:
        queue.add("a")
        await asyncio.sleep(60)

    during(queue, looks, 1, script)
    assert gaps(looks.begun["a"]) == pytest.approx([0.1875, 0.375], abs=0.001)


def test_the_limit_may_depend_on_the_error() -> None:
    """What heals by itself is tried again sooner."""
    looks = Looks()
    queue = Queue[str](jitter=never, longest=lambda error: 1.0 if isinstance(error, OSError) else 9)
    looks.answers["a"] = [OSError() for _ in range(5)]

    async def script() -> None:
        queue.add("a")
        await asyncio.sleep(60)

    during(queue, looks, 1, script)
    assert gaps(looks.begun["a"]) == [0.25, 0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("lane", "looked_at_after"), [(Lane.CHANGE, 1.0), (Lane.DRIFT, 8.0), (Lane.RESYNC, 8.0)]
)
def test_only_a_change_ends_the_wait_after_a_failure(lane: Lane, looked_at_after: float) -> None:
    """A new spec may be the cure; other news is no reason to fail again at once."""
    looks, queue = Looks(), Queue[str](jitter=never)
    looks.answers["a"] = [RuntimeError() for _ in range(6)]

    async def script() -> None:
        queue.add("a")
        await asyncio.sleep(0.25 + 0.5 + 1 + 2 + 4)
        await asyncio.sleep(1)
        queue.add("a", lane)
        await asyncio.sleep(2)
        queue.add("a", lane)
        await asyncio.sleep(60)

    during(queue, looks, 1, script)
    assert gaps(looks.begun["a"])[5] == looked_at_after


def test_a_change_during_a_look_that_fails_is_looked_at_at_once() -> None:
    """The failed look may not have seen the change."""
    looks, queue = Looks(takes=1), Queue[str](jitter=never)
    looks.answers["a"] = [RuntimeError()]

    async def script() -> None:
        queue.add("a")
        await asyncio.sleep(0.5)
        queue.add("a", Lane.CHANGE)
        await asyncio.sleep(60)

    during(queue, looks, 1, script)
    assert gaps(looks.begun["a"]) == [1.0]


def test_a_look_that_takes_too_long_is_cancelled_and_tried_again() -> None:
    """One that hangs does not keep its key and its worker for ever."""
    errors: list[Exception | None] = []
    queue = Queue[str](
        deadline=5, jitter=never, on_done=lambda _k, _r, _s, error: errors.append(error)
    )
    begun: list[float] = []

    async def hang_once(_key: str) -> float | None:
        begun.append(asyncio.get_running_loop().time())
        if len(begun) == 1:
            await asyncio.Event().wait()
        return None

    async def script() -> None:
        queue.add("a")
        await asyncio.sleep(4)
        assert queue.longest_taken() == 4
        await asyncio.sleep(56)

    during(queue, hang_once, 1, script)
    assert gaps(begun) == [5.25]
    assert [type(error) for error in errors] == [TimeoutError, type(None)]


def test_changes_go_before_drift_and_drift_before_resync() -> None:
    """A user does not wait behind a thousand pipelines that are looked at for safety only."""
    looks, queue = Looks(takes=0.1), Queue[str]()

    async def script() -> None:
        for name in ("r1", "r2", "both"):
            queue.add(name, Lane.RESYNC)
        queue.add("d1", Lane.DRIFT)
        queue.add("c1", Lane.CHANGE)
        queue.add("both", Lane.CHANGE)
        queue.add("c1", Lane.RESYNC)
        await asyncio.sleep(60)

    during(queue, looks, 1, script)
    assert looks.order == ["c1", "both", "d1", "r1", "r2"]


def test_nobody_waits_for_ever_behind_more_urgent_keys() -> None:
    """A resync that has waited long enough goes first, however many changes there are."""
    looks, queue = Looks(takes=1), Queue[str]()

    async def script() -> None:
        queue.add("resync", Lane.RESYNC)
        for number in range(100):
            queue.add(f"c{number}", Lane.CHANGE)
            await asyncio.sleep(0.9)  # faster than they are looked at
        await asyncio.sleep(200)

    during(queue, looks, 1, script)
    assert looks.order[:2] == ["c0", "c1"]
    assert looks.begun["resync"][0] - looks.begun["c0"][0] == pytest.approx(PATIENCE, abs=1.1)


def test_numbers_tell_what_waits() -> None:
    """Depth, age of the oldest, and how many fail."""
    looks, queue = Looks(takes=10), Queue[str](jitter=never)
    looks.answers["a"] = [RuntimeError()]

    async def script() -> None:
        queue.add("a")
        queue.add("b")
        queue.add("c")
        await asyncio.sleep(4)
        assert (queue.depth(), queue.oldest(), queue.failing()) == (2, 4, 0)
        await asyncio.sleep(10)
        assert (queue.depth(), queue.failing()) == (2, 1)
        await asyncio.sleep(60)
        assert (queue.depth(), queue.oldest(), queue.failing()) == (0, 0, 0)

    during(queue, looks, 1, script)


def test_a_closed_queue_finishes_what_is_under_way_and_begins_nothing() -> None:
    """At the end of the process a look is not torn apart, and none begins."""
    looks, queue = Looks(takes=5), Queue[str]()
    looks.answers["a"] = [1.0]

    async def script() -> None:
        queue.add("a")
        queue.add_after("later", 2)
        await asyncio.sleep(1)
        queue.add("b")

    during(queue, looks, 1, script)
    assert looks.order == ["a"]


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from(Lane),
        st.floats(0, 3),  # seconds until the next action
        st.booleans(),  # added later
    ),
    max_size=30,
)
ANSWERS = st.lists(st.sampled_from([None, 0.5, 7.0, "fail"]), max_size=12)


@settings(max_examples=150, deadline=None)
@given(ACTIONS, ANSWERS, st.integers(1, 3), st.floats(0, 2))
def test_whatever_happens_no_key_is_lost_and_none_is_with_two_workers(
    actions: list[tuple[str, Lane, float, bool]],
    answers: list[float | str | None],
    workers: int,
    takes: float,
) -> None:
    """After each add there is a look that began after it; two looks at a key never overlap."""
    queue = Queue[str]()
    left = list(answers)
    busy: set[str] = set()
    begun: dict[str, float] = {}
    added: dict[str, float] = {}

    async def look(key: str) -> float | None:
        assert key not in busy
        busy.add(key)
        begun[key] = asyncio.get_running_loop().time()
        await asyncio.sleep(takes)
        busy.remove(key)
        answer = left.pop() if left else None
        if isinstance(answer, str):
            raise ValueError(answer)  # noqa: TRY004  # any error
        return answer

    async def script() -> None:
        for key, lane, pause, later in actions:
            added[key] = asyncio.get_running_loop().time()
            if later:
                queue.add_after(key, 2)
            else:
                queue.add(key, lane)
            await asyncio.sleep(pause)
        # Longer than all delays together: twelve failures at most.
        await asyncio.sleep(3600)
        assert queue.depth() == 0

    during(queue, look, workers, script)
    assert all(begun[key] >= when for key, when in added.items())
    assert not busy
