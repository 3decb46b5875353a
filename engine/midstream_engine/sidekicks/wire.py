"""Frames between an engine and a worker: a JSON header and raw arrays. No pickle, on either side.

    16 bytes   magic, length of the header, length of the buffers
    header     a JSON object; its "arrays" say what the buffers hold, in their order
    buffers    little-endian, each padded to 16 bytes

A `string` array is one UTF-8 text and the length of each value. A ragged array, whose rows have different shapes, is
the shapes of its rows and one flat array. Guarantees: decoding runs nothing that a frame contains and never reads
beyond it; a frame that is larger than the reader allows is refused by its first 16 bytes.

The standard library and numpy only: a worker starts with this module.
"""

import json
import math
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Header = dict[str, Any]
Parts = list[bytes | memoryview]

MAX_BYTES = 64 << 20
"""Of one frame, unless its reader says otherwise."""

ANY_SIZE = 1 << 40

MAX_HEADER_BYTES = 1 << 20

PREFIX_BYTES = 16
_PREFIX = struct.Struct("<4sIQ")
_MAGIC = b"MSK1"
_ALIGN = 16
_MAX_RANK = 32

NUMBERS: dict[str, np.dtype[Any]] = {
    name: np.dtype(name).newbyteorder("<")
    for name in (
        *("bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64"),
        *("uint8", "uint16", "uint32", "uint64"),
    )
}
"""The element types beside `string`, as they travel."""

_LENGTHS = np.dtype("<i4")
_SHAPES = np.dtype("<i8")
_NONE = -1
"""Length of a value that is None."""


class FrameError(Exception):
    """The bytes are no frame, or the arrays cannot be one."""


class FrameTooLargeError(FrameError):
    """More bytes than the reader takes."""


# Writing


def encode(header: Header, arrays: Mapping[str, Array], limit: int = MAX_BYTES) -> Parts:
    """The parts of one frame, in their order. Arrays are not copied where they are as they travel.

    arrays: any shape; numbers, bool, objects that are `str` (or None), or rows that are such arrays. Raises
    FrameError, and FrameTooLargeError for more than `limit` bytes.
    """
    described: list[Header] = []
    buffers: Parts = []
    for name, array in arrays.items():
        described.append({"name": name, **_describe(name, np.asarray(array), buffers)})
    padded: Parts = []
    size = 0
    for buffer in buffers:
        padded.append(buffer)
        size += len(buffer)
        if gap := -size % _ALIGN:
            padded.append(bytes(gap))
            size += gap
    try:
        text = json.dumps(
            {**header, "arrays": described}, ensure_ascii=False, separators=(",", ":")
        ).encode()
    except UnicodeEncodeError as error:
        raise FrameError(f"a name is not Unicode text: {error}") from error
    # Spaces after the header bring the buffers to where arrays like to begin.
    text += b" " * (-len(text) % _ALIGN)
    if len(text) > MAX_HEADER_BYTES:
        raise FrameTooLargeError(f"{len(arrays)} arrays, too many to name in one message")
    total = PREFIX_BYTES + len(text) + size
    if total > limit:
        raise FrameTooLargeError(f"{total} bytes, at most {limit} can be sent")
    return [_PREFIX.pack(_MAGIC, len(text), size), text, *padded]


def _describe(name: str, array: Array, buffers: Parts) -> Header:
    if array.dtype != object:
        kind = array.dtype.name
        if kind not in NUMBERS:
            raise FrameError(f"{name!r} has the type {array.dtype}")
        buffers.append(_bytes_of(array.astype(NUMBERS[kind], copy=False)))
        return {"dtype": kind, "shape": array.shape}
    flat = array.reshape(-1).tolist()
    if any(isinstance(value, np.ndarray) for value in flat):
        return _describe_ragged(name, array, buffers)
    return {"shape": array.shape, **_describe_text(name, flat, buffers)}


def _describe_text(name: str, values: Sequence[Any], buffers: Parts) -> Header:
    try:
        lengths = np.fromiter(
            (_NONE if value is None else len(value) for value in values), _LENGTHS, len(values)
        )
        text = "".join([value for value in values if value is not None]).encode()
    except TypeError as error:
        raise FrameError(f"{name!r} holds objects that are not text: {error}") from error
    except UnicodeEncodeError as error:
        raise FrameError(f"{name!r} holds text that is not Unicode: {error}") from error
    buffers += [_bytes_of(lengths), text]
    return {"dtype": "string", "bytes": len(text)}


def _describe_ragged(name: str, array: Array, buffers: Parts) -> Header:
    rows = [np.asarray(row) for row in array.reshape(-1)]
    if array.ndim != 1 or len({(row.ndim, row.dtype) for row in rows}) != 1:
        raise FrameError(f"{name!r} mixes arrays of different types or numbers of dimensions")
    rank = rows[0].ndim
    shapes = np.array([row.shape for row in rows], _SHAPES).reshape(len(rows), rank)
    buffers.append(_bytes_of(shapes))
    flat = np.concatenate([row.reshape(-1) for row in rows])
    return {**_describe(name, flat, buffers), "rows": len(rows), "rank": rank}


def _bytes_of(array: Array) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


# Reading


def sizes(prefix: bytes | bytearray | memoryview, limit: int = MAX_BYTES) -> tuple[int, int]:
    """Lengths of the header and of the buffers that follow these 16 bytes. Raises FrameError."""
    magic, header, buffers = _PREFIX.unpack(prefix)
    if magic != _MAGIC:
        raise FrameError("the bytes are no message")
    if header > MAX_HEADER_BYTES or PREFIX_BYTES + header + buffers > limit:
        raise FrameTooLargeError(
            f"{PREFIX_BYTES + header + buffers} bytes, at most {limit} are taken"
        )
    return header, buffers


def room(size: int) -> memoryview:
    """Memory for a frame of this size, which costs nothing before it is written to."""
    return np.empty(size, np.uint8).data


def header_of(frame: memoryview, length: int) -> Header:
    """The header alone, so that a reader can see what came before it decodes arrays. Raises FrameError."""
    try:
        header = json.loads(bytes(frame[:length]))
    except (ValueError, RecursionError) as error:
        raise FrameError(f"the header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise FrameError("the header is not an object")
    return header


def arrays_of(header: Header, frame: memoryview, length: int) -> dict[str, Array]:
    """The arrays, as views of the frame where they are numbers. Raises FrameError."""
    reader = _Reader(frame, length)
    try:
        return {str(entry["name"]): reader.array(entry) for entry in header["arrays"]}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise FrameError(f"the header does not fit the buffers: {error!r}") from error


class _Reader:
    def __init__(self, frame: memoryview, start: int) -> None:
        self._frame = frame
        self._at = start

    def array(self, entry: Header) -> Array:
        if "rank" in entry:
            return self._ragged(entry)
        shape = _shape(entry["shape"])
        flat = self._flat(entry, math.prod(shape))
        return flat.reshape(shape)

    def _flat(self, entry: Header, count: int) -> Array:
        if entry["dtype"] != "string":
            return self._numbers(NUMBERS[entry["dtype"]], count)
        lengths = self._numbers(_LENGTHS, count).tolist()
        text = str(self._take(int(entry["bytes"])), "utf-8")
        values = np.empty(count, object)
        at = 0
        for number, length in enumerate(lengths):
            if length < 0:
                continue  # None, as the array was made
            values[number] = text[at : at + length]
            at += length
        if at != len(text):
            raise FrameError(f"{len(text)} characters for values of {at}")
        return values

    def _ragged(self, entry: Header) -> Array:
        count, rank = _shape([entry["rows"], entry["rank"]])
        if count > len(self._frame):
            raise FrameError(
                "the frame is shorter than its header says"
            )  # rows without a dimension, too, are bytes
        shapes = [
            _shape(shape)
            for shape in self._numbers(_SHAPES, count * rank).reshape(count, rank).tolist()
        ]
        ends = np.cumsum([math.prod(shape) for shape in shapes]).tolist()
        flat = self._flat(entry, ends[-1] if ends else 0)
        rows = np.empty(count, object)
        start = 0
        for number, (shape, end) in enumerate(zip(shapes, ends, strict=True)):
            rows[number] = flat[start:end].reshape(shape)
            start = end
        return rows

    def _numbers(self, dtype: np.dtype[Any], count: int) -> Array:
        return np.frombuffer(self._take(count * dtype.itemsize), dtype)

    def _take(self, size: int) -> memoryview:
        end = self._at + size
        if size < 0 or end > len(self._frame):
            raise FrameError("the frame is shorter than its header says")
        taken = self._frame[self._at : end]
        self._at = end + -size % _ALIGN
        return taken


def _shape(given: Sequence[Any]) -> tuple[int, ...]:
    shape = tuple(int(length) for length in given)
    if len(shape) > _MAX_RANK or any(length < 0 for length in shape):
        raise FrameError(f"{shape} is not a shape")
    return shape


# Over a blocking socket: the worker's side


def receive(sock: socket.socket, limit: int = MAX_BYTES) -> tuple[Header, dict[str, Array]] | None:
    """The next frame; None when the peer has closed. Raises FrameError and OSError."""
    prefix = memoryview(bytearray(PREFIX_BYTES))
    if not _fill(sock, prefix):
        return None
    header_bytes, buffer_bytes = sizes(prefix, limit)
    frame = room(header_bytes + buffer_bytes)
    if not _fill(sock, frame):
        return None
    header = header_of(frame, header_bytes)
    return header, arrays_of(header, frame, header_bytes)


def send(sock: socket.socket, parts: Parts) -> None:
    for part in parts:
        sock.sendall(part)


def _fill(sock: socket.socket, into: memoryview) -> bool:
    at = 0
    while at < len(into):
        got = sock.recv_into(into[at:])
        if got == 0:
            return False
        at += got
    return True
