"""Whatever arrives is read or refused, and what is answered is valid JSON."""

import json
from typing import Any

import hypothesis
import numpy as np
import orjson
from hypothesis import strategies as st

from kit.records import (
    BIG,
    BYTE,
    COUNT,
    DOUBLE,
    FACTS,
    FLAG,
    GRID,
    HALF,
    HOLES,
    LIST,
    ONE,
    PAIR,
    SINGLE,
    TENSOR,
    answer,
    f32,
    written,
)
from midstream_engine.batch import Result
from midstream_engine.errors import BadInput
from midstream_engine.formats.answers import RecordsWriter
from midstream_engine.formats.jsontext import dumps
from midstream_engine.formats.records import Reader
from midstream_engine.schema import Field

# Properties

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@hypothesis.given(st.lists(st.lists(finite, min_size=3, max_size=3), min_size=1, max_size=5))
def test_any_finite_floats_round_trip(rows: list[list[float]]) -> None:
    """In as JSON, out as JSON: the same float32 values, bit for bit, in the shortest text that says so."""
    body = orjson.dumps([{"tensor": row} for row in rows])
    batch = Reader((TENSOR,)).read(body)
    arrays, echo = batch.fields, batch.echo
    expected = np.array(rows, np.float32)
    assert np.array_equal(arrays["tensor"], expected)
    assert list(echo or ()) == [orjson.dumps({"tensor": row}) for row in rows]
    answered = answer((TENSOR,), echo, arrays["tensor"])
    back = np.array([row["out"]["tensor"] for row in answered], np.float64).astype(np.float32)
    assert back.tobytes() == expected.tobytes()
    assert batch.rows == len(rows)


@hypothesis.given(finite)
def test_floats_have_the_shortest_text(value: float) -> None:
    """One digit less would be another float32."""
    body = written(["x"], [b"{}"], f32([value]))
    text = body.partition(b'"out":{"x":')[2].partition(b"}")[0].decode()
    digits = text.partition("e")[0].replace("-", "").replace(".", "").strip("0")
    assert f32(text) == f32(value)
    if len(digits) > 1:
        assert f32(f"{value:.{len(digits) - 2}e}") != f32(value)


FIELDS = (
    (TENSOR,),
    (SINGLE,),
    (ONE,),
    (LIST,),
    (GRID,),
    (FLAG,),
    (COUNT,),
    (BYTE,),
    (BIG,),
    (HALF,),
    (DOUBLE,),
    (HOLES,),
    PAIR,
    (Field("a},{b", "float32", ()),),
)

numbers = (
    finite
    | st.floats()
    | st.integers()
    | st.sampled_from([2**53 + 1, 2**63, -(2**63), 2**64, 1e39, -0.0, 1e308, 5e-324])
)
leaves = numbers | st.booleans() | st.none() | st.text(max_size=3) | st.just("},{")
trees = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3), max_leaves=8)
fitting = st.lists(numbers, min_size=2, max_size=3) | trees
keys = st.sampled_from(["x", "tensor", "a", "b", "a},{b", "\ud800"])
rows = st.dictionaries(keys, fitting, max_size=3) | st.builds(lambda value: {"x": value}, fitting)
bodies = st.lists(rows, max_size=4) | trees


def check_refusal(error: BadInput) -> None:
    """It can be written, and it has a reason of its own."""
    said = {"error": error.message, "reason": error.reason, "field": error.field}
    assert orjson.loads(dumps(said)) == said
    assert error.reason != "BadInput"


def check_any(fields: tuple[Field, ...], body: bytes) -> None:
    """A body is read or refused with BadInput, and what comes of it can be written and parsed."""
    try:
        batch = Reader(fields).read(body)
    except BadInput as refused:
        check_refusal(refused)
        return
    arrays, count = batch.fields, batch.rows
    for field in fields:
        array = arrays[field.name]
        assert array.dtype == field.numpy_dtype
        assert array.shape[0] == count
        assert field.accepts(array.shape[1:])
        if array.dtype.kind == "f" and not field.allow_missing:
            assert np.isfinite(array).all()
    names = tuple(Field(name, "float32", ()) for name in arrays)
    writer = RecordsWriter([field.name for field in names], FACTS)
    answered = orjson.loads(writer.write(Result(batch, dict(arrays))))
    assert len(answered) == count
    sent = orjson.loads(orjson.dumps(json.loads(body.decode(), parse_int=_as_orjson)))
    if isinstance(sent, list):
        assert [row["in"] for row in answered] == sent
    else:
        assert [list(row["in"]) for row in answered] == [list(arrays)] * count


def _as_orjson(digits: str) -> float:
    value: float = orjson.loads(digits)
    return value


@hypothesis.settings(max_examples=300)
@hypothesis.given(st.sampled_from(FIELDS), st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(fields: tuple[Field, ...], body: bytes) -> None:
    """Nothing but BadInput ever comes out of reading."""
    check_any(fields, body)


@hypothesis.settings(max_examples=500, suppress_health_check=[hypothesis.HealthCheck.too_slow])
@hypothesis.given(st.sampled_from(FIELDS), bodies, st.booleans(), st.sampled_from([None, 0, 1]))
def test_any_json_is_read_or_refused(
    fields: tuple[Field, ...], body: Any, ascii_only: bool, indent: int | None
) -> None:
    """Also bodies that nearly fit, with NaN, huge numbers, odd names and any spacing."""
    text = json.dumps(body, ensure_ascii=ascii_only, indent=indent)
    check_any(fields, text.encode("utf-8", "surrogatepass"))


@hypothesis.settings(max_examples=500)
@hypothesis.given(
    st.sampled_from(FIELDS),
    st.lists(
        st.sampled_from(
            [
                "[",
                "]",
                "{",
                "}",
                ",",
                ":",
                '"x"',
                '"tensor"',
                '"a"',
                '"b"',
                "1",
                "2.5",
                "true",
                "null",
                "NaN",
                "-Infinity",
                '"',
                "\\",
                "},{",
                "[1,2]",
                "[1,2,3]",
                '{"x":',
                " ",
                "1e39",
            ]
        ),
        max_size=20,
    ),
)
def test_any_pieces_of_json_are_read_or_refused(
    fields: tuple[Field, ...], pieces: list[str]
) -> None:
    """Bodies made of the format's own parts in any order."""
    check_any(fields, "".join(pieces).encode())
    check_any(fields, f"[{{{''.join(pieces)}}}]".encode())
