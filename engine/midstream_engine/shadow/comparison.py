"""What challengers did, and how far their outputs are from the champion's.

Pure arithmetic and plain counts: nothing here runs a model or knows a thread. The counts are changed on the event
loop's thread only.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from midstream_engine.schema import Array

_NUMBERS = frozenset("fiu")
_FARTHEST = 1e290

MAX_VARIABLES = 100
"""Of one challenger, that are counted by name. Code that declares no outputs may name them as a caller does."""
_LONGEST = 128
"""Characters of a name that is counted by itself: as many as the manifest allows."""
REST = "other"
"""Stands for all variables beyond these."""
MAX_TALLIES = 512
"""Twice as many as one revision may have challengers."""


class Outcome(enum.StrEnum):
    """What became of a row batch that a challenger was to answer."""

    ANSWERED = "answered"
    FAILED = "failed"
    """The model raised, or its process died."""
    TIMED_OUT = "timed_out"
    DROPPED = "dropped"
    """Never run: too much was waiting already, or the challenger rests after time-outs."""
    DISCARDED = "discarded"
    """Never run, or given up: its revision, or the engine, was ending."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How one output variable of a challenger differs from the champion's of the same name."""

    name: str
    rows: int
    """Compared."""
    unequal: int
    """Rows that are not equal bit by bit; NaN equals NaN."""
    values: int = 0
    """Numbers compared: those finite in both, and not so far apart that sums overflow. 0 for text and bool, and where
    shapes differ."""
    absolute: float = 0.0
    """Sum of the absolute differences of these numbers."""


@dataclass(slots=True)
class VariableTally:
    """Sums of `Difference`."""

    rows: int = 0
    unequal: int = 0
    values: int = 0
    absolute: float = 0.0


def _outcomes() -> dict[Outcome, int]:
    return dict.fromkeys(Outcome, 0)


@dataclass(slots=True)
class Tally:
    """All that is counted of one challenger."""

    outcomes: dict[Outcome, int] = field(default_factory=_outcomes)
    rows: int = 0
    """Answered."""
    run_ns: int = 0
    """Of the runs that answered, without the time in the queue."""
    variables: dict[str, VariableTally] = field(default_factory=dict)
    """By output variable that the champion has, too: the first `MAX_VARIABLES`, and `REST`."""

    def answered(self, rows: int, ns: int) -> None:
        self.outcomes[Outcome.ANSWERED] += 1
        self.rows += rows
        self.run_ns += ns

    def compared(self, differences: list[Difference]) -> None:
        for found in differences:
            into = self.variables.get(found.name) or self._added(found.name)
            into.rows += found.rows
            into.unequal += found.unequal
            into.values += found.values
            into.absolute += found.absolute

    def _added(self, name: str) -> VariableTally:
        # What cannot be printed may not be fit for UTF-8 either, in which all metrics are.
        if len(self.variables) >= MAX_VARIABLES or len(name) > _LONGEST or not name.isprintable():
            name = REST
        return self.variables.setdefault(name, VariableTally())


class ShadowCounts:
    """The tally of each challenger, by the names of step and challenger, which survive swaps; the oldest may go."""

    __slots__ = ("bytes", "jobs", "tallies")

    def __init__(self) -> None:
        self.tallies: dict[tuple[str, str], Tally] = {}
        self.jobs = 0
        """Waiting or running now."""
        self.bytes = 0
        """Of rows and outputs that these keep in memory."""

    def of(self, step: str, challenger: str) -> Tally:
        tally = self.tallies.get((step, challenger))
        if tally is None:
            if len(self.tallies) >= MAX_TALLIES:
                del self.tallies[next(iter(self.tallies))]
            tally = self.tallies[step, challenger] = Tally()
        return tally


def compare(champion: Mapping[str, Array], challenger: Mapping[str, Array]) -> list[Difference]:
    """One difference for each variable that both have; arrays are (rows, …), with as many rows on both sides."""
    return [
        _difference(name, array, challenger[name])
        for name, array in champion.items()
        if name in challenger
    ]


def size_of(*tables: Mapping[str, Array]) -> int:
    """Bytes that arrays keep in memory, about."""
    return sum(_size(array) for table in tables for array in table.values())


def _difference(name: str, one: Array, other: Array) -> Difference:
    rows = min(len(one), len(other))
    if rows and _ragged(one, other):
        return _by_row(name, one, other, rows)
    if one.shape != other.shape or not rows:
        return Difference(name, rows, rows)
    one, other = one.reshape(rows, -1), other.reshape(rows, -1)
    # A NaN is the only value that is not itself. On objects this is Python's own comparison.
    same = (one == other) | ((one != one) & (other != other))  # noqa: PLR0124
    unequal = rows - int(np.count_nonzero(same.all(axis=1)))
    if not (one.dtype.kind in _NUMBERS and other.dtype.kind in _NUMBERS):
        return Difference(name, rows, unequal)
    with np.errstate(all="ignore"):
        apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
    apart = apart[apart < _FARTHEST]
    return Difference(name, rows, unequal, apart.size, float(apart.sum()))


def _by_row(name: str, one: Array, other: Array, rows: int) -> Difference:
    """Rows of different shapes, each compared with its counterpart."""
    found = [
        _difference(name, np.asarray(a)[np.newaxis], np.asarray(b)[np.newaxis])
        for a, b in zip(one, other, strict=False)
    ]
    return Difference(
        name,
        rows,
        sum(each.unequal for each in found),
        sum(each.values for each in found),
        sum(each.absolute for each in found),
    )


def _ragged(*arrays: Array) -> bool:
    return any(array.ndim == 1 and isinstance(array[0], np.ndarray) for array in arrays)


def _size(array: Array) -> int:
    if array.dtype != object:
        return array.nbytes
    return array.nbytes + sum(map(_size_of_object, array.flat))


def _size_of_object(value: Any) -> int:
    """Of text, of None where text has holes, and of a row that has a shape of its own."""
    if isinstance(value, np.ndarray):
        return _size(value)
    return 0 if value is None else 50 + len(value)
