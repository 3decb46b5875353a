"""JSON text of bodies, answers, reports and errors. The only door to orjson.

Floats have the shortest text that parses back to the same value of their own type; NaN and Infinity become `null`.
"""

import contextlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from midstream_engine.errors import BadInput, StepFailed
from midstream_engine.schema import Array

JSONError = orjson.JSONDecodeError
loads = orjson.loads

_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
"""First bytes of gzip and zstd."""

_ARROW = (
    (b"ARROW1", "file", "application/vnd.apache.arrow.file"),
    (b"\xff\xff\xff\xff", "stream", "application/vnd.apache.arrow.stream"),
)
"""First bytes of Arrow's two forms, and their media types."""


def dumps(value: Any) -> bytes:
    """JSON of reports and errors."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def parse_body(body: bytes) -> tuple[Any, bool]:
    """The value of a body, and whether it is JSON to the letter. Raises BadInput.

    NaN and Infinity, which JSON forbids and pandas writes, are taken as well.
    """
    try:
        return loads(body), True
    except JSONError as error:
        return parse_leniently(body, error), False


def parse_leniently(body: bytes, error: JSONError) -> Any:
    """The value of a body that is JSON but for NaN or Infinity; BadInput for all else.

    error: what `loads` said of the body.
    """
    if not body.strip():
        raise BadInput("the body is empty; send a list of rows as JSON", reason="EmptyBody")
    if b"NaN" in body or b"Infinity" in body:
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            text = body.decode()
            try:
                return _writable(json.loads(text))
            except TypeError:
                # An integer beyond 64 bits, perhaps. To ask for each one takes four times as long.
                return _writable(json.loads(text, parse_int=_int_as_orjson))
    raise BadInput(
        f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}{_hint(body)}",
        reason="NotJSON",
    ) from error


def _hint(body: bytes) -> str:
    if body.startswith(_COMPRESSED):
        return "; it looks compressed: say so in Content-Encoding"
    for first, what, media_type in _ARROW:
        if body.startswith(first):
            return f"; it looks like an Arrow {what}: send it with Content-Type: {media_type}"
    return ""


def _writable(value: Any) -> Any:
    """The same, if it can be written again: lone surrogates and deep nesting cannot be put into a message."""
    orjson.dumps(value)
    return value


def array_text(array: Array, name: str) -> bytes:
    """A list with each row's value. name: of the column. Raises StepFailed for what JSON cannot hold."""
    try:
        if array.dtype.kind in "OU":
            return orjson.dumps(array.tolist(), _as_list, orjson.OPT_SERIALIZE_NUMPY)
        if not array.flags.c_contiguous:
            array = np.ascontiguousarray(array)
        return orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:
        raise StepFailed(
            f"field {name!r} holds what an answer cannot: {array.dtype}; {error}"
        ) from error


def row_texts(array: Array, name: str) -> Sequence[bytes]:
    """The text of each row's value, as `array_text`."""
    rows = len(array)
    if array.dtype.kind in "OU":
        return [array_text(array[row : row + 1], name)[1:-1] for row in range(rows)]
    text = array_text(array, name)
    if rows == 1:
        return (text[1:-1],)
    if array.ndim == 1:
        return text[1:-1].split(b",")
    if array.ndim == 2 and array.shape[1]:
        return [b"[%b]" % part for part in text[2:-2].split(b"],[")]
    return [array_text(row, name) for row in array]


def _as_list(value: Any) -> Any:
    """Arrays that orjson does not write: parts that are not contiguous, or objects."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} among its values")


def _int_as_orjson(text: str) -> int | float:
    """Whole numbers beyond 64 bits become floats."""
    number = float(text)
    return int(text) if abs(number) < 2.0**63 else number
