"""Requests of the Open Inference Protocol that do not fit are refused with what would be right."""

import json
from itertools import product
from typing import Any

import pytest

from kit import oip
from kit.oip_refused import refused
from midstream_engine.errors import BadInput
from midstream_engine.oip.asked import header_length
from midstream_engine.oip.reader import OipReader
from midstream_engine.schema import Field

FIELDS = (Field("tensor", "float32", (3,)), Field("count", "int64", ()))
TENSOR = oip.tensor("tensor", "FP32", (1, 3), [1, 2, 3])
COUNT = oip.tensor("count", "INT64", (1,), [7])


def refusal(*inputs: Any, **more: Any) -> BadInput:
    return refused(OipReader(FIELDS, knows=["y"].__contains__), oip.body(*inputs, **more))


def one(datatype: str, shape: Any, data: Any, dtype: str | None = None) -> BadInput:
    """Of a single input `x` with two values a row."""
    field = Field("x", dtype or datatype.lower().replace("fp", "float"), (2,))
    return refused(OipReader([field]), oip.body(oip.tensor("x", datatype, shape, data)))


REQUESTS: dict[str, tuple[Any, str, str]] = {
    "no inputs": ({}, "NotInferenceRequest", "expected a list of input tensors, got nothing"),
    "an empty list": ({"inputs": []}, "NotInferenceRequest", "got nothing"),
    "an object of inputs": ({"inputs": {}}, "NotInferenceRequest", "got an object"),
    "a list": ([], "NotInferenceRequest", "the body is a list"),
    "null": (None, "NotInferenceRequest", "the body is null"),
    "a number as id": (
        {"inputs": [TENSOR], "id": 7},
        "NotInferenceRequest",
        "id: expected a string",
    ),
    "parameters in a list": (
        {"inputs": [TENSOR], "parameters": []},
        "NotInferenceRequest",
        "parameters: expected an object",
    ),
    "a text as flag": (
        {"inputs": [TENSOR], "parameters": {"binary_data_output": "yes"}},
        "NotInferenceRequest",
        "parameters.binary_data_output: expected true or false, got a string",
    ),
    "a sequence": (
        {"inputs": [TENSOR], "parameters": {"sequence_id": 5}},
        "NotSupported",
        "sequences are not supported",
    ),
    "an input that is no object": (
        {"inputs": [1]},
        "NotInferenceRequest",
        "inputs[0]: expected an object",
    ),
    "an input without a name": (
        {"inputs": [{"shape": [1]}]},
        "NotInferenceRequest",
        "inputs[0].name: expected the name of an input, got nothing",
    ),
    "an input without a shape": (
        {"inputs": [{**TENSOR, "shape": None}]},
        "NotInferenceRequest",
        "inputs[0].shape: expected a list of 1 to 32 lengths, the number of rows first, got nothing",
    ),
    "a shape without rows": (
        {"inputs": [{**TENSOR, "shape": []}]},
        "NotInferenceRequest",
        "inputs[0].shape",
    ),
    "a negative shape": (
        {"inputs": [{**TENSOR, "shape": [-1, 3]}]},
        "NotInferenceRequest",
        "inputs[0].shape",
    ),
    "a boolean in a shape": (
        {"inputs": [{**TENSOR, "shape": [True, 3]}]},
        "NotInferenceRequest",
        "shape",
    ),
    "a float in a shape": (
        {"inputs": [{**TENSOR, "shape": [1.0, 3]}]},
        "NotInferenceRequest",
        "shape",
    ),
    "a shape of many dimensions": (
        {"inputs": [{**TENSOR, "shape": [1] * 33}]},
        "NotInferenceRequest",
        "shape",
    ),
    "a length that no array has, beside a 0": (
        {"inputs": [{**TENSOR, "shape": [1, 0, 2**63], "data": []}]},
        "WrongShape",
        "other lengths that make at most 16777216 multiplied, got [1, 0, 9223372036854775808]",
    ),
    "an unknown datatype": (
        {"inputs": [{**TENSOR, "datatype": "FLOAT"}]},
        "WrongType",
        "input 'tensor': datatype \"FLOAT\" is not supported; there are BOOL, UINT8",
    ),
    "a datatype that numpy lacks": (
        {"inputs": [{**TENSOR, "datatype": "BF16"}]},
        "WrongType",
        'datatype "BF16" is not supported; send FP32 instead',
    ),
    "no data": (
        {"inputs": [{**TENSOR, "data": None}]},
        "NotInferenceRequest",
        "inputs[0]: expected data, or parameters.binary_data_size and the data behind the JSON",
    ),
    "data that is a number": (
        {"inputs": [{**TENSOR, "data": 5}]},
        "NotInferenceRequest",
        "inputs[0].data",
    ),
    "both kinds of data": (
        {"inputs": [{**TENSOR, "parameters": {"binary_data_size": 12}}]},
        "NotInferenceRequest",
        "has both data and parameters.binary_data_size",
    ),
    "shared memory": (
        {"inputs": [{**TENSOR, "parameters": {"shared_memory_region": "a"}}]},
        "NotSupported",
        "shared memory is not supported",
    ),
    "parameters of an input in a list": (
        {"inputs": [{**TENSOR, "parameters": [1]}]},
        "NotInferenceRequest",
        "inputs[0].parameters",
    ),
    "outputs in an object": (
        {"inputs": [TENSOR], "outputs": {"name": "y"}},
        "NotInferenceRequest",
        "outputs: expected a list, got an object",
    ),
    "an output that is a name": (
        {"inputs": [TENSOR], "outputs": ["y"]},
        "NotInferenceRequest",
        "outputs[0]: expected an object with a name, got a string",
    ),
    "an output without a name": (
        {"inputs": [TENSOR], "outputs": [{}]},
        "NotInferenceRequest",
        "outputs[0].name",
    ),
    "an unknown output": (
        {"inputs": [TENSOR], "outputs": [{"name": "y"}, {"name": "z"}]},
        "UnknownOutput",
        "there is no output 'z'; there are 'y'; leave outputs out to get all",
    ),
    "an output twice": (
        {"inputs": [TENSOR], "outputs": [{"name": "y"}, {"name": "y"}]},
        "UnknownOutput",
        "outputs[1]: output 'y' is asked for twice",
    ),
    "classes instead of numbers": (
        {"inputs": [TENSOR], "outputs": [{"name": "y", "parameters": {"classification": 2}}]},
        "NotSupported",
        "outputs[0].parameters.classification is not supported",
    ),
    "an output in shared memory": (
        {
            "inputs": [TENSOR],
            "outputs": [{"name": "y", "parameters": {"shared_memory_region": "a"}}],
        },
        "NotSupported",
        "shared_memory_region is not supported",
    ),
}


@pytest.mark.parametrize("what", REQUESTS)
def test_what_is_no_request_is_refused(what: str) -> None:
    """The message names the place and what belongs there."""
    document, reason, message = REQUESTS[what]
    reader = OipReader(FIELDS, knows=["y"].__contains__, outputs=["y"])
    error = refused(reader, json.dumps(document).encode())
    assert error.reason == reason
    assert message in error.message


def test_missing_unknown_and_repeated_inputs_are_refused() -> None:
    """The message lists the inputs that are expected, in the protocol's words."""
    expected = "; expected inputs: 'tensor' (FP32 [-1, 3]), 'count' (INT64 [-1])"
    cases = {
        "input 'count' is missing": (TENSOR,),
        "there is no input 'tensr'": (COUNT, {**TENSOR, "name": "tensr"}),
        "input 'count' is there twice": (COUNT, COUNT, TENSOR),
    }
    for message, inputs in cases.items():
        error = refusal(*inputs)
        assert (error.reason, error.message) == ("WrongFields", message + expected)


def test_keys_are_not_taken_twice_or_with_many_values() -> None:
    """A key is one value for each row."""
    reader = OipReader(FIELDS[:1], ["session"])
    key = oip.tensor("session", "BYTES", (1,), ["a"])
    assert refused(reader, oip.body(TENSOR, key, key)).reason == "WrongFields"
    wide = oip.tensor("session", "BYTES", (1, 2), ["a", "b"])
    error = refused(reader, oip.body(TENSOR, wide))
    assert error.message == (
        "input 'session': wrong shape, expected one value for each row: [1], got [1, 2]"
    )
    wrong = oip.tensor("session", "INT8", (1,), ["a"])
    assert refused(reader, oip.body(TENSOR, wrong)).message == (
        "row 0, input 'session': expected a number (int8), got \"a\""
    )


def test_another_datatype_is_not_converted() -> None:
    """The message has the one that is expected."""
    error = refusal({**TENSOR, "datatype": "FP64"}, COUNT)
    assert error.reason == "WrongType"
    assert error.message == "input 'tensor': the datatype is FP64, the model expects FP32"


def test_another_shape_is_not_bent() -> None:
    """The message has both, with the rows first."""
    error = refusal(oip.tensor("tensor", "FP32", (1, 4), [1, 2, 3, 4]), COUNT)
    assert error.reason == "WrongShape"
    assert error.message == "input 'tensor': wrong shape, expected [-1, 3], got [1, 4]"


def test_inputs_need_the_same_number_of_rows() -> None:
    """A request is one table."""
    error = refusal(TENSOR, oip.tensor("count", "INT64", (2,), [1, 2]))
    assert error.message == (
        "input 'count' has 2 rows, input 'tensor' has 1; all inputs of one request need the same number of rows"
    )


def test_rows_are_counted() -> None:
    """None is too few, more than the limit too many; nothing is made of them before."""
    assert refusal(oip.tensor("tensor", "FP32", (0, 3), []), COUNT).reason == "NoRows"
    assert refusal(oip.tensor("tensor", "FP32", (100_001, 0), []), COUNT).reason == "TooManyRows"


DATA: dict[str, tuple[tuple[Any, ...], str, str, int | None]] = {
    "too few values": (
        ("FP32", [2, 2], [1, 2, 3]),
        "WrongShape",
        "input 'x': data has 3 values, the shape [2, 2] 4",
        None,
    ),
    "another nesting": (
        ("FP32", [2, 2], [[1, 2, 3, 4]]),
        "WrongShape",
        "input 'x': data is not nested as its shape [2, 2] says; send it so, or as one flat list",
        None,
    ),
    "half nested": (("FP32", [2, 2], [[1, 2], 3]), "WrongShape", "is not nested", None),
    "ragged": (("FP32", [2, 2], [[1, 2], [3]]), "WrongShape", "is not nested", None),
    "nested too deep": (
        ("FP32", [1, 2], [[[1], [2]]]),
        "WrongType",
        "row 0, input 'x'[0]: expected a number (float32), got a list",
        0,
    ),
    "a string": (
        ("FP32", [2, 2], [1, 2, 3, "4"]),
        "WrongType",
        "row 1, input 'x'[1]: expected a number (float32), got \"4\"",
        1,
    ),
    "a boolean": (("INT8", [1, 2], [1, True]), "WrongType", "got true", 0),
    "a number for a flag": (
        ("BOOL", [1, 2], [True, 1]),
        "WrongType",
        "expected true or false, got 1",
        0,
    ),
    "a number for a text": (
        ("BYTES", [1, 2], ["a", 5], "string"),
        "WrongType",
        "row 0, input 'x'[1]: expected a string, got 5",
        0,
    ),
    "null for a text": (("BYTES", [1, 2], ["a", None], "string"), "MissingValue", "null is not", 0),
    "a fraction": (
        ("INT8", [1, 2], [1, 2.5]),
        "WrongType",
        "expected a whole number (int8), got 2.5",
        0,
    ),
    "a number too large": (("INT8", [1, 2], [1, 128]), "OutOfRange", "128 does not fit in int8", 0),
    "a negative number": (("UINT8", [1, 2], [1, -1]), "OutOfRange", "-1 does not fit in uint8", 0),
    "a large float": (("INT64", [1, 2], [1, 1e17]), "OutOfRange", "too large to be exact", 0),
    "a number beyond 64 bits": (
        ("UINT64", [1, 2], [1, 2**64]),
        "OutOfRange",
        "e+19 does not fit in uint64",
        0,
    ),
    "a number beyond float32": (
        ("FP32", [1, 2], [1, 1e39]),
        "OutOfRange",
        "does not fit in float32",
        0,
    ),
    "a number beyond float16": (
        ("FP16", [1, 2], [65520, 1]),
        "OutOfRange",
        "65520 does not fit",
        0,
    ),
    "null": (
        ("FP32", [1, 2], [1, None]),
        "MissingValue",
        "null is not a value of float32; set `missing: Allow` on this input",
        0,
    ),
    "null in whole numbers": (
        ("INT8", [1, 2], [1, None]),
        "MissingValue",
        "input 'x'[1]: null is not a value of int8",
        0,
    ),
    "NaN": (
        ("FP64", [1, 2], [1, float("nan")]),
        "MissingValue",
        "NaN is not a value of float64",
        0,
    ),
    "Infinity": (("FP64", [1, 2], [1, float("-inf")]), "NotFinite", "not a finite number", 0),
}


@pytest.mark.parametrize("what", DATA)
def test_values_that_do_not_fit_are_refused_with_their_place(what: str) -> None:
    """Reason, row and index, and what would be right."""
    sent, reason, message, row = DATA[what]
    error = one(*sent)
    assert (error.reason, error.field, error.row) == (reason, "x", row)
    assert message in error.message


# The body and its header


@pytest.mark.parametrize(
    "value", [b"-1", b"1_0", b"1.0", b"0x10", b"abc", "\u0661".encode(), b"9" * 19]
)
def test_a_header_that_is_no_length_is_refused(value: bytes) -> None:
    """Digits, and not too many."""
    with pytest.raises(
        BadInput, match="the number of bytes of JSON before the binary data"
    ) as caught:
        header_length(value)
    assert caught.value.reason == "WrongBinary"


def test_a_header_beyond_the_body_is_refused() -> None:
    """The message has both numbers."""
    error = refused(OipReader(FIELDS), b"{}", 3)
    assert error.message == (
        "the header Inference-Header-Content-Length is 3, the whole body has 2 bytes"
    )


def test_binary_data_without_its_header_is_refused_with_its_name() -> None:
    """The body is no JSON then, or the data is not there: either way the header is what is missing."""
    body, _ = oip.binary(("tensor", "FP32", (1, 3), bytes(12)))
    error = refused(OipReader(FIELDS), body)
    assert error.reason == "NotJSON"
    assert "in Inference-Header-Content-Length" in error.message
    empty, _ = oip.binary(("tensor", "FP32", (1, 3), b""))
    sized = empty.replace(b'"binary_data_size": 0', b'"binary_data_size": 12')
    assert "send Inference-Header-Content-Length" in refused(OipReader(FIELDS), sized).message


BODIES: dict[str, tuple[bytes, str, str]] = {
    "nothing": (b"", "EmptyBody", "the body is empty"),
    "blanks": (b" \r\n", "EmptyBody", "the body is empty"),
    "no JSON": (b"inputs=1", "NotJSON", "at line 1, column 1"),
    "half": (oip.body(TENSOR)[:-3], "NotJSON", "the body is not JSON"),
    "lists without end": (b"[" * 100_000, "NotJSON", "the body is not JSON"),
    "deep data": (
        b'{"inputs":[{"name":"x","data":' + b"[" * 5000 + b"]" * 5000 + b"}]}",
        "NotJSON",
        "the body is not JSON",
    ),
    "deep data beside NaN": (
        b'{"a":NaN,"b":' + b"[" * 5000 + b"]" * 5000 + b"}",
        "NotJSON",
        "JSON",
    ),
    "a lone surrogate beside NaN": (b'{"a":NaN,"id":"\\ud800"}', "NotJSON", "JSON"),
    "a lone surrogate": (b'{"id":"\\ud800"}', "NotJSON", "JSON"),
    "gzip": (b"\x1f\x8b\x08\x00", "NotJSON", "it looks compressed: say so in Content-Encoding"),
}


@pytest.mark.parametrize("what", BODIES)
def test_bodies_that_are_no_json_are_refused(what: str) -> None:
    """With the place, and a hint where one is at hand."""
    body, reason, message = BODIES[what]
    error = refused(OipReader(FIELDS), body)
    assert error.reason == reason
    assert message in error.message


def test_messages_do_not_grow_with_what_was_sent() -> None:
    """Names and values are cut."""
    long = "x" * 100_000
    refused(OipReader(None), oip.body(oip.tensor(long, "FP32", (1,), [long])))
    refused(OipReader(FIELDS), oip.body(oip.tensor(long, "FP32", (1,), [1])))
    refused(OipReader(FIELDS), oip.body(oip.tensor("tensor", long, (1,), [1])))
    refused(OipReader(FIELDS, knows=["y"].__contains__), oip.body(TENSOR, outputs=[{"name": long}]))


LENGTHS = (0, 1, 2**24, 2**31, 2**62, 2**63, 2**64)
EMPTY = [[1, *two] for two in product(LENGTHS, repeat=2) if 0 in two]
"""Shapes of one row without values."""


@pytest.mark.parametrize("way", ["flat", "nested", "binary"])
@pytest.mark.parametrize("fields", [None, [Field("x", "float32", (None, None))]], ids=["any", "x"])
def test_shapes_without_values_make_an_array_or_are_refused(
    fields: list[Field] | None, way: str
) -> None:
    """No data bounds the lengths beside a 0; what numpy, or a model that uses them, could not hold is refused."""
    reader = OipReader(fields)
    made = []
    reasons = set()
    for shape in EMPTY:
        described: dict[str, Any] = oip.tensor("x", "FP32", shape, [] if way == "flat" else [[]])
        if way == "binary":
            described = {**described, "data": None, "parameters": {"binary_data_size": 0}}
        text = oip.body(described)
        try:
            batch, _ = reader.read(text, len(text) if way == "binary" else None)
        except BadInput as error:
            reasons.add(error.reason)
        else:
            assert list(batch.fields["x"].shape) == shape
            made.append(shape)
    assert reasons == {"WrongShape", "NotInferenceRequest"}
    assert [1, 0, 2**24] in made
    assert max(max(shape) for shape in made) == 2**24
