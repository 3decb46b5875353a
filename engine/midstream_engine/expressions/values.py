"""Values: parts of an expression with their types and what computes them.

Pure. Every value is made twice: for one row as a closure over Python numbers, which is quicker than numpy for so
little; for many rows as a closure over columns. Both say the same of the same row.
"""

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from midstream_api.syntax import Boolean, ExpressionError, Node, Number, Text, printed
from midstream_engine.schema import Array, shape_text

BoolArray = np.ndarray[Any, np.dtype[np.bool_]]
Tables = Sequence[dict[str, Array]]
"""Columns by name, one table for each place that a reference can name."""


class CannotTellError(LookupError):
    """A row lacks what the expression asks for: a list is too short, or two lists differ in length."""


@dataclass(slots=True)
class Rows:
    tables: Tables
    count: int
    bad: BoolArray = field(init=False)
    """Rows for which the expression cannot be evaluated."""

    def __post_init__(self) -> None:
        self.bad = np.zeros(self.count, np.bool_)


Mask = BoolArray | None
"""Rows that count, None for all: what an `and` or `or` has decided already is not looked at again."""
Scalar = Callable[[Tables], Any]
Column = Callable[[Rows, Mask], Any]


class Kind(enum.Enum):
    """Type of a value; the text is what messages call it."""

    WHOLE = "a whole number"
    FLOAT = "a number"
    BOOLEAN = "true or false"
    TEXT = "text"
    UNKNOWN = "not known yet"


NUMBERS = {Kind.WHOLE, Kind.FLOAT}
NAN = math.nan


@dataclass(frozen=True, slots=True)
class Value:
    """A node with its type and what computes it."""

    node: Node
    kind: Kind
    shape: tuple[int | None, ...] | None
    """Of one row: () for a single value, None where it is not known."""
    scalar: Scalar
    """For one row; never called where `shape` is not ()."""
    column: Column
    """(rows, *shape); a constant is one value for all rows."""
    constant: bool = False
    dtype: str = ""
    """Of the field that it is taken from."""

    def __str__(self) -> str:
        text = printed(self.node)
        if self.dtype:
            return f"{text} is {self.dtype}{shape_text(self.shape or ())}"
        return f"{text} is {self.kind.value}" + (" for each value" if self.shape else "")


def cannot_tell(*_: Any) -> Any:
    raise CannotTellError


def require(value: Value, kinds: set[Kind], rule: str) -> None:
    if value.kind not in kinds and value.kind is not Kind.UNKNOWN:
        raise ExpressionError(f"{rule}; {value}", value.node.column)


def floating(value: Value, rule: str, *, booleans: bool = False) -> Value:
    """The same as float64."""
    require(value, NUMBERS | ({Kind.BOOLEAN} if booleans else set()), rule)
    if value.kind is Kind.FLOAT:
        return value
    inner, inner_column = value.scalar, value.column
    return replace(
        value,
        kind=Kind.FLOAT,
        scalar=lambda tables: float(inner(tables)),
        column=lambda rows, mask: np.asarray(inner_column(rows, mask)).astype(np.float64)[()],
    )


def together(node: Node, values: Sequence[Value]) -> tuple[int | None, ...] | None:
    """The shape of what is made of several values: single ones go with every value of a list."""
    shape: tuple[int | None, ...] = ()
    first: Value | None = None
    for value in values:
        if value.shape is None:
            return None
        if value.shape == ():
            continue
        if first is None:
            first, shape = value, value.shape
            continue
        known = zip(shape, value.shape, strict=False)
        if len(shape) != len(value.shape) or any(a != b and None not in {a, b} for a, b in known):
            raise ExpressionError(
                f"lists of different lengths: {printed(first.node)} has the shape {shape_text(shape)}, "
                f"{printed(value.node)} has {shape_text(value.shape)}",
                node.column,
            )
        shape = tuple(b if a is None else a for a, b in zip(shape, value.shape, strict=True))
    return shape


def combined(
    node: Node,
    kind: Kind,
    values: Sequence[Value],
    scalar: Callable[..., Any],
    column: Callable[..., Any],
) -> Value:
    """What a function makes of values, element by element."""
    shape = together(node, values)
    ones = (1,) * len(shape or ())
    single = [
        number for number, value in enumerate(values) if value.shape == () and not value.constant
    ]
    lists = [number for number, value in enumerate(values) if value.shape]

    def columns(rows: Rows, mask: Mask) -> Any:
        got = [value.column(rows, mask) for value in values]
        if ones:
            for number in single:
                got[number] = got[number].reshape(-1, *ones)
            if len({got[number].shape for number in lists}) > 1:
                raise CannotTellError
        return column(*got)

    if len(values) == 1:
        (only,) = (value.scalar for value in values)
        one: Scalar = lambda tables: scalar(only(tables))  # noqa: E731 - one of three forms of the same
    elif len(values) == 2:
        left, right = (value.scalar for value in values)
        if isinstance(values[1].node, Number | Text | Boolean):
            fixed = right(())
            one = lambda tables: scalar(left(tables), fixed)  # noqa: E731
        else:
            one = lambda tables: scalar(left(tables), right(tables))  # noqa: E731
    else:
        each = [value.scalar for value in values]
        one = lambda tables: scalar(*(value(tables) for value in each))  # noqa: E731
    return Value(node, kind, shape, one, columns, constant=all(value.constant for value in values))
