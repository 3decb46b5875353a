"""What a pipeline does to rows, as the documents say it, in plain Python: slow, and written apart from the engine.

`docs/manifest.md` (steps and their names), `docs/split-and-shadow.md` (who answers a row) and `docs/validations.md`
are what both follow. Chance is not decided here: a caller tells which variant a row got, and this says whether it may.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from midstream_api.expression import parse
from midstream_api.syntax import Reference, printed
from reference import expressions
from reference.models import conformed
from reference.values import Array, Column, Refused, Table
from reference.zoo import Model


@dataclass(frozen=True)
class Place:
    """A model in a step."""

    model: Model
    name: str = ""
    """Of the variant, champion or challenger."""
    weight: int = 1


@dataclass(frozen=True)
class Step:
    """`model` has one place, `split` has variants, `shadow` has the champion first."""

    name: str
    kind: str
    places: tuple[Place, ...]
    hash_key: str | None = None
    key: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    default: str = ""
    wait: bool = False

    @property
    def takes(self) -> tuple[Column, ...] | None:
        """What all its models take together; None when nobody says."""
        said = [column for place in self.places for column in place.model.takes or ()]
        found: dict[str, Column] = {}
        for column in said:
            known = found.get(column.name)
            if known is None or not column.missing:
                found[column.name] = column
        return tuple(found.values()) or None

    @property
    def gives(self) -> tuple[Column, ...] | None:
        """None when only the answer tells."""
        answering = self.places if self.kind == "split" else self.places[:1]
        if any(place.model.gives is None for place in answering):
            return None
        return self.places[0].model.gives

    def entry(self) -> dict[str, Any]:
        """As a manifest has it."""
        models = [place.model.entry for place in self.places]
        named: list[dict[str, Any]] = [
            {"name": place.name, "model": place.model.entry} for place in self.places
        ]
        match self.kind:
            case "model":
                return {"name": self.name, "model": models[0]}
            case "split":
                for place, variant in zip(self.places, named, strict=True):
                    variant["weight"] = place.weight
                split: dict[str, Any] = {"variants": named}
                if self.hash_key is not None:
                    split["hashKey"] = self.hash_key
                if self.key is not None:
                    split |= {"key": self.key, "options": self.options, "default": self.default}
                return {"name": self.name, "split": split}
            case _:
                shadow = {"champion": named[0], "challengers": named[1:], "wait": self.wait}
                return {"name": self.name, "shadow": shadow}


@dataclass(frozen=True)
class Check:
    """A validation."""

    name: str
    text: str
    fails_when: bool

    def entry(self) -> dict[str, Any]:
        return {"name": self.name, "failWhen" if self.fails_when else "expression": self.text}


@dataclass(frozen=True)
class Pipeline:
    steps: tuple[Step, ...]
    checks: tuple[Check, ...] = ()

    def _repr_pretty_(self, printer: Any, _: bool) -> None:
        printer.text(json.dumps(self.spec()))

    def spec(self) -> dict[str, Any]:
        """As a manifest has it."""
        spec: dict[str, Any] = {"steps": [step.entry() for step in self.steps]}
        if self.checks:
            spec["validations"] = [check.entry() for check in self.checks]
        return spec

    @property
    def splits(self) -> list[Step]:
        return [step for step in self.steps if step.kind == "split"]

    @property
    def routing(self) -> tuple[str, ...]:
        """Fields that splits ask for and the first step does not take."""
        taken = {column.name for column in self.steps[0].takes or ()}
        asked = [step.hash_key or step.key for step in self.splits]
        return tuple(dict.fromkeys(name for name in asked if name and name not in taken))


@dataclass
class Expected:
    """What an answer has to say."""

    outputs: dict[str, list[Array]]
    shadows: dict[str, dict[str, list[Array]] | None]
    """Outputs of the challengers that are waited for; None of one that fails."""
    failed: list[list[bool]]
    """Of each row, which checks."""


Told = Sequence[Mapping[str, str]]
"""The variant by step, of each row, as an answer said it."""


def answered(pipeline: Pipeline, table: Table, told: Told) -> Expected:
    """What comes out of a table when each split answers each row as told. Raises Refused."""
    rows = len(next(iter(table.values())))
    fields: dict[str, list[Array]] = {name: list(values) for name, values in table.items()}
    outputs = fields
    by_step: dict[str, dict[str, list[Array]]] = {}
    shadows: dict[str, dict[str, list[Array]] | None] = {}
    for step, after in itertools.zip_longest(pipeline.steps, pipeline.steps[1:]):
        if step.kind == "split":
            outputs = _split(step, fields, [told[row][step.name] for row in range(rows)])
        else:
            outputs = step.places[0].model.runs.run(fields)
        if step.kind == "shadow" and step.wait:
            for place in step.places[1:]:
                try:
                    shadows[place.name] = place.model.runs.run(fields)
                except (ValueError, Refused):  # ValueError is what the zoo's code raises
                    shadows[place.name] = None
        by_step[step.name] = outputs
        if after is not None:
            fields = outputs
            if any("framework" in place.model.entry for place in step.places) and after.takes:
                fields = {**outputs, **conformed(outputs, after.takes)}
    judged = [_Judged(pipeline, table, by_step, told[row], row) for row in range(rows)]
    failed = [[row.fails(check) for check in pipeline.checks] for row in judged]
    return Expected(outputs, shadows, failed)


def _split(
    step: Step, fields: Mapping[str, list[Array]], chosen: Sequence[str]
) -> dict[str, list[Array]]:
    found: dict[str, list[Any]] = {}
    for place in step.places:
        where = [row for row, name in enumerate(chosen) if name == place.name]
        if not where:
            continue
        part = {name: [values[row] for row in where] for name, values in fields.items()}
        for name, values in place.model.runs.run(part).items():
            column = found.setdefault(name, [None] * len(chosen))
            for row, value in zip(where, values, strict=True):
                column[row] = value
    first = step.places[0].model.gives
    return found if first is None or step.gives is None else {c.name: found[c.name] for c in first}


# Who answers


def allowed(step: Step, key: Any, literal: float | None) -> set[str]:
    """The variants that may answer a row. key: the value of the split's field; None when the row has none."""
    text = canonical(key)
    if step.key is not None:
        return {step.options.get(text, step.default) if text is not None else step.default}
    weighed = [place for place in step.places if place.weight]
    if len(weighed) == 1:
        return {weighed[0].name}
    if literal is not None:
        return {_at(weighed, literal)}
    if step.hash_key is not None and text is not None:
        return {_hashed(weighed, text)}
    return {place.name for place in weighed}


def _at(places: Sequence[Place], number: float) -> str:
    if number >= 1:
        return places[-1].name
    total = sum(place.weight for place in places)
    upto = 0
    for place in places:
        upto += place.weight
        if number * total < upto:
            return place.name
    raise AssertionError("the weights add up")


def _hashed(places: Sequence[Place], text: str) -> str:
    scores = []
    for place in places:
        data = place.name.encode() + b"\0" + text.encode()
        h = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
        u = (h // 2**12 + 0.5) / 2**52
        scores.append(-place.weight / math.log(u))
    return places[scores.index(max(scores))].name


def canonical(value: Any) -> str | None:
    """The text of a key; None for none."""
    if isinstance(value, np.ndarray):
        return canonical(list(value) if value.ndim else value[()])
    match value:
        case None | str():
            return value
        case bool() | np.bool_():
            return "true" if value else "false"
        case int() | np.integer():
            return str(int(value))
        case float() | np.floating():
            return _decimal(value)
        case list():
            inner = [
                json.dumps(part, ensure_ascii=False) if isinstance(part, str) else canonical(part)
                for part in value
            ]
            return f"[{','.join('null' if text is None else text for text in inner)}]"
        case _:
            raise TypeError(f"{value!r}")


def _decimal(value: "float | np.floating[Any]") -> str | None:
    if math.isnan(value):
        return None
    if math.isfinite(value) and value == math.floor(value):
        return str(int(value))
    # numpy's digits are the fewest of the value's own type.
    return repr(float(np.format_float_scientific(value)))


# Checks


def expected_failure(check: Check) -> dict[str, dict[str, str]]:
    """How an answer writes it."""
    text = printed(parse(check.text).root)
    return {str(check.fails_when): {"expr": text}}


@dataclass(frozen=True)
class _Judged:
    """A row as its checks see it."""

    pipeline: Pipeline
    inputs: Table
    by_step: Mapping[str, Table]
    told: Mapping[str, str]
    row: int

    def fails(self, check: Check) -> bool:
        expression = parse(check.text)
        for reference in expression.references():
            if reference.root == "model" and not self._answered(reference.name):
                return False
        view = expressions.Row(lambda r: self._cell(r).tolist(), lambda r: self._cell(r).ndim)
        return expressions.failed(expression.root, view, fails_when=check.fails_when)

    def _step_of(self, model: str) -> Step:
        for step in self.pipeline.steps:
            if any(place.model.name == model for place in step.places):
                return step
        raise AssertionError(f"there is no {model}")

    def _answered(self, model: str) -> bool:
        """Whether the row is that model's."""
        step = self._step_of(model)
        names = [place.name for place in step.places if place.model.name == model]
        return step.kind != "split" or self.told[step.name] in names

    def _cell(self, reference: Reference) -> Array:
        match reference.root:
            case "in":
                table = self.inputs
            case "out":
                table = self.by_step[self.pipeline.steps[-1].name]
            case "steps":
                table = self.by_step[reference.name]
            case _:
                table = self.by_step[self._step_of(reference.name).name]
        name = reference.field
        if isinstance(name, int):
            name = [*table, ""][min(name, len(table))]
        if name not in table:
            raise expressions.CannotTell
        return table[name][self.row]
