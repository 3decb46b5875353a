"""The layout of a foreign Arrow IPC body, looked at before anything of it is unpacked: rows, batches, declared sizes.

Arrow's own reader is safe against offsets that lead outside the body, but it believes a compressed buffer that says
how large it is. So this reads the metadata of each message (flatbuffers) by itself, with every position checked, and
adds up what the buffers would take. Guarantee: after it, reading the body takes memory in proportion to the limit. It
does not replace Arrow's validation.
"""

import struct
from collections.abc import Iterator

import numpy as np

from midstream_engine.errors import BadInput, BodyTooLarge
from midstream_engine.formats.columns import check_rows

MAGIC = b"ARROW1"

MAX_BATCHES = 10_000
"""Record batches and dictionaries of one request."""

_MAX_METADATA = 1 << 20
"""Bytes of one message's metadata, the schema's above all."""

_FILE_START = 8
_FILE_END = 4 + len(MAGIC)

_CONTINUATION = 0xFFFFFFFF

_SCHEMA, _DICTIONARY, _RECORDS = 1, 2, 3
"""Kinds of messages."""

_BLOCK = struct.Struct("<qi4xq")
"""Where a message of a file is: offset, bytes of metadata, bytes of body."""

_U8, _U16, _I32, _U32, _I64 = map(struct.Struct, ("<B", "<H", "<i", "<I", "<q"))


class BrokenLayoutError(Exception):
    """The body is not what it should be; the message says in what."""


def check_layout(body: bytes, *, file: bool, limit: int) -> None:
    """Raise BadInput for a body whose layout is broken, and BodyTooLarge for one that unpacks to more than `limit`.

    file: the IPC file format, else the stream format.
    """
    if not body:
        raise BadInput("the body is empty; send a table in Arrow's IPC format", reason="EmptyBody")
    rows = size = batches = 0
    try:
        for kind, batch_rows, batch_size in _file(body) if file else _stream(body):
            batches += 1
            size += batch_size
            if batches > MAX_BATCHES:
                raise BadInput(
                    f"the table has more than {MAX_BATCHES} record batches; join them, or send fewer",
                    reason="TooManyRows",
                )
            if size > limit:
                raise BodyTooLarge(
                    f"the table unpacks to {size} bytes or more; at most {limit} are taken: send fewer rows"
                )
            if kind == _RECORDS:
                rows += batch_rows
                check_rows(rows)
    except (BrokenLayoutError, struct.error) as error:
        what = "file" if file else "stream"
        raise BadInput(
            f"the body is not an Arrow IPC {what}: {error}{_hint(body, file=file)}",
            reason="NotArrow",
        ) from error


def _hint(body: bytes, *, file: bool) -> str:
    if body.startswith(MAGIC) and not file:
        return "; it looks like a file: send application/vnd.apache.arrow.file"
    if file and body[:4] == b"\xff\xff\xff\xff":
        return "; it looks like a stream: send application/vnd.apache.arrow.stream"
    return ""


def _file(body: bytes) -> Iterator[tuple[int, int, int]]:
    end = len(body) - _FILE_END
    if end < _FILE_START or not body.startswith(MAGIC) or not body.endswith(MAGIC):
        raise BrokenLayoutError("it does not begin and end with ARROW1")
    size = _read(_I32, body, end)
    if not 0 < size <= min(end - _FILE_START, 2 * _MAX_METADATA):
        raise BrokenLayoutError(f"its footer would have {size} bytes")
    footer = _Table.root(body[end - size : end])
    for field in (2, 3):  # dictionaries, record batches
        start, count = footer.vector(field, _BLOCK.size)
        for number in range(count):
            place, _, _ = _BLOCK.unpack_from(footer.data, start + number * _BLOCK.size)
            message = _message(body, place)
            if message is None:
                raise BrokenLayoutError("its footer points at the end of a stream")
            yield message[:3]


def _stream(body: bytes) -> Iterator[tuple[int, int, int]]:
    place = 0
    while place < len(body):
        message = _message(body, place)
        if message is None:
            return
        kind, rows, size, place = message
        if kind != _SCHEMA:
            yield kind, rows, size


def _message(body: bytes, place: int) -> tuple[int, int, int, int] | None:
    """Kind, rows, bytes when unpacked, and the place behind it; None for the end of a stream."""
    size = _read(_U32, body, place)
    place += 4
    if size == _CONTINUATION:
        size = _read(_U32, body, place)
        place += 4
    if size == 0:
        return None
    if size > _MAX_METADATA or place + size > len(body):
        raise BrokenLayoutError(f"at byte {place} there should be {size} bytes of metadata")
    root = _Table.root(body[place : place + size])
    place += size
    kind = root.number(_U8, 1)
    length = root.number(_I64, 3)
    if length < 0 or place + length > len(body):
        raise BrokenLayoutError(f"at byte {place} there should be {length} bytes of data")
    header = root.table(2)
    batch = header.table(1) if kind == _DICTIONARY and header is not None else header
    rows = unpacked = 0
    if kind in {_DICTIONARY, _RECORDS}:
        if batch is None:
            raise BrokenLayoutError("a message has no header")
        rows = batch.number(_I64, 0)
        if rows < 0:
            raise BrokenLayoutError(f"a record batch has {rows} rows")
        unpacked = _unpacked(batch, body, place, length)
    return kind, rows, unpacked, place + length


def _unpacked(batch: "_Table", body: bytes, place: int, length: int) -> int:
    """What the buffers of a record batch take when they are unpacked."""
    start, count = batch.vector(2, 16)
    buffers = np.frombuffer(batch.data, "<i8", 2 * count, start).reshape(-1, 2)
    if count and (
        buffers.min() < 0 or buffers.max() > length or buffers.sum(axis=1).max() > length
    ):
        raise BrokenLayoutError("a buffer lies outside its message")
    if batch.table(3) is None:  # compression
        return int(buffers[:, 1].sum())
    size = 0
    for offset, packed in buffers.tolist():
        if packed:
            declared = _read(_I64, body, place + offset)
            if packed < 8 or declared < -1:
                raise BrokenLayoutError("a compressed buffer does not say its size")
            size += packed - 8 if declared == -1 else declared
    return size


class _Table:
    """A table of a flatbuffer. Positions are checked; nothing that is found is believed."""

    __slots__ = ("_at", "_fields", "_vtable", "data")

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self._at = at
        self._vtable = at - _read(_I32, data, at)
        self._fields = (_read(_U16, data, self._vtable) - 4) // 2

    @classmethod
    def root(cls, data: bytes) -> "_Table":
        return cls(data, _read(_U32, data, 0))

    def number(self, kind: struct.Struct, field: int) -> int:
        """A number; 0 when it is left out."""
        at = self._place(field)
        return _read(kind, self.data, at) if at else 0

    def table(self, field: int) -> "_Table | None":
        at = self._place(field)
        return _Table(self.data, at + _read(_U32, self.data, at)) if at else None

    def vector(self, field: int, size: int) -> tuple[int, int]:
        """Position of the first element and number of elements, of `size` bytes each."""
        at = self._place(field)
        if not at:
            return 0, 0
        at += _read(_U32, self.data, at)
        count = _read(_U32, self.data, at)
        if at + 4 + count * size > len(self.data):
            raise BrokenLayoutError("a list reaches beyond its message")
        return at + 4, count

    def _place(self, field: int) -> int:
        """Position of a field's value; 0 when it is left out."""
        if field >= self._fields:
            return 0
        offset = _read(_U16, self.data, self._vtable + 4 + 2 * field)
        return self._at + offset if offset else 0


def _read(kind: struct.Struct, data: bytes, place: int) -> int:
    if place < 0:
        raise BrokenLayoutError("a position lies before its message")
    number: int = kind.unpack_from(data, place)[0]
    return number
