"""The queue of one challenger, the jobs in it, and the requests that wait for some of them.

Knows not when a job runs: `shadow` decides that. All of it is used on the event loop's thread.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from midstream_engine.shadow.comparison import Outcome
from midstream_engine.shadow.job import Arrays, ShadowJob
from midstream_engine.shadow.worker import Worker


@dataclass(slots=True, eq=False)
class Ticket:
    """A job that was taken, until its end."""

    job: ShadowJob
    lane: "Lane"
    deadline: float | None
    """Of the request that waits for it, in the loop's time."""
    answer: "asyncio.Future[Arrays | None] | None" = None
    running: bool = False
    ended: bool = False
    late: bool = False
    """Its request has gone on without it."""
    stopped: bool = False
    """It was told to stop."""
    timer: asyncio.TimerHandle | None = None


@dataclass(slots=True, eq=False)
class Lane:
    """The queue of one challenger."""

    key: tuple[str, str, bool]
    parallel: int
    limit: int
    waiting: deque[Ticket] = field(default_factory=deque)
    running: int = 0
    roused: bool = False
    worker: Worker | None = None
    timeouts: int = 0
    """In a row."""
    rests_until: float = 0.0
    quiet_until: float = 0.0


class Asked:
    """Challengers that a request waits for."""

    def __init__(
        self,
        tickets: Mapping[str, Ticket | None],
        leave: Callable[[Ticket, Outcome], None],
        compare: Callable[[Ticket, Arrays, Arrays], None],
    ) -> None:
        """tickets: by challenger; None for one whose job was not taken. leave: lets the request go on without it.

        compare: takes what champion and challenger gave.
        """
        self._tickets = tickets
        self._leave = leave
        self._compare = compare

    async def answers(self, champion: Arrays) -> dict[str, Arrays | None]:
        """The outputs of each challenger, by name; None for one that failed, or took longer than it may.

        champion: its outputs, which the others are compared with. Waits until each challenger has answered or its time
        is over, counted from `ask`. Never raises but when it is cancelled.
        """
        loop = asyncio.get_running_loop()
        tickets = [each for each in self._tickets.values() if each is not None]
        waits = [each.answer for each in tickets if each.answer is not None]
        if waits:
            last = max(each.deadline or 0.0 for each in tickets)
            try:
                await asyncio.wait(waits, timeout=max(0.0, last - loop.time()))
            except BaseException:
                self.give_up()
                raise
            for each in tickets:
                self._leave(each, Outcome.TIMED_OUT)
        found: dict[str, Arrays | None] = dict.fromkeys(self._tickets)
        for name, ticket in self._tickets.items():
            if ticket is None or ticket.answer is None or not ticket.answer.done():
                continue
            outputs = found[name] = ticket.answer.result()
            if outputs is not None:
                self._compare(ticket, champion, outputs)
        return found

    def give_up(self) -> None:
        """Wait no more, for example because the champion failed: what has not begun is not run."""
        for ticket in self._tickets.values():
            if ticket is not None:
                self._leave(ticket, Outcome.DISCARDED)
