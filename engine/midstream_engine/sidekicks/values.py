"""What users' code gets and gives, between arrays and plain Python: the two entry points' forms.

Runs in a worker. The standard library and numpy only.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from midstream_engine.sidekicks.wire import NUMBERS, Array

FIELDS = "tensor_fields"


class BadOutput(Exception):
    """What the code returned cannot be an answer."""


class MissingValues(BadOutput):
    """There are none where others are text or booleans: it may do better with other rows."""


# wallaroo_json


def as_json(inputs: Mapping[str, Array]) -> str:
    """`{"colnames": [field, …], "query": [[value of each field], … one for each row]}`.

    NaN is `null`; an infinity is `Infinity`, which Python's `json` reads.
    """
    columns = [_plain(array) for array in inputs.values()]
    query = [list(row) for row in zip(*columns, strict=True)]
    return json.dumps({"colnames": list(inputs), "query": query})


def _plain(array: Array) -> list[Any]:
    if array.dtype == object:
        return [_plain_value(value) for value in array.tolist()]
    if array.dtype.kind == "f" and (missing := np.isnan(array)).any():
        array = array.astype(object)
        array[missing] = None
    values: list[Any] = array.tolist()
    return values


def _plain_value(value: Any) -> Any:
    return _plain(value) if isinstance(value, np.ndarray) else value


def from_document(result: Any, rows: int) -> dict[str, Array]:
    """The outputs in what `wallaroo_json` returned: a dict, or JSON text of one. Raises BadOutput."""
    if isinstance(result, str | bytes):
        try:
            result = json.loads(result)
        except ValueError as error:
            raise BadOutput(f"wallaroo_json returned text that is not JSON: {error}") from error
    if not isinstance(result, Mapping):
        raise BadOutput(f"wallaroo_json must return a dict, it returned {_kind(result)}")
    if FIELDS not in result:
        raise BadOutput(
            f"wallaroo_json must return a dict whose {FIELDS!r} names the outputs; it has {_names(result)}"
        )
    fields = result[FIELDS]
    if not isinstance(fields, list | tuple) or not fields:
        raise BadOutput(f"{FIELDS!r} must be a list of names, it is {_kind(fields)}")
    for name in fields:
        if not isinstance(name, str) or name not in result:
            raise BadOutput(
                f"{FIELDS!r} names {name!r}, which is not in the dict; it has {_names(result)}"
            )
    return outputs({name: result[name] for name in fields}, rows, "wallaroo_json")


# process


def outputs(result: Any, rows: int, function: str = "process") -> dict[str, Array]:
    """The outputs in what `process` returned, each with `rows` rows. Raises BadOutput."""
    if not isinstance(result, Mapping):
        raise BadOutput(
            f"{function} must return a dict of names and arrays, it returned {_kind(result)}"
        )
    if not result:
        raise BadOutput(f"{function} returned no output")
    arrays: dict[str, Array] = {}
    for name, value in result.items():
        if not isinstance(name, str) or not name:
            raise BadOutput(f"{function} returned an output named {name!r}; a name is text")
        array = _array(name, value)
        if array.ndim == 0:
            raise BadOutput(
                f"output {name!r} is a single value; the first dimension must be the rows, of which there are {rows}"
            )
        if array.shape[0] != rows:
            raise BadOutput(
                f"output {name!r} has the shape {list(array.shape)} for {rows} rows; a model must answer as many "
                "rows as it gets"
            )
        arrays[name] = array
    return arrays


def _array(name: str, value: Any) -> Array:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise BadOutput(
            f"output {name!r} is ragged: its lists differ in length ({error})"
        ) from error
    except OverflowError as error:
        raise BadOutput(f"output {name!r}: {error}") from error
    if array.dtype.kind in "UST":
        # Once more from the objects: numpy turns numbers among texts into text, and cuts zeros at the end.
        array = np.array(value.tolist() if isinstance(value, np.ndarray) else value, dtype=object)
    if array.dtype == object:
        return _objects(name, array)
    if array.dtype.name not in NUMBERS:
        raise BadOutput(
            f"output {name!r} has the type {array.dtype}; an output can have {', '.join(NUMBERS)} or text"
        )
    return array


def _objects(name: str, array: Array) -> Array:
    """Text as it is; numbers with None among them as float64 with NaN."""
    values = array.reshape(-1).tolist()
    if all(isinstance(value, str) for value in values):
        for value in values:
            _check_unicode(name, value)
        return array
    if all(value is None or _is_number(value) for value in values):
        try:
            flat = np.array(
                [math.nan if value is None else value for value in values], dtype=np.float64
            )
        except OverflowError as error:
            raise BadOutput(f"output {name!r}: {error}") from error
        integers = [value for value in values if isinstance(value, int)]
        if any(not -(2**63) <= value < 2**64 for value in integers):
            raise BadOutput(f"output {name!r} has a whole number that does not fit in 64 bits")
        return flat.reshape(array.shape)
    kinds = sorted({_kind(value) for value in values if not _is_number(value)})
    mixed = " mixed with numbers" if any(_is_number(value) for value in values) else ""
    kind = MissingValues if not _MISSING.isdisjoint(kinds) else BadOutput
    raise kind(
        f"output {name!r} holds {', '.join(kinds[:5])}{mixed}; an output is numbers, booleans or text"
    )


def _check_unicode(name: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadOutput(f"output {name!r} holds text that is not Unicode: {error}") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool | np.bool_)


_MISSING = frozenset({"None", "a NAType", "a NaTType"})
"""None, and what pandas has for it."""


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    kind = type(value).__name__
    return f"an empty {kind}" if isinstance(value, list | tuple) and not value else f"a {kind}"


def _names(result: Mapping[Any, Any]) -> str:
    return ", ".join(repr(name) for name in list(result)[:20]) or "nothing"
