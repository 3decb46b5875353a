"""Answers in Arrow IPC, as a file or as a stream: one record batch with a column for each column of the table.

Columns are nested in structs (`in`, `out`, `anomaly`, `metadata`), or flat with dotted names where that is asked for.
Answers that differ in their numbers only are made from a mould of the first ones, to the same bytes.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np

from midstream_engine.batch import Facts, Result
from midstream_engine.errors import NotAcceptable
from midstream_engine.formats import arrow
from midstream_engine.formats.jsontext import dumps
from midstream_engine.formats.mould import LARGEST, Mould, Shelf
from midstream_engine.formats.negotiation import Format
from midstream_engine.formats.selection import Selection
from midstream_engine.formats.table import Coded, Column, Kind, Values, columns
from midstream_engine.schema import Array

_INT64 = range(-(2**63), 2**63)


class ArrowWriter:
    """Turns results into bodies. Made once for each revision."""

    def __init__(self, facts: Facts, *, file: bool) -> None:
        """Write for a revision. file: the file format, else the stream."""
        self._facts = facts
        self._file = file
        self.moulds: Shelf[Any, Mould] = Shelf()
        self.content_type = (Format.ARROW_FILE if file else Format.ARROW_STREAM).value.encode()

    def write(self, result: Result, selection: Selection | None = None) -> bytes:
        """The body of an answer; selection None is all columns.

        Raises BadInput for a selection that does not fit, NotAcceptable for values that Arrow has no type for.
        """
        found = columns(result, self._facts)
        flat = False
        if selection is not None:
            found = selection.apply(found)
            flat = selection.flat
        rows = result.batch.rows
        kinds: list[Any] = [rows, flat]
        numbers: list[Any] = []
        for column in found:
            kind = _moulded(column.values, rows, numbers)
            if kind is None:
                return self._written(found, flat, rows)
            kinds.append((column.group, column.name, kind))
        key = tuple(kinds)
        mould = self.moulds.get(key)
        if mould is not None:
            return mould.filled(numbers)
        body = self._written(found, flat, rows)
        if len(body) <= LARGEST and self.moulds.wants(key):
            mould = self._mould(body, found, flat)
            # Should Arrow lay a table out in another way one day, it is written the long way.
            if mould is not None and mould.filled(numbers) == body:
                self.moulds.put(key, mould, mould.kept)
        return body

    def _mould(self, body: bytes, found: Sequence[Column], flat: bool) -> Mould | None:
        if len({column.full_name for column in found}) < len(found):
            return None
        paths = [path for path, column in _paths(found, flat) if _has_numbers(column)]
        return Mould(body, arrow.places(body, paths, file=self._file))

    def _written(self, found: Sequence[Column], flat: bool, rows: int) -> bytes:
        built: dict[str, Any] = {}
        for column in found:
            values = _column(column, rows)
            if flat or column.group is None:
                built[column.full_name] = values
            else:
                built.setdefault(column.group, []).append((column.name, values))
        return arrow.write(
            [
                (name, arrow.struct(values, rows) if isinstance(values, list) else values)
                for name, values in built.items()
            ],
            file=self._file,
        )


def _moulded(values: Values, rows: int, numbers: list[Any]) -> Any:
    """What all columns have in common that are written alike but for their numbers; None where more may differ.

    numbers: the column's are added, as Arrow has them, if it has any (`_has_numbers`).
    """
    if isinstance(values, np.ndarray):
        kind = values.dtype.kind
        if kind not in "iufb" or not values.size:
            return None
        if kind == "b":
            numbers.append(np.packbits(values, bitorder="little"))
        else:
            numbers.append(np.ascontiguousarray(values))
        return values.dtype, values.shape
    if not isinstance(values, Coded) or len(values.choices) > 1:
        return None
    first = values.choices[0]
    match values.kind:
        case Kind.TIME:
            numbers.append(np.full(rows, first, np.int64))
            return Kind.TIME
        case Kind.NUMBERS:
            numbers.append(np.full((rows, len(first)), first, np.int64))
            return len(first) or None
        case Kind.TEXT:
            return first
        case kind:
            return kind, dumps(first)


def _has_numbers(column: Column) -> bool:
    values = column.values
    return not isinstance(values, Coded) or values.kind in {Kind.TIME, Kind.NUMBERS}


def _paths(found: Sequence[Column], flat: bool) -> Iterator[tuple[list[int], Column]]:
    """Where each column is in the table: its position, or its group's and its own in there."""
    groups: dict[str, tuple[int, Iterator[int]]] = {}
    position = count()
    for column in found:
        if flat or column.group is None:
            yield [next(position)], column
        else:
            if column.group not in groups:
                groups[column.group] = next(position), count()
            place, inner = groups[column.group]
            yield [place, next(inner)], column


def _column(column: Column, rows: int) -> Any:
    values = column.values
    try:
        if isinstance(values, Coded):
            return _coded(values, rows)
        if isinstance(values, np.ndarray):
            return _array(values)
        return _scalars(values)
    except (TypeError, ValueError) as error:
        raise NotAcceptable(
            f"field {column.full_name!r} cannot be written in Arrow: {error}; accept {Format.RECORDS.value}"
        ) from error


def _array(array: Array) -> Any:
    """An array with a row for each row: numbers, booleans or strings, or arrays of different shapes."""
    if array.dtype.kind in "OU":
        if array.ndim == 1 and len(array) and isinstance(array[0], np.ndarray):
            return _ragged(array.tolist())
        leaf = arrow.texts(array.ravel().tolist())
    else:
        leaf = arrow.numbers(array.ravel())
    # From the innermost lists to the outermost.
    for depth in range(array.ndim - 1, 0, -1):
        count = int(np.prod(array.shape[:depth]))
        leaf = arrow.lists(leaf, np.full(count, array.shape[depth], np.int64))
    return leaf


def _ragged(parts: Sequence[Array]) -> Any:
    """Rows of different shapes, but as many dimensions."""
    depth = parts[0].ndim
    if any(part.ndim != depth for part in parts):
        raise ValueError("its rows have different numbers of dimensions")
    if depth == 0:
        return _array(np.stack(parts))
    leaf = _array(np.concatenate([part.ravel() for part in parts]))
    for level in range(depth - 1, -1, -1):
        lengths = [
            np.full(int(np.prod(part.shape[:level])), part.shape[level], np.int64) for part in parts
        ]
        leaf = arrow.lists(leaf, np.concatenate(lengths))
    return leaf


def _scalars(values: Sequence[Any]) -> Any:
    """The values of a routing field: of one type where they are, else each as its JSON text."""
    kinds = {type(value) for value in values} - {type(None)}
    missing = np.fromiter((value is None for value in values), np.bool_, len(values))
    if not kinds:
        return arrow.nothing(len(values))
    if kinds == {bool}:
        column = arrow.numbers(np.array([value is True for value in values], np.bool_))
    elif kinds == {int} and all(value is None or value in _INT64 for value in values):
        column = arrow.numbers(np.array([value or 0 for value in values], np.int64))
    elif kinds == {float}:
        column = arrow.numbers(np.array([value or 0.0 for value in values], np.float64))
    elif kinds == {str}:
        return arrow.texts(values)
    else:
        return arrow.texts([None if v is None else json.dumps(v) for v in values])
    return arrow.optional(column, missing) if missing.any() else column


def _coded(coded: Coded, rows: int) -> Any:
    """Few different values in many rows."""
    choices = coded.choices
    match coded.kind:
        case Kind.TIME:
            return arrow.timestamps(choices[0], rows)
        case Kind.NOTHING:
            return arrow.nothing(rows)
        case Kind.TEXT:
            if coded.codes is None:
                return arrow.repeated(choices[0], rows)
            return arrow.texts(_spread(choices, coded, rows))
        case Kind.NUMBERS:
            values = np.tile(np.array(choices[0], np.int64), rows)
            return arrow.lists(arrow.numbers(values), np.full(rows, len(choices[0]), np.int64))
        case Kind.NAMES:
            steps = {step: [choice[step] for choice in choices] for step in choices[0]}
            return arrow.struct(
                [(step, arrow.texts(_spread(names, coded, rows))) for step, names in steps.items()],
                rows,
            )
        case Kind.TEXTS:
            if coded.codes is None:
                lengths = np.full(rows, len(choices[0]), np.int64)
                return arrow.lists(arrow.texts(list(choices[0]) * rows), lengths)
            return _lists_of_texts(_spread(choices, coded, rows))
        case Kind.DOCUMENTS:
            written = [[dumps(document).decode() for document in choice] for choice in choices]
            return _lists_of_texts(_spread(written, coded, rows))


def _spread(choices: Sequence[Any], coded: Coded, rows: int) -> Sequence[Any]:
    """The choice of each row."""
    if coded.codes is None:
        return [choices[0]] * rows
    return [choices[code] for code in coded.codes.tolist()]


def _lists_of_texts(values: Sequence[Sequence[str]]) -> Any:
    lengths = np.fromiter(map(len, values), np.int64, len(values))
    return arrow.lists(arrow.texts([text for value in values for text in value]), lengths)
