"""Single values of a body: whether one fits a field, what it is called, and how it is shown in a message.

Everything here is slow and exact: it runs when a body has been found not to fit, to say where and why.
"""

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from midstream_engine.schema import Field, shape_text

SHOWN = 60
"""Characters of a foreign value shown in a message."""

SCALARS = frozenset({str, int, float, bool, type(None)})
"""What JSON has beside lists and objects."""

_DIMENSIONS_SHOWN = 8

_SINGLE_KINDS: dict[str, tuple[type, str]] = {"O": (str, "a string"), "b": (bool, "true or false")}

_EXACT = 2**53
"""Beyond it a number that went through a float may have changed."""


def leaves(value: Any, index: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested lists with their index as text. Only for lists that have a shape that was asked for."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from leaves(item, f"{index}[{number}]")
    else:
        yield index, value


def shape_of(value: Any) -> tuple[int, ...] | None:
    """The shape of nested lists; None when they are ragged. Any depth: a foreign body decides it."""
    shape: list[int] = []
    level = [value]
    while level:
        lists = sum(isinstance(item, list) for item in level)
        if not lists:
            break
        lengths = {len(item) for item in level if isinstance(item, list)}
        if lists != len(level) or len(lengths) != 1:
            return None
        shape += lengths
        level = [item for part in level for item in part]
    return tuple(shape)


def shape_said(shape: Sequence[int | None]) -> str:
    if len(shape) > _DIMENSIONS_SHOWN:
        return f"lists nested {len(shape)} deep"
    return shape_text(shape) or "a single value"


def value_problem(field: Field, item: Any) -> tuple[str, str] | None:
    """Reason and sentence on a single value that does not fit the field; None when it does."""
    kind = field.numpy_dtype.kind
    if item is None or (isinstance(item, float) and math.isnan(item)):
        if field.allow_missing and kind == "f":
            return None
        shown = "null" if item is None else "NaN"
        mend = (
            "; set `missing: Allow` on this input to hand it to the model as NaN"
            if kind == "f"
            else ""
        )
        return "MissingValue", f"{shown} is not a value of {field.dtype}{mend}"
    if kind in _SINGLE_KINDS:
        wanted, said = _SINGLE_KINDS[kind]
        if isinstance(item, wanted):
            return None
        return "WrongType", f"expected {said}, got {shown_value(item)}"
    if isinstance(item, bool) or not isinstance(item, (int, float)):
        return "WrongType", f"expected a number ({field.dtype}), got {shown_value(item)}"
    if math.isinf(item):
        return "NotFinite", "Infinity is not a finite number"
    if kind in "iu":
        return _integer_problem(field, item)
    if abs(item) > float(np.finfo(field.dtype).max):
        return "OutOfRange", f"{shown_value(item)} does not fit in {field.dtype}"
    return None


def _integer_problem(field: Field, item: float) -> tuple[str, str] | None:
    limits = np.iinfo(field.dtype)
    if item != int(item):
        return "WrongType", f"expected a whole number ({field.dtype}), got {shown_value(item)}"
    if not limits.min <= item <= limits.max:
        return "OutOfRange", f"{shown_value(item)} does not fit in {field.dtype}"
    if isinstance(item, float) and abs(item) > _EXACT:
        return (
            "OutOfRange",
            f"{shown_value(item)} is too large to be exact; write all its digits, without a point",
        )
    return None


def kind_said(value: Any) -> str:
    """What a value of JSON is called."""
    for kind, said in (
        (bool, "a boolean"),
        (dict, "an object"),
        (list, "a list"),
        (str, "a string"),
        ((int, float), "a number"),
    ):
        if isinstance(value, kind):
            return said
    return "null"


def shown_value(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return kind_said(value)
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def names_said(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:SHOWN]) for name in names[:5])
    return (
        f"field {shown}" if len(names) == 1 else f"fields {shown}{', …' if len(names) > 5 else ''}"
    )
