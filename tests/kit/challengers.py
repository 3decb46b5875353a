"""What tests of challengers share: async tests, a lease, a challenger that waits to be let go, a runner."""

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np

from midstream_engine.shadow.comparison import ShadowCounts, Tally
from midstream_engine.shadow.job import Arrays, ShadowJob
from midstream_engine.shadow.runner import ShadowRunner

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


async def one(_seconds: float) -> Arrays:
    """A challenger that answers 1."""
    return column(1)


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

    @property
    def leases(self) -> int:
        """As a revision counts them."""
        return self.out

    @leases.setter
    def leases(self, number: int) -> None:
        self.taken += number - self.out


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
