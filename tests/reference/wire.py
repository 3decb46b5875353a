"""Rows as bodies of every format, and answers of every format as rows; written apart from the engine's formats."""

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from kit import oip
from midstream_engine.dataplane import Answer
from midstream_engine.request import HEADERS, Headers, Request
from midstream_engine.web.gate import Gate
from reference.values import Column, shape_of

RECORDS = "application/json; format=pandas-records"
COLUMNAR = "application/json; format=columnar"
ARROW_FILE = "application/vnd.apache.arrow.file"
ARROW_STREAM = "application/vnd.apache.arrow.stream"

FORMATS = (RECORDS, COLUMNAR, ARROW_FILE, ARROW_STREAM)

DATATYPES = {
    "bool": "BOOL",
    "string": "BYTES",
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
    **{f"int{bits}": f"INT{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"UINT{bits}" for bits in (8, 16, 32, 64)},
}
"""The protocol's names of types."""

_ARROW = {"float16": pa.float16(), "float64": pa.float64(), "float32": pa.float32()}


@dataclass
class Sent:
    """A request as a client sends it."""

    body: bytes
    path: str = "/infer"
    headers: dict[str, str] = field(default_factory=dict)

    def _repr_pretty_(self, printer: Any, _: bool) -> None:
        printer.text(f"{self.path} {self.headers} {len(self.body)} bytes: {self.body[:200]!r}")

    def request(self, gate: Gate) -> Request | None:
        """As it reaches the data plane; None for a path that does not lead there."""
        target = gate.target(self.path.encode("latin-1"))
        if target is None:
            return None
        headers = Headers()
        for name, value in self.headers.items():
            setattr(headers, HEADERS[name.lower().encode()], value.encode("latin-1"))
        return Request(target, self.body, headers)


Rows = Sequence[Mapping[str, Any]]
"""Values of JSON by field."""


def records(rows: Rows) -> bytes:
    return json.dumps(list(rows)).encode()


def columnar(rows: Rows, names: Sequence[str]) -> bytes:
    return json.dumps({name: [row.get(name) for row in rows] for name in names}).encode()


def arrow(rows: Rows, columns: Sequence[Column], *, file: bool, fixed: bool = False) -> bytes:
    """A table of one record batch. fixed: lists of known length are written as such."""
    arrays = {
        column.name: pa.array(
            [_arrow_value(column, row.get(column.name)) for row in rows],
            _arrow_type(column, fixed=fixed),
        )
        for column in columns
    }
    return arrow_body(pa.table(arrays), file=file)


def arrow_body(table: Any, *, file: bool, options: Any = None) -> bytes:
    sink = pa.BufferOutputStream()
    opened = pa.ipc.new_file if file else pa.ipc.new_stream
    with opened(sink, table.schema, options=options) as writer:
        writer.write(table)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def _arrow_type(column: Column, *, fixed: bool) -> Any:
    if column.dtype == "string":
        kind = pa.string()
    elif column.dtype == "bool":
        kind = pa.bool_()
    else:
        kind = _ARROW.get(column.dtype) or pa.from_numpy_dtype(np.dtype(column.dtype))
    for length in reversed(column.shape):
        kind = pa.list_(kind, length) if fixed and length is not None else pa.list_(kind)
    return kind


def _arrow_value(column: Column, value: Any) -> Any:
    if column.dtype == "float16" and value is not None:
        return _each(lambda item: None if item is None else np.float16(item), value)
    if column.dtype.startswith("float"):
        return _each(lambda item: None if item is None else float(item), value)
    return value


def _each(function: Any, value: Any) -> Any:
    return [_each(function, item) for item in value] if isinstance(value, list) else function(value)


def tensors(
    rows: Rows, columns: Sequence[Column], *, binary: bool, **more: Any
) -> tuple[bytes, int | None]:
    """A body of the Open Inference Protocol, and the length of its JSON where data is behind it.

    more: members of the document. What is missing is NaN among the floats of binary data; else it stays in the JSON.
    """
    described = []
    tail = b""
    for column in columns:
        data = [row.get(column.name) for row in rows]
        shape = shape_of(data) or ()
        flat = _flat(data)
        one = oip.tensor(column.name, DATATYPES[column.dtype], shape, data)
        if column.dtype.startswith("float"):
            flat = [np.nan if item is None else item for item in flat]
        if binary and None not in flat:
            packed = oip.packed(DATATYPES[column.dtype], flat)
            del one["data"]
            one["parameters"] = {"binary_data_size": len(packed)}
            tail += packed
        described.append(one)
    body = oip.body(*described, **more)
    return body + tail, len(body) if binary else None


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list):
        return [item for part in value for item in _flat(part)]
    return [value]


def pack(body: bytes, encoding: str) -> bytes:
    """A body as Content-Encoding has it."""
    match encoding:
        case "gzip":
            return gzip.compress(body, 1, mtime=0)
        case "deflate":
            return zlib.compress(body, 1)
        case "zstd":
            packed: bytes = pa.Codec("zstd").compress(body, asbytes=True)
            return packed
        case _:
            return body


# Answers


@dataclass
class Read:
    """An answer: each row's values by full name; or tensors, and what is said beside them."""

    rows: list[dict[str, Any]]
    lossless: bool = False
    """NaN and infinities are there as such, not as null."""
    columns: dict[str, list[Any]] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)


def headers_of(answer: Answer) -> dict[str, str]:
    lines = (line.partition(": ") for line in answer.headers.decode().split("\r\n") if line)
    return {name: value for name, _, value in lines}


def body_of(answer: Answer) -> bytes:
    """Unpacked."""
    match headers_of(answer).get("content-encoding"):
        case "gzip":
            return gzip.decompress(answer.body)
        case "zstd":
            stream = pa.CompressedInputStream(pa.BufferReader(answer.body), "zstd")
            body: bytes = stream.read()
            return body
        case _:
            return answer.body


def read(answer: Answer) -> Read:
    """A good answer of any format; fails where it is not what its headers say."""
    headers = headers_of(answer)
    body = body_of(answer)
    kind = headers["content-type"]
    if kind == RECORDS:
        return Read([_flattened(row) for row in _strict(body)], lossless=False)
    if kind == COLUMNAR:
        return Read(_rows_of(_strict(body)), lossless=False)
    if kind in (ARROW_FILE, ARROW_STREAM):
        opened = pa.ipc.open_file if kind == ARROW_FILE else pa.ipc.open_stream
        table = opened(body).read_all()
        table.validate(full=True)
        return Read([_flattened(row) for row in table.to_pylist()], lossless=True)
    document, outputs = oip.unpacked(body, headers)
    columns: dict[str, list[Any]] = {}
    for output in document["outputs"]:
        array = np.array(outputs[output["name"]], object if output["datatype"] == "BYTES" else None)
        columns[output["name"]] = [_listed(value) for value in array.reshape(output["shape"])]
    return Read([], columns=columns, parameters=document["parameters"])


def _listed(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _rows_of(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def _flattened(row: Mapping[str, Any]) -> dict[str, Any]:
    """Groups are joined with their names: `out.variable`; what has a dot has been joined already."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict) and "." not in name:
            found |= {f"{name}.{inner}": part for inner, part in value.items()}
        else:
            found[name] = value
    return found


def _strict(body: bytes) -> Any:
    def refuse(text: str) -> Any:
        raise ValueError(f"{text} is no JSON")

    return json.loads(body, parse_constant=refuse)
