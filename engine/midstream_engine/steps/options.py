"""Options of splits by key, compared with the type of the field: one that no value's text equals is refused.

Pure. An option is text, and so may `01` or `True` be where the field is text; only of a field whose type a model says
is it certain which texts its values have. What no model takes, or code takes undeclared, is not judged.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from midstream_api.engineconfig import ResolvedStep
from midstream_engine.errors import LoadError
from midstream_engine.schema import Field
from midstream_engine.split import canonical, keys_of

_FLAGS = {"true": True, "1": True, "false": False, "0": False}
_SUCH_AS = {"b": "'true' and 'false'", "i": "'7'", "u": "'7'", "f": "'7' and '0.5'"}
"""Texts by the kind of a dtype."""


def check_options(steps: Sequence[ResolvedStep], inputs: Sequence[Field] | None) -> None:
    """Refuse options that never match.

    inputs: of the pipeline, where splits find their keys; None when they are not known. Raises LoadError, reason
    InvalidOptions, whose message has the text to write where there is one.
    """
    fields = {field.name: field for field in inputs or ()}
    for step in steps:
        split = step.split
        field = fields.get(split.key or "") if split is not None else None
        if split is None or field is None or not field.ranked:
            continue
        for option in split.options or {}:
            wanted = text_for(option, field)
            if wanted == option:
                continue
            hint = f"write {wanted!r}" if wanted is not None else f"its texts are {_texts(field)}"
            raise LoadError(
                "InvalidOptions",
                f"step {step.name!r}: the option {option[:60]!r} of the split never matches, "
                f"because no value of {field} has this text; {hint}",
            )


def text_for(option: str, field: Field) -> str | None:
    """The canonical text of the value that an option seems to stand for; None when the field has no such value."""
    if not field.shape:
        if field.dtype == "string":
            return option
        value = _value(option, field)
        return None if value is None else canonical(keys_of(np.array([value], field.dtype))[0])
    try:
        found = json.loads(option)
        shaped = np.array(found if isinstance(found, list) else [found], dtype=object)
    except (ValueError, RecursionError):  # no JSON, or lists of different lengths
        return None
    if not field.accepts(shaped.shape):
        return None
    values = [_element(each, field) for each in shaped.ravel()]
    if any(each is None for each in values):
        return None
    row = np.array(values, field.numpy_dtype).reshape(1, *shaped.shape)
    return canonical(keys_of(row)[0])


def _element(value: Any, field: Field) -> Any:
    """A value of a JSON list as one of the field's; None when it is none."""
    if field.dtype == "string":
        return value if isinstance(value, str) else None
    if value is None and field.allow_missing:
        return math.nan
    return _value(value if isinstance(value, str) else json.dumps(value), field)


def _value(text: str, field: Field) -> Any:
    """A number or boolean in any spelling; None when the field cannot hold it."""
    kind = field.numpy_dtype.kind
    text = text.strip().lower()
    if kind == "b":
        return _FLAGS.get(text)
    try:
        number = float(text)
        # Not by way of a float, which has no room for 64 bits.
        whole = int(text) if text.lstrip("+-").isdecimal() else int(number)
        fraction = number - int(number)
    except (ValueError, OverflowError):  # no number, NaN or infinite
        return None
    if kind == "f":
        with np.errstate(over="ignore"):
            held = field.numpy_dtype.type(number)
        return held if np.isfinite(held) else None
    limits = np.iinfo(field.dtype)
    return whole if not fraction and limits.min <= whole <= limits.max else None


def _texts(field: Field) -> str:
    if field.shape:
        return "lists in JSON without spaces, such as '[1,2]'"
    return f"such as {_SUCH_AS[field.numpy_dtype.kind]}"
