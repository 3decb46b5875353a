"""One call of Python code before it serves: whether what it gives is what its neighbours and the manifest expect.

The call is made up, one row of zeros, so it can show that an answer is wrong, not that it is right; and that code
raises on it proves nothing. Golden rows (`midstream_engine.revisions.golden`) prove more, and where a model has some
it is not tried here.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from midstream_engine.errors import LoadError, RequestError
from midstream_engine.events import Emit
from midstream_engine.schema import Field
from midstream_engine.sessions import Arrays, zeros
from midstream_engine.sidekicks.sidekick import SidekickMisfit
from midstream_engine.steps.kinds import ShadowStep, Step
from midstream_engine.steps.units import OnnxUnit, SidekickUnit, Unit, conformed

LONGEST = 5.0
"""Seconds that one piece of code may take. What is slower on one row is left to requests and golden rows."""


def try_code(
    steps: Sequence[Step],
    rows: int,
    seconds: float,
    is_proven: Callable[[Unit], bool],
    tell: Emit,
) -> None:
    """Call each Python model whose inputs are known with so many rows of zeros. Raises LoadError for a wrong answer.

    seconds: the longest that one may take. is_proven: these are not called. Code that raises, takes too long or ends
    its process gets one event `unproven`.
    """
    for number, step in enumerate(steps):
        after = steps[number + 1] if number + 1 < len(steps) else None
        for unit in step.units:
            if isinstance(unit, OnnxUnit) or unit.model.verify is not None or is_proven(unit):
                continue
            inputs = _known_inputs(step, unit, steps[number - 1] if number else None)
            if inputs is None:
                continue
            answers = not isinstance(step, ShadowStep) or unit is step.champion
            failed = _try(unit, inputs, rows, after if answers else None, min(seconds, LONGEST))
            if failed is not None:
                tell(
                    "unproven",
                    step=step.name,
                    **({} if unit.variant is None else {"variant": unit.variant}),
                    model=unit.model.name,
                    error=failed.strip().splitlines()[-1],
                    message=failed,
                )


def _known_inputs(step: Step, unit: SidekickUnit, before: Step | None) -> Sequence[Field] | None:
    """What the code would get. None where only a request tells."""
    known = unit.inputs
    if known is None:
        known = step.inputs if before is None else before.outputs
    if known is None or not all(field.ranked for field in known):
        return None
    return known


def _try(
    unit: SidekickUnit, inputs: Sequence[Field], rows: int, after: Step | None, seconds: float
) -> str | None:
    """What the code raised, if it did. Raises LoadError."""
    called = f"called with {'a row' if rows == 1 else f'{rows} rows'} of zeros"
    made_up = dict(zeros([replace(field, batch=rows) for field in inputs]))
    try:
        found = unit.sidekick.attempt_blocking(made_up, rows, seconds)
    except SidekickMisfit as error:
        raise LoadError("WarmupFailed", f"{unit.where}, {called}: {error.message}") from error
    except RequestError as error:
        return error.message
    where = f"{unit.where}, model {unit.model.name!r}: {called}, the code gives"
    if unit.outputs is not None:
        return _held_against(found, unit.outputs, where, "`outputs` of the manifest declares it")
    if after is not None and after.inputs is not None:
        return _held_against(found, after.inputs, where, f"step {after.name!r} takes it")
    return None


def _held_against(found: Arrays, wanted: Sequence[Field], who: str, why: str) -> str | None:
    for field in wanted:
        try:
            conformed(found, (field,), who, SidekickMisfit)
        except SidekickMisfit as error:
            array = found.get(field.name)
            if array is not None and array.dtype.kind == "f" and not np.isfinite(array).all():
                # What code gives for what it does not know, or for 0 / 0: real rows may do better.
                return error.message
            raise LoadError("WarmupFailed", f"{error.message}; {why}") from error
    return None
