"""Moulds: bodies that come by the short way are what the long way makes of them, and nothing else takes it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kit import tables
from kit.tables import LIMIT, ipc
from midstream_engine.batch import Batch, Checks, Result
from midstream_engine.errors import RequestError
from midstream_engine.formats.arrow_answers import ArrowWriter
from midstream_engine.formats.arrow_rows import ArrowReader
from midstream_engine.formats.mould import Mould, Shelf
from midstream_engine.formats.selection import parse_selection
from midstream_engine.schema import NUMPY_TYPES, Array, Field

NUMBERS = [name for name in NUMPY_TYPES if name not in {"string", "bool"}]


def test_a_mould_is_filled_with_other_values() -> None:
    """What is between the places stays."""
    mould = Mould(b"head11middle22", [(4, 6), (12, 14)])
    assert mould.filled([b"33", np.array([52, 52], np.uint8)]) == b"head33middle44"
    assert mould.fits(b"head__middle--")
    assert mould.kept == 10


@pytest.mark.parametrize("body", [b"heed11middle22", b"head11middle222", b"head11middl322", b""])
def test_what_differs_elsewhere_does_not_fit(body: bytes) -> None:
    """A byte outside of the places, or another size."""
    assert not Mould(b"head11middle22", [(4, 6), (12, 14)]).fits(body)


def test_places_must_not_overlap() -> None:
    """Nobody could say what belongs to which."""
    with pytest.raises(ValueError, match="overlap"):
        Mould(b"0123456789", [(1, 5), (4, 8)])


def test_a_shelf_wants_what_comes_twice_and_keeps_a_few() -> None:
    """By number and by bytes, the oldest goes first."""
    shelf: Shelf[int, str] = Shelf()
    assert [shelf.wants(1), shelf.wants(1)] == [False, True]
    for number in range(20):
        shelf.put(number, f"{number}", 10)
    assert [number for number in range(20) if shelf.get(number)] == list(range(12, 20))
    shelf.put(20, "large", (1 << 20) - 15)
    assert [number for number in range(21) if shelf.get(number)] == [19, 20]
    shelf.put(21, "too large", (1 << 20) + 1)
    assert [number for number in range(22) if shelf.get(number)] == []


# Requests


def _bodies(dtype: str, *, file: bool, rows: int = 5) -> list[bytes]:
    """Tables of the same columns with other numbers."""
    kind = pa.from_numpy_dtype(np.dtype(dtype))
    bodies = []
    for first in range(4):
        flat = pa.array(np.arange(first, first + rows).astype(dtype))
        double = pa.array(np.arange(first, first + 2 * rows).astype(dtype))
        starts = pa.array(np.arange(0, 2 * rows + 1, 2).astype(np.int32))
        columns = {
            "single": flat,
            "lists": pa.ListArray.from_arrays(starts, double),
            "fixed": pa.FixedSizeListArray.from_arrays(double, 2),
            "float": flat.cast(pa.float64()) if dtype != "float16" else flat,
            "key": pa.array(np.arange(first, first + rows)),
        }
        assert columns["lists"].type == pa.list_(kind)
        bodies.append(ipc(columns, file=file))
    return bodies


def _fields(dtype: str) -> tuple[Field, ...]:
    other = "float16" if dtype == "float16" else "float32"
    return (
        Field("single", dtype, ()),
        Field("lists", dtype, (2,)),
        Field("fixed", dtype, (2,)),
        Field("float", other, ()),
    )


def _outcome(reader: ArrowReader, body: bytes) -> Any:
    """All that a caller sees of a body, comparable."""
    try:
        batch = reader.read(body, LIMIT)
    except RequestError as error:
        return type(error), error.message, error.reason, error.field, error.row
    arrays = {n: (a.dtype, a.shape, a.tobytes()) for n, a in batch.fields.items()}
    return batch.rows, arrays, dict(batch.keys)


@pytest.mark.parametrize("file", [True, False])
@pytest.mark.parametrize("open_", [True, False])
@pytest.mark.parametrize("dtype", NUMBERS)
def test_bodies_of_one_mould_are_read_as_others(dtype: str, open_: bool, file: bool) -> None:
    """From the third one on; single values, lists, lists of fixed size, casts, and a split's field."""
    fields = None if open_ else _fields(dtype)
    reader = ArrowReader(fields, ("key",), file=file)
    for body in _bodies(dtype, file=file):
        fresh = ArrowReader(fields, ("key",), file=file)
        assert _outcome(reader, body) == _outcome(fresh, body)
    assert len(reader.moulds) == 1


def test_a_number_that_does_not_fit_is_found_in_a_mould() -> None:
    """The message names row and field, as it does on the long way."""
    reader = ArrowReader([Field("x", "float32", ())], file=True)
    for _ in range(3):
        reader.read(ipc({"x": pa.array([1.0, 2.0])}), LIMIT)
    with pytest.raises(RequestError, match=r"row 1, field 'x'"):
        reader.read(ipc({"x": pa.array([1.0, np.nan])}), LIMIT)
    assert reader.read(ipc({"x": pa.array([3.0, 4.0])}), LIMIT).fields["x"].tolist() == [3.0, 4.0]


@pytest.mark.parametrize(
    "columns",
    [
        {"x": pa.array([1.0, None])},
        {"x": pa.array([True, False])},
        {"x": pa.array(["a", "b"])},
        {"x": pa.array([1.0, 2.0]).dictionary_encode()},
        {"x": pa.array([[1.0], [2.0]]), "y": pa.array(["a", "b"])},
    ],
)
def test_what_is_no_number_makes_no_mould(columns: Mapping[str, Any]) -> None:
    """Nulls, booleans, strings and dictionaries hold more than numbers."""
    reader = ArrowReader(None, file=True)
    for _ in range(3):
        reader.read(ipc(columns), LIMIT)
    assert len(reader.moulds) == 0


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_packed_bodies_and_several_batches_make_no_mould(compression: str) -> None:
    """Their numbers are not in the body as they are."""
    reader = ArrowReader(None, file=True)
    columns = {"x": pa.array(np.zeros(1000))}
    for _ in range(3):
        reader.read(ipc(columns, compression=compression), LIMIT)
        reader.read(ipc(columns, chunk=10), LIMIT)
    assert len(reader.moulds) == 0


def test_numbers_that_are_bounds_of_lists_too_make_no_mould() -> None:
    """A body may claim the same bytes for both: then other numbers are other lists, and only the long way sees it."""
    starts = np.array([0, 1, 2], np.int32)
    lists = pa.ListArray.from_arrays(pa.array(starts), pa.array([1.0, 2.0], pa.float32()))
    plain_ = ipc({"x": lists, "y": pa.array([7, 8, 9][:2], pa.int32())}, file=False)
    # The record batch's buffers as pairs of offset and length: y's numbers are moved to the bounds of x.
    buffers = np.frombuffer(plain_, np.int64)
    sound = ArrowReader(None, file=False).read(plain_, LIMIT)
    assert sound.fields["y"].tolist() == [7, 8]
    places: list[int] = np.flatnonzero((buffers[1:] == 8) & (buffers[:-1] > 0)).tolist()
    moved = 0
    for place in places:
        aliased = bytearray(plain_)
        aliased[8 * place : 8 * place + 8] = (0).to_bytes(8, "little")
        reader = ArrowReader(None, file=False)
        body = bytes(aliased)
        try:
            batch = reader.read(body, LIMIT)
        except RequestError:
            continue
        if batch.fields.get("y", np.zeros(0)).tolist() != [0, 1]:
            continue
        moved += 1
        for _ in range(3):
            reader.read(body, LIMIT)
        assert len(reader.moulds) == 0
    assert moved


def test_bytes_changed_anywhere_are_seen_as_on_the_long_way() -> None:
    """Whatever byte of a body is another one: same rows, or the same refusal."""
    body, *_ = _bodies("float32", file=False, rows=2)
    fields = _fields("float32")
    reader = ArrowReader(fields, ("key",), file=False)
    for place in range(len(body)):
        for _ in range(3):
            reader.read(body, LIMIT)
        for flip in (0x01, 0x80, 0xFF):
            other = bytearray(body)
            other[place] ^= flip
            fresh = ArrowReader(fields, ("key",), file=False)
            assert _outcome(reader, bytes(other)) == _outcome(fresh, bytes(other)), place


# Answers


def _results(dtype: str) -> list[Result]:
    results = []
    for first in range(4):
        grid = np.arange(first, first + 12).astype(dtype).reshape(3, 2, 2)
        outputs: dict[str, Array] = {"grid": grid, "turned": grid.T.swapaxes(0, 2)[:, 0, :]}
        batch = Batch({"x": grid[:, 0, 0]}, 3)
        results.append(Result(batch, outputs, 1_700_000_000_000 + first, [first, 2]))
    return results


@pytest.mark.parametrize("file", [True, False])
@pytest.mark.parametrize(
    "query", [b"", b"dataset_separator=.", b"dataset=out,metadata", b"dataset=time"]
)
@pytest.mark.parametrize("dtype", [*NUMBERS, "bool"])
def test_answers_of_one_mould_are_the_same_bytes(dtype: str, query: bytes, file: bool) -> None:
    """Nested, flat and in part, whatever the numbers are."""
    selection = parse_selection(query)
    writer = ArrowWriter(tables.PLAIN_FACTS, file=file)
    for result in _results(dtype):
        fresh = ArrowWriter(tables.PLAIN_FACTS, file=file)
        assert writer.write(result, selection) == fresh.write(result, selection)
    assert len(writer.moulds) == 1


def test_answers_that_differ_in_more_than_numbers_have_their_own_moulds() -> None:
    """Rows, types, the number of steps, and failures of validations."""
    writer = ArrowWriter(tables.FACTS, file=True)
    batch = Batch({"x": np.zeros(2)}, 2)
    names, failures = ("low", "high"), tables.FAILURES
    results = [
        Result(Batch({"x": np.zeros(rows)}, rows), {"y": np.zeros(rows, dtype)}, 1, elapsed)
        for rows in (1, 2, 9)
        for dtype in ("float32", "int32", "bool")
        for elapsed in ([1, 2], [1, 2, 3])
    ]
    results += [
        Result(
            batch,
            {"y": np.zeros(2)},
            1,
            [1, 2],
            checks=Checks(names, failures, np.array(failed, np.bool_)),
        )
        for failed in ([[0, 0], [0, 0]], [[1, 1], [0, 0]], [[1, 0], [0, 1]])
    ]
    results += [Result(batch, {"y": np.array(list(text), object)}, 1, [1]) for text in ("ab", "cd")]
    for result in results * 3:
        assert writer.write(result) == ArrowWriter(tables.FACTS, file=True).write(result)


def test_columns_of_one_name_make_no_mould() -> None:
    """The later one stands for both in a flat answer."""
    selection = parse_selection(b"dataset_separator=.")
    writer = ArrowWriter(tables.PLAIN_FACTS, file=True)
    shadows: dict[str, dict[str, Array] | None] = {
        "a": {"b.c": np.zeros(2)},
        "a.b": {"c": np.ones(2)},
    }
    result = Result(Batch({}, 2), {"y": np.zeros(2)}, 1, [1], shadows=shadows)
    bodies = {writer.write(result, selection) for _ in range(4)}
    assert len(bodies) == 1
    assert len(writer.moulds) == 0
