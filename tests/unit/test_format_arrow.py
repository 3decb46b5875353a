"""Tables in Arrow: in as arrays, out as structs or flat columns; what does not fit is refused, never a crash."""

import math
import struct
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from kit import tables
from kit.records import ragged
from kit.tables import LIMIT, ipc, opened
from midstream_engine.batch import Batch, Result
from midstream_engine.errors import BadInput, BodyTooLarge, NotAcceptable, RequestError
from midstream_engine.formats.answers import RecordsWriter
from midstream_engine.formats.arrow_answers import ArrowWriter
from midstream_engine.formats.arrow_layout import MAX_BATCHES
from midstream_engine.formats.arrow_rows import ArrowReader
from midstream_engine.formats.columns import MAX_ROWS
from midstream_engine.formats.open_rows import MAX_FIELDS
from midstream_engine.formats.selection import parse_selection
from midstream_engine.schema import NUMPY_TYPES, Array, Field

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
) -> RequestError:
    with pytest.raises(BadInput) as caught:
        read(
            fields, columns if isinstance(columns, bytes) else ipc(columns, chunk=chunk), keys=keys
        )
    assert len(caught.value.message) < 500
    orjson.dumps({"error": caught.value.message, "field": caught.value.field})
    return caught.value


# Tables that are taken


@pytest.mark.parametrize("file", [True, False])
@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
@pytest.mark.parametrize("chunk", [None, 1, 2])
@pytest.mark.parametrize("dtype", [name for name in NUMPY_TYPES if name != "string"])
def test_numbers_of_every_type_arrive_as_they_were(
    dtype: str, file: bool, compression: str | None, chunk: int | None
) -> None:
    """Single values, lists, lists of fixed size, and lists of lists; in one record batch or several; packed or not."""
    values = np.array([0, 1, 1], NUMPY_TYPES[dtype])
    kind = pa.from_numpy_dtype(values.dtype)
    flat = pa.array(values)
    column = {
        "single": flat,
        "lists": pa.array([[v, v] for v in flat.to_pylist()], pa.list_(kind)),
        "large": pa.array([[v] for v in flat.to_pylist()], pa.large_list(kind)),
        "fixed": pa.array([[v, v] for v in flat.to_pylist()], pa.list_(kind, 2)),
        "grid": pa.array([[[v, v], [v, v]] for v in flat.to_pylist()], pa.list_(pa.list_(kind, 2))),
        "empty": pa.array([[], [], []], pa.list_(kind)),
    }
    wanted = {
        "single": values,
        "lists": np.stack([values, values], 1),
        "large": values[:, None],
        "fixed": np.stack([values, values], 1),
        "grid": np.stack([values] * 4, 1).reshape(3, 2, 2),
        "empty": np.zeros((3, 0), values.dtype),
    }
    body = ipc(column, file=file, compression=compression, chunk=chunk)
    shapes: dict[str, tuple[int | None, ...]] = {
        name: array.shape[1:] for name, array in wanted.items()
    }
    shapes |= {"large": (1,), "empty": (None,)}
    fields = tuple(Field(name, dtype, shapes[name]) for name in reversed(column))
    for declared in (fields, None):
        batch = read(declared, body, file=file)
        assert batch.rows == 3
        assert batch.echo is None
        assert list(batch.fields) == [f.name for f in fields] if declared else list(column)
        for name, array in wanted.items():
            assert batch.fields[name].dtype == array.dtype
            assert batch.fields[name].shape == array.shape
            assert batch.fields[name].tobytes() == array.tobytes()


def test_floats_are_not_copied() -> None:
    """The array looks at the body's own bytes."""
    body = ipc({"x": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32()))})
    array = read(LISTS, body).fields["x"]
    start = np.frombuffer(body, np.uint8).__array_interface__["data"][0]
    assert start < array.__array_interface__["data"][0] < start + len(body)
    assert not array.flags.writeable
    assert array.flags.aligned


def test_values_at_odd_places_are_read() -> None:
    """Where a processor does not like them: they are copied."""
    body = ipc({"x": pa.array([1.0, 2.0], pa.float32())}, file=False)
    size = int.from_bytes(body[4:8], "little")
    odd = (
        body[:4] + (size + 1).to_bytes(4, "little") + body[8 : 8 + size] + b"\0" + body[8 + size :]
    )
    array = read(X, odd, file=False).fields["x"]
    assert array.tolist() == [1, 2]
    assert array.flags.aligned


CASTS: dict[str, tuple[Field, Any, Any]] = {
    "doubles to floats": (X, pa.array([0.1, 1e-50]), np.array([0.1, 0], np.float32)),
    "whole numbers to floats": (X, pa.array([1, 2**24 + 1]), np.array([1, 2**24], np.float32)),
    "halves to doubles": (
        Field("x", "float64", ()),
        pa.array(np.array([0.5], np.float16)),
        np.array([0.5]),
    ),
    "small to large": (Field("x", "int64", ()), pa.array([-3], pa.int8()), np.array([-3])),
    "large to small": (
        Field("x", "uint8", ()),
        pa.array([0, 255], pa.int64()),
        np.array([0, 255], np.uint8),
    ),
    "unsigned to signed": (
        Field("x", "int64", ()),
        pa.array([2**63 - 1], pa.uint64()),
        np.array([2**63 - 1]),
    ),
    "single values to lists of one": (
        Field("x", "float32", (1,)),
        pa.array([1.0, 2.0]),
        np.array([[1], [2]], np.float32),
    ),
    "a slice": (X, pa.array([9.0, 1.0, 2.0], pa.float32())[1:], np.array([1, 2], np.float32)),
    "a dictionary of numbers": (
        X,
        pa.array([1.5, 2.5, 1.5]).dictionary_encode(),
        np.array([1.5, 2.5, 1.5], np.float32),
    ),
}


@pytest.mark.parametrize("what", CASTS)
def test_columns_of_other_types_become_the_fields(what: str) -> None:
    """Where each number stays what it is, as far as the field's type can say it."""
    field, column, wanted = CASTS[what]
    array = read(field, ipc({"x": column})).fields["x"]
    assert array.dtype == wanted.dtype
    assert array.tolist() == wanted.tolist()


WORDS = ["a", "", "é😀", "true", "a"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(WORDS),
        pa.array(WORDS, pa.large_string()),
        pa.array(WORDS, pa.string_view()),
        pa.array(WORDS).dictionary_encode(),
        pa.array(WORDS, pa.dictionary(pa.int8(), pa.large_string())),
        pa.array(["x", *WORDS])[1:],
    ],
    ids=lambda column: str(column.type),
)
@pytest.mark.parametrize("chunk", [None, 2])
def test_strings_arrive_however_they_are_stored(column: Any, chunk: int | None) -> None:
    """As `str`; and as lists of one where the model wants that."""
    body = ipc({"x": column}, chunk=chunk)
    for field in (Field("x", "string", ()), None):
        array = read(field, body).fields["x"]
        assert array.tolist() == WORDS
        assert all(type(item) is str for item in array)
    assert read(Field("x", "string", (1,)), body).fields["x"].shape == (5, 1)


def test_lists_of_strings_arrive() -> None:
    """Plain, and named in a dictionary."""
    for kind in (pa.string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())):
        body = ipc({"x": pa.array([["a", "b"], ["b", "é"]], pa.list_(kind))})
        assert read(Field("x", "string", (2,)), body).fields["x"].tolist() == [
            ["a", "b"],
            ["b", "é"],
        ]


def test_tensors_of_fixed_shape_arrive() -> None:
    """Arrow's own type for them."""
    values = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(values)
    array = read(Field("x", "float32", (2, 3)), ipc({"x": column})).fields["x"]
    assert array.tolist() == values.tolist()


def test_nulls_are_nan_where_the_input_says_so() -> None:
    """NaN itself as well, of any column of numbers."""
    holes = Field("x", "float32", (2,), allow_missing=True)
    for column in (
        pa.array([[1.0, None], [math.nan, 4.0]], pa.list_(pa.float32())),
        pa.array([[1, None], [None, 4]], pa.list_(pa.int64())),
    ):
        array = read(holes, ipc({"x": column})).fields["x"]
        assert array.dtype == np.float32
        assert np.isnan(array).sum() == 2
        assert (array[0, 0], array[1, 1]) == (1, 4)
    single = Field("x", "float32", (), allow_missing=True)
    assert np.isnan(read(single, ipc({"x": pa.nulls(2)})).fields["x"]).all()


def test_nulls_of_open_columns_are_those_of_json() -> None:
    """NaN among numbers, None among strings; other types stay as they are."""
    batch = read(
        None,
        ipc(
            {
                "i": pa.array([1, None]),
                "f": pa.array([1.5, None], pa.float32()),
                "s": pa.array(["a", None]),
                "d": pa.array(["a", None]).dictionary_encode(),
                "n": pa.nulls(2),
                "b": pa.array([True, False]),
                "u": pa.array([1, 2], pa.uint8()),
                "v": pa.array([None, None], pa.dictionary(pa.int8(), pa.string())),
            }
        ),
    )
    dtypes = {name: str(array.dtype) for name, array in batch.fields.items()}
    assert dtypes == {
        "i": "float64",
        "f": "float32",
        "s": "object",
        "d": "object",
        "n": "float64",
        "b": "bool",
        "u": "uint8",
        "v": "object",
    }
    for name in ("i", "f", "n"):
        assert math.isnan(batch.fields[name][1])
    for name in ("s", "d", "v"):
        assert batch.fields[name][1] is None


def test_keys_may_come_along_or_not() -> None:
    """Of any single type; null and NaN are as left out."""
    columns = {
        "x": pa.array([1.0, 2.0], pa.float32()),
        "s": pa.array(["a", None]),
        "i": pa.array([7, 8]),
        "f": pa.array([0.5, math.nan]),
        "b": pa.array([True, None]),
        "n": pa.nulls(2),
    }
    batch = read(X, ipc(columns), keys=("s", "i", "f", "b", "n", "gone"))
    assert list(batch.fields) == ["x"]
    assert batch.keys == {
        "s": ["a", None],
        "i": [7, 8],
        "f": [0.5, None],
        "b": [True, None],
        "n": [None, None],
        "gone": [None, None],
    }


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
    "a map": (X, {"x": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8()))}, "WrongType", "map"),
    "a dictionary of times": (
        None,
        {"x": pa.array([1], pa.timestamp("s")).dictionary_encode()},
        "WrongType",
        "a dictionary of strings or numbers",
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


def test_batches_are_bounded() -> None:
    """Each costs time, however small it is."""
    body = ipc({"x": pa.array(np.zeros(MAX_BATCHES + 1, np.int8))}, chunk=1)
    assert refusal(None, body).reason == "TooManyRows"


# Answers


@pytest.mark.parametrize("file", [True, False])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("failed", [False, True])
def test_an_arrow_answer_says_what_the_json_one_says(file: bool, rows: int, failed: bool) -> None:
    """All columns, in the same order, nested or flat; documents as JSON text, time as a time."""
    writer = ArrowWriter(tables.FACTS, file=file)
    made = tables.full(rows, failed=failed)
    wanted = tables.expected(made)
    for row in wanted:
        row["check_failures"] = [
            orjson.dumps(failure).decode() for failure in row["check_failures"]
        ]
    nested = opened(writer.write(made), file=file)
    flat = opened(writer.write(made, parse_selection(b"dataset_separator=.")), file=file)
    for table, expected in ((nested, wanted), (flat, [tables.flattened(row) for row in wanted])):
        answered = table.to_pylist()
        for row in answered:
            row["time"] = int(row["time"].timestamp() * 1000 + 0.5)
        assert answered == expected
        assert table.schema.names == list(expected[0])


def test_the_types_of_an_answer_are_the_documented_ones() -> None:
    """A client may rely on them."""
    flat = opened(
        ArrowWriter(tables.FACTS, file=True).write(
            tables.full(2), parse_selection(b"dataset_separator=.")
        )
    )
    assert {field.name: str(field.type) for field in flat.schema} == {
        "time": "timestamp[ms]",
        "in.tensor": "list<item: float>",
        "in.session": "string",
        "out.variable": "list<item: float>",
        "out.label": "string",
        "out._model_split": "list<item: string>",
        "anomaly.count": "uint32",
        "anomaly.low": "bool",
        "anomaly.high": "bool",
        "check_failures": "list<item: string>",
        "out_xgb.variable": "list<item: float>",
        "out_gbr.v": "float",
        "metadata.last_model": "string",
        "metadata.pipeline_version": "string",
        "metadata.elapsed": "list<item: int64>",
        "metadata.dropped": "list<item: string>",
        "metadata.partition": "string",
        "metadata.variants": "struct<price: string>",
    }


OUT: dict[str, tuple[Array, str, list[Any]]] = {
    "no numbers": (np.zeros((2, 0), np.float32), "list<item: float>", [[], []]),
    "grids": (np.arange(4.0).reshape(2, 1, 2), "list<item: list<item: double>>", [[[0, 1]], [[2, 3]]]),
    "flags": (np.array([[True, False], [False, False]]), "list<item: bool>", [[True, False], [False, False]]),
    "halves": (np.array([0.5, 1], np.float16), "halffloat", [0.5, 1]),
    "unsigned": (np.array([2**64 - 1, 0], np.uint64), "uint64", [2**64 - 1, 0]),
    "gaps": (np.array([np.nan, np.inf]), "double", [math.nan, math.inf]),
    "every other column": (np.arange(8).reshape(2, 4)[:, ::2], "list<item: int64>", [[0, 2], [4, 6]]),
    "strings": (np.array([["a", "é"], ["", "b"]], object), "list<item: string>", [["a", "é"], ["", "b"]]),
    "strings and null": (np.array(["a", None], object), "string", ["a", None]),
    "fixed strings": (np.array(["a", "bb"]), "string", ["a", "bb"]),
    "lengths": (ragged([1, 2], []), "list<item: float>", [[1, 2], []]),
    "shapes": (ragged([[1, 2]], [[3], [4]]), "list<item: list<item: float>>", [[[1, 2]], [[3], [4]]]),
    "values": (ragged(1, 2), "float", [1, 2]),
}  # fmt: skip


@pytest.mark.parametrize("what", OUT)
def test_outputs_of_any_shape_become_columns(what: str) -> None:
    """Lists in lists, as many as the array has dimensions."""
    array, kind, wanted = OUT[what]
    made = tables.plain({"o": array})
    table = opened(
        ArrowWriter(tables.PLAIN_FACTS, file=True).write(made, parse_selection(b"dataset=out"))
    )
    assert str(table.schema.field("out").type) == f"struct<o: {kind}>"
    answered = [row["out"]["o"] for row in table.to_pylist()]
    assert answered == wanted or all(
        a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(answered, wanted, strict=True)
    )


@pytest.mark.parametrize(
    "array", [np.array([1j]), ragged([1], [[2]]), np.array([{1}]), np.array(["\ud800"], object)]
)
def test_what_arrow_has_no_type_for_is_not_acceptable(array: Array) -> None:
    """The message names the column, and the format that can hold it."""
    with pytest.raises(NotAcceptable, match=r"field 'out\.o' cannot be written in Arrow"):
        ArrowWriter(tables.PLAIN_FACTS, file=True).write(tables.plain({"o": array}))


KEYS: dict[str, tuple[list[Any], str, list[Any]]] = {
    "strings": (["a", None], "string", ["a", None]),
    "integers": ([1, None], "int64", [1, None]),
    "floats": ([0.5, None], "double", [0.5, None]),
    "booleans": ([True, None], "bool", [True, None]),
    "nothing": ([None, None], "null", [None, None]),
    "a mixture": (["a", 1, None, True], "string", ['"a"', "1", None, "true"]),
    "large integers": ([2**63, 1], "string", [str(2**63), "1"]),
}


@pytest.mark.parametrize("what", KEYS)
def test_keys_come_back_as_one_type(what: str) -> None:
    """Where they have none, each is its JSON text."""
    sent, kind, wanted = KEYS[what]
    made = Result(Batch({}, len(sent), None, {"k": sent}), {"o": np.zeros(len(sent))}, 0, [1])
    query = parse_selection(b"dataset=in.k&dataset_separator=.")
    table = opened(ArrowWriter(tables.PLAIN_FACTS, file=True).write(made, query))
    assert str(table.schema.field("in.k").type) == kind
    assert table.column("in.k").to_pylist() == wanted


def test_rows_that_came_as_arrow_are_echoed_in_json() -> None:
    """Written from the values; a float32 has the shortest text that says it."""
    body = ipc({"x": pa.array([[0.1, 2.0]], pa.list_(f32)), "k": pa.array(["s"])})
    batch = read(LISTS, body, keys=("k",))
    answered = RecordsWriter(["o"], tables.PLAIN_FACTS).write(Result(batch, {"o": np.zeros(1)}))
    assert b'"in":{"x":[0.1,2.0],"k":"s"}' in answered
