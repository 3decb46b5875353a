"""What is handed from a reader to the steps and from the steps to a writer: one table of rows, whatever its format.

Values only: nothing here holds a session, so that what outlives a request holds no model in memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from midstream_engine.schema import Array

Keys = Mapping[str, Sequence[Any]]
"""Values of routing fields by name, one for each row; None where a row left the field out."""


@dataclass(slots=True)
class Batch:
    """The rows of one request, checked against the pipeline's inputs."""

    fields: dict[str, Array]
    """One array for each input field, of the field's dtype and the shape (rows, *field.shape)."""
    rows: int
    echo: Sequence[bytes] | None = None
    """Each row's JSON text as it was sent; None when the request was no list of JSON rows."""
    keys: Keys = field(default_factory=dict)
    """Of the fields that a split asks for and no model takes."""


def elements(fields: Mapping[str, Array]) -> int:
    """Single values in all columns, at least 1."""
    return max(1, sum(array.size for array in fields.values()))


@dataclass(frozen=True, slots=True)
class VariantRef:
    """A model that may have answered a row of a split."""

    name: str
    """The variant's."""
    model: str
    version: str | None
    sha256: str


# Not frozen, as values would be: one is made with many requests, and that costs three times as much when it is.
@dataclass(slots=True, eq=False)
class Choice:
    """Which variant of a split answered each row."""

    step: str
    variants: tuple[VariantRef, ...]
    picked: "np.ndarray[Any, np.dtype[np.intp]]"
    """Index into `variants` for each row, shape (rows,)."""
    only: int | None = None
    """The index in `picked`, where this was made once for all requests of a single row that say the same."""


@dataclass(slots=True, eq=False)
class Checks:
    """What the validations said of each row."""

    names: tuple[str, ...]
    failures: tuple[Mapping[str, Mapping[str, str]], ...]
    """How each failure is written: `{"False": {"expr": "model.outputs[0][0] < 100"}}`."""
    failed: "np.ndarray[Any, np.dtype[np.bool_]]"
    """Shape (validations, rows)."""
    only: bytes | None = None
    """A byte for each validation, 1 where it failed, where this was made once for all requests of a single row."""


@dataclass(slots=True)
class Result:
    """What a revision made of a batch."""

    batch: Batch
    outputs: dict[str, Array]
    """The last step's, in its order, each with as many rows as the batch."""
    time_ms: int = 0
    """Of the answer, since the epoch."""
    elapsed: list[int] = field(default_factory=list)
    """Nanoseconds, first of reading the request, then of each step."""
    choices: Sequence[Choice] = ()
    """One for each split step, in their order."""
    checks: Checks | None = None
    """None when the pipeline has no validations."""
    shadows: dict[str, dict[str, Array] | None] = field(default_factory=dict)
    """Outputs by challenger, of shadow steps that wait; None for one that failed."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What answers say of the revision that gave them."""

    pipeline: str
    version: str
    partition: str
    """Names this engine in answers."""
    last_model: str
    last_sha256: str
    last_version: str | None = None
    """The last step's model; of a split, which variant's it is the row's choice tells."""
    split_last: bool = False
    """The last step is a split."""
    validations: tuple[tuple[str, Mapping[str, Mapping[str, str]]], ...] = ()
    """Name of each validation, and how its failure is written, as in `Checks.failures`."""
    splits: tuple[str, ...] = ()
    """Names of the split steps."""
    challengers: tuple[str, ...] = ()
    """Whose outputs are in the answer."""
