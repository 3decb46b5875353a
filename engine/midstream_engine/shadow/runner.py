"""Challengers, run in the shadow of a champion that has answered already, or is answering.

Guarantees: nothing that a challenger does delays or fails the champion's answer, however slow, large or broken it is;
what waits is bounded in number and bytes, and what does not fit is dropped and counted; a job holds a lease on its
revision from `offer` to its end, and gives it back exactly once, whatever the end is. Each challenger does one job
after the other, in the order they were offered.

All is kept on the event loop's thread, so there is no lock that a thread of low priority could hold while a request
waits for it. Knows no model: a job brings what is to be run.
"""

import asyncio
import functools
import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

from midstream_engine.schema import Array
from midstream_engine.shadow.comparer import Comparer
from midstream_engine.shadow.comparison import Difference, Outcome, ShadowCounts
from midstream_engine.shadow.job import (
    Arrays,
    Found,
    Leased,
    ShadowJob,
    failed,
    run,
    tell,
)
from midstream_engine.shadow.lane import Asked, Lane, Ticket
from midstream_engine.shadow.worker import IDLE_SECONDS, Worker

MAX_JOBS = 32
"""Of one challenger, waiting and running."""
MAX_ASKED = 1024
"""The same, of one that requests wait for: they would rather wait than go without."""
MAX_BYTES = 64 * 2**20
"""Of all challengers together."""
_MAX_COMPARING = 64
"""Comparisons for requests that wait: what is more is left out of the differences."""
_PATIENCE = 3
"""Time-outs in a row after which a challenger rests."""
_REST_SECONDS = 60.0
_GRACE_SECONDS = 1.0
"""For a coroutine that keeps its own time-out."""
_STUCK_SECONDS = 3.0
"""For a model that was told to stop; then its thread is left behind."""
_CLOSE_SECONDS = 3.0
_QUIET_SECONDS = 60.0
"""Between two log lines about the failures of one challenger."""

_TURN = "its turn did not come in time"

_log = logging.getLogger(__name__)


class ShadowRunner:
    """Runs the challengers of an engine. Every method is called on the event loop's thread."""

    def __init__(
        self,
        counts: ShadowCounts,
        *,
        max_jobs: int = MAX_JOBS,
        max_asked: int = MAX_ASKED,
        max_bytes: int = MAX_BYTES,
        rest_seconds: float = _REST_SECONDS,
        grace_seconds: float = _GRACE_SECONDS,
        stuck_seconds: float = _STUCK_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        """Begin with nothing.

        max_jobs: of one challenger, waiting and running. max_asked: the same, of one that requests wait for; never
        more than MAX_ASKED. max_bytes: that all jobs keep in memory together.
        rest_seconds: for which a challenger is left alone after three time-outs in a row. grace_seconds: that a
        coroutine may take longer than its job's seconds before it is cancelled. stuck_seconds: the same for a
        thread, before it is left behind. idle_seconds: after which a thread without work ends.
        """
        self.counts = counts
        self._max_jobs = max_jobs
        self._max_asked = min(MAX_ASKED, max_asked)
        self._max_bytes = max_bytes
        self._rest_seconds = rest_seconds
        self._grace_seconds = grace_seconds
        self._stuck_seconds = stuck_seconds
        self._idle_seconds = idle_seconds
        self._lanes: dict[tuple[str, str, bool], Lane] = {}
        self._tickets: set[Ticket] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        """Something has ended."""
        self._comparer = Comparer(self._news.set, idle_seconds)
        self._closed = False

    def offer(self, job: ShadowJob) -> bool:
        """Take a job that nobody waits for, and say whether it was taken. Never raises, never blocks.

        It starts when the event loop comes round again, so that the champion's answer goes out first.
        """
        try:
            return self._take(job, asked=False) is not None
        except Exception as error:  # noqa: BLE001 - no trouble of a challenger is the champion's
            self._defect("a challenger could not be offered its rows", error)
            return False

    def has_room(self, step: str, challenger: str) -> bool:
        """Whether a job is worth making: False when `offer` would drop it, which is counted then. Never raises."""
        lane = self._lanes.get((step, challenger, False))
        if lane is None or not self._is_closed_to(lane):
            return True
        self.counts.of(step, challenger).outcomes[Outcome.DROPPED] += 1
        return False

    def ask(self, jobs: Iterable[ShadowJob]) -> Asked:
        """Start the challengers of one step now, beside the champion, for a request that waits. Never raises."""
        tickets: dict[str, Ticket | None] = {}
        for job in jobs:
            try:
                tickets[job.challenger] = self._take(job, asked=True)
            except Exception as error:  # noqa: BLE001 - as in `offer`
                self._defect("a challenger could not be asked", error)
                tickets[job.challenger] = None
        return Asked(tickets, self._leave, self._compare_later)

    def pass_over(self, step: str, challengers: Iterable[str]) -> Asked:
        """As `ask`, for a request that has no room to wait: each counts as dropped, and has no outputs."""
        for name in challengers:
            self.counts.of(step, name).outcomes[Outcome.DROPPED] += 1
        return Asked(dict.fromkeys(challengers), self._leave, self._compare_later)

    def discard(self, revision: Leased) -> None:
        """Give up the waiting jobs of a revision that is to be freed; those that run end within their time-out."""
        for lane in list(self._lanes.values()):
            lane.timeouts, lane.rests_until = 0, 0.0
            for ticket in [each for each in lane.waiting if each.job.revision is revision]:
                lane.waiting.remove(ticket)
                self._end(ticket, Found(Outcome.DISCARDED))
            if lane.worker is None:
                self._forget_if_idle(lane)

    async def close(self, seconds: float = _CLOSE_SECONDS) -> None:
        """Give up what waits, and wait so long for what runs; take nothing any more.

        A thread whose model does not come back is left behind with its lease given back; it keeps what it uses.
        """
        self._closed = True
        for ticket in [each for each in self._tickets if not each.running]:
            ticket.lane.waiting.remove(ticket)
            self._end(ticket, Found(Outcome.DISCARDED))
        for task in self._tasks:
            task.cancel()
        try:
            async with asyncio.timeout(seconds):
                while self._tickets or self._tasks or self._comparer.waiting:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            _log.warning("%d challengers do not end", len(self._tickets))
        finally:
            for ticket in list(self._tickets):
                self._end(ticket, Found(Outcome.DISCARDED))
            for lane in self._lanes.values():
                if lane.worker is not None:
                    lane.worker.stop()
            self._lanes.clear()
            self._comparer.stop()

    # For those who wait

    def _leave(self, ticket: Ticket, outcome: Outcome) -> None:
        """The request goes on without this challenger; what runs already ends by itself."""
        if ticket.ended:
            return
        ticket.late = outcome is Outcome.TIMED_OUT
        if not ticket.running:
            ticket.lane.waiting.remove(ticket)
            self._end(ticket, Found(outcome, message=_TURN))

    def _compare_later(self, ticket: Ticket, champion: Arrays, outputs: Arrays) -> None:
        if self._comparer.waiting >= _MAX_COMPARING or self._closed:
            return
        tally = self.counts.of(ticket.job.step, ticket.job.challenger)
        self._comparer.put(ticket.job, champion, outputs, tally.compared)

    # Taking

    def _take(self, job: ShadowJob, *, asked: bool) -> Ticket | None:
        loop = asyncio.get_running_loop()
        lane = self._lane(job, asked=asked)
        counts = self.counts
        if self._is_closed_to(lane) or counts.bytes + job.size > self._max_bytes:
            self._refuse(job, Outcome.DROPPED)
            return None
        if not job.revision.acquire():
            self._refuse(job, Outcome.DISCARDED)
            return None
        ticket = Ticket(job, lane, loop.time() + job.seconds if asked else None)
        counts.jobs += 1
        counts.bytes += job.size
        self._tickets.add(ticket)
        lane.waiting.append(ticket)
        if asked:
            ticket.answer = loop.create_future()
            self._start(lane)
        else:
            self._rouse(lane)
        return ticket

    def _is_closed_to(self, lane: Lane) -> bool:
        return (
            len(lane.waiting) + lane.running >= lane.limit
            or self._closed
            or (lane.rests_until > 0 and asyncio.get_running_loop().time() < lane.rests_until)
        )

    def _refuse(self, job: ShadowJob, outcome: Outcome) -> None:
        self.counts.of(job.step, job.challenger).outcomes[outcome] += 1
        tell(job, None)

    def _lane(self, job: ShadowJob, *, asked: bool) -> Lane:
        key = (job.step, job.challenger, asked)
        lane = self._lanes.get(key)
        if lane is None:
            # A Python model has a queue of its own in its sidekick; a thread does one thing at a time.
            parallel = 1 if job.run is not None or not asked else MAX_ASKED
            lane = self._lanes[key] = Lane(
                key, parallel, self._max_asked if asked else self._max_jobs
            )
        return lane

    # Running

    def _rouse(self, lane: Lane) -> None:
        if not lane.roused:
            lane.roused = True
            asyncio.get_running_loop().call_soon(self._start, lane)

    def _start(self, lane: Lane) -> None:
        lane.roused = False
        now = asyncio.get_running_loop().time()
        while lane.waiting and lane.running < lane.parallel:
            ticket = lane.waiting.popleft()
            seconds = ticket.job.seconds if ticket.deadline is None else ticket.deadline - now
            if seconds <= 0:
                self._end(ticket, Found(Outcome.TIMED_OUT, message=_TURN))
                continue
            ticket.running = True
            lane.running += 1
            try:
                self._begin(ticket, seconds)
            except Exception as error:  # noqa: BLE001 - there may be no thread left
                self._end(ticket, failed(error))

    def _begin(self, ticket: Ticket, seconds: float) -> None:
        job, lane = ticket.job, ticket.lane
        loop = asyncio.get_running_loop()
        if job.run is not None:
            if lane.worker is None:
                lane.worker = Worker(
                    "shadow",
                    first=ticket.deadline is not None,
                    idle=functools.partial(self._forget_if_idle, lane),
                    idle_seconds=self._idle_seconds,
                )
            lane.worker.put(
                functools.partial(run, job, seconds), functools.partial(self._ran, ticket)
            )
            ticket.timer = loop.call_later(seconds, self._stop, ticket)
            return
        task = loop.create_task(self._call(ticket, seconds))
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _stop(self, ticket: Ticket) -> None:
        loop = asyncio.get_running_loop()
        ticket.timer = loop.call_later(self._stuck_seconds, self._abandon, ticket)
        if ticket.job.stop is not None:
            ticket.stopped = True
            ticket.job.stop()

    def _abandon(self, ticket: Ticket) -> None:
        """Go on without a thread that does not come back: the next job gets another."""
        if ticket.lane.worker is not None:
            ticket.lane.worker.stop()
            ticket.lane.worker = None
        message = "it cannot be stopped: its thread is busy until the engine ends"
        self._end(ticket, Found(Outcome.TIMED_OUT, message=message))

    def _over(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._news.set()

    async def _call(self, ticket: Ticket, seconds: float) -> None:
        job = ticket.job
        start = time.perf_counter_ns()
        try:
            assert job.call is not None
            async with asyncio.timeout(seconds + self._grace_seconds):
                outputs = await job.call(seconds)
            found = Found(Outcome.ANSWERED, outputs, time.perf_counter_ns() - start)
            if job.champion is not None:
                found.differences = await self._compared(job, job.champion, outputs)
        except Exception as error:  # noqa: BLE001 - counted and told, whatever it is
            found = failed(error)
        except BaseException:
            # Cancelled: nobody but `close` does that.
            self._end(ticket, Found(Outcome.DISCARDED))
            raise
        self._end(ticket, found)

    def _ran(self, ticket: Ticket, found: Any) -> None:
        self._end(ticket, found if isinstance(found, Found) else failed(found))

    async def _compared(
        self, job: ShadowJob, champion: Mapping[str, Array], outputs: Arrays
    ) -> list[Difference]:
        future: asyncio.Future[list[Difference]] = asyncio.get_running_loop().create_future()

        def settle(found: list[Difference]) -> None:
            if not future.done():
                future.set_result(found)

        self._comparer.put(job, champion, outputs, settle)
        return await future

    # Ending

    def _end(self, ticket: Ticket, found: Found) -> None:
        """The one end of every job that was taken."""
        if ticket.ended:
            return
        ticket.ended = True
        job, lane = ticket.job, ticket.lane
        self._tickets.discard(ticket)
        self.counts.jobs -= 1
        self.counts.bytes -= job.size
        if ticket.running:
            lane.running -= 1
        if ticket.timer is not None:
            ticket.timer.cancel()
        if ticket.stopped and found.outcome is Outcome.FAILED:
            found = Found(Outcome.TIMED_OUT, message=f"it did not answer within {job.seconds:g} s")
        elif ticket.late:
            found = Found(Outcome.TIMED_OUT, message=found.message or "it took too long")
        try:
            self._count(lane, job, found)
            if ticket.answer is not None and not ticket.answer.done():
                ticket.answer.set_result(found.outputs)
            tell(job, found.outputs)
        finally:
            job.revision.release()
            self._news.set()
            if lane.waiting:
                self._rouse(lane)

    def _count(self, lane: Lane, job: ShadowJob, found: Found) -> None:
        tally = self.counts.of(job.step, job.challenger)
        if found.outcome is Outcome.ANSWERED:
            tally.answered(job.rows, found.ns)
            tally.compared(found.differences)
            lane.timeouts = 0
            return
        tally.outcomes[found.outcome] += 1
        if found.outcome in (Outcome.DISCARDED, Outcome.DROPPED):
            return
        now = asyncio.get_running_loop().time()
        if found.outcome is Outcome.TIMED_OUT:
            lane.timeouts += 1
            if lane.timeouts >= _PATIENCE:
                # A model that cannot be stopped keeps a thread busy each time.
                lane.timeouts, lane.rests_until = 0, now + self._rest_seconds
        if now >= lane.quiet_until:
            lane.quiet_until = now + _QUIET_SECONDS
            _log.warning(
                "challenger %r of step %r %s: %s",
                job.challenger,
                job.step,
                found.outcome,
                found.message,
            )

    def _forget_if_idle(self, lane: Lane) -> None:
        if lane.waiting or lane.running:
            return
        if lane.worker is not None:
            lane.worker.stop()
            lane.worker = None
        if asyncio.get_running_loop().time() >= lane.rests_until:
            self._lanes.pop(lane.key, None)

    def _defect(self, what: str, error: Exception) -> None:
        _log.error("%s", what, exc_info=error)
