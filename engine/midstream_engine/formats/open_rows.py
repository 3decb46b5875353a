"""Requests in JSON whose fields nobody has declared: any names, with types found in the values.

Made for pipelines that begin with Python code. All rows need the same fields and each field one type, so that a column
is one array; what mixes types is refused with its place, not converted.
"""

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from midstream_engine.batch import Batch
from midstream_engine.errors import BadInput
from midstream_engine.formats.columns import check_rows, refuse_ragged, routing
from midstream_engine.formats.jsontext import parse_body
from midstream_engine.formats.records import check_columns, echo
from midstream_engine.formats.values import (
    SHOWN,
    kind_said,
    leaves,
    names_said,
    shape_of,
    shape_said,
    shown_value,
)
from midstream_engine.schema import Array

MAX_FIELDS = 4096
"""Fields of one request, where any are taken."""

_DEEPEST = 8
"""Lists in lists."""

_EXAMPLE = '[{"price": 10.5, "country": "DE"}]'

_ABSENT = object()


class OpenReader:
    """Turns request bodies of any fields into batches. Made once for each revision."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        """Read any fields. keys: names of those that splits look at; a row may leave them out, as null."""
        self.keys = tuple(dict.fromkeys(keys))

    def read(self, body: bytes) -> Batch:
        """The rows of a body, columns in the order of the first row. Raises BadInput.

        Columns are bool, int64 (uint64 beyond it), float64, or objects that are `str`. Null is NaN among numbers and
        None among strings. Lists of equal length n make (rows, n), and so on.
        """
        rows, clean = parse_body(body)
        if type(rows) is dict and rows:
            _check_width(rows)
            count = check_columns(rows)
            arrays = {name: infer(name, values) for name, values in rows.items()}
            found = {key: rows[key] for key in self.keys if key in rows}
            return Batch(arrays, count, None, self._routing(found, count))
        if type(rows) is not list:
            raise BadInput(
                f"the body is {kind_said(rows)}; send a list of rows: {_EXAMPLE}",
                reason="NotRecords",
            )
        if not rows:
            raise BadInput(f"the body has no rows; send at least one: {_EXAMPLE}", reason="NoRows")
        check_rows(len(rows))
        return self._read_rows(rows, body, clean)

    def _read_rows(self, rows: list[Any], body: bytes, clean: bool) -> Batch:
        names = self._names(rows)
        columns: dict[str, list[Any]] = {}
        entries = 0
        try:
            for name in names:
                if name in self.keys:
                    values = [row.get(name, _ABSENT) for row in rows]
                    entries -= values.count(_ABSENT)
                    values = [None if value is _ABSENT else value for value in values]
                else:
                    values = [row[name] for row in rows]
                entries += len(rows)
                columns[name] = values
        except (KeyError, TypeError, AttributeError):
            _refuse_names(rows, self.keys)
            raise
        if sum(map(len, rows)) != entries:
            _refuse_names(rows, self.keys)
        arrays = {name: infer(name, values) for name, values in columns.items()}
        strings = sum(
            sum(type(item) is str for item in array.ravel().tolist())
            for array in arrays.values()
            if array.dtype.kind == "O"
        )
        # As in `records`: no quotes but those of names and of strings that were found, so no name twice.
        exact = clean and body.count(b'"') == 2 * (entries + strings)
        raw = body.count(b"{") == len(rows) == body.count(b"}")
        found = {key: columns[key] for key in self.keys if key in columns}
        return Batch(
            arrays, len(rows), echo(body, rows, exact, raw=raw), self._routing(found, len(rows))
        )

    def _names(self, rows: list[Any]) -> list[str]:
        """Those of the first row; behind them the keys that only later rows have."""
        first = rows[0]
        if not isinstance(first, dict):
            _refuse_names(rows, self.keys)
        if not first:
            raise BadInput(
                f"row 0 has no fields; send at least one: {_EXAMPLE}", reason="WrongFields", row=0
            )
        _check_width(first)
        later = [key for key in self.keys if key not in first]
        return [
            *first,
            *(key for key in later if any(isinstance(r, dict) and key in r for r in rows)),
        ]

    def _routing(self, found: dict[str, list[Any]], count: int) -> dict[str, Sequence[Any]]:
        return {key: routing(key, found.get(key, [None] * count)) for key in self.keys}


def infer(name: str, values: list[Any]) -> Array:
    """The array of a column, one value for each row. Raises BadInput."""
    kinds = set(map(type, values))
    if dict in kinds:
        row = next(n for n, value in enumerate(values) if type(value) is dict)
        raise _mixed(name, row, "", values[row], "a value or a list")
    if list not in kinds:
        return _array(name, values, values, kinds)
    if kinds != {list}:
        row = next(n for n, value in enumerate(values) if type(value) is not list)
        raise _mixed(name, row, "", values[row], "a list as in the other rows")
    shape = shape_of(values)
    if shape is None:
        _refuse_lists(name, values)
    if len(shape) - 1 > _DEEPEST:
        raise BadInput(
            f"row 0, field {name[:SHOWN]!r}: {shape_said(shape[1:])}; at most {_DEEPEST} are taken",
            reason="WrongShape",
            field=name[:SHOWN],
            row=0,
        )
    flat = values
    for _ in shape[1:]:
        flat = [item for part in flat for item in part]
    return _array(name, values, flat, set(map(type, flat))).reshape(shape)


def _array(name: str, values: list[Any], flat: list[Any], kinds: set[type]) -> Array:
    """One dimension, from single values of one kind and null."""
    without_null = kinds - {type(None)}
    holes = len(without_null) < len(kinds)
    if without_null <= {int, float}:
        if without_null == {int} and not holes:
            # numpy by itself makes floats of numbers on both sides of 2**63.
            low, high = min(flat), max(flat)
            if low >= -(2**63) and high < 2**63:
                return np.array(flat, np.int64)
            return np.array(flat, np.uint64 if low >= 0 and high < 2**64 else np.float64)
        numbers = np.array(flat, np.float64)
        if np.isinf(numbers).any():
            _refuse_infinity(name, values)
        return numbers
    if without_null == {str}:
        texts = np.empty(len(flat), object)
        texts[:] = flat
        return texts
    if without_null == {bool} and not holes:
        return np.array(flat, np.bool_)
    raise _mixture(name, values)


def _refuse_lists(name: str, values: list[Any]) -> NoReturn:
    for row, value in enumerate(values):
        if shape_of(value) is None:
            raise BadInput(
                f"row {row}, field {name[:SHOWN]!r}: ragged list (its parts have different lengths)",
                reason="RaggedRows",
                field=name[:SHOWN],
                row=row,
            )
    refuse_ragged(name[:SHOWN], values)


def _refuse_infinity(name: str, values: list[Any]) -> NoReturn:
    row, index = next(
        (row, index)
        for row, value in enumerate(values)
        for index, item in leaves(value)
        if isinstance(item, float) and math.isinf(item)
    )
    raise BadInput(
        f"row {row}, field {name[:SHOWN]!r}{index}: Infinity is not a finite number",
        reason="NotFinite",
        field=name[:SHOWN],
        row=row,
    )


def _mixture(name: str, values: list[Any]) -> BadInput:
    """The refusal of the first value that is not of the kind of those before it."""
    places = [(row, *leaf) for row, value in enumerate(values) for leaf in leaves(value)]
    wanted = next(kind_said(item) for _, _, item in places if item is not None)
    for row, index, item in places:
        if item is not None and (kind_said(item) != wanted or isinstance(item, dict)):
            return _mixed(name, row, index, item, f"{wanted} as before")
    row, index = next((row, index) for row, index, item in places if item is None)
    return BadInput(
        f"row {row}, field {name[:SHOWN]!r}{index}: null is not a boolean; "
        "send numbers or strings where a value may be missing",
        reason="MissingValue",
        field=name[:SHOWN],
        row=row,
    )


def _mixed(name: str, row: int, index: str, item: Any, wanted: str) -> BadInput:
    return BadInput(
        f"row {row}, field {name[:SHOWN]!r}{index}: expected {wanted}, got {shown_value(item)}; "
        "a field needs one type in all rows",
        reason="WrongType",
        field=name[:SHOWN],
        row=row,
    )


def _check_width(names: dict[str, Any]) -> None:
    if len(names) > MAX_FIELDS:
        raise BadInput(
            f"a row has {len(names)} fields; at most {MAX_FIELDS} fit in one request",
            reason="WrongFields",
        )


def _refuse_names(rows: list[Any], keys: Sequence[str]) -> None:
    """Raise BadInput for the first row that has not the fields of the first one."""
    expected: list[str] = []
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise BadInput(
                f"row {number} is {kind_said(row)}; a row is an object: {_EXAMPLE}",
                reason="NotRecords",
                row=number,
            )
        names = [name for name in row if name not in keys]
        if number == 0:
            expected = names
            continue
        missing = [name for name in expected if name not in row]
        unknown = [name for name in names if name not in rows[0]]
        if missing or unknown:
            said = []
            if missing:
                said.append(f"misses {names_said(missing)}")
            if unknown:
                said.append(f"has {names_said(unknown)}, which row 0 has not")
            raise BadInput(
                f"row {number} {' and '.join(said)}; all rows need the same fields",
                reason="WrongFields",
                field=(missing or unknown)[0][:SHOWN],
                row=number,
            )
