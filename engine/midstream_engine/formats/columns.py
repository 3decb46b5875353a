"""One field's values of all rows, as parsed from JSON, to one array; and the names that a body may have.

The usual column takes a fast way (one array, a few checks on it); only when that way meets something unexpected is the
column looked at value by value, to say what is wrong.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NoReturn

import numpy as np

from midstream_engine.errors import BadInput
from midstream_engine.formats.values import (
    SCALARS,
    SHOWN,
    kind_said,
    leaves,
    names_said,
    shape_of,
    shape_said,
    shown_value,
    value_problem,
)
from midstream_engine.schema import Array, Field, list_fields, shape_text


def quiet() -> None:
    """To be called by each thread that reads: numpy's warning of a number too large for its type adds nothing.

    It becomes infinite and is then refused with its place.
    """
    np.seterr(over="ignore", invalid="ignore")


quiet()

MAX_ROWS = 100_000
"""Rows in one request."""

_DEEPEST = 32
"""Lists in lists, where the field does not say how many."""

_TYPES: dict[str, frozenset[type]] = {
    "f": frozenset({float, int, type(None)}),
    "i": frozenset({int, float}),
    "u": frozenset({int, float}),
    "b": frozenset({bool}),
}
"""What a body may hold for each kind of field; numpy by itself takes "1" and true for numbers."""


def column(field: Field, values: list[Any], plain: bool) -> Array:
    """The array of a field: of its dtype, of shape (rows, *field.shape). Raises BadInput.

    values: one for each row. plain: there is nothing but numbers, null and lists in them, so that numpy may convert at
    once.
    """
    wanted = field.numpy_dtype
    kind = wanted.kind
    if kind == "O":
        return _strings(field, values)
    try:
        if not plain:
            _require(values, _TYPES[kind])
        array = np.array(values, dtype=wanted) if kind == "f" else np.array(values)
    except (ValueError, TypeError, OverflowError, RecursionError):
        refuse_values(field, values)
    shape = array.shape[1:]
    if shape != field.shape and not field.accepts(shape):
        if shape != () or not field.accepts((1,)):
            refuse_values(field, values)
        array = array.reshape(-1, 1)
    if kind == "f":
        if not np.isfinite(array).all() and not (field.allow_missing and not np.isinf(array).any()):
            refuse_values(field, values)
        return array
    if kind == "b":
        if array.dtype.kind != "b" and array.size:
            refuse_values(field, values)
        return array.astype(np.bool_, copy=False)
    return _integers(field, values, array)


def routing(name: str, values: list[Any]) -> list[Any]:
    """The values of a field that only a split looks at: single values, None for null and NaN. Raises BadInput."""
    for row, value in enumerate(values):
        if type(value) not in SCALARS:
            raise BadInput(
                f"row {row}, field {name!r}: expected a single value for a split to choose by, got {kind_said(value)}",
                reason="WrongType",
                field=name,
                row=row,
            )
    return [None if value != value else value for value in values]  # noqa: PLR0124 - NaN


def check_rows(rows: int) -> None:
    """Raise BadInput when a body has more rows than one request may have."""
    if rows > MAX_ROWS:
        raise BadInput(
            f"the body has {rows} rows; at most {MAX_ROWS} fit in one request", reason="TooManyRows"
        )


def check_names(
    fields: Sequence[Field],
    keys: Collection[str],
    names: Iterable[str],
    what: str,
    row: int | None = None,
) -> None:
    """Raise BadInput unless there is a name for each field, and beside them only keys. what: has the names."""
    present = dict.fromkeys(names)
    known = {field.name for field in fields}
    missing = [field.name for field in fields if field.name not in present]
    unknown = [name for name in present if name not in known and name not in keys]
    if missing or unknown:
        said = []
        if missing:
            said.append(f"misses {names_said(missing)}")
        if unknown:
            said.append(f"has the unknown {names_said(unknown)}")
        also = f"; may have {names_said(sorted(keys))}" if keys else ""
        raise BadInput(
            f"{what} {' and '.join(said)}{also}; expected fields: {list_fields(fields)}",
            reason="WrongFields",
            field=(missing or unknown)[0][:SHOWN],
            row=row,
        )


def _strings(field: Field, values: list[Any]) -> Array:
    try:
        array = np.array(values, dtype=object)
    except (ValueError, RecursionError):
        refuse_values(field, values)
    if not all(type(item) is str for item in array.ravel().tolist()):
        refuse_values(field, values)
    shape = array.shape[1:]
    if not field.accepts(shape):
        if shape != () or not field.accepts((1,)):
            refuse_values(field, values)
        array = array.reshape(-1, 1)
    return array


def _integers(field: Field, values: list[Any], array: Array) -> Array:
    """Whole numbers in range, also when written as 3.0."""
    limits = np.iinfo(field.dtype)
    if array.size and array.dtype.kind not in "iu":
        # Floats among them, which numpy would round beyond 2**53; or nulls.
        _explain(field, values)
        array = np.array(values, dtype=field.numpy_dtype).reshape(array.shape)
    elif array.size and (array.min() < limits.min or array.max() > limits.max):
        refuse_values(field, values)
    return array.astype(field.numpy_dtype, copy=False)


def refuse_values(field: Field, values: list[Any]) -> NoReturn:
    """Raise BadInput for a column that does not become one array of the field."""
    _explain(field, values)
    refuse_ragged(field.name, values)


def refuse_ragged(name: str, values: list[Any]) -> NoReturn:
    """Raise BadInput for a column whose rows fit, but not beside each other."""
    shapes = [shape_of(value) or () for value in values]
    row = next((n for n, shape in enumerate(shapes) if shape != shapes[0]), 0)
    raise BadInput(
        f"row {row}, field {name!r}: {shape_said(shapes[row])} after {shape_said(shapes[0])} in row 0; "
        "all rows of one request need the same shape",
        reason="RaggedRows",
        field=name,
        row=row,
    )


def _explain(field: Field, values: list[Any]) -> None:
    """Raise BadInput for the first value of a column that does not fit the field."""
    for number, value in enumerate(values):
        _explain_shape(field, number, value)
        for index, item in leaves(value):
            found = value_problem(field, item)
            if found is not None:
                reason, said = found
                if not index and field.shape and isinstance(item, str) and not field.accepts((1,)):
                    said = f"expected {_wanted_list(field)}, got {shown_value(item)}"
                raise BadInput(
                    f"row {number}, field {field.name!r}{index}: {said}",
                    reason=reason,
                    field=field.name,
                    row=number,
                )


def _explain_shape(field: Field, row: int, value: Any) -> None:
    shape = shape_of(value)
    if shape is None:
        raise BadInput(
            f"row {row}, field {field.name!r}: ragged list (its parts have different lengths); "
            f"expected {field.dtype}{shape_text(field.shape)}",
            reason="RaggedRows",
            field=field.name,
            row=row,
        )
    too_deep = len(shape) > _DEEPEST  # for a field of any shape
    if too_deep or (not field.accepts(shape) and not (shape == () and field.accepts((1,)))):
        if shape == () and not isinstance(value, (int, float)) and value_problem(field, value):
            return  # a string or null where a list of numbers belongs: said better by its value
        raise BadInput(
            f"row {row}, field {field.name!r}: wrong shape, expected {_wanted_shape(field)}, "
            f"got {shape_said(shape)}",
            reason="WrongShape",
            field=field.name,
            row=row,
        )


def _wanted_list(field: Field) -> str:
    if len(field.shape) == 1:
        return f"a list of {'' if field.shape[0] is None else f'{field.shape[0]} '}values ({field.dtype})"
    return f"lists of the shape {shape_said(field.shape)} with values of {field.dtype}"


def _wanted_shape(field: Field) -> str:
    return shape_said(field.shape) if field.ranked else f"lists nested at most {_DEEPEST} deep"


def _require(values: list[Any], types: frozenset[type]) -> None:
    """Raise TypeError unless there is nothing but these types in nested lists."""
    for value in values:
        kind = type(value)
        if kind is list:
            _require(value, types)
        elif kind not in types:
            raise TypeError
