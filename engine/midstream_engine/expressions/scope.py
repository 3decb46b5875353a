"""What the names of expressions stand for in a pipeline: its inputs and outputs, its steps, its models."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from midstream_api.engineconfig import ResolvedStep
from midstream_api.expression import Expression, ExpressionError, Reference
from midstream_engine.expressions.values import BoolArray
from midstream_engine.schema import Field, list_fields

Fields = tuple[Field, ...] | None
"""None: known only when the rows are there."""

_IN, _OUT, _STEPS = 0, 1, 2
"""Places of the tables that expressions read: the pipeline's inputs, its outputs, then steps."""


@dataclass(frozen=True, slots=True)
class StepScope:
    """A step as expressions can name it."""

    name: str
    outputs: Fields
    models: tuple[tuple[str | None, str], ...]
    """Variant and model name of each that answers rows: of a split in its order, else of one."""
    challengers: tuple[tuple[str | None, str], ...] = ()
    """Those whose outputs nobody waits for."""

    @classmethod
    def of(cls, step: ResolvedStep, outputs: Fields) -> "StepScope":
        models = tuple((placed.variant, placed.model.name) for placed in step.models())
        answering = len(models) if step.split else 1
        return cls(step.name, outputs, models[:answering], models[answering:])


@dataclass(frozen=True, slots=True)
class Scope:
    """What a pipeline's expressions can name. `out` is the last step's."""

    inputs: Fields
    steps: tuple[StepScope, ...]
    routing: tuple[str, ...] = ()
    """Fields that splits ask for and no model takes: rows may leave them out, and nobody says their types."""


@dataclass(frozen=True, slots=True)
class Resolver:
    """Looks up what references name. Raises ExpressionError for what is not there."""

    scope: Scope
    slots: dict[str, int]
    """Table of each step that is read; grows."""

    def resolve(self, reference: Reference) -> tuple[int, Field | None]:
        match reference.root:
            case "in":
                self._refuse_routing(reference)
                return _IN, _found(reference, self.scope.inputs, "the pipeline takes")
            case "out":
                return _OUT, _found(reference, self.scope.steps[-1].outputs, "the pipeline gives")
            case "steps":
                step = self._step(reference)
            case "model":
                step = self._of_model(reference)[0]
        source = _found(reference, step.outputs, f"step {step.name!r} gives")
        return self.slots.setdefault(step.name, _STEPS + len(self.slots)), source

    def _refuse_routing(self, reference: Reference) -> None:
        if self.scope.inputs is not None and reference.field in self.scope.routing:
            raise ExpressionError(
                f"{reference.field!r} is a field that only a split looks at: its type is not known, and rows may leave "
                f"it out; validations read what models take: {list_fields(self.scope.inputs)}",
                reference.column,
            )

    def _step(self, reference: Reference) -> StepScope:
        for step in self.scope.steps:
            if step.name == reference.name:
                return step
        known = ", ".join(step.name for step in self.scope.steps)
        raise ExpressionError(
            f"there is no step {reference.name!r}; there are {known}", reference.column
        )

    def _of_model(self, reference: Reference) -> tuple[StepScope, frozenset[int]]:
        """The step that a model's outputs are, and which of its variants are meant.

        A name is first taken for a model's, then for a variant's, then for a step's.
        """
        name = reference.name
        steps = self.scope.steps
        found = (
            [(step, _at(name, [model for _, model in step.models])) for step in steps],
            [(step, _at(name, [variant for variant, _ in step.models])) for step in steps],
            [
                (s, frozenset(range(len(s.models))) if s.name == name else frozenset())
                for s in steps
            ],
        )
        for level in found:
            places = [(step, variants) for step, variants in level if variants]
            if len(places) > 1:
                named = " and ".join(step.name for step, _ in places)
                raise ExpressionError(
                    f"{name!r} is in the steps {named}; write steps.{places[0][0].name}.out[0]",
                    reference.column,
                )
            if places:
                return places[0]
        for step in steps:
            if any(name in names for names in step.challengers):
                raise ExpressionError(
                    f"{name!r} is a challenger of step {step.name!r}, whose answer may come later; "
                    f"validations read the champion's, {step.models[0][1]}",
                    reference.column,
                )
        models = dict.fromkeys(model for step in steps for _, model in step.models)
        spaces = "; to subtract, put spaces around -" if "-" in name else ""
        raise ExpressionError(
            f"there is no model {name!r}; there are {', '.join(models)}{spaces}", reference.column
        )

    def picks(self, expression: Expression) -> dict[str, BoolArray]:
        """For each split step, by whose variant's answer the expression stands: a flag for each variant."""
        wanted: dict[str, BoolArray] = {}
        for reference in expression.references():
            if reference.root != "model":
                continue
            step, variants = self._of_model(reference)
            if len(variants) == len(step.models):
                continue
            flags = np.array([number in variants for number in range(len(step.models))])
            wanted[step.name] = wanted.get(step.name, np.ones_like(flags)) & flags
            if not wanted[step.name].any():
                raise ExpressionError(
                    f"no row has an answer of {reference.name!r} and of another variant of step {step.name!r}; "
                    "make it two validations",
                    reference.column,
                )
        return wanted


def _at(name: str, names: Sequence[str | None]) -> frozenset[int]:
    return frozenset(number for number, each in enumerate(names) if each == name)


def _found(reference: Reference, fields: Fields, who: str) -> Field | None:
    """The field that a reference names; None when the fields are not known yet."""
    if fields is None:
        return None
    if isinstance(reference.field, int):
        if reference.field < len(fields):
            return fields[reference.field]
        raise ExpressionError(
            f"there is no output [{reference.field}]; {who} {list_fields(fields)}", reference.column
        )
    for each in fields:
        if each.name == reference.field:
            return each
    raise ExpressionError(f"{who} {list_fields(fields)}, no {reference.field!r}", reference.column)
