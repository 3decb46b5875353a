"""The functions of expressions. `docs/validations.md` has a table of them."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from midstream_api.syntax import Call
from midstream_engine.expressions.values import (
    NAN,
    Column,
    Kind,
    Mask,
    Rows,
    Scalar,
    Tables,
    Value,
    combined,
    floating,
    require,
)
from midstream_engine.schema import Array


def _reduced(node: Call, kind: Kind, value: Value, reduce: Callable[[Array], Array]) -> Value:
    """One value for each row, made of all values of a row. reduce: (rows, values) to (rows,)."""
    inner, constant = value.column, value.constant

    def column(rows: Rows, mask: Mask) -> Array:
        array = inner(rows, mask)
        if constant:
            array = np.broadcast_to(array, (rows.count, 1))
        size = math.prod(array.shape[1:])
        return reduce(np.ascontiguousarray(array).reshape(rows.count, size))

    return Value(node, kind, (), _of_one_row(column), column)


def _of_one_row(column: Column) -> Scalar:
    def scalar(tables: Tables) -> Any:
        with np.errstate(all="ignore"):
            return column(Rows(tables, 1), None).item(0)

    return scalar


def _sums(array: Array) -> Array:
    """From first to last, so that a row has the same sum alone and in a batch."""
    if not array.shape[1]:
        return np.zeros(len(array))
    # Adding 0.0 leaves one zero, as if it had begun with that.
    last: Array = np.add.accumulate(array, axis=1)[:, -1] + 0.0
    return last


def _means(array: Array) -> Array:
    mean: Array = np.divide(_sums(array), array.shape[1])
    return mean


def _extremes(extreme: np.ufunc) -> Callable[[Array], Array]:
    def extremes(array: Array) -> Array:
        if not array.shape[1]:
            return np.full(len(array), NAN)
        # Adding 0.0 leaves one zero: which of 0.0 and -0.0 is the least would be chance.
        least: Array = extreme.reduce(array, axis=1) + 0.0
        return least

    return extremes


def _number_function(scalar: Callable[..., Any], column: Callable[..., Any], kind: Kind) -> Any:
    def function(node: Call, arguments: list[Value]) -> Value:
        numbers = [floating(each, f"{node.function} takes numbers") for each in arguments]
        return combined(node, kind, numbers, scalar, column)

    return function


def _total_function(reduce: Callable[[Array], Array]) -> Any:
    def function(node: Call, arguments: list[Value]) -> Value:
        rule = f"{node.function} takes numbers or conditions"
        return _reduced(node, Kind.FLOAT, floating(arguments[0], rule, booleans=True), reduce)

    return function


def _condition_function(merge: np.ufunc) -> Any:
    def function(node: Call, arguments: list[Value]) -> Value:
        require(arguments[0], {Kind.BOOLEAN}, f"{node.function} takes conditions")
        return _reduced(node, Kind.BOOLEAN, arguments[0], functools.partial(merge.reduce, axis=1))

    return function


def _extreme_function(choose: Callable[..., float], extreme: np.ufunc) -> Any:
    def scalar(*numbers: float) -> float:
        return NAN if any(map(math.isnan, numbers)) else choose(numbers) + 0.0

    def column(*columns: Any) -> Any:
        return functools.reduce(extreme, columns) + 0.0

    def function(node: Call, arguments: list[Value]) -> Value:
        numbers = [floating(each, f"{node.function} takes numbers") for each in arguments]
        if len(numbers) == 1 and numbers[0].shape != ():
            return _reduced(node, Kind.FLOAT, numbers[0], _extremes(extreme))
        return combined(node, Kind.FLOAT, numbers, scalar, column)

    return function


def _characters(text: str | None) -> int:
    """None is text that a row does not have: only fields that nobody has declared can have it."""
    return 0 if text is None else len(text)


def _is_part(text: str | None, part: str | None) -> bool:
    return text is not None and part is not None and part in text


def _length(node: Call, arguments: list[Value]) -> Value:
    (value,) = arguments
    if value.shape == ():
        require(value, {Kind.TEXT}, "len takes a text or a list")
        characters = np.frompyfunc(_characters, 1, 1)
        return combined(
            node,
            Kind.WHOLE,
            arguments,
            _characters,
            lambda texts: np.asarray(characters(texts)).astype(np.int64)[()],
        )
    inner = value.column

    def column(rows: Rows, mask: Mask) -> Array:
        return np.full(rows.count, inner(rows, mask).shape[1], np.int64)

    return Value(node, Kind.WHOLE, (), _of_one_row(column), column)


def _contains(node: Call, arguments: list[Value]) -> Value:
    for argument in arguments:
        require(argument, {Kind.TEXT}, "contains takes a text and the part to look for")
    within = np.frompyfunc(_is_part, 2, 1)
    return combined(
        node,
        Kind.BOOLEAN,
        arguments,
        _is_part,
        lambda *texts: np.asarray(within(*texts)).astype(np.bool_)[()],
    )


FUNCTIONS: dict[str, Callable[[Call, list[Value]], Value]] = {
    "abs": _number_function(abs, np.abs, Kind.FLOAT),
    "all": _condition_function(np.logical_and),
    "any": _condition_function(np.logical_or),
    "contains": _contains,
    "isfinite": _number_function(math.isfinite, np.isfinite, Kind.BOOLEAN),
    "isnan": _number_function(math.isnan, np.isnan, Kind.BOOLEAN),
    "len": _length,
    "max": _extreme_function(max, np.maximum),
    "mean": _total_function(_means),
    "min": _extreme_function(min, np.minimum),
    "sum": _total_function(_sums),
}
