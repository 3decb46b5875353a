"""Good requests of the Open Inference Protocol become batches, and say how they want their answer."""

import json
from typing import Any

import numpy as np
import pytest

from kit import oip
from midstream_engine.oip.asked import Asked, AskedOutput, header_length
from midstream_engine.oip.reader import OipReader
from midstream_engine.schema import Field

TENSOR = Field("tensor", "float32", (3,))
NAMES = Field("names", "string", (2,))
ROWS = [[1.5, -2.0, 300.0], [0.25, 1e-3, 7.0]]


def field(datatype: str, shape: tuple[int | None, ...] = (), **more: Any) -> Field:
    kind = {"BYTES": "string", "BOOL": "bool"}.get(datatype)
    return Field("x", kind or datatype.lower().replace("fp", "float"), shape, **more)


@pytest.mark.parametrize("data", [ROWS, [value for row in ROWS for value in row]])
def test_data_comes_nested_or_flat(data: Any) -> None:
    """The same numbers, in the shape that the request says."""
    batch, asked = OipReader([TENSOR]).read(oip.body(oip.tensor("tensor", "FP32", (2, 3), data)))
    assert batch.rows == 2
    assert batch.fields["tensor"].dtype == np.float32
    assert np.array_equal(batch.fields["tensor"], np.array(ROWS, np.float32))
    assert (batch.echo, batch.keys) == (None, {})
    assert asked == Asked()


VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False, True],
    "UINT8": [0, 255, 7],
    "UINT16": [0, 65535, 7],
    "UINT32": [0, 2**32 - 1, 7],
    "UINT64": [0, 2**64 - 1, 7],
    "INT8": [-128, 127, 0],
    "INT16": [-(2**15), 2**15 - 1, 0],
    "INT32": [-(2**31), 2**31 - 1, 0],
    "INT64": [-(2**63), 2**63 - 1, 2**53 + 1],
    "FP16": [0.5, -65504.0, 0.0],
    "FP32": [0.1, -3.4e38, 1e-45],
    "FP64": [0.1, 1.7e308, 5e-324],
    "BYTES": ["", "Grüße, 世界", "\x00 and more"],
}


@pytest.mark.parametrize("way", ["json", "binary", "aligned"])
@pytest.mark.parametrize("datatype", VALUES)
def test_every_datatype_arrives(datatype: str, way: str) -> None:
    """In JSON and as binary data, wherever in the body that begins: the same values of the field's type."""
    reader = OipReader([field(datatype)])
    values = VALUES[datatype]
    if way == "json":
        batch, _ = reader.read(oip.body(oip.tensor("x", datatype, (3,), values)))
    else:
        data = ("x", datatype, (3,), oip.packed(datatype, values))
        _, length = oip.binary(data)
        body, length = oip.binary(data, pad=-length % 8 if way == "aligned" else -length % 8 + 1)
        batch, _ = reader.read(body, length)
    array = batch.fields["x"]
    assert array.dtype == reader.fields[0].numpy_dtype if reader.fields else False
    assert array.flags.aligned
    assert array.shape == (3,)
    expected = values if datatype == "BYTES" else np.array(values, oip.TYPES[datatype]).tolist()
    assert array.tolist() == expected


def test_aligned_binary_data_is_not_copied() -> None:
    """A megabyte of numbers stays where it arrived."""
    data = ("tensor", "FP32", (100, 3), bytes(1200))
    _, length = oip.binary(data)
    body, length = oip.binary(data, pad=-length % 4)
    batch, _ = OipReader([TENSOR]).read(body, length)
    assert np.shares_memory(batch.fields["tensor"], np.frombuffer(body, np.uint8))


def test_integers_may_be_written_as_floats() -> None:
    """3.0 is a whole number; so it is in the other formats."""
    batch, _ = OipReader([field("INT32")]).read(oip.body(oip.tensor("x", "INT32", (2,), [3.0, 4])))
    assert batch.fields["x"].tolist() == [3, 4]


@pytest.mark.parametrize("sent", [None, float("nan")])
def test_gaps_reach_an_input_that_allows_them(sent: Any) -> None:
    """null, and NaN as some clients write it, become NaN."""
    reader = OipReader([field("FP32", (2,), allow_missing=True)])
    batch, _ = reader.read(oip.body(oip.tensor("x", "FP32", (1, 2), [sent, 1.5])))
    array = batch.fields["x"]
    assert np.isnan(array[0, 0])
    assert array[0, 1] == 1.5


def test_binary_gaps_reach_an_input_that_allows_them() -> None:
    """NaN needs no text to be NaN."""
    reader = OipReader([field("FP64", allow_missing=True)])
    body, length = oip.binary(("x", "FP64", (2,), oip.packed("FP64", [np.nan, 2.0])))
    assert np.isnan(reader.read(body, length)[0].fields["x"][0])


def test_inputs_come_in_any_order() -> None:
    """The batch has them in the pipeline's; binary data is cut in the request's."""
    reader = OipReader([TENSOR, NAMES])
    body, length = oip.binary(
        ("names", "BYTES", (2, 2), oip.packed("BYTES", ["a", "bb", "", "dddd"])),
        ("tensor", "FP32", (2, 3), oip.packed("FP32", ROWS)),
    )
    batch, _ = reader.read(body, length)
    assert list(batch.fields) == ["tensor", "names"]
    assert batch.fields["names"].tolist() == [["a", "bb"], ["", "dddd"]]
    assert np.array_equal(batch.fields["tensor"], np.array(ROWS, np.float32))


def test_json_and_binary_inputs_mix() -> None:
    """Each input says for itself how it comes."""
    described = {
        "name": "tensor",
        "datatype": "FP32",
        "shape": [1, 3],
        "parameters": {"binary_data_size": 12},
    }
    text = oip.body(oip.tensor("names", "BYTES", (1, 2), ["a", "b"]), described)
    body = text + oip.packed("FP32", ROWS[0])
    batch, _ = OipReader([TENSOR, NAMES]).read(body, len(text))
    assert batch.fields["names"].tolist() == [["a", "b"]]
    assert batch.fields["tensor"].tolist() == np.array(ROWS[:1], np.float32).tolist()


def test_lengths_that_a_field_leaves_open_may_be_nothing() -> None:
    """Rows of no values are rows."""
    reader = OipReader([field("FP32", (None,))])
    sent: tuple[list[Any], ...] = ([], [[], []])
    for data in sent:
        batch, _ = reader.read(oip.body(oip.tensor("x", "FP32", (2, 0), data)))
        assert batch.fields["x"].shape == (2, 0)
    body, length = oip.binary(("x", "FP32", (2, 0), b""))
    assert reader.read(body, length)[0].fields["x"].shape == (2, 0)


# Keys of splits


@pytest.mark.parametrize(
    ("datatype", "shape", "sent"),
    [
        ("BYTES", (2,), ["a", "b"]),
        ("BYTES", (2, 1), ["a", None]),
        ("INT64", (2,), [5, 6]),
        ("FP64", (2, 1, 1), [0.5, None]),
    ],
)
def test_keys_come_along_as_inputs_of_their_own(
    datatype: str, shape: tuple[int, ...], sent: list[Any]
) -> None:
    """One value for each row, null where a row has none."""
    reader = OipReader([TENSOR], ["session"])
    inputs = (
        oip.tensor("tensor", "FP32", (2, 3), ROWS),
        oip.tensor("session", datatype, shape, sent),
    )
    batch, _ = reader.read(oip.body(*inputs))
    assert list(batch.fields) == ["tensor"]
    assert batch.keys == {"session": sent}


def test_keys_may_be_binary_or_left_out() -> None:
    """Python's own values either way; a row without a key has None."""
    reader = OipReader([TENSOR], ["session", "user"])
    body, length = oip.binary(
        ("session", "INT32", (1,), oip.packed("INT32", [7])),
        ("tensor", "FP32", (1, 3), oip.packed("FP32", ROWS[0])),
    )
    batch, _ = reader.read(body, length)
    assert batch.keys == {"session": [7], "user": [None]}
    assert type(batch.keys["session"][0]) is int


# A first step that takes anything


def test_open_inputs_take_any_tensors() -> None:
    """Of any name, datatype and shape, as long as they have the same rows; gaps are the step's to judge."""
    body, length = oip.binary(
        ("a", "FP64", (2,), oip.packed("FP64", [np.nan, 2.0])),
        ("b", "BYTES", (2, 1), oip.packed("BYTES", ["x", "y"])),
        ("c", "INT8", (2, 2, 1), oip.packed("INT8", [1, 2, 3, 4])),
    )
    batch, _ = OipReader(None).read(body, length)
    assert list(batch.fields) == ["a", "b", "c"]
    assert [array.shape for array in batch.fields.values()] == [(2,), (2, 1), (2, 2, 1)]


# What the answer is asked to be

GOOD = oip.tensor("tensor", "FP32", (1, 3), ROWS[0])


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, Asked()),
        ({"id": "42"}, Asked(id="42")),
        ({"id": ""}, Asked(id="")),
        ({"outputs": []}, Asked()),
        ({"parameters": {"binary_data_output": True}}, Asked(binary=True)),
        (
            {"outputs": [{"name": "b"}, {"name": "a", "parameters": {"binary_data": True}}]},
            Asked(outputs=(AskedOutput("b", False), AskedOutput("a", True))),
        ),
        (
            {
                "parameters": {
                    "binary_data_output": True,
                    "priority": 1,
                    "timeout": 5,
                    "mine": "x",
                },
                "outputs": [{"name": "b"}, {"name": "a", "parameters": {"binary_data": False}}],
            },
            Asked(outputs=(AskedOutput("b", True), AskedOutput("a", False)), binary=True),
        ),
    ],
)
def test_the_answer_is_asked_for_as_the_protocol_says(
    more: dict[str, Any], expected: Asked
) -> None:
    """Identity, outputs in their order, binary by output or for all; what is not known is passed over."""
    request = {"model_name": "left to itself", **more}
    assert OipReader([TENSOR]).read(oip.body(GOOD, **request))[1] == expected


@pytest.mark.parametrize(("value", "length"), [(b"", None), (b" 12 ", 12), (b"0", 0)])
def test_the_header_says_the_length_of_the_json(value: bytes, length: int | None) -> None:
    """Not sent, the whole body is JSON."""
    assert header_length(value) == length


def test_a_long_request_is_read_in_one_piece() -> None:
    """Rows by the thousand arrive as they were sent."""
    rows = np.arange(9000, dtype=np.float32).reshape(3000, 3)
    text = json.dumps({"inputs": [oip.tensor("tensor", "FP32", (3000, 3), rows.tolist())]})
    batch, _ = OipReader([TENSOR]).read(text.encode())
    assert np.array_equal(batch.fields["tensor"], rows)
