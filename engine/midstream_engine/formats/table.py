"""The answer as a table: which columns there are, in which order, and what each holds. All formats agree by it.

`time`, `in.*`, `out.*` (with `_model_split`), `anomaly.*`, `check_failures`, `out_<challenger>.*`, `metadata.*`.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from midstream_engine.batch import Batch, Choice, Facts, Result
from midstream_engine.formats.jsontext import dumps
from midstream_engine.schema import Array


class Kind(enum.Enum):
    """What the values of a coded column are."""

    TIME = "milliseconds since the epoch"
    TEXT = "a string"
    TEXTS = "a list of strings"
    NUMBERS = "a list of whole numbers"
    DOCUMENTS = "a list of objects"
    NAMES = "an object of strings"
    NOTHING = "null"


@dataclass(frozen=True, slots=True)
class Coded:
    """Few different values in many rows."""

    kind: Kind
    choices: Sequence[Any]
    codes: "np.ndarray[Any, np.dtype[np.intp]] | None" = None
    """Index into `choices` for each row; None where all rows have the first, as always: TIME, NUMBERS, NOTHING."""


Values = Array | Coded | Sequence[Any]
"""An array with a row for each row; few values; or the single values of a routing field."""


@dataclass(frozen=True, slots=True)
class Column:
    group: str | None
    """What it is nested in; None for a column that stands alone."""
    name: str
    values: Values
    failed: bool = False
    """It stands for the outputs of a challenger that gave none."""

    @property
    def full_name(self) -> str:
        return f"{self.group}.{self.name}" if self.group else self.name


def columns(result: Result, facts: Facts) -> list[Column]:
    """All columns of an answer."""
    found = [Column(None, "time", Coded(Kind.TIME, (result.time_ms,)))]
    found += inputs(result.batch)
    found += [Column("out", name, array) for name, array in result.outputs.items()]
    combined = combine(result.choices) if result.choices else None
    if combined is not None:
        found.append(Column("out", "_model_split", combined[0]))
    found += _checks(result)
    for challenger, outputs in result.shadows.items():
        group = f"out_{challenger}"
        if outputs is None:
            found.append(Column(None, group, Coded(Kind.NOTHING, (None,)), failed=True))
        else:
            found += [Column(group, name, array) for name, array in outputs.items()]
    found += [
        Column("metadata", "last_model", _last_models(result, facts)),
        Column("metadata", "pipeline_version", Coded(Kind.TEXT, (facts.version,))),
        Column("metadata", "elapsed", Coded(Kind.NUMBERS, (result.elapsed,))),
        Column("metadata", "dropped", Coded(Kind.TEXTS, ([],))),
        Column("metadata", "partition", Coded(Kind.TEXT, (facts.partition,))),
    ]
    if combined is not None:
        found.append(Column("metadata", "variants", combined[1]))
    return found


def inputs(batch: Batch) -> list[Column]:
    """The columns of what was sent."""
    found = [Column("in", name, array) for name, array in batch.fields.items()]
    # A field that a split asks for may also be one that a model takes.
    found += [Column("in", n, v) for n, v in batch.keys.items() if n not in batch.fields]
    return found


def last_model(facts: Facts) -> str:
    """The last step's model, as a JSON text: that is the format."""
    return _model_text(facts.last_model, facts.last_version, facts.last_sha256)


def last_of_split(choice: Choice, picked: int) -> str:
    """The same where the last step is a split."""
    variant = choice.variants[picked]
    return _model_text(variant.model, variant.version, variant.sha256)


def _model_text(name: str, version: str | None, sha256: str) -> str:
    said = {"model_name": name, "model_sha": sha256}
    if version is not None:
        said["model_version"] = version
    return dumps(said).decode()


def _last_models(result: Result, facts: Facts) -> Coded:
    if not facts.split_last:
        return Coded(Kind.TEXT, (last_model(facts),))
    choice = result.choices[-1]
    texts = [last_of_split(choice, number) for number in range(len(choice.variants))]
    return Coded(Kind.TEXT, texts, choice.picked)


def split_text(choice: Choice, picked: int) -> str:
    """The variant that answered, as a JSON text."""
    variant = choice.variants[picked]
    return dumps(
        {"name": variant.model, "version": variant.version, "sha": variant.sha256}
    ).decode()


def combine(choices: Sequence[Choice]) -> tuple[Coded, Coded]:
    """`out._model_split` and `metadata.variants` of each row. Rows that took the same variants share one value."""
    stacked = np.stack([choice.picked for choice in choices])
    found, codes = np.unique(stacked, axis=1, return_inverse=True)
    texts = []
    names = []
    for picks in found.T.tolist():
        pairs = list(zip(choices, picks, strict=True))
        texts.append([split_text(choice, pick) for choice, pick in pairs])
        names.append({choice.step: choice.variants[pick].name for choice, pick in pairs})
    codes = codes.reshape(-1)
    return Coded(Kind.TEXTS, texts, codes), Coded(Kind.NAMES, names, codes)


def _checks(result: Result) -> list[Column]:
    checks = result.checks
    if checks is None:
        none = np.zeros(result.batch.rows, np.uint32)
        return [Column("anomaly", "count", none)]
    found = [Column("anomaly", "count", checks.failed.sum(axis=0, dtype=np.uint32))]
    found += [
        Column("anomaly", name, failed)
        for name, failed in zip(checks.names, checks.failed, strict=True)
    ]
    patterns, codes = np.unique(checks.failed, axis=1, return_inverse=True)
    failures = [failures_of(checks.failures, pattern) for pattern in patterns.T.tolist()]
    found.append(Column(None, "check_failures", Coded(Kind.DOCUMENTS, failures, codes.reshape(-1))))
    return found


def failures_of(
    printed: Sequence[Mapping[str, Mapping[str, str]]], failed: Sequence[bool]
) -> list[Mapping[str, Mapping[str, str]]]:
    """What is listed of the validations that failed."""
    return [text for text, fails in zip(printed, failed, strict=True) if fails]
