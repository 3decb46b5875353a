"""Which pipeline is looked at next: a queue of keys that never holds a key twice.

Guarantees: a key is with one worker at a time; one added while it is with a worker is looked at once more after it; a
key that fails is looked at again after a delay that doubles. Of time it knows the loop's only.
"""

import asyncio
import enum
import random
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

FIRST_DELAY = 0.25
"""Seconds after a first failure."""
LONGEST_DELAY = 300.0
PATIENCE = 30.0
"""Seconds after which a waiting key goes before those of a more urgent lane."""


class Key(NamedTuple):
    """One pipeline."""

    namespace: str
    name: str


K = TypeVar("K", bound=Hashable)


class Lane(enum.IntEnum):
    """How urgent a key is."""

    CHANGE = 0
    """Somebody changed what is wanted. Also ends the wait after a failure: the change may be the cure."""
    DRIFT = 1
    """Something happened to what is owned."""
    RESYNC = 2
    """Nothing is known to have happened."""


class Result(enum.StrEnum):
    """How one look at a key ended."""

    DONE = "done"
    """Until something happens."""
    AGAIN = "again"
    """It wants to be asked again."""
    FAILED = "failed"


Reconcile = Callable[[K], Awaitable[float | None]]
"""Look at a key; return the seconds until it wants to be asked again, None for "when something happens"."""


def _always_longest(_error: Exception) -> float:
    return LONGEST_DELAY


class Queue(Generic[K]):
    """Keys that wait, keys that are with a worker, and keys that are due later."""

    def __init__(
        self,
        *,
        longest: Callable[[Exception], float] = _always_longest,
        deadline: float | None = None,
        on_done: Callable[[K, Result, float, Exception | None], None] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._longest = longest
        """Seconds that a delay after such an error grows to."""
        self._deadline = deadline
        """Seconds after which a look at a key is cancelled and counts as failed."""
        self._on_done = on_done
        self._jitter = jitter
        self._lanes: dict[Lane, dict[K, float]] = {lane: {} for lane in Lane}
        """Waiting keys, oldest first, with the time since when."""
        self._taken: dict[K, float] = {}
        """Keys that are with a worker, with the time since when."""
        self._again: dict[K, Lane] = {}
        """Keys that were added while they were with a worker."""
        self._later: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self._closed = False

    def add(self, key: K, lane: Lane = Lane.DRIFT) -> None:
        """Have the key looked at as soon as a worker is free.

        After a failure of the key, only a change is a reason to look before the delay is over.
        """
        if key in self._taken:
            self._again[key] = min(lane, self._again.get(key, lane))
            return
        if lane is not Lane.CHANGE and key in self._failures and key in self._later:
            return
        self._enqueue(key, lane)

    def add_after(self, key: K, seconds: float) -> None:
        """Have the key looked at in so many seconds; an earlier time that is already set stands."""
        loop = asyncio.get_running_loop()
        when = loop.time() + max(0.0, seconds)
        known = self._later.get(key)
        if known is not None:
            if known.when() <= when:
                return
            known.cancel()
        self._later[key] = loop.call_at(when, self._due, key)

    def depth(self) -> int:
        """Return how many keys wait for a worker."""
        return sum(map(len, self._lanes.values()))

    def oldest(self) -> float:
        """Return the seconds that the oldest waiting key has waited."""
        return self._age(
            min((since for lane in self._lanes.values() for since in lane.values()), default=None)
        )

    def longest_taken(self) -> float:
        """Return the seconds that some worker has been with the same key."""
        return self._age(min(self._taken.values(), default=None))

    def failing(self) -> int:
        """Return how many keys failed when they were last looked at."""
        return len(self._failures)

    async def run(self, reconcile: Reconcile[K], workers: int) -> None:
        """Let so many workers look at keys, until `close` is called and each has finished its key."""
        async with asyncio.TaskGroup() as group:
            for number in range(workers):
                group.create_task(self._work(reconcile), name=f"worker-{number}")

    def close(self) -> None:
        """Give no more keys out."""
        self._closed = True
        for timer in self._later.values():
            timer.cancel()
        self._later.clear()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _age(self, since: float | None) -> float:
        return 0.0 if since is None else asyncio.get_running_loop().time() - since

    def _enqueue(self, key: K, lane: Lane) -> None:
        if self._closed:
            return
        since = asyncio.get_running_loop().time()
        for each in Lane:
            if key in self._lanes[each]:
                if each <= lane:
                    return
                since = self._lanes[each].pop(key)
        self._lanes[lane][key] = since
        self._wake()

    def _due(self, key: K) -> None:
        del self._later[key]
        if key in self._taken:
            self._again[key] = min(Lane.DRIFT, self._again.get(key, Lane.DRIFT))
        else:
            self._enqueue(key, Lane.DRIFT)

    def _wake(self) -> None:
        """Wake one worker that waits for a key."""
        while self._waiters:
            waiter = self._waiters.pop()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _next(self) -> K | None:
        """Take the key out that is to be looked at now."""
        waiting = [(lane, *next(iter(keys.items()))) for lane, keys in self._lanes.items() if keys]
        if not waiting:
            return None
        now = asyncio.get_running_loop().time()
        impatient = [each for each in waiting if now - each[2] > PATIENCE]
        lane, key, _since = min(impatient, key=lambda each: each[2]) if impatient else waiting[0]
        del self._lanes[lane][key]
        return key

    async def _take(self) -> K | None:
        """Wait for a key; None when the queue is closed."""
        while not self._closed:
            key = self._next()
            if key is not None:
                return key
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake()  # it was for a key that now waits for another worker
                raise
        return None

    async def _work(self, reconcile: Reconcile[K]) -> None:
        loop = asyncio.get_running_loop()
        while (key := await self._take()) is not None:
            # Its own answer, or a new wish, replaces what was wished before.
            timer = self._later.pop(key, None)
            if timer is not None:
                timer.cancel()
            self._taken[key] = started = loop.time()
            failure: Exception | None = None
            wish: float | None = None
            try:
                async with asyncio.timeout(self._deadline):
                    wish = await reconcile(key)
            except Exception as error:  # noqa: BLE001  # reported below; the next look may succeed
                failure = error
            finally:
                del self._taken[key]
                again = self._again.pop(key, None)
            self._finish(key, again, wish, failure, loop.time() - started)

    def _finish(
        self,
        key: K,
        again: Lane | None,
        wish: float | None,
        failure: Exception | None,
        seconds: float,
    ) -> None:
        if self._closed:
            return
        if failure is not None:
            self._failures[key] = count = self._failures.get(key, 0) + 1
            self.add_after(key, self._delay(count, self._longest(failure)))
        else:
            self._failures.pop(key, None)
            if wish is not None:
                self.add_after(key, wish)
        if again is not None:
            self.add(key, again)
        if self._on_done is not None:
            result = Result.FAILED if failure else Result.DONE if wish is None else Result.AGAIN
            self._on_done(key, result, seconds, failure)

    def _delay(self, failures: int, longest: float) -> float:
        """Return the seconds to wait: twice as long each time, at most `longest`, less up to a quarter by chance."""
        # 2 ** 20 seconds are beyond every limit; a larger exponent would only grow.
        delay: float = min(longest, FIRST_DELAY * 2 ** min(failures - 1, 20))
        return delay * (1 - self._jitter() / 4)
