"""The challengers of one request: asked while the champion runs, or handed over once it has answered."""

import functools

from midstream_engine.comparison import size_of
from midstream_engine.revision import Revision
from midstream_engine.sessions import Arrays
from midstream_engine.shadow import Asked, ShadowRunner
from midstream_engine.shadowjob import ShadowJob
from midstream_engine.steps import ShadowStep
from midstream_engine.units import OnnxUnit, Unit


class Challenged:
    """What the steps of one request ask of the engine's `ShadowRunner`."""

    __slots__ = ("_jobs", "_revision", "_runner")

    def __init__(self, runner: ShadowRunner, revision: Revision) -> None:
        self._runner = runner
        self._revision = revision
        self._jobs: list[ShadowJob] = []

    @property
    def offered(self) -> int:
        """Number of challengers that are to be handed over."""
        return len(self._jobs)

    def ask(self, step: ShadowStep, fields: Arrays, rows: int) -> Asked:
        """Start the challengers now. On the event loop's thread only."""
        jobs = [self._job(step, unit, fields, rows) for unit in step.challengers]
        for job in jobs:
            job.revision = _Waited(self._revision)
        return self._runner.ask(jobs)

    def offer(self, step: ShadowStep, fields: Arrays, rows: int, champion: Arrays) -> None:
        """Keep rows for challengers that nobody waits for. In any thread."""
        for unit in step.challengers:
            job = self._job(step, unit, fields, rows)
            job.champion = champion
            job.size += size_of(champion)
            self._jobs.append(job)

    def hand_over(self, found: dict[str, Arrays | None]) -> None:
        """Let the challengers begin when the answer is out. On the event loop's thread only.

        found: gets the outputs of each, by name, when it has them; None when it has none.
        """
        for job in self._jobs:
            job.done = functools.partial(found.__setitem__, job.challenger)
            self._runner.offer(job)

    def _job(self, step: ShadowStep, unit: Unit, fields: Arrays, rows: int) -> ShadowJob:
        job = ShadowJob(
            step=step.name,
            challenger=str(unit.variant),
            revision=self._revision,
            rows=rows,
            seconds=step.seconds,
            size=size_of(fields),
        )
        if isinstance(unit, OnnxUnit):
            job.run = lambda seconds: unit.run_bounded(fields, rows, seconds)
        else:
            job.call = lambda seconds: unit.call(fields, rows, seconds)
        return job


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
