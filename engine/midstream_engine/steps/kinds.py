"""Steps: one model, a split between variants, or a champion with challengers in its shadow.

The output fields of a step are the input fields of the next, matched by name. Names and types are checked when a
revision is loaded (`midstream_engine.steps.connect`), so that no request finds out; what Python models do not declare
is checked when they answer. A step says what is to be run as work for somebody else: the same steps run in the caller's
thread, and on the event loop where a model runs in a process beside it (`midstream_engine.steps.flow`).
"""

from collections.abc import Awaitable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from midstream_engine.batch import Batch, Choice, VariantRef
from midstream_engine.errors import SidekickFailed, StepFailed
from midstream_engine.schema import Array, Field
from midstream_engine.sessions import Arrays
from midstream_engine.split import Chooser, keys_of
from midstream_engine.steps.units import OnnxUnit, Unit, conformed, rows_of, stacked


@dataclass(slots=True)
class Work:
    """One unit's part in a step."""

    unit: Unit
    fields: Arrays
    rows: int


Flow = Generator[list[Work] | Awaitable[Any], Any, Arrays]
"""Yields work that can be done side by side, and is sent the outputs in that order; or what somebody else does, and is
sent its result. Returns a step's outputs."""


class Asked(Protocol):
    """Challengers that are at work."""

    def answers(self, champion: Arrays) -> Awaitable[dict[str, Arrays | None]]:
        """Wait for their outputs, by name; None for one that has none."""

    def give_up(self) -> None:
        """Wait no more."""


class Shadows(Protocol):
    """Who runs challengers."""

    def ask(self, step: "ShadowStep", fields: Arrays, rows: int) -> Asked:
        """Start the challengers beside the champion."""

    def offer(self, step: "ShadowStep", fields: Arrays, rows: int, champion: Arrays) -> None:
        """Hand over rows that nobody waits for."""


@dataclass(slots=True)
class Run:
    """One batch on its way through the steps."""

    batch: Batch
    literal: float | None = None
    """Stands for the random number of every split."""
    choices: list[Choice] = field(default_factory=list)
    shadows: dict[str, Arrays | None] = field(default_factory=dict)
    """Outputs by challenger, of shadow steps that wait."""
    runner: Shadows | None = None
    """None while a revision is being loaded: each challenger is tried by itself then."""
    steps: dict[str, Arrays] = field(default_factory=dict)
    """Outputs of each step that has run, by its name."""
    elapsed: list[int] = field(default_factory=list)
    """Nanoseconds of each step that has run."""


@dataclass(slots=True, eq=False)
class ModelStep:
    """One model answers all rows."""

    name: str
    unit: Unit
    inputs: tuple[Field, ...] | None = None
    """None: whatever comes."""
    outputs: tuple[Field, ...] | None = None
    """None: known only when it answers."""

    @property
    def units(self) -> list[Unit]:
        return [self.unit]

    @property
    def waits(self) -> bool:
        """Whether somebody else than the caller's thread has a part in it."""
        return not isinstance(self.unit, OnnxUnit)

    def unit_for_one(self, run: Run) -> Unit | None:
        """The only one that has a part in a batch of one row; None when there may be more."""
        del run
        return self.unit

    def flow(self, fields: Arrays, run: Run) -> Flow:
        (outputs,) = yield [Work(self.unit, fields, run.batch.rows)]
        return outputs  # type: ignore[no-any-return]


@dataclass(slots=True, eq=False)
class SplitStep:
    """Each row is answered by one of several models."""

    name: str
    variants: list[Unit]
    refs: tuple[VariantRef, ...]
    chooser: Chooser
    inputs: tuple[Field, ...] | None = None
    outputs: tuple[Field, ...] | None = None
    _single: tuple[Choice, ...] = field(init=False)
    """What is chosen for one row, by its variant: made once, for a request of one row is the most frequent one."""

    def __post_init__(self) -> None:
        self._single = tuple(
            _of_one(self.name, self.refs, index) for index in range(len(self.refs))
        )

    @property
    def units(self) -> list[Unit]:
        return list(self.variants)

    @property
    def waits(self) -> bool:
        return any(not isinstance(unit, OnnxUnit) for unit in self.variants)

    def unit_for_one(self, run: Run) -> Unit:
        chooser = self.chooser
        keys = None if chooser.field is None else self._keys(run.batch)
        index = chooser.choose_one(keys, run.literal)
        run.choices.append(self._single[index])
        return self.variants[index]

    def flow(self, fields: Arrays, run: Run) -> Flow:
        rows = run.batch.rows
        if rows == 1:
            unit = self.unit_for_one(run)
            (outputs,) = yield [Work(unit, fields, rows)]
            return self._named(outputs)
        picked = self.chooser.choose(rows, self._keys(run.batch), run.literal)
        run.choices.append(Choice(self.name, self.refs, picked))
        first = picked.item(0)
        if (picked == first).all():
            (outputs,) = yield [Work(self.variants[first], fields, rows)]
            return self._named(outputs) if first else outputs
        parts = [(index, np.flatnonzero(picked == index)) for index in range(len(self.variants))]
        parts = [(index, where) for index, where in parts if len(where)]
        answers = yield [
            Work(
                self.variants[index],
                {name: rows_of(array, where) for name, array in fields.items()},
                len(where),
            )
            for index, where in parts
        ]
        named = [self._named(outputs) for outputs in answers]
        self._agree([self.variants[index] for index, _ in parts], named)
        return {
            name: _gathered(
                [(where, each[name]) for (_, where), each in zip(parts, named, strict=True)], rows
            )
            for name in named[0]
        }

    def _keys(self, batch: Batch) -> Sequence[Any] | None:
        name = self.chooser.field
        if name is None:
            return None
        if name in batch.keys:
            return batch.keys[name]
        array = batch.fields.get(name)
        return None if array is None else keys_of(array)

    def _named(self, outputs: Arrays) -> Arrays:
        """In the order of the first variant's outputs, whichever variant answered."""
        if self.outputs is None:
            return outputs
        return {each.name: outputs[each.name] for each in self.outputs}

    def _agree(self, units: Sequence[Unit], named: Sequence[Arrays]) -> None:
        """Variants that declare nothing are found out here. Raises StepFailed."""
        for unit, outputs in zip(units[1:], named[1:], strict=True):
            if outputs.keys() != named[0].keys():
                raise StepFailed(
                    f"{units[0].where} gives {', '.join(named[0])}, {unit.where} gives {', '.join(outputs)}; "
                    "variants of a split give the same outputs"
                )


def _of_one(step: str, refs: tuple[VariantRef, ...], index: int) -> Choice:
    picked = np.array([index], dtype=np.intp)
    picked.setflags(write=False)
    return Choice(step, refs, picked, index)


@dataclass(slots=True, eq=False)
class ShadowStep:
    """The champion answers; challengers get the same rows."""

    name: str
    champion: Unit
    challengers: list[Unit]
    wait: bool
    seconds: float
    """The longest that a challenger may take."""
    inputs: tuple[Field, ...] | None = None
    outputs: tuple[Field, ...] | None = None

    @property
    def units(self) -> list[Unit]:
        return [self.champion, *self.challengers]

    @property
    def waits(self) -> bool:
        return self.wait or not isinstance(self.champion, OnnxUnit)

    def unit_for_one(self, run: Run) -> Unit | None:
        return self.champion if run.runner is None else None

    def flow(self, fields: Arrays, run: Run) -> Flow:
        rows = run.batch.rows
        runner = run.runner
        asked = runner.ask(self, fields, rows) if runner is not None and self.wait else None
        try:
            (outputs,) = yield [Work(self.champion, fields, rows)]
        except BaseException:
            if asked is not None:
                asked.give_up()
            raise
        if asked is not None:
            run.shadows.update((yield asked.answers(outputs)))
        elif runner is not None:
            runner.offer(self, fields, rows, outputs)
        return outputs  # type: ignore[no-any-return]


Step = ModelStep | SplitStep | ShadowStep


def handed_on(outputs: Arrays, before: Step, after: Step) -> Arrays:
    """What the next step gets: as it wants it, where the one before had not said what it gives."""
    if after.inputs is None or all(isinstance(unit, OnnxUnit) for unit in before.units):
        return outputs
    who = f"step {before.name!r} gives step {after.name!r}"
    return {**outputs, **conformed(outputs, after.inputs, who, SidekickFailed)}


def _gathered(parts: Sequence[tuple[Any, Array]], rows: int) -> Array:
    """Parts of a column put back to where their rows are."""
    if len({(array.dtype, array.shape[1:]) for _, array in parts}) == 1:
        first = parts[0][1]
        column = np.empty((rows, *first.shape[1:]), dtype=first.dtype)
        for where, array in parts:
            column[where] = array
        return column
    values: list[Any] = [None] * rows
    for where, array in parts:
        for row, value in zip(where, array, strict=True):
            values[int(row)] = np.asarray(value)
    return stacked(values)
