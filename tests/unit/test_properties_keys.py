"""A key has one text, whatever the format and the type that it comes in."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kit import oip
from midstream_engine.formats.arrow_rows import ArrowReader
from midstream_engine.formats.open_rows import OpenReader
from midstream_engine.formats.records import Reader
from midstream_engine.oip.reader import OipReader
from midstream_engine.schema import Field
from midstream_engine.split import canonical, keys_of
from reference import pipelines, wire
from reference.values import Array, Column

X = Field("x", "float32", ())

arrays = st.sampled_from(
    ["float16", "float32", "float64", "int8", "int64", "uint64", "bool"]
).flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(max_dims=2, max_side=3)))


@given(arrays)
def test_keys_of_arrays_have_the_text_of_their_values(array: Array) -> None:
    """The shortest decimal of the value's own type; lists are lists of such."""
    keys = keys_of(array)
    assert [canonical(key) for key in keys] == [pipelines.canonical(value) for value in array]


@pytest.mark.parametrize(
    ("dtype", "value", "text"),
    [
        ("float32", 0.1, "0.1"),
        ("float16", 0.1, "0.1"),
        ("float64", 0.1, "0.1"),
        ("float32", 42.0, "42"),
        ("float32", 16777217.0, "16777216"),
    ],
)
def test_a_key_is_the_same_in_every_format(dtype: str, value: float, text: str) -> None:
    """0.1 is 0.1 in JSON, in Arrow and in a tensor, of any width."""
    columns = [Column("x", "float32"), Column("who", dtype)]
    rows = [{"x": 1.0, "who": value}]
    found = [
        ArrowReader([X], ["who"], file=True).read(wire.arrow(rows, columns, file=True), 1 << 20),
        OipReader([X], ["who"]).read(wire.tensors(rows, columns, binary=False)[0])[0],
        OipReader([X], ["who"]).read(*wire.tensors(rows, columns, binary=True))[0],
    ]
    if value == float(text):
        found.append(Reader([X], ["who"]).read(wire.records(rows)))
    assert [[text]] * len(found) == [[canonical(key) for key in b.keys["who"]] for b in found]


@pytest.mark.parametrize("binary", [True, False])
def test_nan_is_no_key_in_a_tensor(binary: bool) -> None:
    """A row with NaN has none, as in other formats."""
    key = ("who", "FP64", [2], oip.packed("FP64", [np.nan, 2.5]))
    data = ("x", "FP32", [2], oip.packed("FP32", [1, 2]))
    reader = OipReader([X], ["who"])
    if binary:
        batch, _ = reader.read(*oip.binary(data, key))
    else:
        sent = oip.body(
            oip.tensor("x", "FP32", [2], [1, 2]), oip.tensor("who", "FP64", [2], [np.nan, 2.5])
        )
        batch, _ = reader.read(sent)
    assert batch.keys == {"who": [None, 2.5]}


def test_a_nan_in_a_table_is_no_key() -> None:
    """The same in Arrow."""
    table = pa.table({"x": pa.array([1.0, 2.0]), "who": pa.array([np.nan, 0.1], pa.float32())})
    body = wire.arrow_body(table, file=False)
    assert ArrowReader([X], ["who"], file=False).read(body, 1 << 20).keys == {"who": [None, 0.1]}


@pytest.mark.parametrize("value", ["a", 7, 2.5, True])
def test_code_that_takes_anything_gets_keys_too(value: object) -> None:
    """Of a tensor as of any other column, as in other formats; what a row does not have is missing there."""
    datatype = {str: "BYTES", int: "INT64", float: "FP64", bool: "BOOL"}[type(value)]
    for sent in ([value, value], [value, None]):
        if sent == [True, None]:
            continue  # no column can hold it
        columns = {"x": [1.0, 2.0], "who": sent}
        open_rows = OpenReader(["who"]).read(json.dumps(columns).encode())
        body = oip.body(
            oip.tensor("x", "FP64", [2], [1, 2]), oip.tensor("who", datatype, [2], sent)
        )
        tensors, _ = OipReader(None, ["who"]).read(body)
        assert list(open_rows.fields) == list(tensors.fields) == ["x", "who"]
        for name, array in open_rows.fields.items():
            assert array.dtype == tensors.fields[name].dtype
            np.testing.assert_array_equal(array, tensors.fields[name])
        assert open_rows.keys == tensors.keys == {"who": sent}
