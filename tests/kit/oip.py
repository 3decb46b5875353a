"""Requests and answers of the Open Inference Protocol, written and read by hand, without the engine's code."""

import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

TYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
"""numpy's types of the datatypes that are numbers, little-endian."""


def tensor(
    name: str, datatype: str, shape: Sequence[int], data: Any, **more: Any
) -> dict[str, Any]:
    """An input with its data in the JSON."""
    return {"name": name, "datatype": datatype, "shape": list(shape), "data": data, **more}


def body(*inputs: dict[str, Any], **more: Any) -> bytes:
    """A request without binary data."""
    return json.dumps({"inputs": list(inputs), **more}).encode()


def packed(datatype: str, values: Any) -> bytes:
    """Values as a binary tensor has them."""
    if datatype != "BYTES":
        return np.asarray(values, TYPES[datatype]).tobytes()
    texts = [text.encode() if isinstance(text, str) else text for text in values]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def binary(
    *inputs: tuple[str, str, Sequence[int], bytes], pad: int = 0, **more: Any
) -> tuple[bytes, int]:
    """A request with binary data, and the length of its JSON; `pad` blanks follow the JSON and belong to it."""
    described = [
        {
            "name": name,
            "datatype": datatype,
            "shape": list(shape),
            "parameters": {"binary_data_size": len(data)},
        }
        for name, datatype, shape, data in inputs
    ]
    text = body(*described, **more) + b" " * pad
    return text + b"".join(data for *_, data in inputs), len(text)


def unpacked(body: bytes, headers: bytes | dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON of an answer, and its outputs by name: arrays of numbers, lists of texts."""
    if isinstance(headers, bytes):
        lines = (line.partition(": ") for line in headers.decode().split("\r\n") if line)
        headers = {name: value for name, _, value in lines}
    length = int(headers.get("inference-header-content-length", len(body)))
    document: dict[str, Any] = json.loads(body[:length])
    at = length
    outputs: dict[str, Any] = {}
    for output in document["outputs"]:
        datatype, shape = output["datatype"], output["shape"]
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            values = output["data"]
        else:
            values = _values(datatype, body[at : at + size])
            at += size
        if datatype == "BYTES":
            assert len(values) == np.prod(shape)
            outputs[output["name"]] = values
        else:
            outputs[output["name"]] = np.array(values, TYPES[datatype]).reshape(shape)
    assert at == len(body)
    return document, outputs


def _values(datatype: str, data: bytes) -> Any:
    if datatype != "BYTES":
        return np.frombuffer(data, TYPES[datatype])
    texts = []
    while data:
        (length,) = struct.unpack_from("<I", data)
        texts.append(data[4 : 4 + length].decode())
        data = data[4 + length :]
    return texts
