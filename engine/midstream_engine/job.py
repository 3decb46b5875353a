"""One request on its way: what it asks for, the steps it runs through, and the answer that is made of it.

Counts nothing and holds nothing: that is the data plane's.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import TypeVar

from midstream_engine.batch import Result
from midstream_engine.challenged import Challenged
from midstream_engine.codec import Asked
from midstream_engine.errors import Overloaded, StepFailed
from midstream_engine.revisions.loader import Loaded
from midstream_engine.revisions.revision import Revision
from midstream_engine.sessions import Arrays, spent_ns
from midstream_engine.shadow.comparison import size_of
from midstream_engine.steps.flow import FEW, run_here
from midstream_engine.steps.kinds import Run, SplitStep

_T = TypeVar("_T")

_GRACE_SECONDS = 1.0
"""For a step that was told to stop."""


@dataclass(slots=True)
class Job:
    """A request that has been read."""

    revision: Revision
    loaded: Loaded
    run: Run
    asked: Asked
    size: int
    """Bytes of the body that it came with."""
    start: int
    """When it came, in nanoseconds of the performance counter."""
    read_ns: int
    load: int
    """Rows, or values where rows differ in size: what the time of a run grows with."""
    challenged: Challenged | None = None
    started: float | None = None
    """When its thread began."""
    spent_ns: int | None = None
    """What its models took of the processor's time, in a thread."""

    def compute(self, seconds: float) -> tuple[Result, bytes, bytes]:
        """Run and write, in a thread; seconds: the longest that one step may take."""
        self.started = time.monotonic()
        start = spent_ns()
        outputs = run_here(self.loaded.steps, self.run, seconds)
        self.spent_ns = spent_ns() - start
        return self.written(outputs)

    def written(self, outputs: Arrays) -> tuple[Result, bytes, bytes]:
        """The result with what validations say of it, and the answer: headers and body. Raises BadInput."""
        run, loaded = self.run, self.loaded
        now = time.time_ns() // 1_000_000
        result = Result(run.batch, outputs, now, [self.read_ns, *run.elapsed])
        if not loaded.plain:
            result.choices = run.choices
            result.shadows = run.shadows
        if loaded.validator is not None:
            result.checks = loaded.validator.check(
                run.batch.fields, run.steps, outputs, run.batch.rows, run.choices
            )
        return result, *self.asked.write(result)


def is_much_to_write(job: Job) -> bool:
    """Whether what follows the steps takes long: rows of different shapes are judged one by one."""
    rows = job.run.batch.rows
    if rows <= FEW:
        return False
    validator = job.loaded.validator
    return bool(job.asked.encodings) or (
        validator is not None and rows * len(validator.names) > FEW
    )


async def patiently(future: "asyncio.Future[_T]", job: Job, seconds: float) -> _T:
    """The result of a job, or an error when it gets no thread or does not stop when told to."""
    # The variants of a split run one after the other here.
    parts = [len(s.variants) if isinstance(s, SplitStep) else 1 for s in job.loaded.steps]
    limit = seconds * sum(parts) + _GRACE_SECONDS
    remaining = limit
    while True:
        await asyncio.wait((future,), timeout=remaining)
        if future.done():
            return future.result()
        if job.started is None:
            if future.cancel():
                raise Overloaded(f"no thread was free for {limit:g} s; try again in a second")
        else:
            remaining = limit - (time.monotonic() - job.started)
            if remaining <= 0:
                steps = ", ".join(repr(step.name) for step in job.loaded.steps)
                raise StepFailed(
                    f"step {steps}: the model did not answer within {seconds:g} s, and does not stop",
                    reason="StepTimedOut",
                )


def kept_bytes(job: Job, result: Result) -> int:
    """What a result keeps in memory, about, which the answer may show a small part of."""
    batch, outputs = result.batch, result.outputs
    # Columns may be views of the body. Challengers that nobody has waited for add their outputs later.
    late = job.challenged.offered if job.challenged is not None else 0
    return (
        job.size
        + sum(map(len, batch.echo or ()))
        + size_of(batch.fields, outputs, *(each for each in result.shadows.values() if each))
        + late * size_of(outputs)
    )
