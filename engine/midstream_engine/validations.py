"""Validations: what a pipeline is asked and answers, checked row by row against conditions.

Names are looked up and types are checked when a revision is loaded, so that a request can only find rows that fail.
Validations change no answer, and evaluating them raises nothing: a row that a validation cannot judge has failed it.
That a field is not there, which nobody may have declared, is told once.
Which rows to refuse, count or record is not known here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from midstream_api.expression import Expression, ExpressionError, Reference, parse
from midstream_api.validation import Validation
from midstream_engine.batch import Checks, Choice
from midstream_engine.errors import LoadError
from midstream_engine.events import Emit
from midstream_engine.expressions.conditions import Condition, condition
from midstream_engine.expressions.scope import Resolver, Scope
from midstream_engine.expressions.values import BoolArray, Tables
from midstream_engine.schema import Array, Field

Picked = Mapping[str, "np.ndarray[Any, np.dtype[np.intp]]"]
"""By split step, which of its variants answered each row, shape (rows,)."""

_REMEMBERED = 1000
"""Ways in which a single row may fail that are made once."""

_MAX_COMPILED = 32
"""Combinations of types that one validation of unknown fields is kept compiled for."""

_LONG = 200
"""Characters of the name of a field that nothing is kept for: it may be a caller's, by its place in the inputs."""


_SHOWN = 60
"""Characters of a name in an event; it may be a caller's."""

_LISTED = 20
"""Names in an event."""


@dataclass(slots=True, eq=False)
class Validator:
    """All validations of one revision."""

    names: tuple[str, ...]
    failures: tuple[Mapping[str, Mapping[str, str]], ...]
    """How each failure is written in an answer: `{"False": {"expr": "model.outputs[0][0] < 100"}}`."""
    steps: tuple[str, ...]
    """Whose outputs they read under `steps.<name>` or by the name of a model."""
    _checks: tuple["_Check", ...]
    passed: Checks = field(init=False)
    """What is said of a single row when nothing failed: always the same."""

    _single: dict[bytes, Checks] = field(default_factory=dict)
    _quick: tuple[tuple[Callable[[Tables], bool], bool], ...] | None = field(init=False)
    """Condition and what is a failure of each validation, where nothing but the values of a row can matter."""

    def __post_init__(self) -> None:
        self.passed = self._of_one(bytes(len(self.names)))
        quick = all(check.quick for check in self._checks)
        pairs = tuple((check.condition.scalar, check.fails_when) for check in self._checks)
        self._quick = pairs if quick else None

    def check(
        self,
        inputs: dict[str, Array],
        outputs: Mapping[str, dict[str, Array]],
        final: dict[str, Array],
        rows: int,
        choices: Sequence[Choice],
    ) -> Checks:
        """Which validation failed for which row.

        inputs, final: the pipeline's inputs and outputs, each array with `rows` rows. outputs: the same of each step in
        `steps`, in the order of its fields. choices: of each split step.
        """
        steps = self.steps
        tables = (inputs, final, *[outputs[name] for name in steps]) if steps else (inputs, final)
        if rows == 1 and self._quick is not None:
            # The most frequent kind of request; all but the good news goes the long way.
            try:
                for holds, fails_when in self._quick:
                    if holds(tables) is fails_when:
                        break
                else:
                    return self.passed
            except (LookupError, ValueError):
                pass
        picked = {choice.step: choice.picked for choice in choices}
        if rows == 1:
            return self._of_one(bytes([each.fails_one(tables, picked) for each in self._checks]))
        failed = np.zeros((len(self._checks), rows), np.bool_)
        for number, check in enumerate(self._checks):
            failed[number] = check.fails(tables, rows, picked)
        return Checks(self.names, self.failures, failed)

    def _of_one(self, only: bytes) -> Checks:
        known = self._single.get(only)
        if known is None:
            failed = np.frombuffer(only, np.bool_).reshape(-1, 1)
            known = Checks(self.names, self.failures, failed)
            if len(self._single) < _REMEMBERED:
                self._single[only] = known
                known.only = only
        return known


def compile_validations(
    validations: Sequence[Validation], scope: Scope, tell: Emit = lambda *_, **__: None
) -> Validator | None:
    """Check validations against a pipeline and make them ready to run; None when there are none.

    tell: gets one event `validation_blind` of each validation that a request found to read a field that is not there;
    from any thread. Raises LoadError, reason InvalidValidation.
    """
    if not validations:
        return None
    slots: dict[str, int] = {}
    checks = tuple(_compiled(each, scope, slots, tell) for each in validations)
    return Validator(
        names=tuple(each.name for each in validations),
        failures=tuple(
            {str(check.fails_when): {"expr": str(check.expression)}} for check in checks
        ),
        steps=tuple(slots),
        _checks=checks,
    )


def _compiled(validation: Validation, scope: Scope, slots: dict[str, int], tell: Emit) -> "_Check":
    fails_when = validation.expression is None
    text = (validation.fail_when if fails_when else validation.expression) or ""
    try:
        expression = parse(text)
        resolver = Resolver(scope, slots)
        compiled = condition(expression, resolver.resolve)
        return _Check(
            name=validation.name,
            tell=tell,
            expression=expression,
            fails_when=fails_when,
            sources={each: resolver.resolve(each) for each in expression.references()},
            splits=tuple(resolver.picks(expression).items()),
            condition=compiled,
        )
    except ExpressionError as error:
        raise LoadError(
            "InvalidValidation",
            f"validation {validation.name!r}, column {error.column} of {text!r}: {error.message}",
        ) from error


@dataclass(slots=True, eq=False)
class _Check:
    """One validation."""

    name: str
    tell: Emit
    expression: Expression
    fails_when: bool
    """The value of the expression that is a failure."""
    sources: dict[Reference, tuple[int, Field | None]]
    splits: tuple[tuple[str, BoolArray], ...]
    """Steps and their variants whose rows it judges."""
    condition: Condition
    """Not to be run when a field is not known."""
    known: bool = field(init=False)
    """All fields are known."""
    lists: tuple[tuple[int, str, int], ...] = field(init=False)
    """Table, column and dimensions, rows included, of each list that it reads."""
    quick: bool = field(init=False)
    """Of one row the condition says all."""
    compiled: dict[tuple[object, ...], Condition | None] = field(default_factory=dict)
    """By the types that unknown fields turned out to have; None where they do not fit."""
    told: bool = False
    """It has been told that a field is not there. Two threads may tell it at once, which does no harm."""

    def __post_init__(self) -> None:
        sources = self.sources.items()
        self.known = all(source is not None for _, (_, source) in sources)
        self.lists = tuple(
            (table, source.name, 1 + len(source.shape))
            for reference, (table, source) in sources
            if source is not None and len(source.shape) > len(reference.indexes)
        )
        self.quick = self.known and not self.lists and not self.splits

    def fails_one(self, tables: Tables, picked: Picked) -> bool:
        """The same as `fails` of one row, but quicker."""
        for step, variants in self.splits:
            if not variants.item(picked[step].item(0)):
                return False
        if self.known:
            try:
                for table, name, dimensions in self.lists:
                    if tables[table][name].ndim != dimensions:
                        break
                else:
                    return self.condition.scalar(tables) is self.fails_when
            except (LookupError, ValueError):
                # A value is not there, or its row is an array of its own: the long way tells.
                pass
        return self._judged(tables, 1).item(0)

    def fails(self, tables: Tables, rows: int, picked: Picked) -> BoolArray:
        """Of each row, shape (rows,)."""
        failed = self._judged(tables, rows)
        for step, variants in self.splits:
            failed = failed & variants[picked[step]]
        return failed

    def _judged(self, tables: Tables, rows: int) -> BoolArray:
        names = self._names(tables)
        if names is None:
            return np.ones(rows, np.bool_)
        if not any(_holds_arrays(tables[table][name]) for table, name in names.values()):
            return self._evaluated(tables, names, rows)
        # Lists of own lengths, from a model that ran once for each row.
        failed = np.zeros(rows, np.bool_)
        for row in range(rows):
            alone: list[dict[str, Array]] = [{} for _ in tables]
            for table, name in names.values():
                array = tables[table][name]
                own = _holds_arrays(array)
                alone[table][name] = (
                    np.asarray(array[row])[np.newaxis] if own else array[row : row + 1]
                )
            failed[row] = self._evaluated(alone, names, 1).item(0)
        return failed

    def _names(self, tables: Tables) -> dict[Reference, tuple[int, str]] | None:
        """Table and column of each reference; None when a column is not there."""
        names: dict[Reference, tuple[int, str]] = {}
        for reference, (table, source) in self.sources.items():
            wanted = source.name if source else reference.field
            columns = list(tables[table])
            if isinstance(wanted, int):
                wanted = columns[wanted] if wanted < len(columns) else ""
            if wanted not in tables[table]:
                if not self.told:
                    self.told = True
                    self._tell_missing(reference, columns)
                return None
            names[reference] = table, wanted
        return names

    def _tell_missing(self, reference: Reference, columns: Sequence[str]) -> None:
        who = {"in": "the request has", "out": "the pipeline gives"}.get(
            reference.root, f"{reference.name!r} gives"
        )
        there = ", ".join(repr(name[:_SHOWN]) for name in columns[:_LISTED]) or "nothing"
        more = ", …" if len(columns) > _LISTED else ""
        field = reference.field
        wanted = repr(field) if isinstance(field, str) else f"output number {field}"
        self.tell(
            "validation_blind",
            validation=self.name,
            field=field,
            message=f"it reads {wanted}, and {who} {there}{more}; rows without it fail it",
        )

    def _evaluated(
        self, tables: Tables, names: dict[Reference, tuple[int, str]], rows: int
    ) -> BoolArray:
        now: dict[Reference, tuple[int, Field | None]] = {}
        for reference, (table, name) in names.items():
            array = tables[table][name]
            source = self.sources[reference][1] or _field(name, array)
            if array.ndim != 1 + len(source.shape):
                return np.ones(rows, np.bool_)
            now[reference] = table, source
        compiled = self.condition if now == self.sources else self._fitted(now)
        if compiled is None:
            return np.ones(rows, np.bool_)
        if rows == 1:
            try:
                return np.array([compiled.scalar(tables) is self.fails_when])
            except LookupError:
                return np.ones(1, np.bool_)
        holds, bad = compiled.evaluate(tables, rows)
        failed: BoolArray = bad | (holds == self.fails_when)
        return failed

    def _fitted(self, now: dict[Reference, tuple[int, Field | None]]) -> Condition | None:
        """The condition for the fields as they are now."""
        key = tuple(now.values())
        try:
            return self.compiled[key]
        except KeyError:
            pass
        try:
            compiled = condition(self.expression, now.__getitem__)
        except ExpressionError:
            compiled = None
        if len(self.compiled) >= _MAX_COMPILED:
            self.compiled.clear()  # several threads may be here
        if all(field is None or len(field.name) < _LONG for _, field in key):
            self.compiled[key] = compiled
        return compiled


def _holds_arrays(array: Array) -> bool:
    """Whether each row is an array of its own, because their lengths differ."""
    return (
        array.dtype == object
        and array.ndim == 1
        and isinstance(next(iter(array), None), np.ndarray)
    )


def _field(name: str, array: Array) -> Field:
    """What an array says of the field it belongs to."""
    text = array.dtype.kind in "OUT"
    return Field(name, "string" if text else array.dtype.name, (None,) * (array.ndim - 1))
