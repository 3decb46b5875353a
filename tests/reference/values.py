"""Columns, and what a value of a request is in them: plain Python and numpy, written apart from the engine.

A table is a list of values for each field, one for each row. A value is an array of the field's type and shape; text
is an object array.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

Table = Mapping[str, Sequence[Array]]


class Column(NamedTuple):
    """A named, typed field of a row."""

    name: str
    dtype: str
    """As manifests write it."""
    shape: tuple[int | None, ...] = ()
    """Of one row; None is any length."""
    missing: bool = False
    """`null` is NaN."""


class Refused(Exception):
    """The request is wrong."""


def numpy_type(dtype: str) -> Any:
    return np.dtype(object) if dtype == "string" else np.dtype(dtype)


def array_of(value: Any, dtype: str) -> Array:
    """A value of JSON that is known to fit."""
    if dtype == "string":
        return _texts(value)
    holes = _map(lambda item: math.nan if item is None else item, value)
    with np.errstate(over="ignore"):
        return np.asarray(holes, numpy_type(dtype))


def read(column: Column, value: Any) -> Array:
    """A value of JSON in a row. Raises Refused."""
    shape = shape_of(value)
    if shape is None:
        raise Refused(f"{column.name}: ragged")
    if shape == () and column.shape in ((1,), (None,)):
        value, shape = [value], (1,)
    if len(shape) != len(column.shape) or any(
        want is not None and want != got for want, got in zip(column.shape, shape, strict=True)
    ):
        raise Refused(f"{column.name}: shape {shape}")
    for item in leaves(value):
        _check(column, item)
    return array_of(value, column.dtype).reshape(shape)


def read_rows(columns: Sequence[Column], rows: Sequence[Any]) -> dict[str, list[Array]]:
    """Rows of JSON: objects with exactly the columns, whose values have one shape in all rows. Raises Refused."""
    names = {column.name for column in columns}
    if any(not isinstance(row, dict) or row.keys() != names for row in rows):
        raise Refused("not the fields")
    table = {}
    for column in columns:
        values = [row[column.name] for row in rows]
        if len({shape_of(value) for value in values}) > 1:
            raise Refused(f"{column.name}: rows differ in shape")
        table[column.name] = [read(column, value) for value in values]
    return table


def found(values: Sequence[Any]) -> list[Array]:
    """A column that nobody has declared, from JSON: the type that all its values share."""
    shapes = {shape_of(value) for value in values}
    if len(shapes) != 1 or None in shapes:
        raise Refused("rows differ in shape")
    items = [item for value in values for item in leaves(value)]
    kinds = {type(item) for item in items}
    if str in kinds and kinds <= {str, type(None)}:
        dtype = "string"
    elif bool in kinds and kinds <= {bool}:
        dtype = "bool"
    elif kinds <= {int} and items and (max(items) < 2**63 or min(items) >= 0):
        dtype = "int64" if max(items) < 2**63 else "uint64"
    elif kinds <= {int, float, type(None)}:
        dtype = "float64"
    else:
        raise Refused("types differ")
    return [array_of(value, dtype) for value in values]


def typed(values: Sequence[Any], dtype: str) -> list[Array]:
    """A column that nobody has declared, from a format with types: integers with holes become float64."""
    if "int" in dtype and None in values:
        dtype = "float64"
    return [array_of(value, dtype) for value in values]


def _check(column: Column, item: Any) -> None:
    dtype = column.dtype
    if item is None or (isinstance(item, float) and math.isnan(item)):
        if column.missing:
            return
        raise Refused(f"{column.name}: nothing there")
    if dtype in ("string", "bool"):
        if type(item) is not {"string": str, "bool": bool}[dtype]:
            raise Refused(f"{column.name}: {item!r}")
        return
    if type(item) not in (int, float) or math.isinf(item):
        raise Refused(f"{column.name}: {item!r}")
    if dtype.startswith("float"):
        if not np.isfinite(array_of(item, dtype)):
            raise Refused(f"{column.name}: {item!r} is too large")
        return
    limits = np.iinfo(dtype)
    if item != int(item) or not limits.min <= item <= limits.max:
        raise Refused(f"{column.name}: {item!r}")


def shape_of(value: Any) -> tuple[int, ...] | None:
    """None when parts differ in length."""
    if not isinstance(value, list):
        return ()
    shapes = {shape_of(item) for item in value}
    if len(shapes) > 1 or None in shapes:
        return None
    inner = shapes.pop() if shapes else ()
    assert inner is not None
    return (len(value), *inner)


def leaves(value: Any) -> list[Any]:
    """The single values in nested lists, in order."""
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


def _map(function: Any, value: Any) -> Any:
    return [_map(function, item) for item in value] if isinstance(value, list) else function(value)


def _texts(value: Any) -> Array:
    shape = shape_of(value)
    assert shape is not None
    array = np.empty(shape, object)
    array.reshape(-1)[:] = leaves(value)
    return array
