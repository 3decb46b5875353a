"""Who runs the work of steps: the caller's thread, or the event loop with threads and processes beside it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from midstream_engine.sessions import Arrays
from midstream_engine.steps import ModelStep, Run, Step, Work, steps_flow
from midstream_engine.units import OnnxUnit

Execute = Callable[[Callable[[], Arrays]], Awaitable[Arrays]]
"""Runs a function in a thread."""


def is_plain(steps: Sequence[Step]) -> bool:
    """Whether `run_plain` can run them: nothing but ONNX models, one for each step."""
    return all(isinstance(step, ModelStep) and not step.waits for step in steps)


def run_plain(steps: Sequence[Any], run: Run) -> Arrays:
    """One ONNX model after the other, at once. The shortest way, for the most frequent kind of request."""
    fields = run.batch.fields
    rows = run.batch.rows
    elapsed = run.elapsed
    for step in steps:
        start = time.perf_counter_ns()
        fields = step.unit.run(fields, rows)
        elapsed.append(time.perf_counter_ns() - start)
        run.steps[step.name] = fields
    return fields


def run_here(steps: Sequence[Step], run: Run, seconds: float | None = None) -> Arrays:
    """All steps in the caller's thread. Raises RequestErrors.

    seconds: the longest that one model may take; None where models may not be stopped, which needs ONNX models only.
    """
    flow = steps_flow(steps, run)
    try:
        work: Any = next(flow)
        while True:
            work = flow.send([_here(each, seconds) for each in work])
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


def _here(work: Work, seconds: float | None) -> Arrays:
    unit = work.unit
    if seconds is not None:
        return unit.run_bounded(work.fields, work.rows, seconds)
    assert isinstance(unit, OnnxUnit)
    return unit.run(work.fields, work.rows)


async def run_beside(
    steps: Sequence[Step], run: Run, seconds: float, inline_ns: float, execute: Execute
) -> Arrays:
    """All steps, on the event loop: what is short runs at once, the rest in threads and sidekicks.

    seconds: the longest that one step may take. inline_ns: what is short. Raises RequestErrors.
    """
    flow = steps_flow(steps, run)
    try:
        work: Any = next(flow)
        while True:
            if not isinstance(work, list):
                outputs = await work
            elif len(work) == 1:
                outputs = [await _beside(work[0], seconds, inline_ns, execute)]
            else:
                # Each is waited for, also after another has failed: the revision is theirs as long.
                outputs = await asyncio.gather(
                    *(_beside(each, seconds, inline_ns, execute) for each in work),
                    return_exceptions=True,
                )
                for each in outputs:
                    if isinstance(each, BaseException):
                        raise each
            work = flow.send(outputs)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


async def _beside(work: Work, seconds: float, inline_ns: float, execute: Execute) -> Arrays:
    unit = work.unit
    if not isinstance(unit, OnnxUnit):
        return await unit.call(work.fields, work.rows, seconds)
    if unit.row_ns * work.rows <= inline_ns:
        return unit.run(work.fields, work.rows)
    return await execute(lambda: unit.run_bounded(work.fields, work.rows, seconds))
