"""Binary data of the Open Inference Protocol that does not fit is refused with what would be right."""

from typing import Any

import pytest

from kit import oip
from kit.oip_refused import refused
from midstream_engine.errors import BadInput
from midstream_engine.oip.reader import OipReader
from midstream_engine.schema import Field


def binary(datatype: str, shape: list[int], data: bytes, size: Any = None) -> BadInput:
    """Of a single input `x`; `size` is what the request says of the data."""
    dtype = {"BYTES": "string", "BOOL": "bool"}.get(
        datatype, datatype.lower().replace("fp", "float")
    )
    described = {
        "name": "x",
        "datatype": datatype,
        "shape": shape,
        "parameters": {"binary_data_size": len(data) if size is None else size},
    }
    text = oip.body(described)
    return refused(OipReader([Field("x", dtype, (2,))]), text + data, len(text))


BINARY: dict[str, tuple[tuple[Any, ...], str, str]] = {
    "fewer bytes than the shape": (
        ("FP32", [1, 2], bytes(4)),
        "WrongBinary",
        "input 'x': binary_data_size is 4; FP32 of the shape [1, 2] has 8 bytes",
    ),
    "bytes beyond the body": (
        ("FP32", [1, 2], bytes(4), 8),
        "WrongBinary",
        "input 'x': binary_data_size is 8, 4 bytes are left of the binary data",
    ),
    "bytes that overflow": (("FP32", [1, 2], b"", 2**63), "WrongBinary", "0 bytes are left"),
    "a negative size": (
        ("FP32", [1, 2], b"", -8),
        "NotInferenceRequest",
        "inputs[0].parameters.binary_data_size: expected a number of bytes, got -8",
    ),
    "a size in text": (("FP32", [1, 2], bytes(8), "8"), "NotInferenceRequest", 'got "8"'),
    "a true size": (("BOOL", [1, 2], bytes(1), True), "NotInferenceRequest", "got true"),
    "bytes left over": (
        ("FP32", [1, 2], bytes(9), 8),
        "WrongBinary",
        "1 bytes of binary data are left over after the last input",
    ),
    "a flag that is 2": (
        ("BOOL", [1, 2], b"\x01\x02"),
        "WrongType",
        "row 0, input 'x'[1]: expected the byte 0 or 1, got 2",
    ),
    "NaN": (
        ("FP32", [2, 2], oip.packed("FP32", [1, 2, 3, float("nan")])),
        "MissingValue",
        "row 1, input 'x'[1]: NaN is not a value of float32; set `missing: Allow`",
    ),
    "Infinity": (
        ("FP16", [1, 2], oip.packed("FP16", [float("inf"), 1])),
        "NotFinite",
        "row 0, input 'x'[0]: Infinity is not a finite number",
    ),
    "a text beyond the data": (
        ("BYTES", [1, 2], b"\x01\0\0\0a\xff\xff\xff\xffb"),
        "WrongBinary",
        "element 1 goes beyond the binary data: of 10 bytes, 1 are left for a length of 4 bytes and 4294967295 bytes",
    ),
    "half a length": (("BYTES", [1, 2], b"\x01\0\0\0a\x01\0"), "WrongBinary", "element 1"),
    "too few texts": (
        ("BYTES", [2, 2], oip.packed("BYTES", ["a", "b"])),
        "WrongBinary",
        "element 2",
    ),
    "too many texts": (
        ("BYTES", [1, 2], oip.packed("BYTES", ["a", "b", "c"])),
        "WrongBinary",
        "input 'x': 5 bytes are left over after 2 elements",
    ),
    "bytes that are no text": (
        ("BYTES", [1, 2], oip.packed("BYTES", ["a", b"\xff\xfe"])),
        "WrongType",
        "row 0, input 'x'[1]: expected text in UTF-8",
    ),
}


@pytest.mark.parametrize("what", BINARY)
def test_binary_data_that_does_not_fit_is_refused(what: str) -> None:
    """Nothing is read beyond what was sent, and nothing that was sent is passed over."""
    sent, reason, message = BINARY[what]
    error = binary(*sent)
    assert error.reason == reason
    assert message in error.message


@pytest.mark.parametrize("datatype", ["FP32", "BYTES", "BOOL"])
def test_shapes_that_overflow_cost_nothing(datatype: str) -> None:
    """A shape is a claim; memory is taken for what was sent."""
    shape = [3, 2**62, 2**62]
    text = oip.body(
        {"name": "x", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": 8}}
    )
    assert refused(OipReader(None), text + b"\0\0\0\0\xff\0\0\0", len(text)).reason == "WrongBinary"
    assert (
        refused(OipReader(None), oip.body(oip.tensor("x", datatype, shape, []))).reason
        == "WrongShape"
    )
    bad = b"\x01\0\0\0\xff"
    text = oip.body(
        {"name": "x", "datatype": "BYTES", "shape": shape, "parameters": {"binary_data_size": 5}}
    )
    assert refused(OipReader(None), text + bad, len(text)).reason == "WrongType"
