"""Any values of any field, in and out by every format, against the json module and plain arrays."""

import json
import math
from typing import Any

import hypothesis
import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from kit.tables import LIMIT, PLAIN_FACTS, ipc, opened
from midstream_engine.batch import Result
from midstream_engine.errors import BadInput, RequestError
from midstream_engine.formats.answers import ColumnarWriter, RecordsWriter
from midstream_engine.formats.arrow_answers import ArrowWriter
from midstream_engine.formats.arrow_rows import ArrowReader
from midstream_engine.formats.encoding import decode, encode
from midstream_engine.formats.records import Reader
from midstream_engine.formats.selection import Selection
from midstream_engine.schema import NUMPY_TYPES, Array, Field

FLAT = Selection(None, (), True)


def elements(dtype: str) -> st.SearchStrategy[Any]:
    """Values that a field of this type can have."""
    kind = NUMPY_TYPES[dtype]
    if dtype == "string":
        return st.text(max_size=4)
    if kind.kind == "b":
        return st.booleans()
    if kind.kind in "iu":
        return st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    return st.floats(width=8 * kind.itemsize, allow_nan=False, allow_infinity=False)  # type: ignore[arg-type]


@st.composite
def columns(draw: st.DrawFn) -> dict[str, tuple[Field, Array]]:
    """A few fields with their arrays."""
    rows = draw(st.integers(1, 4))
    names = draw(
        st.lists(
            st.sampled_from(["x", "tensor", "a.b", "},{", 'q"', "é"]),
            min_size=1,
            max_size=3,
            unique=True,
        )
    )
    made = {}
    for name in names:
        dtype = draw(st.sampled_from(sorted(NUMPY_TYPES)))
        # JSON does not say of an empty list how long the lists in it would be.
        shape = tuple(draw(st.sampled_from([(), (0,), (1,), (3,), (1, 2), (2, 1), (2, 3)])))
        count = rows * math.prod(shape)
        flat = draw(st.lists(elements(dtype), min_size=count, max_size=count))
        array = np.empty(count, NUMPY_TYPES[dtype])
        array[:] = flat
        known = tuple(draw(st.sampled_from([length, None])) for length in shape)
        made[name] = (Field(name, dtype, known), array.reshape(rows, *shape))
    return made


def same(got: Array, wanted: Array) -> bool:
    if wanted.dtype.kind == "O":
        return got.dtype == wanted.dtype and bool(got.tolist() == wanted.tolist())
    return got.dtype == wanted.dtype and bool(got.tobytes() == wanted.tobytes())


def as_lists(array: Array) -> list[Any]:
    """The array as JSON, floats by their own shortest text."""
    if array.dtype.kind == "f":
        # A half is written as the single that it is.
        flat = array.ravel().astype(np.float32) if array.dtype == np.float16 else array.ravel()
        texts = [float(str(item)) for item in flat]
        nested = np.array(texts, np.float64).reshape(array.shape)
        return list(nested.tolist())
    return list(array.tolist())


@hypothesis.settings(
    max_examples=150, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
@hypothesis.given(columns(), st.booleans(), st.sampled_from([b"", b"gzip", b"zstd"]))
def test_values_survive_every_way_in_and_out(
    made: dict[str, tuple[Field, Array]], ascii_only: bool, packing: bytes
) -> None:
    """Bit for bit: rows, columns, files and streams in; records, columns, files and streams out."""
    fields = [field for field, _ in made.values()]
    arrays = {name: array for name, (_, array) in made.items()}
    lists = {name: as_lists(array) for name, array in arrays.items()}
    rows = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    result = None
    for sent in (rows, lists):
        body = json.dumps(sent, ensure_ascii=ascii_only).encode()
        batch = Reader(fields).read(body)
        assert batch.rows == len(rows)
        assert all(same(batch.fields[name], arrays[name]) for name in arrays)
        result = Result(batch, arrays, 7, [1])
        answered = json.loads(RecordsWriter(list(arrays), PLAIN_FACTS).write(result))
        assert [row["in"] for row in answered] == rows
        assert [row["out"] for row in answered] == rows
    assert result is not None
    listed = ColumnarWriter(PLAIN_FACTS).write(result)
    assert {n: v for n, v in json.loads(listed).items() if n.startswith("out.")} == {
        f"out.{name}": values for name, values in lists.items()
    }
    for file in (True, False):
        body = ArrowWriter(PLAIN_FACTS, file=file).write(result, FLAT)
        body = decode(*_packed(body, packing), LIMIT)
        table = opened(body, file=file).select([f"in.{name}" for name in arrays])
        again = ArrowReader(fields, file=file).read(
            ipc(table.rename_columns(list(arrays)), file=file), LIMIT
        )
        assert all(same(again.fields[name], arrays[name]) for name in arrays)


def _packed(body: bytes, accept: bytes) -> tuple[bytes, bytes]:
    packed, headers = encode(body, accept)
    return packed, accept if b"content-encoding" in headers else b""


arrow_types = st.sampled_from(
    [
        *(pa.float32(), pa.float64(), pa.int8(), pa.int64(), pa.uint64(), pa.bool_(), pa.string()),
        *(pa.large_string(), pa.string_view(), pa.null(), pa.binary(), pa.timestamp("us")),
        *(pa.dictionary(pa.int8(), pa.string()), pa.date32(), pa.list_(pa.float32())),
        *(pa.list_(pa.int32(), 2), pa.large_list(pa.string()), pa.struct([("a", pa.int8())])),
        *(pa.list_(pa.list_(pa.float64())), pa.list_(pa.dictionary(pa.int8(), pa.string()))),
    ]
)
leaf = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-200, 200),
    st.floats(width=32),
    st.text(max_size=2),
    st.integers(2**63, 2**64 - 1),
)
cell = leaf | st.lists(leaf, max_size=2) | st.lists(st.lists(leaf, max_size=2), max_size=2)
some_fields = st.sampled_from(
    [
        Field("x", dtype, shape, None, missing)
        for dtype in NUMPY_TYPES
        for shape in ((), (1,), (2,), (None,), (None, 2))
        for missing in (False, True)
    ]
)


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(
    arrow_types,
    st.lists(cell, min_size=1, max_size=4),
    st.none() | some_fields,
    st.sampled_from([None, 1, 2]),
)
def test_any_arrow_column_is_read_or_refused(
    kind: Any, values: list[Any], field: Field | None, chunk: int | None
) -> None:
    """What is read has the field's type and shape, and the same rows as in JSON where JSON takes them, too."""
    try:
        column = pa.array(values, kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        hypothesis.reject()
    fields = None if field is None else (field,)
    try:
        batch = ArrowReader(fields, file=True).read(ipc({"x": column}, chunk=chunk), LIMIT)
    except RequestError as error:
        assert error.reason != "BadInput"  # noqa: PT017 - an error is one of two good outcomes
        return
    array = batch.fields["x"]
    assert len(array) == batch.rows == len(values)
    if field is None:
        return
    assert array.dtype == field.numpy_dtype
    assert field.accepts(array.shape[1:])
    plain = column.to_pylist()
    body = json.dumps([{"x": value} for value in plain]).encode()
    try:
        again = Reader((field,)).read(body).fields["x"]
    except BadInput as error:
        raise AssertionError(f"{plain} as {column.type} for {field}: {error.message}") from error
    assert np.array_equal(again, array, equal_nan=array.dtype.kind == "f")
