"""Fields: the named, typed inputs and outputs of models and pipelines.

Pure. A field's shape is that of one row: the batch dimension is left out.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

NUMPY_TYPES: dict[str, np.dtype[np.generic]] = {
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "int8": np.dtype(np.int8),
    "int16": np.dtype(np.int16),
    "int32": np.dtype(np.int32),
    "int64": np.dtype(np.int64),
    "uint8": np.dtype(np.uint8),
    "uint16": np.dtype(np.uint16),
    "uint32": np.dtype(np.uint32),
    "uint64": np.dtype(np.uint64),
    "bool": np.dtype(np.bool_),
    "string": np.dtype(object),
}
"""The element types a request or an answer can carry. A `string` array holds `str` objects."""


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    dtype: str
    """A key of `NUMPY_TYPES`."""
    shape: tuple[int | None, ...]
    """Of one row; None is any length."""
    batch: int | None = None
    """Rows a model insists on; None is any number."""
    allow_missing: bool = False
    """`null` and NaN reach the model as NaN."""
    ranked: bool = True
    """False: the model does not say how many dimensions a row has, and `shape` says nothing."""

    def __str__(self) -> str:
        return f"{self.name!r} ({self.dtype}{shape_text(self.shape) if self.ranked else '[...]'})"

    @property
    def numpy_dtype(self) -> np.dtype[np.generic]:
        return NUMPY_TYPES[self.dtype]

    def report(self) -> dict[str, object]:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether one row of this shape fits."""
        return not self.ranked or (
            len(shape) == len(self.shape)
            and all(
                want is None or want == got for want, got in zip(self.shape, shape, strict=True)
            )
        )

    def meets(self, other: "Field") -> bool:
        """Whether values of this field may be values of the other one: equal types, no lengths that exclude it."""
        return self.dtype == other.dtype and (
            not (self.ranked and other.ranked) or compatible(self.shape, other.shape)
        )


def shape_text(shape: Iterable[int | None]) -> str:
    """`[18]`; an unknown length is `?`, a single value is the empty text."""
    dims = ", ".join("?" if dim is None else str(dim) for dim in shape)
    return f"[{dims}]" if dims else ""


def list_fields(fields: Iterable[Field]) -> str:
    return ", ".join(str(field) for field in fields) or "nothing"


def is_fixed(fields: Iterable[Field] | None) -> bool:
    """Whether each row has as many values as every other."""
    return fields is not None and all(None not in field.shape for field in fields)


def differences(
    old: tuple[Field, ...] | None, new: tuple[Field, ...] | None, what: str
) -> list[str]:
    """Sentences on what differs between two schemas; empty when a caller cannot tell them apart.

    Names, types and the known lengths of a row are compared; the order is not, because requests and answers go by name.
    None is a schema that nobody has declared. Two of these are not compared; one and a declared one differ, because
    nothing tells that they do not.
    """
    if old is None or new is None:
        if old is not None:
            return [f"{what}s {list_fields(old)} were declared, and are not any more"]
        return (
            [] if new is None else [f"{what}s were not declared, and are now: {list_fields(new)}"]
        )
    before = {field.name: field for field in old}
    after = {field.name: field for field in new}
    said = [f"{what} {before[name]} is gone" for name in before if name not in after]
    said += [f"{what} {after[name]} is new" for name in after if name not in before]
    for name, was in before.items():
        now = after.get(name, was)
        if not was.meets(now):
            said.append(f"{what} {was} became {now}")
    return said


def lost(
    old: Iterable[str], inputs: tuple[Field, ...] | None, optional: Iterable[str]
) -> list[str]:
    """Sentences on fields that callers could send, because a split looked at them, and that would be refused now.

    old: their names until now. inputs, optional: what may be sent from now on; None is anything. That another one may
    be sent, or left out, is nothing that callers notice.
    """
    if inputs is None:
        return []
    taken = {*(field.name for field in inputs), *optional}
    return [
        f"input {name!r}, which a split looked at, is gone" for name in old if name not in taken
    ]


def compatible(old: tuple[int | None, ...], new: tuple[int | None, ...]) -> bool:
    """Whether two row shapes have as many dimensions, and no known lengths that differ."""
    return len(old) == len(new) and all(
        a is None or b is None or a == b for a, b in zip(old, new, strict=True)
    )
