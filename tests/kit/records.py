"""Fields, bodies and answers of `midstream_engine.formats.records`, for its tests."""

import json
from typing import Any

import numpy as np
import orjson
import pytest

from midstream_engine.errors import BadInput
from midstream_engine.formats.records import Reader, Writer
from midstream_engine.schema import Field

Array = np.ndarray[Any, Any]

TENSOR = Field("tensor", "float32", (3,))
SINGLE = Field("x", "float32", ())
ONE = Field("x", "float32", (1,))
LIST = Field("x", "float32", (None,))
GRID = Field("x", "float32", (2, 2))
FLAG = Field("x", "bool", (2,))
COUNT = Field("x", "int64", (2,))
BYTE = Field("x", "uint8", ())
BIG = Field("x", "uint64", (None,))
HALF = Field("x", "float16", ())
DOUBLE = Field("x", "float64", (2,))
HOLES = Field("x", "float32", (2,), allow_missing=True)
PAIR = (Field("a", "float32", (2,)), Field("b", "int64", (1,)))


def refusal(fields: Field | tuple[Field, ...], body: bytes | str) -> BadInput:
    """What a reader says to a body that it refuses."""
    reader = Reader(fields if isinstance(fields, tuple) else (fields,))
    with pytest.raises(BadInput) as caught:
        reader.read(body if isinstance(body, bytes) else body.encode())
    return caught.value


def values(*items: Any, name: str = "x") -> str:
    """A body with one row for each value."""
    return json.dumps([{name: item} for item in items])


def answer(fields: tuple[Field, ...], echo: Any, *outputs: Array) -> list[dict[str, Any]]:
    """The rows of an answer body, parsed strictly."""
    writer = Writer(
        fields, last_model="rf", last_sha256="ab" * 32, version="v-1", partition='a "name"'
    )
    body = writer.write(list(outputs), echo, 1_700_000_000_123, [5, 7])
    rows: list[dict[str, Any]] = orjson.loads(body)
    return rows


def f32(values: Any) -> Array:
    """A float32 array."""
    return np.array(values, np.float32)
