"""Tables in Arrow: in as arrays, out as structs or flat columns; what does not fit is refused, never a crash."""

import math
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from kit import tables
from kit.records import ragged
from kit.tables import LIMIT, ipc, opened
from midstream_engine.batch import Batch, Result
from midstream_engine.errors import NotAcceptable
from midstream_engine.formats.answers import RecordsWriter
from midstream_engine.formats.arrow_answers import ArrowWriter
from midstream_engine.formats.arrow_rows import ArrowReader
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
    body = ipc({"x": pa.array([[0.1, 2.0]], pa.list_(pa.float32())), "k": pa.array(["s"])})
    batch = read(LISTS, body, keys=("k",))
    answered = RecordsWriter(["o"], tables.PLAIN_FACTS).write(Result(batch, {"o": np.zeros(1)}))
    assert b'"in":{"x":[0.1,2.0],"k":"s"}' in answered
