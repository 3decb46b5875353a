"""Tables in Arrow that do not fit, bodies that are no tables, and those made to do harm: refused, never a crash."""

import math
import struct
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from kit.tables import LIMIT, ipc
from midstream_engine.batch import Batch
from midstream_engine.errors import BadInput, BodyTooLarge, RequestError
from midstream_engine.formats.arrow_layout import MAX_BATCHES
from midstream_engine.formats.arrow_rows import ArrowReader
from midstream_engine.formats.columns import MAX_ROWS
from midstream_engine.formats.open_rows import MAX_FIELDS
from midstream_engine.schema import Field

X = Field("x", "float32", ())
LISTS = Field("x", "float32", (2,))
TEXT = Field("x", "string", ())
INT = Field("x", "int64", ())


def read(
    fields: Field | tuple[Field, ...] | None,
    body: bytes,
    *,
    keys: tuple[str, ...] = (),
    file: bool = True,
    limit: int = LIMIT,
) -> Batch:
    known = (fields,) if isinstance(fields, Field) else fields
    return ArrowReader(known, keys, file=file).read(body, limit)


def refusal(
    fields: Field | tuple[Field, ...] | None,
    columns: Any,
    keys: tuple[str, ...] = (),
    chunk: int | None = None,
    *,
    file: bool = True,
) -> RequestError:
    body = columns if isinstance(columns, bytes) else ipc(columns, chunk=chunk)
    with pytest.raises(BadInput) as caught:
        read(fields, body, keys=keys, file=file)
    assert len(caught.value.message) < 500
    orjson.dumps({"error": caught.value.message, "field": caught.value.field})
    return caught.value


# Tables that are refused

f32 = pa.float32()
BAD: dict[str, tuple[Field | tuple[Field, ...] | None, Any, str, str]] = {
    "a missing column": (
        (X, Field("y", "int64", ())),
        {"x": pa.array([1.0])},
        "WrongFields",
        "misses field 'y'; may have field 'key'; expected fields: 'x' (float32), 'y' (int64)",
    ),
    "an unknown column": (X, {"x": pa.array([1.0]), "z": pa.array([1])}, "WrongFields", "unknown field 'z'"),
    "pandas' index": (
        X,
        {"x": pa.array([1.0]), "__index_level_0__": pa.array([0])},
        "WrongFields",
        "'__index_level_0__', which is pandas' index; write it without",
    ),
    "a column twice": (X, pa.table([pa.array([1.0])] * 2, names=["x", "x"]), "WrongFields", "two columns 'x'"),
    "no columns": (X, pa.table({}), "WrongFields", "0 columns"),
    "no rows": (X, {"x": pa.array([], f32)}, "NoRows", "no rows"),
    "too many rows": (X, {"x": pa.array(np.zeros(MAX_ROWS + 1, np.float32))}, "TooManyRows", f"at most {MAX_ROWS}"),
    "strings for numbers": (X, {"x": pa.array(["1"])}, "WrongType", "expected float32, the column is string"),
    "booleans for numbers": (X, {"x": pa.array([True])}, "WrongType", "the column is bool"),
    "numbers for strings": (TEXT, {"x": pa.array([1])}, "WrongType", "expected string, the column is int64"),
    "numbers for booleans": (Field("x", "bool", ()), {"x": pa.array([1])}, "WrongType", "expected bool"),
    "floats for integers": (INT, {"x": pa.array([1.0])}, "WrongType", "expected int64, the column is double"),
    "times": (X, {"x": pa.array([0], pa.timestamp("ms"))}, "WrongType", "field 'x' is timestamp[ms]; send numbers"),
    "decimals": (X, {"x": pa.array([1], pa.decimal128(5))}, "WrongType", "decimal128"),
    "structs": (X, {"x": pa.array([{"a": 1}])}, "WrongType", "struct"),
    "bytes": (X, {"x": pa.array([b"a"])}, "WrongType", "binary"),
    "months": (X, {"x": pa.array([(1, 2, 3)], pa.month_day_nano_interval())}, "WrongType", "interval"),
    "views of lists": (X, {"x": pa.array([[1]], pa.list_view(pa.int8()))}, "WrongType", "list_view"),
    "lists of times": (X, {"x": pa.array([[0]], pa.list_(pa.time32("s")))}, "WrongType", "list<item: time32"),
    "a map": (X, {"x": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8()))}, "WrongType", "map"),
    "a dictionary of times": (
        None,
        {"x": pa.array([1], pa.timestamp("s")).dictionary_encode()},
        "WrongType",
        "dictionary<values=timestamp[s]",
    ),
    "lists for single values": (X, {"x": pa.array([[1.0]])}, "WrongShape", "expected a single value, got [1]"),
    "single values for lists": (LISTS, {"x": pa.array([1.0])}, "WrongShape", "expected [2], got a single value"),
    "short lists": (LISTS, {"x": pa.array([[1.0]])}, "WrongShape", "expected [2], got [1]"),
    "lists of different lengths": (
        LISTS,
        {"x": pa.array([[1.0, 2.0], [1.0, 2.0], [3.0]])},
        "RaggedRows",
        "row 2, field 'x': a list of 1 after one of 2",
    ),
    "lists of lists of different lengths": (
        None,
        {"x": pa.array([[[1], [2]], [[1], [2, 3]]])},
        "RaggedRows",
        "row 1, field 'x': a list of 2 after one of 1",
    ),
    "null": (X, {"x": pa.array([1.0, None])}, "MissingValue", "row 1, field 'x': null is not a value"),
    "null in a list": (LISTS, {"x": pa.array([[1.0, None]])}, "MissingValue", "row 0, field 'x'[1]: null"),
    "null for a list": (LISTS, {"x": pa.array([[1.0, 2.0], None])}, "MissingValue", "row 1, field 'x': null in the"),
    "null for a string": (TEXT, {"x": pa.array(["a", None])}, "MissingValue", "row 1"),
    "nothing but null": (X, {"x": pa.nulls(2)}, "MissingValue", "row 0, field 'x': null"),
    "NaN": (X, {"x": pa.array([1.0, math.nan])}, "MissingValue", "row 1, field 'x': NaN"),
    "Infinity": (LISTS, {"x": pa.array([[1.0, -math.inf]])}, "NotFinite", "row 0, field 'x'[1]: Infinity"),
    "a double too large": (X, {"x": pa.array([1.0, 1e39])}, "OutOfRange", "row 1, field 'x': 1e+39 does not fit"),
    "an integer too large": (
        Field("x", "int8", (2,)),
        {"x": pa.array([[1, 2], [3, 300]])},
        "OutOfRange",
        "row 1, field 'x'[1]: 300 does not fit in int8",
    ),
    "an unsigned too large": (INT, {"x": pa.array([2**63], pa.uint64())}, "OutOfRange", "does not fit"),
    "a negative for unsigned": (Field("x", "uint64", ()), {"x": pa.array([-1])}, "OutOfRange", "-1 does not fit"),
    "null among open booleans": (None, {"b": pa.array([True, None])}, "MissingValue", "row 1, field 'b': null"),
    "lists for a key": (X, {"x": pa.array([1.0]), "key": pa.array([[1]])}, "WrongType", "field 'key': expected a"),
    "too many open columns": (
        None,
        pa.table([pa.array([1])] * (MAX_FIELDS + 1), names=[f"f{n}" for n in range(MAX_FIELDS + 1)]),
        "WrongFields",
        f"at most {MAX_FIELDS}",
    ),
    "lists of lists without end": (
        None,
        {"x": pa.array([eval("[" * 33 + "1" + "]" * 33)])},  # noqa: S307 - of our own making
        "WrongShape",
        "nested 33 deep",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_tables_that_do_not_fit_are_refused(what: str) -> None:
    """With the field, both types, and the row where there is one."""
    fields, table, reason, said = BAD[what]
    error = refusal(fields, table, ("key",))
    assert error.reason == reason
    assert said in error.message


def test_the_row_of_a_refusal_counts_through_all_batches() -> None:
    """Not from the beginning of its own."""
    column = pa.array([[1.0, 2.0], [1.0, 2.0], [1.0, None]])
    assert refusal(LISTS, {"x": column}, chunk=1).row == 2
    column = pa.array([[1.0, 2.0], [1.0, 2.0], [1.0]])
    error = refusal(LISTS, {"x": column}, chunk=1)
    assert (error.row, error.reason) == (2, "RaggedRows")
    column = pa.array([[1.0, 2.0], None])
    assert refusal(LISTS, {"x": column}, chunk=1).row == 1


# Bodies that are no tables

GOOD = ipc({"x": pa.array([1.0, 2.0], f32)})
STREAM = ipc({"x": pa.array([1.0, 2.0], f32)}, file=False)

NOT_ARROW: dict[str, tuple[bytes, bool, str]] = {
    "nothing as a file": (b"", True, "the body is empty"),
    "nothing as a stream": (b"", False, "the body is empty"),
    "JSON as a file": (b'[{"x":1}]', True, "ARROW1"),
    "JSON as a stream": (b'[{"x":1}]', False, "not an Arrow IPC stream"),
    "a stream as a file": (STREAM, True, "it looks like a stream"),
    "a file as a stream": (GOOD, False, "it looks like a file"),
    "the magic alone": (b"ARROW1ARROW1", True, "ARROW1"),
    "a file without its end": (GOOD[:-1], True, "ARROW1"),
    "a footer that is larger than the file": (
        GOOD[:-10] + struct.pack("<i", 2**31 - 1) + b"ARROW1",
        True,
        "its footer would have 2147483647 bytes",
    ),
    "a footer of no size": (GOOD[:-10] + struct.pack("<i", 0) + b"ARROW1", True, "footer"),
    "a negative footer": (GOOD[:-10] + struct.pack("<i", -8) + b"ARROW1", True, "footer"),
    "half a stream": (STREAM[: len(STREAM) // 2], False, "there should be"),
    "metadata without end": (b"\xff\xff\xff\xff\xff\xff\xff\x7f" + b"\0" * 64, False, "bytes of metadata"),
    "metadata of zeros": (b"\xff\xff\xff\xff\x40\0\0\0" + b"\0" * 64, False, "not"),
    "an end at once": (b"\xff\xff\xff\xff\0\0\0\0", False, "not a sound Arrow table"),
    "two bytes": (b"\xff\xff", False, "not an Arrow IPC stream"),
    "batches before the schema": (STREAM[STREAM.index(b"\xff\xff\xff\xff", 8) :], False, "not a sound Arrow table"),
}  # fmt: skip


@pytest.mark.parametrize("what", NOT_ARROW)
def test_what_is_no_table_is_refused(what: str) -> None:
    """And what it may be instead is said."""
    body, file, said = NOT_ARROW[what]
    for fields in (X, None):
        with pytest.raises(BadInput) as caught:
            read(fields, body, file=file)
        assert caught.value.reason in {"NotArrow", "EmptyBody"}
        assert said in caught.value.message
        assert len(caught.value.message) < 500


def test_a_stream_without_rows_has_none() -> None:
    """A schema alone is a table, but no request."""
    for file in (True, False):
        with pytest.raises(BadInput, match="no rows"):
            read(X, ipc(pa.table({"x": pa.array([], f32)}), file=file), file=file)


def test_strings_that_are_no_text_are_refused() -> None:
    """Arrow's own validation finds them."""
    assert (
        refusal(None, ipc({"x": pa.array(["secret"])}).replace(b"secret", b"\xff" * 6)).reason
        == "NotArrow"
    )


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
@pytest.mark.parametrize("file", [True, False])
def test_a_small_body_does_not_unpack_without_end(compression: str, file: bool) -> None:
    """Its buffers are added up before the first of them is unpacked."""
    column = pa.array(np.zeros((1000, 2000), np.float64).tolist(), pa.list_(pa.float64(), 2000))
    body = ipc({"x": column}, compression=compression, file=file)
    assert len(body) < 100_000
    field = Field("x", "float64", (2000,))
    with pytest.raises(BodyTooLarge, match=f"unpacks to .* bytes or more; at most {1 << 20} are"):
        read(field, body, file=file, limit=1 << 20)
    assert read(field, body, file=file, limit=LIMIT).rows == 1000


def test_a_buffer_that_lies_about_its_size_is_refused() -> None:
    """Before anything is made for it: too large is 413, too small does not unpack."""
    values = np.zeros(5000, np.float64)
    body = ipc({"x": pa.array(values)}, compression="zstd")
    said = struct.pack("<q", values.nbytes)
    assert body.count(said) == 1
    for lie, error in ((2**62, BodyTooLarge), (-2, BadInput), (8, BadInput), (-1, BadInput)):
        with pytest.raises(error):
            read(None, body.replace(said, struct.pack("<q", lie)))


def test_many_columns_of_the_same_bytes_count_each_time() -> None:
    """Buffers may lie over each other: a small body could claim to be any number of columns."""
    names = [f"f{n}" for n in range(300)]
    body = ipc(pa.table([pa.array(np.arange(1000.0))] * 300, names=names))
    with pytest.raises(BodyTooLarge):
        read(None, body, limit=1 << 20)


@pytest.mark.parametrize("viewed", [False, True])
def test_one_long_string_does_not_become_many(viewed: bool) -> None:
    """A model would get each of them: their lengths are added up."""
    text, rows = b"x" * 10_000, 5000
    if viewed:
        view = struct.pack("<i4sii", len(text), text[:4], 0, 0)
        buffers = [None, pa.py_buffer(view * rows), pa.py_buffer(text)]
        column = pa.Array.from_buffers(pa.string_view(), rows, buffers)
    else:
        column = pa.DictionaryArray.from_arrays(pa.array([0] * rows), pa.array([text.decode()]))
    body = ipc({"x": column})
    assert len(body) < 200_000
    for field in (TEXT, None):
        with pytest.raises(BodyTooLarge, match="the strings of field 'x' unpack to more than"):
            read(field, body, limit=1 << 20)


def test_booleans_count_as_the_bytes_that_they_become() -> None:
    """Eight of them share one in the body."""
    column = pa.array([[True] * 80_000] * 20, pa.list_(pa.bool_(), 80_000))
    with pytest.raises(BodyTooLarge, match="more than 1048576 values"):
        read(Field("x", "bool", (80_000,)), ipc({"x": column}), limit=1 << 20)


def test_lists_that_take_no_bytes_are_bounded() -> None:
    """Lists of no length hold any number of values without a byte."""
    column = pa.array([[[]] * 1000] * 2, pa.list_(pa.list_(pa.int8(), 0)))
    assert read(None, ipc({"x": column})).fields["x"].shape == (2, 1000, 0)
    with pytest.raises(BodyTooLarge):
        read(None, ipc({"x": column}), limit=1000)


def test_offsets_of_lists_that_are_not_there_end_no_process() -> None:
    """Arrow's validation passes over them, and its own way to flatten such lists aborts."""
    nested = pa.array([[[1, 2], [3, 4]]] * 3, pa.list_(pa.list_(pa.int64())))
    body = ipc({"x": nested}, file=False)
    for sent, lie in (
        (struct.pack("<7i", 0, 2, 4, 6, 8, 10, 12), struct.pack("<7i", 6, *[0] * 6)),
        (struct.pack("<4i", 0, 2, 4, 6), bytes(16)),
        (struct.pack("<6q", 3, 0, 6, 0, 12, 0), struct.pack("<6q", 3, *[0] * 5)),
    ):
        assert body.count(sent) == 1
        body = body.replace(sent, lie)
    assert read(None, body, file=False).fields["x"].shape == (3, 0, 0)


def test_types_that_pyarrow_cannot_show_are_refused() -> None:
    """A date and a number of months differ in one byte of the schema; of the latter there is no array in Python."""
    body = ipc({"x": pa.array([0], pa.date32())}, file=False)
    shown = []
    for place in [place for place, byte in enumerate(body) if byte == 8]:
        error = refusal(None, body[:place] + b"\x0b" + body[place + 1 :], file=False)
        assert error.reason in {"NotArrow", "WrongType"}
        shown.append(error.message)
    assert any("field 'x' is month_interval; send numbers" in message for message in shown)


def test_batches_are_bounded() -> None:
    """Each costs time, however small it is."""
    body = ipc({"x": pa.array(np.zeros(MAX_BATCHES + 1, np.int8))}, chunk=1)
    assert refusal(None, body).reason == "TooManyRows"
