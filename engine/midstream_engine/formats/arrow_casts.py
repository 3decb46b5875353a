"""Requests in Arrow of one mould: bodies that differ in nothing but their numbers from one that was read in full.

Guarantee: a body that fits is read to the columns that the long way gives. Its schema, its layout and the bounds of its
lists are byte for byte those of the other one, and numbers have no wrong values that Arrow would refuse. Only tables of
one record batch are taken, with numbers in all columns, no nulls and nothing packed. Does not read a first body.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from midstream_engine.errors import BadInput
from midstream_engine.formats.arrow import Cells
from midstream_engine.formats.mould import LARGEST, Mould
from midstream_engine.schema import Array


class Columns(Protocol):
    """The columns of a table."""

    def column(self, name: str) -> Cells:
        """All rows of one."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a column's numbers are in a body, and what they are."""

    start: int
    size: int
    """Bytes."""
    dtype: "np.dtype[Any]"
    shape: tuple[int, ...]
    type: str
    """Arrow's name of the column's type."""


@dataclass(frozen=True, slots=True)
class Cast:
    """What is known of all bodies that fit a mould."""

    mould: Mould
    names: list[str]
    rows: int
    places: Mapping[str, _Place]

    def table(self, body: bytes) -> Columns:
        """The columns of a body that fits; they keep it alive, and are read-only."""
        return _Fitting(self.places, body)


@dataclass(frozen=True, slots=True)
class _Fitting:
    places: Mapping[str, _Place]
    body: bytes

    def column(self, name: str) -> Cells:
        at = self.places[name]
        return Cells(np.ndarray(at.shape, at.dtype, self.body, at.start), None, at.type)


def cast_of(
    body: bytes,
    names: list[str],
    rows: int,
    columns: Mapping[str, Cells],
    read: Callable[[bytes], Columns],
) -> Cast | None:
    """What bodies like this one have in common; None where more than numbers may differ.

    columns: all that were read of the body. read: the long way, which raises BadInput; it is tried with other numbers,
    since a body may claim that its numbers are also the bounds of its lists, or its metadata.
    """
    places = _places(body, columns) if len(body) <= LARGEST else None
    if not places:
        return None
    try:
        mould = Mould(body, sorted((at.start, at.start + at.size) for at in places.values()))
    except ValueError:
        return None
    cast = Cast(mould, names, rows, places)
    bits = np.frombuffer(bytearray(body), np.uint8)
    for at in places.values():
        bits[at.start : at.start + at.size] ^= 0xFF
    other = bits.tobytes()
    try:
        table = read(other)
        same = all(_same(cast.table(other).column(name), table.column(name)) for name in places)
    except BadInput:
        return None
    return cast if same else None


def _places(body: bytes, columns: Mapping[str, Cells]) -> dict[str, _Place] | None:
    """Where the numbers of all columns are; None where one has nulls, no numbers, or is not a part of the body."""
    base = _address(np.frombuffer(body, np.uint8))
    places: dict[str, _Place] = {}
    for name, found in columns.items():
        values = found.values
        start = _address(values) - base
        if (
            found.missing is not None
            or values.dtype.kind not in "fiu"
            or not (values.size and values.flags.c_contiguous)
            or not 0 <= start <= len(body) - values.nbytes
        ):
            return None
        places[name] = _Place(start, values.nbytes, values.dtype, values.shape, found.type)
    return places


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _same(one: Cells, other: Cells) -> bool:
    """Whether two columns are the same, bit by bit."""
    return (
        one.type == other.type
        and one.values.dtype == other.values.dtype
        and one.values.shape == other.values.shape
        and other.missing is None
        and one.values.tobytes() == other.values.tobytes()
    )
