"""Conditions: whole expressions, checked against the fields they read and compiled.

Which fields a name stands for is the caller's to know. `docs/validations.md` has the rules.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from midstream_api.syntax import (
    COMPARISONS,
    Binary,
    Boolean,
    Call,
    Expression,
    ExpressionError,
    Logic,
    Node,
    Number,
    Reference,
    Text,
    Unary,
    children,
    printed,
)
from midstream_engine.expressions.functions import FUNCTIONS
from midstream_engine.expressions.values import (
    NAN,
    NUMBERS,
    BoolArray,
    CannotTellError,
    Column,
    Kind,
    Mask,
    Rows,
    Scalar,
    Tables,
    Value,
    cannot_tell,
    combined,
    floating,
    require,
    together,
)
from midstream_engine.schema import NUMPY_TYPES, Array, Field, shape_text

Resolve = Callable[[Reference], tuple[int, Field | None]]
"""Table and field of a reference; None for a field of which nothing is known yet."""


@dataclass(frozen=True, slots=True)
class Condition:
    """An expression that fits its fields."""

    scalar: Callable[[Tables], bool]
    """Whether it holds in tables of one row. Raises LookupError where that cannot be told."""
    _column: Column

    def evaluate(self, tables: Tables, count: int) -> tuple[BoolArray, BoolArray]:
        """Whether it holds, and whether that cannot be told, for each of `count` rows."""
        rows = Rows(tables, count)
        with np.errstate(all="ignore"):
            try:
                holds = np.broadcast_to(self._column(rows, None), (count,))
            except CannotTellError:
                everything = np.ones(count, np.bool_)
                return everything, everything
        return holds, rows.bad


def condition(expression: Expression, resolve: Resolve) -> Condition:
    """Check an expression against its fields and compile it.

    Raises ExpressionError for what does not fit, and lets through what `resolve` raises. When a field is not known, the
    rest is checked all the same; the result must not be run then.
    """
    value = _value(expression.root, resolve)
    if value.kind not in {Kind.BOOLEAN, Kind.UNKNOWN}:
        raise ExpressionError(
            f"{value}; a validation is a condition: compare it", value.node.column
        )
    if value.shape:
        raise ExpressionError(
            f"{printed(value.node)} is true or false for each of several values; "
            "take one of them with an index, or write any(…) or all(…)",
            value.node.column,
        )
    return Condition(value.scalar, value.column)


def _value(node: Node, resolve: Resolve) -> Value:
    match node:
        case Number():
            return _constant(node, Kind.WHOLE if isinstance(node.value, int) else Kind.FLOAT)
        case Text():
            return _constant(node, Kind.TEXT)
        case Boolean():
            return _constant(node, Kind.BOOLEAN)
        case Reference():
            return _taken(node, *resolve(node))
    parts = [_value(part, resolve) for part in children(node)]
    match node:
        case Logic():
            return _joined(node, parts)
        case Call():
            return FUNCTIONS[node.function](node, parts)
        case Unary(operator="not"):
            require(parts[0], {Kind.BOOLEAN}, "'not' takes a condition")
            return combined(node, Kind.BOOLEAN, parts, operator.not_, np.logical_not)
        case Binary() if node.operator in COMPARISONS:
            return _compared(node, *parts)
        case _:
            return _calculated(node, parts)


def _constant(node: Number | Text | Boolean, kind: Kind) -> Value:
    value = node.value
    shared: Any = value
    if kind is Kind.FLOAT:
        shared = np.float64(value)
    elif kind is Kind.TEXT:
        # As an object, or numpy would drop a NUL from its end.
        shared = np.array(value, dtype=object)
    return Value(node, kind, (), lambda _: value, lambda _rows, _mask: shared, constant=True)


def _taken(node: Reference, table: int, source: Field | None) -> Value:
    """A field's value, or the part of it that the indexes take."""
    if source is None or source.dtype not in NUMPY_TYPES:
        return Value(node, Kind.UNKNOWN, None, cannot_tell, cannot_tell)
    indexes = node.indexes
    if node.root == "model" and source.shape == () and indexes == (0,):
        # A model that gives one value without a dimension: outputs[0][0] is that value.
        indexes = ()
    whole = printed(replace(node, indexes=()))
    typed = f"{whole} is {source.dtype}{shape_text(source.shape)}"
    if len(indexes) > len(source.shape):
        most = f"at most {len(source.shape)}" if source.shape else "no"
        raise ExpressionError(f"{typed}: it takes {most} index, not {len(indexes)}", node.column)
    for index, length in zip(indexes, source.shape, strict=False):
        if length is not None and index >= length:
            rest = f"indexes go from [0] to [{length - 1}]" if length else "it has no values"
            raise ExpressionError(f"{typed}: there is no [{index}], {rest}", node.column)
    kinds = {"f": Kind.FLOAT, "b": Kind.BOOLEAN, "O": Kind.TEXT}
    kind = kinds.get(source.numpy_dtype.kind, Kind.WHOLE)
    name, only = source.name, (0, *indexes)
    of_all: tuple[Any, ...] = (slice(None), *indexes)

    def column(rows: Rows, _mask: Mask) -> Array:
        array = rows.tables[table][name]
        try:
            part: Array = array[of_all]
        except IndexError:
            raise CannotTellError from None
        return part.astype(np.float64) if kind is Kind.FLOAT else part

    if len(only) == 2:
        index = only[1]
        scalar: Scalar = lambda tables: tables[table][name].item(0, index)  # noqa: E731 - quicker than what follows
    else:
        scalar = lambda tables: tables[table][name].item(*only)  # noqa: E731

    return Value(node, kind, source.shape[len(indexes) :], scalar, column, dtype=source.dtype)


def _calculated(node: Unary | Binary, operands: list[Value]) -> Value:
    rule = f"{node.operator!r} calculates with numbers"
    numbers = [floating(operand, rule) for operand in operands]
    if isinstance(node, Unary):
        return combined(node, Kind.FLOAT, numbers, operator.neg, operator.neg)
    return combined(node, Kind.FLOAT, numbers, *_CALCULATIONS[node.operator])


def _divide(a: float, b: float) -> float:
    try:
        return a / b
    except ZeroDivisionError:
        if a == 0 or math.isnan(a):
            return NAN
        return math.copysign(math.inf, a) * math.copysign(1.0, b)


def _remainder(a: float, b: float) -> float:
    try:
        return a % b
    except ZeroDivisionError:
        return NAN


_CALCULATIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "+": (operator.add, operator.add),
    "-": (operator.sub, operator.sub),
    "*": (operator.mul, operator.mul),
    "/": (_divide, np.divide),
    "%": (_remainder, np.remainder),
}
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


def _compared(node: Binary, left: Value, right: Value) -> Value:
    compare, shown = _COMPARISONS[node.operator], repr(node.operator)
    kinds = {left.kind, right.kind} - {Kind.UNKNOWN}
    if len(kinds) == 2 and kinds != NUMBERS:
        raise ExpressionError(
            f"{shown} compares values of the same type; {left}, {right}", node.column
        )
    if node.operator not in {"==", "!="} and not kinds <= NUMBERS:
        odd = left if left.kind is not Kind.UNKNOWN else right
        raise ExpressionError(f"{shown} compares numbers; {odd}", node.column)
    if kinds == NUMBERS:
        left, right = floating(left, shown), floating(right, shown)
    return combined(node, Kind.BOOLEAN, [left, right], compare, compare)


def _joined(node: Logic, operands: Sequence[Value]) -> Value:
    """`and` and `or`. Of single values those behind the deciding one are not looked at, row by row."""
    for operand in operands:
        require(operand, {Kind.BOOLEAN}, f"{node.operator!r} joins conditions")
    decides = node.operator == "or"
    merge = np.logical_or if decides else np.logical_and
    if together(node, operands):
        both = functools.partial(functools.reduce, merge)
        return combined(node, Kind.BOOLEAN, operands, cannot_tell, lambda *got: both(got))
    scalars = [operand.scalar for operand in operands]
    first, *others = (operand.column for operand in operands)

    def scalar(tables: Tables) -> bool:
        for each in scalars:
            holds: bool = each(tables)
            if holds is decides:
                return holds
        return not decides

    def column(rows: Rows, mask: Mask) -> Any:
        result = first(rows, mask)
        for each in others:
            undecided = np.logical_not(result) if decides else result
            inner = np.broadcast_to(undecided if mask is None else undecided & mask, (rows.count,))
            if not inner.any():
                break
            try:
                result = merge(result, each(rows, inner))
            except CannotTellError:
                rows.bad |= inner
                break
        return result

    constant = all(operand.constant for operand in operands)
    return Value(node, Kind.BOOLEAN, (), scalar, column, constant=constant)
