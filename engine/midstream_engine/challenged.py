"""The challengers of one request: asked while the champion runs, or handed over once it has answered.

Guarantees: a request that waits for challengers takes nobody's place among those that wait for a thread; and when the
engine keeps many bodies already it waits for none, so that the champion has room to answer.
"""

import functools
from dataclasses import dataclass

from midstream_engine.counts import Counts
from midstream_engine.revisions.revision import Revision
from midstream_engine.sessions import Arrays, Stop
from midstream_engine.shadow.comparison import size_of
from midstream_engine.shadow.job import ShadowJob
from midstream_engine.shadow.lane import Asked
from midstream_engine.shadow.runner import ShadowRunner
from midstream_engine.steps.kinds import ShadowStep
from midstream_engine.steps.units import OnnxUnit, Unit


@dataclass(slots=True)
class _Offer:
    """Rows for the challengers of one step."""

    step: ShadowStep
    fields: Arrays
    rows: int
    champion: Arrays


@dataclass(slots=True)
class Room:
    """What a request takes of the engine's bounds."""

    counts: Counts
    max_buffered: int
    """Bytes of bodies that the engine keeps at most."""
    queued: bool = False
    """Counted as one that needs a thread or a sidekick."""

    def may_wait(self) -> bool:
        """Whether it may keep its body while it waits: half of the room is the champions'."""
        return self.counts.buffered <= self.max_buffered // 2


class Challenged:
    """What the steps of one request ask of the engine's `ShadowRunner`."""

    __slots__ = ("_offers", "_revision", "_runner", "room")

    def __init__(self, runner: ShadowRunner, revision: Revision, room: Room) -> None:
        self.room = room
        self._runner = runner
        self._revision = revision
        self._offers: list[_Offer] = []

    @property
    def offered(self) -> int:
        """Number of challengers that are to be handed over."""
        return sum(len(offer.step.challengers) for offer in self._offers)

    def ask(self, step: ShadowStep, fields: Arrays, rows: int) -> "_Awaited":
        """Start the challengers now. On the event loop's thread only."""
        if not self.room.may_wait():
            names = [str(unit.variant) for unit in step.challengers]
            return _Awaited(self._runner.pass_over(step.name, names), self.room)
        size = size_of(fields)
        jobs = [self._job(step, unit, fields, rows, size) for unit in step.challengers]
        for job in jobs:
            job.revision = _Waited(self._revision)
        return _Awaited(self._runner.ask(jobs), self.room)

    def offer(self, step: ShadowStep, fields: Arrays, rows: int, champion: Arrays) -> None:
        """Keep rows for challengers that nobody waits for. In any thread."""
        self._offers.append(_Offer(step, fields, rows, champion))

    def hand_over(self, found: dict[str, Arrays | None]) -> None:
        """Let the challengers begin when the answer is out. On the event loop's thread only.

        found: gets the outputs of each, by name, when it has them; None when it has none.
        """
        runner = self._runner
        for offer in self._offers:
            step, fields, champion = offer.step, offer.fields, offer.champion
            size: int | None = None
            for unit in step.challengers:
                name = str(unit.variant)
                # A busy challenger has room for few: what would be dropped is not made.
                if not runner.has_room(step.name, name):
                    found[name] = None
                    continue
                if size is None:
                    size = size_of(fields, champion)
                job = self._job(step, unit, fields, offer.rows, size)
                job.champion = champion
                job.done = functools.partial(found.__setitem__, name)
                runner.offer(job)

    def _job(self, step: ShadowStep, unit: Unit, fields: Arrays, rows: int, size: int) -> ShadowJob:
        job = ShadowJob(
            step=step.name,
            challenger=str(unit.variant),
            revision=self._revision,
            rows=rows,
            seconds=step.seconds,
            size=size,
        )
        if isinstance(unit, OnnxUnit):
            job.stop = stop = Stop()
            job.run = lambda _seconds: unit.run_until(fields, rows, stop)
        else:
            job.call = lambda seconds: unit.call(fields, rows, seconds)
        return job


@dataclass(slots=True)
class _Awaited:
    """Challengers that are at work; while they are waited for, the request counts as none that needs a thread."""

    asked: Asked
    room: Room

    async def answers(self, champion: Arrays) -> dict[str, Arrays | None]:
        room = self.room
        room.counts.queued -= room.queued
        try:
            return await self.asked.answers(champion)
        finally:
            # Back without a question: what this request may need for its next step, it had before.
            room.counts.queued += room.queued

    def give_up(self) -> None:
        self.asked.give_up()


class _Waited:
    """A revision that a request waits on: by the request's own lease it lasts as long as its challengers are asked.

    Also when it serves no more; and what is asked is not given up with what nobody waits for.
    """

    __slots__ = ("_revision",)

    def __init__(self, revision: Revision) -> None:
        self._revision = revision

    def acquire(self) -> bool:
        self._revision.leases += 1
        return True

    def release(self) -> None:
        self._revision.release()
