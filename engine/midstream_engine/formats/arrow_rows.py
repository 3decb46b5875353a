"""Requests in Arrow IPC: record batches with a column for each field, as a file or as a stream.

As strict as rows in JSON are: exactly the pipeline's fields. A column may be of another type than the field where each
value stays what it is: any number for a float, as JSON's numbers are; whole numbers in range for an integer.
A body that differs in its numbers only from one that was sound is sound, too: that is seen by comparing the rest.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from midstream_engine.batch import Batch
from midstream_engine.errors import BadInput
from midstream_engine.formats.arrow import Cells, cells, read_batches
from midstream_engine.formats.arrow_casts import Cast, Columns, cast_of
from midstream_engine.formats.columns import check_names
from midstream_engine.formats.mould import Shelf
from midstream_engine.formats.open_rows import MAX_FIELDS
from midstream_engine.formats.values import SHOWN, shape_said, value_problem
from midstream_engine.schema import Array, Field, shape_text
from midstream_engine.split import keys_of

_FITTING = {"f": "fiu", "i": "iu", "u": "iu", "b": "b", "O": "O"}
"""Kinds of columns that each kind of field takes."""

_PANDAS_INDEX = "__index_level_"


class ArrowReader:
    """Turns request bodies into batches. Made once for each revision."""

    def __init__(
        self,
        fields: Sequence[Field] | None,
        keys: Sequence[str] = (),
        *,
        file: bool,
        as_sent: bool = False,
    ) -> None:
        """Read for these inputs; None takes any, with the columns' own types.

        keys: names of fields that only splits look at, which may be left out. file: the file format, else the stream.
        as_sent: give the fields in the order of the columns, otherwise as in `fields`.
        """
        self.fields = None if fields is None else tuple(fields)
        names = {field.name for field in self.fields or ()}
        self.keys = tuple(dict.fromkeys(key for key in keys if key not in names))
        self._file = file
        self._as_sent = as_sent
        self.moulds: Shelf[tuple[int, int], Cast] = Shelf()

    def read(self, body: bytes, limit: int) -> Batch:
        """The rows of a body. Raises BadInput and BodyTooLarge.

        limit: bytes that the body may have when it is unpacked. The arrays may be read-only and keep the body alive.
        """
        # A body of the same size is likely to be of the same columns.
        key = len(body), limit
        cast = self.moulds.get(key)
        if cast is not None:
            if cast.mould.fits(body):
                return self._batch(cast.names, cast.table(body), cast.rows)
            self.moulds.drop(key)
        names, rows, table = self._table(body, limit)
        batch = self._batch(names, table, rows)
        if self.moulds.wants(key):
            cast = cast_of(
                body, names, rows, table.seen, lambda other: self._table(other, limit)[2]
            )
            if cast is not None:
                self.moulds.put(key, cast, cast.mould.kept)
        return batch

    def _table(self, body: bytes, limit: int) -> "tuple[list[str], int, _Table]":
        """Names of the columns, the number of rows, and all columns of a body that is validated in full."""
        names, batches = read_batches(body, file=self._file, limit=limit)
        self._check_names(names)
        rows = sum(batch.num_rows for batch in batches)
        if not rows:
            raise BadInput("the table has no rows; send at least one", reason="NoRows")
        return names, rows, _Table(names, batches, limit)

    def _batch(self, names: list[str], table: Columns, rows: int) -> Batch:
        if self.fields is None:
            arrays = {name: _open(name, table.column(name)) for name in names}
        else:
            arrays = {field.name: _fit(field, table.column(field.name)) for field in self.fields}
            if self._as_sent:
                arrays = {name: arrays[name] for name in names if name in arrays}
        keys = {
            key: _routing(key, table.column(key)) if key in names else [None] * rows
            for key in self.keys
        }
        return Batch(arrays, rows, None, keys)

    def _check_names(self, names: list[str]) -> None:
        if not 0 < len(names) <= MAX_FIELDS:
            raise BadInput(
                f"the table has {len(names)} columns; it needs one for each field, and at most {MAX_FIELDS}",
                reason="WrongFields",
            )
        if len(set(names)) != len(names):
            twice = next(name for place, name in enumerate(names) if name in names[:place])
            raise BadInput(
                f"the table has two columns {twice[:SHOWN]!r}",
                reason="WrongFields",
                field=twice[:SHOWN],
            )
        if self.fields is None:
            return
        index = next((name for name in names if name.startswith(_PANDAS_INDEX)), None)
        if index is not None and all(field.name != index for field in self.fields):
            raise BadInput(
                f"the table has the column {index[:SHOWN]!r}, which is pandas' index; "
                "write it without, for example with preserve_index=False",
                reason="WrongFields",
                field=index[:SHOWN],
            )
        check_names(self.fields, self.keys, names, "the table")


class _Table:
    """Columns of all record batches."""

    def __init__(self, names: Sequence[str], batches: Sequence[Any], limit: int) -> None:
        self._places = {name: place for place, name in enumerate(names)}
        self._batches = batches
        self._limit = limit
        self.seen: dict[str, Cells] = {}
        """Columns that were asked for."""

    def column(self, name: str) -> Cells:
        """All rows of a column. Raises BadInput and BodyTooLarge."""
        found = self.seen[name] = self._joined(name)
        return found

    def _joined(self, name: str) -> Cells:
        place = self._places[name]
        parts: list[Cells] = []
        row = 0
        for batch in self._batches:
            part = cells(batch, place, name, row, self._limit)
            shape = part.values.shape[1:]
            if parts and shape != parts[0].values.shape[1:]:
                raise BadInput(
                    f"row {row}, field {name[:SHOWN]!r}: {shape_said(shape)} after "
                    f"{shape_said(parts[0].values.shape[1:])} in row 0; all rows of one request need the same shape",
                    reason="RaggedRows",
                    field=name[:SHOWN],
                    row=row,
                )
            parts.append(part)
            row += len(part.values)
        if len(parts) == 1:
            return parts[0]
        missing = None
        if any(part.missing is not None for part in parts):
            missing = np.concatenate(
                [
                    np.zeros(part.values.shape, np.bool_) if part.missing is None else part.missing
                    for part in parts
                ]
            )
        return Cells(np.concatenate([part.values for part in parts]), missing, parts[0].type)


def _fit(field: Field, column: Cells) -> Array:
    """The column as an array of the field. Raises BadInput."""
    values, missing = _shaped(field, column)
    if not values.size:
        # Of lists without anything in them the type may not be known, and nothing can be missing.
        return values.astype(field.numpy_dtype)
    if missing is not None:
        if not (field.allow_missing and field.numpy_dtype.kind == "f"):
            raise _refusal(field, missing, None)
        values = np.where(missing, np.nan, values.astype(field.numpy_dtype))
    match field.numpy_dtype.kind:
        case "f":
            return _floats(field, values)
        case "i" | "u":
            return _integers(field, values)
        case _:
            return values


def _shaped(field: Field, column: Cells) -> tuple[Array, Array | None]:
    """Values and nulls of a column of a type and a shape that the field takes."""
    values, missing = column.values, column.missing
    untyped = missing is not None and values.dtype.kind == "f" and bool(missing.all())
    if values.dtype.kind not in _FITTING[field.numpy_dtype.kind] and not untyped:
        raise BadInput(
            f"field {field.name!r}: expected {field.dtype}{shape_text(field.shape)}, the column is {column.type}",
            reason="WrongType",
            field=field.name,
        )
    shape = values.shape[1:]
    if field.accepts(shape):
        return values, missing
    if shape != () or not field.accepts((1,)):
        raise BadInput(
            f"row 0, field {field.name!r}: wrong shape, expected {shape_said(field.shape)}, got {shape_said(shape)}",
            reason="WrongShape",
            field=field.name,
            row=0,
        )
    return values.reshape(-1, 1), None if missing is None else missing.reshape(-1, 1)


def _floats(field: Field, values: Array) -> Array:
    fitted = values.astype(field.numpy_dtype, copy=False)
    good = np.isfinite(fitted)
    if field.allow_missing:
        good |= np.isnan(values)
    if not good.all():
        raise _refusal(field, ~good, values)
    return fitted


def _integers(field: Field, values: Array) -> Array:
    limits = np.iinfo(field.dtype)
    if values.dtype == field.numpy_dtype or not values.size:
        return values.astype(field.numpy_dtype, copy=False)
    if not (limits.min <= int(values.min()) and int(values.max()) <= limits.max):
        bad = [not limits.min <= item <= limits.max for item in values.ravel().tolist()]
        raise _refusal(field, np.array(bad).reshape(values.shape), values)
    return values.astype(field.numpy_dtype)


def _refusal(field: Field, bad: Array, values: Array | None) -> BadInput:
    """The first value that does not fit. values: None when it is null."""
    place = np.unravel_index(int(bad.argmax()), bad.shape)
    item = None if values is None else values[place].item()
    reason, said = value_problem(field, item) or ("BadInput", "does not fit")
    index = "".join(f"[{number}]" for number in place[1:])
    row = int(place[0])
    return BadInput(
        f"row {row}, field {field.name!r}{index}: {said}", reason=reason, field=field.name, row=row
    )


def _open(name: str, column: Cells) -> Array:
    """The column with its own type; nulls are NaN among numbers and None among strings. Raises BadInput."""
    values, missing = column.values, column.missing
    if missing is None or values.dtype.kind == "O":
        return values
    if values.dtype.kind == "b":
        row = int(np.argwhere(missing)[0][0])
        raise BadInput(
            f"row {row}, field {name[:SHOWN]!r}: null is not a boolean; "
            "send numbers or strings where a value may be missing",
            reason="MissingValue",
            field=name[:SHOWN],
            row=row,
        )
    floats = values.dtype if values.dtype.kind == "f" else np.dtype(np.float64)
    return np.where(missing, np.nan, values).astype(floats)


def _routing(name: str, column: Cells) -> list[Any]:
    """The values of a field that only a split looks at; None for null and NaN. Raises BadInput."""
    if column.values.ndim != 1:
        raise BadInput(
            f"row 0, field {name!r}: expected a single value for a split to choose by, "
            f"the column is {column.type}",
            reason="WrongType",
            field=name,
            row=0,
        )
    found = keys_of(column.values)
    if column.missing is not None:
        found = [
            None if gone else value
            for value, gone in zip(found, column.missing.tolist(), strict=True)
        ]
    return [None if value != value else value for value in found]  # noqa: PLR0124 - NaN
