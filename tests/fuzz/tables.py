"""Arrow bodies: tables of right and wrong types, in one of the many ways that Arrow can be written, then damaged."""

import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from fuzz.pipelines import Fuzzed
from fuzz.rows import columns_of, rows_for
from reference.values import Column

Make = Callable[[random.Random, list[Any]], Any]


def table_body(rng: random.Random, fuzzed: Fuzzed, changes: int, *, file: bool) -> bytes:
    """changes: how many things are wrong with the table; some of them may not matter."""
    rows = rows_for(rng, fuzzed)
    columns = columns_of(fuzzed, rows)
    odd = {rng.randrange(len(columns)) for _ in range(changes)}
    arrays: list[tuple[str, Any]] = []
    for place, column in enumerate(columns):
        values = [row.get(column.name) for row in rows]
        array = _odd(rng, values) if place in odd else None
        fitting = _array(values, _fitting(rng, column)) if array is None else array
        arrays.append((column.name, fitting))
    if changes and rng.random() < 0.2:
        arrays = _other_names(rng, arrays)
    rng.shuffle(arrays)
    body = _written(rng, arrays, file=file)
    for _ in range(changes if rng.random() < 0.5 else 0):
        body = damaged(rng, body)
    return body


def _array(values: list[Any], kind: Any) -> Any:
    try:
        return pa.array(values, kind, from_pandas=False)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        # Keys of several types, or numbers that do not fit.
        return pa.array([None if value is None else str(value) for value in values], pa.string())


_NUMBERS = {
    "float16": (pa.float16(), pa.float32(), pa.float64()),
    "float32": (pa.float32(), pa.float64(), pa.float32()),
    "float64": (pa.float64(), pa.float32(), pa.int64()),
    "bool": (pa.bool_(),),
    "string": (
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
    ),
}


def _fitting(rng: random.Random, column: Column) -> Any:
    """A type that holds a column."""
    kind: Any = rng.choice(_NUMBERS.get(column.dtype) or (getattr(pa, column.dtype)(),))
    for length in reversed(column.shape):
        forms = [pa.list_(kind), pa.large_list(kind)]
        if length is not None:
            forms.append(pa.list_(kind, length))
        kind = rng.choice(forms)
    return kind


# What does not fit


def _odd(rng: random.Random, values: list[Any]) -> Any:
    """None where that way of being odd is not one for these values."""
    made = rng.choice(_ODD)(rng, values)
    return made if made is not None and len(made) == len(values) else None


def _other_type(rng: random.Random, values: list[Any]) -> Any:
    kind = rng.choice(
        (
            *(
                pa.int8(),
                pa.uint64(),
                pa.float16(),
                pa.float64(),
                pa.bool_(),
                pa.string(),
                pa.null(),
            ),
            *(pa.timestamp("ms"), pa.date32(), pa.decimal128(20, 3), pa.binary(), pa.duration("s")),
            *(pa.list_(pa.float32()), pa.list_(pa.null(), 3), pa.struct([("a", pa.int8())])),
            *(
                pa.map_(pa.string(), pa.int8()),
                pa.list_view(pa.float32()),
                pa.binary(4),
                pa.large_binary(),
            ),
            *(pa.dictionary(pa.int32(), pa.float32()), pa.list_(pa.list_(pa.bool_()))),
        )
    )
    return pa.nulls(len(values), kind) if rng.random() < 0.3 else _array(values, kind)


def _with_nulls(rng: random.Random, values: list[Any]) -> Any:
    holes = [None if rng.random() < 0.4 else value for value in values]
    return pa.array(holes) if _is_simple(holes) else None


def _null_inside(rng: random.Random, values: list[Any]) -> Any:
    if not all(isinstance(value, list) and value for value in values):
        return None
    holes = [[None if rng.random() < 0.3 else item for item in value] for value in values]
    return pa.array(holes) if _is_simple(holes) else None


def _lengths(rng: random.Random, values: list[Any]) -> Any:
    if not all(isinstance(value, list) for value in values):
        return (
            pa.array([[value] * rng.randrange(3) for value in values], None)
            if _is_simple(values)
            else None
        )
    other = [
        value + value[: rng.randrange(2)] if rng.random() < 0.5 else value[:-1] for value in values
    ]
    return pa.array(other) if _is_simple(other) else None


def _special(rng: random.Random, values: list[Any]) -> Any:
    number = rng.choice((np.nan, np.inf, -np.inf, 1e39, -0.0, 1e-46, 2.0**63, 0.5))
    return pa.array([number for _ in values], rng.choice((pa.float32(), pa.float64())))


def _dictionary(rng: random.Random, values: list[Any]) -> Any:
    index = pa.array(
        [rng.randrange(2) for _ in values], rng.choice((pa.int8(), pa.uint32(), pa.int64()))
    )
    words = rng.choice(
        (["a", "b"], ["a" * 1000, ""], [None, "x"], [1.5, 2.5], [1, 2], [[1], [2]], [True, False])
    )
    return pa.DictionaryArray.from_arrays(index, pa.array(words))


def _tensors(rng: random.Random, values: list[Any]) -> Any:
    shape = rng.choice(((18,), (2, 2), (3,), (1,), (0,), (2, 0)))
    flat = np.zeros((len(values), *shape), np.float32)
    size = int(np.prod(shape))
    storage = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), size) if size else None
    if storage is None:
        return None
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), shape), storage)


def _run_ends(_: random.Random, values: list[Any]) -> Any:
    if not _is_simple(values) or any(isinstance(value, list) for value in values):
        return None
    return pa.RunEndEncodedArray.from_arrays(
        pa.array([len(values)], pa.int32()), pa.array(values[:1])
    )


def _unions(_: random.Random, values: list[Any]) -> Any:
    kinds = pa.array([0] * len(values), pa.int8())
    return pa.UnionArray.from_sparse(kinds, [pa.array([1.0] * len(values))])


def _is_simple(values: Sequence[Any]) -> bool:
    """Whether Arrow finds a type for them."""
    try:
        pa.array(values)
    except (pa.ArrowException, OverflowError):
        return False
    return True


_ODD: tuple[Make, ...] = (
    *(_other_type, _other_type, _with_nulls, _null_inside, _lengths, _special),
    *(_dictionary, _tensors, _run_ends, _unions),
)


def _other_names(rng: random.Random, arrays: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    place = rng.randrange(len(arrays))
    name, array = arrays[place]
    match rng.randrange(4):
        case 0:
            return arrays[:place] + arrays[place + 1 :]
        case 1:
            return [*arrays, (name, array)]
        case 2:
            return [*arrays, (rng.choice(("x", "", "__index_level_0__", "é" * 100)), array)]
        case _:
            arrays[place] = (rng.choice((name.upper(), name + "\x00", "")), array)
            return arrays


# Writing


def _written(rng: random.Random, arrays: list[tuple[str, Any]], *, file: bool) -> bytes:
    if not arrays:
        return b""
    schema = pa.schema([pa.field(name, array.type) for name, array in arrays])
    if rng.random() < 0.1:
        schema = schema.with_metadata({"pandas": "{}", "a": "b" * rng.randrange(100)})
    batch = pa.RecordBatch.from_arrays([array for _, array in arrays], schema=schema)
    options = pa.ipc.IpcWriteOptions(
        compression=rng.choice((None, None, None, "lz4", "zstd")),
        metadata_version=rng.choice((pa.ipc.MetadataVersion.V5, pa.ipc.MetadataVersion.V4)),
        use_legacy_format=rng.random() < 0.05,
    )
    sink = pa.BufferOutputStream()
    opened = pa.ipc.new_file if file else pa.ipc.new_stream
    try:
        with opened(sink, schema, options=options) as writer:
            for part in _parts(rng, batch):
                writer.write_batch(part)
    except pa.ArrowException:
        # What the older version has no word for.
        return arrow_bytes(batch, file=file)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def arrow_bytes(batch: Any, *, file: bool) -> bytes:
    sink = pa.BufferOutputStream()
    with (pa.ipc.new_file if file else pa.ipc.new_stream)(sink, batch.schema) as writer:
        writer.write_batch(batch)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def _parts(rng: random.Random, batch: Any) -> list[Any]:
    rows = batch.num_rows
    match rng.choices(("whole", "slices", "empty", "none", "many"), (12, 4, 2, 1, 1))[0]:
        case "slices":
            cut = rng.randrange(rows + 1)
            return [batch.slice(0, cut), batch.slice(cut)]
        case "empty":
            return [batch.slice(0, 0), batch, batch.slice(rows)]
        case "none":
            return []
        case "many":
            return [batch.slice(row % rows, 1) for row in range(rng.choice((rows, 3 * rows)))]
        case _:
            return [batch]


_SIZES = (
    0,
    1,
    -1,
    2,
    7,
    8,
    64,
    255,
    1 << 16,
    1 << 20,
    (1 << 31) - 1,
    -(1 << 31),
    1 << 40,
    (1 << 63) - 1,
    -(1 << 63),
)


def damaged(rng: random.Random, body: bytes) -> bytes:
    """Bytes in which something is not as it was."""
    if not body:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(40)))
    data = bytearray(body)
    # Most of what can be wrong is told at the beginning, and in the footer.
    at = rng.choice(
        (
            rng.randrange(len(data)),
            rng.randrange(min(len(data), 400)),
            max(len(data) - rng.randrange(1, 300), 0),
        )
    )
    match rng.randrange(7):
        case 0:
            data[at] ^= 1 << rng.randrange(8)
        case 1:
            at -= at % 4
            data[at : at + 4] = struct.pack("<i", max(min(rng.choice(_SIZES), 2**31 - 1), -(2**31)))
        case 2:
            at -= at % 8
            data[at : at + 8] = struct.pack("<q", rng.choice(_SIZES))
        case 3:
            del data[at:]
        case 4:
            del data[at : at + rng.choice((1, 4, 8, 64))]
        case 5:
            data[at:at] = data[at : at + rng.choice((1, 8, 64, 400))]
        case _:
            data[at : at + rng.randrange(16)] = bytes(rng.randrange(256) for _ in range(8))
    return bytes(data)
