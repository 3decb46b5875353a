"""pandas-records JSON in and out: `[{"tensor": [4.0, 2.5]}]`. The only door to orjson.

Reading is strict: a request that does not fit is refused with the field, the row and what would be right. The usual
request takes a fast way (one parse, one array, a few checks on it); only when that way meets something unexpected
is the body looked at value by value, to say what is wrong.

The answer echoes each row as it was sent; `docs/formats.md` has its format.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import numpy as np
import orjson

from midstream_engine.errors import BadInput
from midstream_engine.schema import Array, Field, list_fields, shape_text

# A number too large for its type becomes infinite and is then refused with its place; numpy's own warning adds nothing.
np.seterr(over="ignore", invalid="ignore")

MAX_ROWS = 100_000
"""Rows in one request."""

_SHOWN = 60
"""Characters of a foreign value shown in a message."""

_DIMENSIONS_SHOWN = 8

_TYPES: dict[str, frozenset[type]] = {
    "f": frozenset({float, int, type(None)}),
    "i": frozenset({int, float}),
    "u": frozenset({int, float}),
    "b": frozenset({bool}),
}
"""What a body may hold for each kind of field; numpy by itself takes "1" and true for numbers."""

_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
"""First bytes of gzip and zstd."""

_EXACT = 2**53
"""Beyond it a number that went through a float may have changed."""

_ROW = re.compile(rb"\{[^{}]*\}")


class Reader:
    """Turns request bodies into one array for each input field. Made once for each revision."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = tuple(fields)
        self._names = frozenset(field.name for field in fields)
        self._only = self.fields[0] if len(self.fields) == 1 else None
        self._raw_echo = not any(set(name) & set('{}"\\') for name in self._names)

    def read(self, body: bytes) -> tuple[dict[str, Array], int, Sequence[bytes]]:
        """Arrays by field name, the number of rows, and each row's own JSON text.

        Each array has the field's dtype and the shape (rows, *field.shape). Raises BadInput.
        """
        clean = True
        try:
            rows = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            rows = _parse_leniently(body, error)
            clean = False
        if type(rows) is not list:
            raise BadInput(
                f"the body is {_kind(rows)}; send a list of rows: {self._example()}",
                reason="NotRecords",
            )
        count = len(rows)
        if count == 0:
            raise BadInput(
                f"the body has no rows; send at least one: {self._example()}", reason="NoRows"
            )
        if count > MAX_ROWS:
            raise BadInput(
                f"the body has {count} rows; at most {MAX_ROWS} fit in one request",
                reason="TooManyRows",
            )
        # Exactly the quotes that the names need: no strings, no repeated names. So braces only part rows.
        exact = clean and body.count(b'"') == 2 * count * len(self._names)
        # No `true` and no `false` either: nothing but numbers, null and brackets. Then numpy may convert at once;
        # otherwise it would silently take "1" and true for 1.0.
        plain = exact and not _has_booleans(body)
        arrays: dict[str, Array] = {}
        only = self._only
        for field in self.fields:
            name = field.name
            try:
                column = [row[name] for row in rows]
            except (KeyError, TypeError):
                self._refuse_names(rows)
                raise
            arrays[name] = self._array(field, column, plain)
        width = len(self._names)
        if only is not None and count == 1:
            if len(rows[0]) != 1:
                self._refuse_names(rows)
        elif any(len(row) != width for row in rows):
            self._refuse_names(rows)
        return arrays, count, self._echo(body, rows, exact)

    def _array(self, field: Field, column: list[Any], plain: bool) -> Array:
        wanted = field.numpy_dtype
        kind = wanted.kind
        try:
            if not plain:
                _require(column, _TYPES[kind])
            array = np.array(column, dtype=wanted) if kind == "f" else np.array(column)
        except (ValueError, TypeError, OverflowError, RecursionError):
            self._refuse_values(field, column)
        shape = array.shape[1:]
        if shape != field.shape and not field.accepts(shape):
            if shape != () or not field.accepts((1,)):
                self._refuse_values(field, column)
            array = array.reshape(-1, 1)
        if kind == "f":
            if not np.isfinite(array).all() and not (
                field.allow_missing and not np.isinf(array).any()
            ):
                self._refuse_values(field, column)
            return array
        if kind == "b":
            if array.dtype.kind != "b" and array.size:
                self._refuse_values(field, column)
            return array.astype(np.bool_, copy=False)
        return self._integers(field, column, array)

    def _integers(self, field: Field, column: list[Any], array: Array) -> Array:
        """Whole numbers in range, also when written as 3.0."""
        limits = np.iinfo(field.dtype)
        if array.size and array.dtype.kind not in "iu":
            # Floats among them, which numpy would round beyond 2**53; or nulls.
            self._explain(field, column)
            array = np.array(column, dtype=field.numpy_dtype).reshape(array.shape)
        elif array.size and (array.min() < limits.min or array.max() > limits.max):
            self._refuse_values(field, column)
        return array.astype(field.numpy_dtype, copy=False)

    def _echo(self, body: bytes, rows: list[Any], exact: bool) -> Sequence[bytes]:
        """Each row as it was sent, cut out of the body where that is certain to be right."""
        if exact:
            text = body.strip()[1:-1].strip()
            if len(rows) == 1:
                return (text,)
            if self._raw_echo:
                end = text.find(b"}")
                between = b"},{" if text[end : end + 3] == b"},{" else b"}, {"
                parts = text[1:-1].split(between)
                if len(parts) == len(rows):
                    return [b"{%b}" % part for part in parts]
                return _ROW.findall(text)
        return [orjson.dumps(row) for row in rows]

    def _refuse_names(self, rows: list[Any]) -> None:
        """Raise BadInput for the first row that has not exactly the pipeline's fields."""
        for number, row in enumerate(rows):
            if not isinstance(row, dict):
                raise BadInput(
                    f"row {number} is {_kind(row)}; a row is an object: {self._example()}",
                    reason="NotRecords",
                    row=number,
                )
            missing = [name for name in (f.name for f in self.fields) if name not in row]
            unknown = [name for name in row if name not in self._names]
            if missing or unknown:
                said = []
                if missing:
                    said.append(f"misses {_names(missing)}")
                if unknown:
                    said.append(f"has the unknown {_names(unknown)}")
                raise BadInput(
                    f"row {number} {' and '.join(said)}; expected fields: {list_fields(self.fields)}",
                    reason="WrongFields",
                    field=(missing or unknown)[0][:_SHOWN],
                    row=number,
                )

    def _refuse_values(self, field: Field, column: list[Any]) -> NoReturn:
        """Raise BadInput for a column that does not become one array of the field."""
        self._explain(field, column)
        shapes = [_shape(value) or () for value in column]
        row = next((n for n, shape in enumerate(shapes) if shape != shapes[0]), 0)
        raise BadInput(
            f"row {row}, field {field.name!r}: {_shape_said(shapes[row])} after {_shape_said(shapes[0])} in row 0; "
            "all rows of one request need the same shape",
            reason="RaggedRows",
            field=field.name,
            row=row,
        )

    def _explain(self, field: Field, column: list[Any]) -> None:
        """Raise BadInput for the first value of a column that does not fit the field."""
        for number, value in enumerate(column):
            self._explain_shape(field, number, value)
            for index, item in _leaves(value):
                self._explain_value(field, number, index, item)

    def _explain_shape(self, field: Field, row: int, value: Any) -> None:
        shape = _shape(value)
        if shape is None:
            raise BadInput(
                f"row {row}, field {field.name!r}: ragged list (its parts have different lengths); "
                f"expected {field.dtype}{shape_text(field.shape)}",
                reason="RaggedRows",
                field=field.name,
                row=row,
            )
        if not field.accepts(shape) and not (shape == () and field.accepts((1,))):
            if shape == () and not isinstance(value, (int, float)):
                return  # a string or null where a list belongs: said better by its value
            raise BadInput(
                f"row {row}, field {field.name!r}: wrong shape, expected {_shape_said(field.shape)}, "
                f"got {_shape_said(shape)}",
                reason="WrongShape",
                field=field.name,
                row=row,
            )

    def _explain_value(self, field: Field, row: int, index: str, item: Any) -> None:
        found = _value_problem(field, item)
        if found is not None:
            reason, said = found
            raise BadInput(
                f"row {row}, field {field.name!r}{index}: {said}",
                reason=reason,
                field=field.name,
                row=row,
            )

    def _example(self) -> str:
        field = self.fields[0]
        return f'[{{"{field.name}": …}}] with the fields {list_fields(self.fields)}'


class Writer:
    """Turns output arrays into answer bodies. Made once for each revision.

    One object for each row: time, in, out, anomaly, metadata. Floats have the shortest text that
    parses back to the same float32.
    """

    def __init__(
        self,
        outputs: Sequence[Field],
        *,
        last_model: str,
        last_sha256: str,
        version: str,
        partition: str,
    ) -> None:
        self.names = tuple(field.name for field in outputs)
        self._keys = tuple(orjson.dumps(name) + b":" for name in self.names)
        model = orjson.dumps({"model_name": last_model, "model_sha": last_sha256}).decode()
        self._before_elapsed = (
            b',"anomaly":{"count":0},"metadata":{"last_model":%b,"pipeline_version":%b,"elapsed":['
            % (orjson.dumps(model), orjson.dumps(version))
        )
        self._after_elapsed = b'],"dropped":[],"partition":%b}}' % orjson.dumps(partition)

    def write(
        self, outputs: Sequence[Array], echo: Sequence[bytes], time_ms: int, elapsed: Sequence[int]
    ) -> bytes:
        """The body of the answer.

        outputs: one array for each output field, each with as many rows as `echo` has. time_ms: of the answer, since
        the epoch. elapsed: nanoseconds, first of reading the request, then of each step.
        """
        tail = b"%b%b%b" % (
            self._before_elapsed,
            ",".join(map(str, elapsed)).encode(),
            self._after_elapsed,
        )
        head = b'{"time":%d,"in":' % time_ms
        columns = [self._column(array, len(echo)) for array in outputs]
        if len(columns) == 1:
            key = self._keys[0]
            rows = [
                b'%b,"out":{%b%b}' % (sent, key, out)
                for sent, out in zip(echo, columns[0], strict=True)
            ]
        else:
            rows = [
                b'%b,"out":{%b}'
                % (sent, b",".join([k + v for k, v in zip(self._keys, values, strict=True)]))
                for sent, *values in zip(echo, *columns, strict=True)
            ]
        return b"[%b%b%b]" % (head, (tail + b"," + head).join(rows), tail)

    def _column(self, array: Array, rows: int) -> Sequence[bytes]:
        """Each row's JSON text."""
        if not array.flags.c_contiguous:
            array = np.ascontiguousarray(array)
        text = orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
        if rows == 1:
            return (text[1:-1],)
        if array.ndim == 1:
            return text[1:-1].split(b",")
        if array.ndim == 2 and array.shape[1]:
            return [b"[%b]" % part for part in text[2:-2].split(b"],[")]
        return [orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) for row in array]


def dumps(value: Any) -> bytes:
    """JSON of reports and errors."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _parse_leniently(body: bytes, error: orjson.JSONDecodeError) -> Any:
    """Parse a body with NaN or Infinity in it, which JSON forbids and pandas writes; refuse all else."""
    if not body.strip():
        raise BadInput("the body is empty; send a list of rows as JSON", reason="EmptyBody")
    if b"NaN" in body or b"Infinity" in body:
        try:
            rows = json.loads(body.decode(), parse_int=_int_as_orjson)
            # What cannot be written again (lone surrogates, deep nesting) cannot be echoed or put into a message.
            orjson.dumps(rows)
        except (ValueError, TypeError, RecursionError):
            pass  # refused below, with orjson's word on where
        else:
            return rows
    hint = "; it looks compressed: send it as it is" if body.startswith(_COMPRESSED) else ""
    raise BadInput(
        f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}{hint}",
        reason="NotJSON",
    ) from error


def _int_as_orjson(text: str) -> int | float:
    """Whole numbers beyond 64 bits become floats."""
    number = float(text)
    return int(text) if abs(number) < 2.0**63 else number


def _has_booleans(body: bytes) -> bool:
    # Looking for one letter is a hundred times faster than looking for a word, and mostly enough.
    return (b"u" in body or b"l" in body) and (b"true" in body or b"false" in body)


def _leaves(value: Any, index: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested lists with their index as text. Only for lists that have a shape that was asked for."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{index}[{number}]")
    else:
        yield index, value


def _shape(value: Any) -> tuple[int, ...] | None:
    """The shape of nested lists; None when they are ragged. Any depth: a foreign body decides it."""
    shape: list[int] = []
    level = [value]
    while level:
        lists = sum(isinstance(item, list) for item in level)
        if not lists:
            break
        lengths = {len(item) for item in level if isinstance(item, list)}
        if lists != len(level) or len(lengths) != 1:
            return None
        shape += lengths
        level = [item for part in level for item in part]
    return tuple(shape)


def _shape_said(shape: Sequence[int | None]) -> str:
    if len(shape) > _DIMENSIONS_SHOWN:
        return f"lists nested {len(shape)} deep"
    return shape_text(shape) or "a single value"


def _require(values: list[Any], types: frozenset[type]) -> None:
    """Raise TypeError unless there is nothing but these types in nested lists."""
    for value in values:
        kind = type(value)
        if kind is list:
            _require(value, types)
        elif kind not in types:
            raise TypeError


def _value_problem(field: Field, item: Any) -> tuple[str, str] | None:
    """Reason and sentence on a single value that does not fit the field; None when it does."""
    kind = field.numpy_dtype.kind
    if item is None or (isinstance(item, float) and math.isnan(item)):
        if field.allow_missing and kind == "f":
            return None
        shown = "null" if item is None else "NaN"
        mend = (
            "; set `missing: Allow` on this input to hand it to the model as NaN"
            if kind == "f"
            else ""
        )
        return "MissingValue", f"{shown} is not a value of {field.dtype}{mend}"
    if kind == "b":
        if isinstance(item, bool):
            return None
        return "WrongType", f"expected true or false, got {_show(item)}"
    if isinstance(item, bool) or not isinstance(item, (int, float)):
        return "WrongType", f"expected a number ({field.dtype}), got {_show(item)}"
    if math.isinf(item):
        return "NotFinite", "Infinity is not a finite number"
    if kind in "iu":
        return _integer_problem(field, item)
    if abs(item) > float(np.finfo(field.dtype).max):
        return "OutOfRange", f"{_show(item)} does not fit in {field.dtype}"
    return None


def _integer_problem(field: Field, item: float) -> tuple[str, str] | None:
    limits = np.iinfo(field.dtype)
    if item != int(item):
        return "WrongType", f"expected a whole number ({field.dtype}), got {_show(item)}"
    if not limits.min <= item <= limits.max:
        return "OutOfRange", f"{_show(item)} does not fit in {field.dtype}"
    if isinstance(item, float) and abs(item) > _EXACT:
        return (
            "OutOfRange",
            f"{_show(item)} is too large to be exact; write all its digits, without a point",
        )
    return None


def _kind(value: Any) -> str:
    for kind, said in (
        (bool, "a boolean"),
        (dict, "an object"),
        (list, "a list"),
        (str, "a string"),
        ((int, float), "a number"),
    ):
        if isinstance(value, kind):
            return said
    return "null"


def _show(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return _kind(value)
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:_SHOWN]) for name in names[:5])
    return (
        f"field {shown}" if len(names) == 1 else f"fields {shown}{', …' if len(names) > 5 else ''}"
    )
