"""Arrow: foreign IPC bodies to numpy arrays without copies where that is possible, and arrays to IPC bodies; zstd.

The only door to pyarrow. Foreign bodies have their layout checked (`arrow_layout`) and are validated in full before a
value of theirs is looked at. numpy arrays are made from Arrow's buffers and the other way round, never with `to_numpy`
or `pyarrow.array`: those import pandas where it is installed, which costs a second and 60 MiB.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from midstream_engine.errors import BadInput, BodyTooLarge
from midstream_engine.formats.arrow_layout import check_layout
from midstream_engine.formats.values import SHOWN
from midstream_engine.schema import Array

Column = Any
"""An array of pyarrow."""

_DTYPES = {
    pa.from_numpy_dtype(np.dtype(name)).id: np.dtype(name)
    for name in (
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64"),
    )
}
_OFFSETS: dict[int, np.dtype[Any]] = {
    pa.string().id: np.dtype(np.int32),
    pa.large_string().id: np.dtype(np.int64),
    pa.list_(pa.null()).id: np.dtype(np.int32),
    pa.large_list(pa.null()).id: np.dtype(np.int64),
}
_STRINGS = frozenset({pa.string().id, pa.large_string().id})
_LISTS = frozenset({pa.list_(pa.null()).id, pa.large_list(pa.null()).id})
_FIXED_LIST = pa.list_(pa.null(), 1).id
_DICTIONARY = pa.dictionary(pa.int8(), pa.string()).id

_VIEW = pa.string_view().id
_BOOL = pa.bool_().id
_CHOICES = frozenset({*_DTYPES, *_STRINGS})
"""What a dictionary may hold."""
_LEAVES = frozenset({*_CHOICES, _VIEW, _BOOL, pa.null().id})
"""What is read: these, dictionaries, and lists of either."""

_DEEPEST = 32
"""Lists in lists, of which numpy can hold 64."""

_INLINE = 12
"""Bytes of a text that a view holds itself."""

_LARGE = 2**31
"""Offsets of 32 bits end here."""

_ONE_THREAD = pa.ipc.IpcReadOptions(use_threads=False)
_CHUNK = 1 << 20

_REFUSED = (pa.ArrowException, OSError, ValueError)
"""What pyarrow raises for a body that is not sound."""


@dataclass(frozen=True, slots=True)
class Cells:
    """A column of one record batch."""

    values: Array
    """(rows, ...); may be read-only and keep the body alive. Objects are `str` or None."""
    missing: "np.ndarray[Any, np.dtype[np.bool_]] | None"
    """Where there is a null, of the same shape; None when there is none."""
    type: str
    """Arrow's name of the type."""


def read_batches(body: bytes, *, file: bool, limit: int) -> tuple[list[str], list[Any]]:
    """Names of the columns, and the record batches that have rows. Raises BadInput and BodyTooLarge.

    limit: bytes that the body may have when it is unpacked.
    """
    check_layout(body, file=file, limit=limit)
    try:
        source = pa.py_buffer(body)
        if file:
            reader = pa.ipc.open_file(source, options=_ONE_THREAD)
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        else:
            reader = pa.ipc.open_stream(source, options=_ONE_THREAD)
            batches = list(reader)
        names = list(reader.schema.names)
        for batch in batches:
            batch.validate(full=True)
    except _REFUSED as error:
        said = " ".join(str(error).split())[:200]
        raise BadInput(f"the body is not a sound Arrow table: {said}", reason="NotArrow") from error
    return names, [batch for batch in batches if batch.num_rows]


def cells(batch: Any, position: int, name: str, first_row: int, limit: int) -> Cells:
    """A column of a batch as numpy. Raises BadInput, with rows counted from `first_row`, and BodyTooLarge.

    Lists need the same length in all rows.
    """
    said = _checked_type(batch.schema.field(position).type, name)
    column = batch.column(position)
    shape: list[int] = []
    while True:
        kind = column.type
        if _is_tensor(kind):
            _no_nulls(column, shape, name, first_row)
            shape += kind.shape
            column = _inner(column.storage, name, column.storage.type.list_size)
        elif kind.id == _FIXED_LIST:
            _no_nulls(column, shape, name, first_row)
            shape.append(kind.list_size)
            column = _inner(column, name, kind.list_size)
        elif kind.id in _LISTS:
            _no_nulls(column, shape, name, first_row)
            shape.append(_common_length(column, shape, name, first_row))
            column = _inner(column, name)
        else:
            break
    # What takes no bytes may claim any number of values, and booleans take an eighth of what they will.
    if math.prod(max(length, 1) for length in shape) * batch.num_rows > limit:
        raise BodyTooLarge(f"field {name[:SHOWN]!r} has more than {limit} values; send fewer rows")
    values, missing = _leaf(column, name, limit)
    values = values.reshape(batch.num_rows, *shape)
    return Cells(values, None if missing is None else missing.reshape(values.shape), said)


def _checked_type(kind: Any, name: str) -> str:
    """Arrow's name of a type that can be read. Raises BadInput for others, of which pyarrow cannot make all."""
    leaf = kind
    depth = 0
    while leaf.id in _LISTS or leaf.id == _FIXED_LIST or _is_tensor(leaf):
        depth += len(leaf.shape) if _is_tensor(leaf) else 1
        leaf = leaf.value_type
    if depth > _DEEPEST:
        raise BadInput(
            f"field {name[:SHOWN]!r} has lists nested {depth} deep; at most {_DEEPEST} are taken",
            reason="WrongShape",
            field=name[:SHOWN],
        )
    said = str(kind)[:SHOWN]
    known = _LEAVES
    if leaf.id == _DICTIONARY:
        leaf = leaf.value_type
        known = _CHOICES
    if leaf.id not in known:
        raise BadInput(
            f"field {name[:SHOWN]!r} is {said}; send numbers, booleans, strings, or lists of them",
            reason="WrongType",
            field=name[:SHOWN],
        )
    return said


def _is_tensor(kind: Any) -> bool:
    """Whether it is a tensor of fixed shape, with its dimensions in their order."""
    return isinstance(kind, pa.FixedShapeTensorType) and (
        kind.permutation is None or list(kind.permutation) == list(range(len(kind.shape)))
    )


def _inner(column: Column, name: str, size: int | None = None) -> Column:
    """What the lists of a column hold. size: of each, where that is fixed.

    Bounds are checked once more: Arrow's validation passes over the offsets of lists of which there are none, and its
    own way to flatten them ends the process.
    """
    if size is None:
        offsets = _offsets(column)
        start, end = int(offsets[0]), int(offsets[-1])
    else:
        start, end = column.offset * size, (column.offset + len(column)) * size
    values = column.values
    if not 0 <= start <= end <= len(values):
        raise BadInput(
            f"the body is not a sound Arrow table: lists of field {name[:SHOWN]!r} reach beyond their values",
            reason="NotArrow",
            field=name[:SHOWN],
        )
    return values.slice(start, end - start)


def _common_length(column: Column, shape: list[int], name: str, first_row: int) -> int:
    lengths = np.diff(_offsets(column))
    if not len(lengths):
        return 0
    length = int(lengths[0])
    other = lengths != length
    if other.any():
        place = int(other.argmax())
        row = first_row + place // math.prod(shape)
        raise BadInput(
            f"row {row}, field {name[:SHOWN]!r}: a list of {lengths[place]} after one of {length}; "
            "all rows of one request need the same shape",
            reason="RaggedRows",
            field=name[:SHOWN],
            row=row,
        )
    return length


def _no_nulls(column: Column, shape: list[int], name: str, first_row: int) -> None:
    if column.null_count:
        missing = _missing(column)
        assert missing is not None
        row = first_row + int(missing.argmax()) // math.prod(shape)
        raise BadInput(
            f"row {row}, field {name[:SHOWN]!r}: null in the place of a list",
            reason="MissingValue",
            field=name[:SHOWN],
            row=row,
        )


def _leaf(column: Column, name: str, limit: int) -> tuple[Array, Array | None]:
    """Flat values, and where they are null."""
    kind = column.type
    if kind.id in _DTYPES:
        return _numbers(column, _DTYPES[kind.id]), _missing(column)
    if kind.id == _BOOL:
        return _bits(column.buffers()[1], column.offset, len(column)), _missing(column)
    if kind.id in _STRINGS:
        return _texts(column), _missing(column)
    if kind.id == _VIEW:
        return _viewed(column, name, limit), _missing(column)
    if kind.id == _DICTIONARY:
        return _decoded(column, name, limit)
    return np.full(len(column), np.nan), np.ones(len(column), np.bool_)  # nulls without a type


def _numbers(column: Column, dtype: "np.dtype[Any]") -> Array:
    if not len(column):
        return np.zeros(0, dtype)
    values: Array = np.frombuffer(column.buffers()[1], dtype, column.offset + len(column))
    values = values[column.offset :]
    return values if values.flags.aligned else values.copy()


def _bits(buffer: Any, offset: int, count: int) -> Array:
    if not count:
        return np.zeros(0, np.bool_)
    packed = np.frombuffer(buffer, np.uint8)
    return np.unpackbits(packed, count=offset + count, bitorder="little")[offset:].view(np.bool_)


def _missing(column: Column) -> Array | None:
    if not column.null_count:
        return None
    return ~_bits(column.buffers()[0], column.offset, len(column))


def _offsets(column: Column) -> Array:
    dtype = _OFFSETS[column.type.id]
    if not len(column):
        return np.zeros(1, dtype)
    count = column.offset + len(column) + 1
    offsets: Array = np.frombuffer(column.buffers()[1], dtype, count)
    return offsets[column.offset :]


def _texts(column: Column) -> Array:
    offsets = _offsets(column)
    start, end = int(offsets[0]), int(offsets[-1])
    buffer = column.buffers()[2]
    data = b"" if start == end else buffer.slice(start, end - start).to_pybytes()
    bounds = (offsets - start).tolist()
    pairs = pairwise(bounds)
    texts = np.empty(len(column), object)
    if data.isascii():
        text = data.decode()
        texts[:] = [text[a:b] for a, b in pairs]
    else:
        texts[:] = [data[a:b].decode() for a, b in pairs]
    missing = _missing(column)
    if missing is not None:
        texts[missing] = None
    return texts


def _viewed(column: Column, name: str, limit: int) -> Array:
    """Views: a length, and up to 12 bytes of text, or a buffer's number and a place in it.

    Many may look at the same long text, which a model would get many times.
    """
    count = column.offset + len(column)
    _, views, *buffers = column.buffers()
    data = b"" if views is None else views.to_pybytes()
    table = np.frombuffer(data, np.int32, 4 * count).reshape(-1, 4)[column.offset :]
    missing = _missing(column)
    lengths = table[:, 0].astype(np.int64)
    _check_text(lengths if missing is None else lengths[~missing], name, limit)
    texts = np.empty(len(column), object)
    for row, (length, _, number, place) in enumerate(table.tolist()):
        if missing is not None and missing[row]:
            continue
        if length <= _INLINE:
            start = 16 * (column.offset + row) + 4
            texts[row] = data[start : start + length].decode()
        else:
            texts[row] = buffers[number].slice(place, length).to_pybytes().decode()
    return texts


def _decoded(column: Column, name: str, limit: int) -> tuple[Array, Array | None]:
    """Values of a dictionary; many rows may name the same long text, which a model would get many times."""
    codes, missing = _leaf(column.indices, name, limit)
    if missing is not None:
        codes = np.where(missing, 0, codes)
    choices = column.dictionary
    values, absent = _leaf(choices, name, limit)
    if not len(values):  # then all are missing
        values, absent = np.full(1, None, object), np.ones(1, np.bool_)
    if choices.type.id in _STRINGS:
        _check_text(np.diff(_offsets(choices), append=0)[codes], name, limit)
    found = values[codes]
    if absent is not None:
        missing = absent[codes] if missing is None else missing | absent[codes]
    if missing is not None and found.dtype.kind == "O":
        found[missing] = None
    return found, missing


def _check_text(lengths: Array, name: str, limit: int) -> None:
    if int(lengths.sum()) > limit:
        raise BodyTooLarge(
            f"the strings of field {name[:SHOWN]!r} unpack to more than {limit} bytes; send fewer rows"
        )


# Writing


def numbers(array: Array) -> Column:
    """One dimension of numbers or booleans. Raises TypeError for other types."""
    if array.dtype.kind == "b":
        bits = np.packbits(array, bitorder="little")
        return pa.Array.from_buffers(pa.bool_(), len(array), [None, pa.py_buffer(bits)])
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{array.dtype}")
    kind = pa.from_numpy_dtype(array.dtype)
    values = np.ascontiguousarray(array)
    return pa.Array.from_buffers(kind, len(array), [None, pa.py_buffer(values)])


def optional(column: Column, missing: Array) -> Column:
    """The same column with nulls; not of lists."""
    valid = pa.py_buffer(np.packbits(~missing, bitorder="little"))
    buffers = [valid, *column.buffers()[1:]]
    return pa.Array.from_buffers(column.type, len(column), buffers)


def timestamps(milliseconds: int, rows: int) -> Column:
    """The same time in all rows."""
    values = pa.py_buffer(np.full(rows, milliseconds, np.int64))
    return pa.Array.from_buffers(pa.timestamp("ms"), rows, [None, values])


def texts(values: Sequence[str | None]) -> Column:
    """Strings and nulls. Raises TypeError for other values."""
    encoded = [b"" if value is None else _utf8(value) for value in values]
    sizes = np.fromiter(map(len, encoded), np.int64, len(encoded))
    column = _text(b"".join(encoded), sizes)
    if None not in values:
        return column
    return optional(column, np.fromiter((v is None for v in values), np.bool_, len(values)))


def repeated(value: str, rows: int) -> Column:
    """The same string in all rows."""
    data = value.encode()
    return _text(data * rows, np.full(rows, len(data), np.int64))


def _utf8(value: object) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"a {type(value).__name__} among strings")
    return value.encode()


def _text(data: bytes, sizes: Array) -> Column:
    offsets, large = _starts(sizes)
    kind = pa.large_string() if large else pa.string()
    return pa.Array.from_buffers(kind, len(sizes), [None, offsets, pa.py_buffer(data)])


def lists(values: Column, lengths: Array) -> Column:
    """Lists of these lengths, cut from the values one after the other."""
    offsets, large = _starts(lengths)
    kind = pa.large_list(values.type) if large else pa.list_(values.type)
    return pa.Array.from_buffers(kind, len(lengths), [None, offsets], children=[values])


def _starts(lengths: Array) -> tuple[Any, bool]:
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    large = bool(starts[-1] >= _LARGE)
    return pa.py_buffer(starts if large else starts.astype(np.int32)), large


def struct(columns: Sequence[tuple[str, Column]], rows: int) -> Column:
    """Columns nested in one."""
    kind = pa.struct([(name, column.type) for name, column in columns])
    return pa.Array.from_buffers(kind, rows, [None], children=[column for _, column in columns])


def nothing(rows: int) -> Column:
    """A column of nulls without a type."""
    return pa.nulls(rows)


def write(columns: Sequence[tuple[str, Column]], *, file: bool) -> bytes:
    """A table of one record batch in the IPC file format, else in the stream format."""
    schema = pa.schema([(name, column.type) for name, column in columns])
    batch = pa.RecordBatch.from_arrays([column for _, column in columns], schema=schema)
    sink = pa.BufferOutputStream()
    with (pa.ipc.new_file if file else pa.ipc.new_stream)(sink, schema) as writer:
        writer.write_batch(batch)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def places(body: bytes, paths: Sequence[Sequence[int]], *, file: bool) -> list[tuple[int, int]]:
    """Where in a body that `write` has made the numbers of some columns begin and end, in bytes.

    paths: the position of a column, and of each struct's child on the way to it. Only for columns of numbers, booleans
    and times, and lists of them.
    """
    source = pa.py_buffer(body)
    if file:
        batch = pa.ipc.open_file(source, options=_ONE_THREAD).get_batch(0)
    else:
        batch = pa.ipc.open_stream(source, options=_ONE_THREAD).read_next_batch()
    found = []
    for position, *inner in paths:
        column = batch.column(position)
        for place in inner:
            column = column.field(place)
        while column.type.id in _LISTS:
            column = column.values
        buffer = column.buffers()[1]
        start = buffer.address - source.address
        found.append((start, start + buffer.size))
    return found


# zstd, which Arrow brings


def zstd_pack(body: bytes) -> bytes:
    packed: bytes = pa.Codec("zstd", 1).compress(body, asbytes=True)
    return packed


def zstd_unpack(body: bytes, limit: int) -> bytes | None:
    """The bytes in a zstd body; None when there are more than `limit`. Raises ValueError."""
    parts = []
    size = 0
    try:
        with pa.CompressedInputStream(pa.BufferReader(body), "zstd") as stream:
            while part := stream.read(min(_CHUNK, limit + 1 - size)):
                parts.append(part)
                size += len(part)
                if size > limit:
                    return None
    except _REFUSED as error:
        raise ValueError(" ".join(str(error).split())[:200]) from error
    return b"".join(parts)
