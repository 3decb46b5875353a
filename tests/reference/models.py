"""What a model does to rows, slowly: an ONNX model sees one row at a time, code runs in the test's own process."""

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime

from reference.values import Array, Column, Refused, Table, array_of, numpy_type


class Runs(Protocol):
    """A model's part of a row's way."""

    def run(self, table: Table) -> dict[str, list[Array]]:
        """Raises Refused for rows that it cannot take together."""


@functools.cache
def _session(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@dataclass(frozen=True)
class Onnx:
    """An ONNX file."""

    path: Path
    feeds: Mapping[str, str]
    """Its own name of each input, and the field that goes there."""
    single: bool = False
    """It knows no rows."""

    def run(self, table: Table) -> dict[str, list[Array]]:
        session = _session(self.path)
        names = [output.name for output in session.get_outputs()]
        rows = len(next(iter(table.values())))
        for name in self.feeds.values():
            if not self.single and len({value.shape for value in table[name]}) > 1:
                raise Refused(f"{name}: rows differ in shape")
        columns: dict[str, list[Array]] = {name: [] for name in names}
        for row in range(rows):
            feed = {
                own: table[name][row] if self.single else table[name][row][np.newaxis]
                for own, name in self.feeds.items()
            }
            for name, array in zip(names, session.run(names, feed), strict=True):
                # With the ellipsis a single value is an array still.
                columns[name].append(np.asarray(array) if self.single else array[0, ...])
        return columns


@functools.cache
def _function(code: str) -> tuple[str, Callable[[Any], Any]]:
    namespace: dict[str, Any] = {}
    exec(code, namespace)  # noqa: S102 - the test's own code
    name = "process" if "process" in namespace else "wallaroo_json"
    return name, namespace[name]


@dataclass(frozen=True)
class Code:
    """A Python model: it gets all rows at once."""

    code: str
    takes: Sequence[Column] | None = None
    """None: whatever comes."""
    gives: Sequence[Column] | None = None
    """None: whatever it gives."""

    def run(self, table: Table) -> dict[str, list[Array]]:
        if self.takes is not None:
            table = {column.name: table[column.name] for column in self.takes}
        kind, function = _function(self.code)
        if kind == "process":
            with np.errstate(all="ignore"):
                given = function({n: np.stack(list(values)) for n, values in table.items()})
        else:
            columns = [[_plain(value) for value in values] for values in table.values()]
            query = [list(row) for row in zip(*columns, strict=True)]
            document = function(json.dumps({"colnames": list(table), "query": query}))
            given = {name: document[name] for name in document["tensor_fields"]}
        arrays = {name: _array(value) for name, value in given.items()}
        found = {
            name: [each[row, ...] for row in range(len(each))] for name, each in arrays.items()
        }
        return found if self.gives is None else conformed(found, self.gives)


def conformed(table: Table, wanted: Sequence[Column]) -> dict[str, list[Array]]:
    """What code gives, as the types that somebody has declared."""
    return {
        column.name: [_fitted(value, column) for value in table[column.name]] for column in wanted
    }


def _fitted(value: Array, column: Column) -> Array:
    if value.shape == () and column.shape == (1,):
        value = value.reshape(1)
    elif value.shape == (1,) and column.shape == ():
        value = value.reshape(())
    with np.errstate(over="ignore"):
        return value.astype(numpy_type(column.dtype))


def _plain(value: Array) -> Any:
    def single(item: Any) -> Any:
        return None if isinstance(item, float) and math.isnan(item) else item

    def walk(item: Any) -> Any:
        return [walk(part) for part in item] if isinstance(item, list) else single(item)

    return walk(value.tolist())


def _array(value: Any) -> Array:
    if isinstance(value, np.ndarray):
        return value
    texts = isinstance(_first(value), str)
    return array_of(value, "string") if texts else np.asarray(value)


def _first(value: Any) -> Any:
    while isinstance(value, list):
        value = value[0]
    return value
