"""Fields, bodies and answers in JSON, for tests of formats."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pytest

from midstream_engine.batch import Batch, Facts, Result
from midstream_engine.errors import BadInput
from midstream_engine.formats.answers import RecordsWriter
from midstream_engine.formats.records import Reader
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
FACTS = Facts("house-price", "v-1", 'a "name"', "rf", "ab" * 32)
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


def result(echo: Sequence[bytes] | None, outputs: Mapping[str, Array], **more: Any) -> Result:
    """What steps made of a request whose rows were sent as `echo`."""
    rows = len(echo) if echo is not None else len(next(iter(outputs.values())))
    batch = Batch({}, rows, echo)
    return Result(batch, dict(outputs), 1_700_000_000_123, [5, 7], **more)


def written(names: Sequence[str], echo: Sequence[bytes], *outputs: Array) -> bytes:
    """An answer body with these outputs."""
    writer = RecordsWriter(names, FACTS)
    return writer.write(result(echo, dict(zip(names, outputs, strict=True))))


def answer(fields: Sequence[Field], echo: Any, *outputs: Array) -> list[dict[str, Any]]:
    """The rows of an answer body, parsed strictly."""
    rows: list[dict[str, Any]] = orjson.loads(
        written([field.name for field in fields], echo, *outputs)
    )
    return rows


def f32(values: Any) -> Array:
    """A float32 array."""
    return np.array(values, np.float32)


def ragged(*parts: Any) -> Array:
    """An array of arrays: rows of different shapes."""
    array = np.empty(len(parts), object)
    for row, part in enumerate(parts):
        array[row] = np.array(part, np.float32)
    return array
