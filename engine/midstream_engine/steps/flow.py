"""Who runs the work of steps: the caller's thread, or the event loop with threads and processes beside it."""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from midstream_engine.batch import Batch, elements
from midstream_engine.schema import is_fixed
from midstream_engine.sessions import Arrays, spent_ns
from midstream_engine.steps.kinds import (
    Flow,
    ModelStep,
    Run,
    ShadowStep,
    SplitStep,
    Step,
    Work,
    handed_on,
)
from midstream_engine.steps.units import OnnxUnit

Execute = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs a function in a thread."""

FEW = 1000
"""Rows that Python goes through one by one between two other requests."""


def learned(known: float, took: float, load: int, limit: float) -> float:
    """Nanoseconds that a unit of load takes, after a run of `load` units that took `took` in all.

    limit: nanoseconds that may be spent at once. A run that was not given the processor says nothing about the model,
    so that one moves what is known by a tenth at most; but what has kept all others waiting for far too long is not
    done in the same way again.
    """
    each = took / load
    if load > 1 and took > 4 * limit:
        return max(known, each)
    return known + 0.1 * (min(each, 2 * known) - known)


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


def run_one(steps: Sequence[Any], run: Run) -> Arrays:
    """All steps of nothing but ONNX models with a batch of one row, at once: it has no parts to go different ways."""
    fields = run.batch.fields
    elapsed = run.elapsed
    for step in steps:
        start = time.perf_counter_ns()
        unit = step.unit_for_one(run)
        fields = _step_here(step, fields, run, None) if unit is None else unit.run(fields, 1)
        elapsed.append(time.perf_counter_ns() - start)
        run.steps[step.name] = fields
    return fields


def run_here(steps: Sequence[Step], run: Run, seconds: float | None = None) -> Arrays:
    """All steps in the caller's thread. Raises RequestErrors.

    seconds: the longest that one model may take; None where models may not be stopped, which needs ONNX models only.
    """
    fields = outputs = run.batch.fields
    before: Step | None = None
    for step in steps:
        if before is not None:
            fields = handed_on(outputs, before, step)
        start = time.perf_counter_ns()
        outputs = _step_here(step, fields, run, seconds)
        before = _done(step, run, start, outputs)
    return outputs


def _step_here(step: Step, fields: Arrays, run: Run, seconds: float | None) -> Arrays:
    flow = step.flow(fields, run)
    try:
        work: Any = next(flow)
        while True:
            work = flow.send([_here(each, seconds) for each in work])
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    except BaseException:
        flow.close()  # gives up now what it has begun, not when the error has been forgotten
        raise


def _here(work: Work, seconds: float | None) -> Arrays:
    unit = work.unit
    if seconds is not None:
        return unit.run_bounded(work.fields, work.rows, seconds)
    assert isinstance(unit, OnnxUnit)
    return unit.run(work.fields, work.rows)


def _done(step: Step, run: Run, start: int, outputs: Arrays) -> Step:
    run.elapsed.append(time.perf_counter_ns() - start)
    run.steps[step.name] = outputs
    return step


def is_short(steps: Sequence[Step], batch: Batch, inline_ns: float) -> bool:
    """Whether `run_beside` runs all that the answer needs at once: only challengers may be waited for."""
    return all(
        isinstance(unit, OnnxUnit)
        and unit.row_ns * _load(unit, batch.fields, batch.rows) <= inline_ns
        for step in steps
        for unit in ((step.champion,) if isinstance(step, ShadowStep) else step.units)
    )


async def run_beside(
    steps: Sequence[Step], run: Run, seconds: float, inline_ns: float, execute: Execute
) -> Arrays:
    """All steps, on the event loop: what is short runs at once, the rest in threads and sidekicks.

    seconds: the longest that one step may take. inline_ns: what is short. Raises RequestErrors.
    """
    fields = outputs = run.batch.fields
    before: Step | None = None
    for step in steps:
        if before is not None:
            fields = handed_on(outputs, before, step)
        start = time.perf_counter_ns()
        # To choose and to gather costs as much as some models do.
        apart = run.batch.rows > FEW and isinstance(step, SplitStep)
        flow = step.flow(fields, run)
        sent: Any = None
        try:
            while True:
                turn = functools.partial(_turn, flow, sent)
                done, work = await execute(turn) if apart else turn()
                if done:
                    break
                sent = await _all_beside(work, seconds, inline_ns, execute)
        except BaseException:
            if not apart:
                flow.close()  # as in `run_here`
            raise
        outputs = work
        before = _done(step, run, start, outputs)
    return outputs


async def _all_beside(work: Any, seconds: float, inline_ns: float, execute: Execute) -> Any:
    if not isinstance(work, list):
        return await work
    if len(work) == 1:
        return [await _beside(work[0], seconds, inline_ns, execute)]
    # Each is waited for, also after another has failed: the revision is theirs as long.
    outputs = await asyncio.gather(
        *(_beside(each, seconds, inline_ns, execute) for each in work), return_exceptions=True
    )
    failed = next((each for each in outputs if isinstance(each, BaseException)), None)
    if failed is None:
        return outputs
    try:
        raise failed
    finally:
        # Its traceback leads here: such a circle would keep the rows in memory.
        del outputs, failed


async def _beside(work: Work, seconds: float, inline_ns: float, execute: Execute) -> Arrays:
    unit = work.unit
    if not isinstance(unit, OnnxUnit):
        return await unit.call(work.fields, work.rows, seconds)
    load = _load(unit, work.fields, work.rows)
    if unit.row_ns * load <= inline_ns:
        start = time.perf_counter_ns()
        outputs = unit.run(work.fields, work.rows)
        took = time.perf_counter_ns() - start
    else:
        outputs, took = await execute(functools.partial(_bounded, unit, work, seconds))
    unit.row_ns = learned(unit.row_ns, took, load, inline_ns)
    return outputs


def _load(unit: OnnxUnit, fields: Arrays, rows: int) -> int:
    """What the time of a unit grows with."""
    return rows if is_fixed(unit.inputs) else elements(fields)


def _bounded(unit: OnnxUnit, work: Work, seconds: float) -> tuple[Arrays, int]:
    start = spent_ns()
    return unit.run_bounded(work.fields, work.rows, seconds), spent_ns() - start


def _turn(flow: Flow, sent: Any) -> tuple[bool, Any]:
    """Whether a step is done, and what it asks for, or its outputs. A future cannot hand StopIteration on."""
    try:
        return False, flow.send(sent)
    except StopIteration as done:
        return True, done.value
