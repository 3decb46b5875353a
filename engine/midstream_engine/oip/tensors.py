"""One input tensor of a request, from JSON data or from binary data, to an array.

Strict: nothing is converted that could change a value's meaning. What does not fit is refused with the input, the row
and what would be right. Numbers of binary tensors are not copied where their place in the body allows it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NoReturn

import numpy as np

from midstream_engine.errors import BadInput
from midstream_engine.formats.open_rows import infer
from midstream_engine.formats.values import SHOWN, shown_value, value_problem
from midstream_engine.oip.datatypes import DTYPES, WIRE
from midstream_engine.schema import Array, Field
from midstream_engine.split import keys_of

_MAX_DIMENSIONS = 32
_MAX_EMPTY = 1 << 24
"""Values of a shape with a 0 in it, were the 0 a 1: no data speaks for its other lengths, and a model may use them."""
_LENGTH = 4
"""Bytes before each element of a binary BYTES tensor."""


class Tail:
    """The binary data behind the JSON, handed out from front to back."""

    def __init__(self, body: bytes, start: int | None) -> None:
        self.body = body
        self.at = len(body) if start is None else start
        self._told = start is not None

    @property
    def left(self) -> int:
        return len(self.body) - self.at

    def take(self, said: str, size: int) -> int:
        """Where the next `size` bytes begin. Raises BadInput."""
        if size > self.left:
            hint = "" if self._told else "; send Inference-Header-Content-Length, the bytes of JSON"
            raise BadInput(
                f"input {said}: binary_data_size is {size}, {self.left} bytes are left of the binary data{hint}",
                reason="WrongBinary",
            )
        at = self.at
        self.at += size
        return at


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input as a request describes it, its parts checked one by one."""

    name: str
    datatype: str
    """A key of `DTYPES`."""
    shape: tuple[int, ...]
    """With the rows first; at least one dimension."""
    data: list[Any] | None
    """As in the JSON; None for binary data."""
    size: int = 0
    """Bytes of binary data."""

    @property
    def said(self) -> str:
        """The name for a message."""
        return repr(self.name[:SHOWN])

    @property
    def rows(self) -> int:
        return self.shape[0]

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    def field(self, *, allow_missing: bool) -> Field:
        """What the tensor is where nobody has declared it."""
        return Field(self.name, DTYPES[self.datatype], self.shape[1:], allow_missing=allow_missing)

    def array(self, tail: Tail, field: Field) -> Array:
        """The values, of the field's dtype and of `shape`, which are known to agree. Raises BadInput."""
        if self.data is None:
            array = self._from_binary(tail.body, tail.take(self.said, self.size))
        else:
            flat = self._flat(self.data)
            converted = _convert(field, flat)
            if converted is None:
                self._explain(flat, field)
            array = converted
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            wrong = np.isinf(array) if field.allow_missing else ~np.isfinite(array)
            if wrong.any():
                first = int(wrong.argmax())
                item = array[first].item() if self.data is None else self._flat(self.data)[first]
                self._refuse(first, value_problem(field, item))
        return array.reshape(self.shape)

    def column(self, tail: Tail) -> Array:
        """The values where nobody has declared the field, and null may be among them. Raises BadInput."""
        if self.data is None or DTYPES[self.datatype].startswith("float"):
            return self.array(tail, self.field(allow_missing=True))
        flat = self._flat(self.data)
        if None not in flat:
            return self.array(tail, self.field(allow_missing=False))
        return infer(self.name, flat).reshape(self.shape)

    def values(self, tail: Tail) -> list[Any]:
        """One value for each row, as Python's own; None for null and NaN. For a tensor of one value a row."""
        if self.count != self.rows:
            raise BadInput(
                f"input {self.said}: wrong shape, expected one value for each row: [{self.rows}], "
                f"got {list(self.shape)}",
                reason="WrongShape",
                field=self.name[:SHOWN],
            )
        field = self.field(allow_missing=True)
        if self.data is None or None not in (flat := self._flat(self.data)):
            found = keys_of(self.array(tail, field).reshape(-1))
            return [None if item != item else item for item in found]  # noqa: PLR0124 - NaN
        sent = [item for item in flat if item is not None]
        there = Tensor(self.name, self.datatype, (len(sent),), sent)
        given = iter(there.values(tail))
        return [None if item is None else next(given) for item in flat]

    # Binary

    def _from_binary(self, body: bytes, at: int) -> Array:
        if self.datatype == "BYTES":
            return self._strings(memoryview(body)[at : at + self.size])
        wanted = WIRE[self.datatype]
        if self.size != self.count * wanted.itemsize:
            raise BadInput(
                f"input {self.said}: binary_data_size is {self.size}; {self.datatype} of the shape "
                f"{list(self.shape)} has {self.count * wanted.itemsize} bytes",
                reason="WrongBinary",
                field=self.name[:SHOWN],
            )
        array = np.frombuffer(body, wanted, self.count, at) if self.count else np.empty(0, wanted)
        if wanted.kind == "b":
            numbers = array.view(np.uint8)
            if numbers.size and numbers.max() > 1:
                first = int((numbers > 1).argmax())
                said = f"expected the byte 0 or 1, got {int(numbers[first])}"
                self._refuse(first, ("WrongType", said))
        # Nobody promises that kernels can read numbers from where they are not aligned.
        return array if array.flags.aligned else array.copy()

    def _strings(self, data: memoryview) -> Array:
        array = np.empty(min(self.count, len(data) // _LENGTH), object)
        at = 0
        for number in range(self.count):
            start = at + _LENGTH
            length = int.from_bytes(data[at:start], "little")
            at = start + length
            if at > len(data):
                raise BadInput(
                    f"input {self.said}: element {number} goes beyond the binary data: of {len(data)} bytes, "
                    f"{max(len(data) - start, 0)} are left for a length of {_LENGTH} bytes and {length} bytes of text",
                    reason="WrongBinary",
                    field=self.name[:SHOWN],
                )
            try:
                array[number] = str(data[start:at], "utf-8")
            except UnicodeDecodeError:
                self._refuse(number, ("WrongType", "expected text in UTF-8"))
        if at != len(data):
            raise BadInput(
                f"input {self.said}: {len(data) - at} bytes are left over after {self.count} elements",
                reason="WrongBinary",
                field=self.name[:SHOWN],
            )
        return array

    # JSON

    def _flat(self, data: list[Any]) -> list[Any]:
        """The values in order; they come flat, or nested as the shape says."""
        if not any(type(item) is list for item in data):
            if len(data) != self.count:
                raise BadInput(
                    f"input {self.said}: data has {len(data)} values, the shape {list(self.shape)} {self.count}",
                    reason="WrongShape",
                    field=self.name[:SHOWN],
                )
            return data
        level: list[Any] = [data]
        for length in self.shape:
            if any(type(part) is not list or len(part) != length for part in level):
                raise BadInput(
                    f"input {self.said}: data is not nested as its shape {list(self.shape)} says; "
                    "send it so, or as one flat list",
                    reason="WrongShape",
                    field=self.name[:SHOWN],
                )
            level = list(chain.from_iterable(level))
        return level

    def _explain(self, flat: Sequence[Any], field: Field) -> NoReturn:
        for index, item in enumerate(flat):
            problem = value_problem(field, item)
            if problem is not None:
                self._refuse(index, problem)
        raise BadInput(
            f"input {self.said}: the values do not make one {self.datatype} tensor",
            field=self.name[:SHOWN],
        )

    def _refuse(self, index: int, problem: tuple[str, str] | None) -> NoReturn:
        """Raise BadInput for the value at an index into the flat data. problem: reason and sentence."""
        reason, said = problem or ("BadInput", "the value does not fit")
        place = []
        for length in self.shape[:0:-1]:
            index, at = divmod(index, length)
            place.append(f"[{at}]")
        raise BadInput(
            f"row {index}, input {self.said}{''.join(reversed(place))}: {said}",
            reason=reason,
            field=self.name[:SHOWN],
            row=index,
        )


def tensor(item: Any, number: int) -> Tensor:
    """An element of `inputs`, its parts checked. Raises BadInput."""
    where = f"inputs[{number}]"
    if not isinstance(item, dict):
        raise _malformed(where, "an object with name, shape, datatype and data", item)
    name = item.get("name")
    if not isinstance(name, str) or not name:
        raise _malformed(f"{where}.name", "the name of an input", name)
    datatype = item.get("datatype")
    if not isinstance(datatype, str) or datatype not in DTYPES:
        hint = "; send FP32 instead" if datatype == "BF16" else ""
        raise BadInput(
            f"input {name[:SHOWN]!r}: datatype {shown_value(datatype)} is not supported{hint}; "
            f"there are {', '.join(DTYPES)}",
            reason="WrongType",
            field=name[:SHOWN],
        )
    parameters = item.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise _malformed(f"{where}.parameters", "an object", parameters)
    if "shared_memory_region" in parameters:
        raise BadInput(
            f"input {name[:SHOWN]!r}: shared memory is not supported; send the data in the body",
            reason="NotSupported",
            field=name[:SHOWN],
        )
    data = item.get("data")
    size = parameters.get("binary_data_size")
    shape = _shape(where, item.get("shape"))
    if data is None and size is None:
        raise _malformed(
            where, "data, or parameters.binary_data_size and the data behind the JSON", None
        )
    if data is not None and size is not None:
        raise BadInput(
            f"input {name[:SHOWN]!r} has both data and parameters.binary_data_size; send one of them",
            reason="NotInferenceRequest",
            field=name[:SHOWN],
        )
    if data is None and not _is_size(size):
        raise _malformed(f"{where}.parameters.binary_data_size", "a number of bytes", size)
    if data is not None and not isinstance(data, list):
        raise _malformed(f"{where}.data", "a list", data)
    return Tensor(name, datatype, shape, data, size or 0)


def _shape(where: str, shape: Any) -> tuple[int, ...]:
    if (
        not isinstance(shape, list)
        or not 0 < len(shape) <= _MAX_DIMENSIONS
        or not all(map(_is_size, shape))
    ):
        raise _malformed(
            f"{where}.shape",
            f"a list of 1 to {_MAX_DIMENSIONS} lengths, the number of rows first",
            shape,
        )
    if 0 in shape and math.prod(filter(None, shape)) > _MAX_EMPTY:
        raise BadInput(
            f"{where}.shape: expected a shape without data to have other lengths that make at most {_MAX_EMPTY} "
            f"multiplied, got {str(shape)[:SHOWN]}",
            reason="WrongShape",
        )
    return tuple(shape)


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 0


def _malformed(where: str, wanted: str, got: Any) -> BadInput:
    shown = "nothing" if got is None else shown_value(got)
    return BadInput(f"{where}: expected {wanted}, got {shown}", reason="NotInferenceRequest")


def _convert(field: Field, flat: list[Any]) -> Array | None:
    """The values as an array; None when one of them is no value of the field. null becomes NaN."""
    types = set(map(type, flat))
    wanted = field.numpy_dtype
    if wanted.kind == "O":
        if not types <= {str}:
            return None
        strings = np.empty(len(flat), object)
        strings[:] = flat
        return strings
    if wanted.kind == "b":
        return np.array(flat, wanted) if types <= {bool} else None
    if not types <= ({float, int, type(None)} if wanted.kind == "f" else {float, int}):
        return None
    if wanted.kind != "f" and float in types:
        if any(value_problem(field, item) for item in flat):
            return None
        flat = [int(item) for item in flat]
    try:
        # What is too large becomes infinite, and is refused with its place.
        with np.errstate(over="ignore", invalid="ignore"):
            return np.array(flat, wanted)
    except OverflowError:
        return None
