"""Steps: models bound to their sessions and connected by the names of their fields.

The output fields of a step are the input fields of the next, matched by name. Names and types are checked here, when a
revision is loaded, so that no request finds out.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from midstream_api.engineconfig import ResolvedStep
from midstream_api.model import InputField, Missing
from midstream_engine.errors import LoadError, StepFailed
from midstream_engine.schema import Array, Field, list_fields, shape_text
from midstream_engine.sessions import Arrays, Session, explain, run_bounded


@dataclass(slots=True, eq=False)
class Step:
    """One model of a loaded revision."""

    name: str
    model: str
    session: Session
    inputs: tuple[Field, ...]
    """As callers, or the step before, name them."""
    outputs: tuple[Field, ...]
    feeds: tuple[tuple[str, str], ...]
    """(the session's own name, field name) for each input."""
    output_names: list[str]

    def run(self, fields: Arrays) -> list[Array]:
        """Outputs in the order of `outputs`. Raises StepFailed."""
        feed = {tensor: fields[name] for tensor, name in self.feeds}
        try:
            return self.session.run(self.output_names, feed)
        except Exception as error:
            raise StepFailed(f"step {self.name!r}: {explain(error)}") from error

    def run_bounded(self, fields: Arrays, seconds: float) -> list[Array]:
        """The same, but stopped after `seconds`."""
        feed = {tensor: fields[name] for tensor, name in self.feeds}
        try:
            return run_bounded(self.session, self.output_names, feed, seconds)
        except StepFailed as error:
            raise StepFailed(f"step {self.name!r}: {error.message}", reason=error.reason) from error


def bind(step: ResolvedStep, session: Session) -> Step:
    """A step with its model's inputs renamed as the manifest says. Raises LoadError."""
    for what, fields in (("inputs", session.inputs), ("outputs", session.outputs)):
        if not fields:
            raise LoadError(
                "InvalidModel",
                f"step {step.name!r}, model {step.model.name!r}: the model has no {what}; a step needs at least one",
            )
    feeds: list[tuple[str, str]] = []
    inputs: list[Field] = []
    for field, given in _renamed(step, session.inputs):
        feeds.append((field.name, given.name if given else field.name))
        allow = given is not None and given.missing is Missing.ALLOW
        if allow and not field.dtype.startswith("float"):
            raise LoadError(
                "InvalidInputs",
                f"step {step.name!r}: input {given.name if given else ''!r} has `missing: Allow`, which needs a float; "
                f"the model takes {field.dtype}",
            )
        inputs.append(replace(field, name=feeds[-1][1], allow_missing=allow))
    return Step(
        name=step.name,
        model=step.model.name,
        session=session,
        inputs=tuple(inputs),
        outputs=session.outputs,
        feeds=tuple(feeds),
        output_names=[field.name for field in session.outputs],
    )


def _renamed(step: ResolvedStep, own: Sequence[Field]) -> list[tuple[Field, InputField | None]]:
    given = step.model.inputs
    if given is None:
        return [(field, None) for field in own]
    where = f"step {step.name!r}, model {step.model.name!r}"
    if len(given) != len(own):
        raise LoadError(
            "InvalidInputs",
            f"{where}: inputs lists {len(given)} names, the model has {len(own)}: {list_fields(own)}",
        )
    by_name = {field.name: field for field in own}
    pairs: dict[str, InputField] = {}
    for position, entry in enumerate(given):
        tensor = entry.tensor if entry.tensor is not None else own[position].name
        if tensor not in by_name:
            raise LoadError(
                "InvalidInputs",
                f"{where}: inputs[{position}].tensor names {tensor!r}, the model has {list_fields(own)}",
            )
        if tensor in pairs:
            raise LoadError(
                "InvalidInputs", f"{where}: inputs has two entries for the model's {tensor!r}"
            )
        pairs[tensor] = entry
    return [(field, pairs[field.name]) for field in own]


def check_connected(steps: Sequence[Step]) -> None:
    """Every input of a step is an output of the step before, in name, type and known lengths. Raises LoadError."""
    for before, after in pairwise(steps):
        offered = {field.name: field for field in before.outputs}
        for field in after.inputs:
            source = offered.get(field.name)
            if source is None:
                raise LoadError(
                    "NamesDoNotConnect",
                    f"step {after.name!r} takes {field}, step {before.name!r} before it gives "
                    f"{list_fields(before.outputs)}; rename with `inputs: [{{name: …}}]` on step {after.name!r}",
                )
            if source.dtype != field.dtype or not _fits(source.shape, field.shape):
                raise LoadError(
                    "NamesDoNotConnect",
                    f"step {before.name!r} gives {source}, step {after.name!r} takes {field}",
                )


def _fits(given: tuple[int | None, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(given) == len(wanted) and all(
        a is None or b is None or a == b for a, b in zip(given, wanted, strict=True)
    )


def run_chain(
    steps: Sequence[Step], fields: Arrays, rows: int, seconds: float | None = None
) -> tuple[list[Array], list[int]]:
    """Run all steps on the same rows.

    fields: the first step's inputs by name. seconds: the longest one step may take; None where it may not be
    stopped. Returns the last step's outputs, each with `rows` rows, and the nanoseconds of each step. Raises
    StepFailed.
    """
    elapsed: list[int] = []
    outputs: list[Array] = []
    last = len(steps) - 1
    for number, step in enumerate(steps):
        start = time.perf_counter_ns()
        outputs = step.run(fields) if seconds is None else step.run_bounded(fields, seconds)
        elapsed.append(time.perf_counter_ns() - start)
        for field, array in zip(step.outputs, outputs, strict=True):
            if not array.shape or array.shape[0] != rows:
                raise StepFailed(
                    f"step {step.name!r}: output {field.name!r} has the shape {shape_text(array.shape)} "
                    f"for {rows} rows; a model must answer as many rows as it gets"
                )
        if number != last:
            fields = {field.name: array for field, array in zip(step.outputs, outputs, strict=True)}
    return outputs, elapsed
