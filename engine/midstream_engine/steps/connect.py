"""Steps of a revision put together: models bound, and their names and types checked against their neighbours'.

All that can be known before the first request is refused here, with a message that names both ends.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from midstream_api.engineconfig import ResolvedModel, ResolvedStep
from midstream_api.steps import Placed
from midstream_engine.batch import VariantRef
from midstream_engine.errors import LoadError
from midstream_engine.schema import Field, list_fields
from midstream_engine.split import Chooser
from midstream_engine.steps.kinds import ModelStep, ShadowStep, SplitStep, Step
from midstream_engine.steps.units import OnnxUnit, SidekickUnit, Unit

Bind = Callable[[str, Placed[ResolvedModel]], Unit]
"""bind(step's name, placed model) -> unit; raises LoadError."""


def assemble(resolved: ResolvedStep, bind: Bind) -> Step:
    """A step with its models bound. Raises LoadError; then the caller has what `bind` made so far."""
    placed = resolved.models()
    units = [bind(resolved.name, each) for each in placed]
    if resolved.split is not None:
        split = resolved.split
        step: Step = SplitStep(
            name=resolved.name,
            variants=units,
            refs=tuple(
                VariantRef(
                    name=str(each.variant),
                    model=each.model.name,
                    version=each.model.version,
                    sha256=each.model.sha256,
                )
                for each in placed
            ),
            chooser=Chooser(
                [(each.name, each.weight) for each in split.variants],
                hash_key=split.hash_key,
                key=split.key,
                options=split.options,
                default=split.default,
            ),
        )
        _refuse_fixed_batches(units, "a split gives its variants some of the rows")
        step.outputs = _agreed(units)
        _put_in_order(units)
    elif resolved.shadow is not None:
        shadow = resolved.shadow
        step = ShadowStep(
            name=resolved.name,
            champion=units[0],
            challengers=units[1:],
            wait=shadow.wait,
            seconds=float(shadow.timeout_seconds),
        )
        step.outputs = units[0].outputs
    else:
        step = ModelStep(name=resolved.name, unit=units[0], outputs=units[0].outputs)
    step.inputs = _taken(units, led=resolved.shadow is not None)
    return step


def fixed_batch(steps: Sequence[Step]) -> int | None:
    """Rows that every request must have, because a model insists on them; None is any number. Raises LoadError."""
    answering = [
        unit
        for step in steps
        for unit in ([step.champion] if isinstance(step, ShadowStep) else step.units)
    ]
    fixed = [unit for unit in answering if isinstance(unit, OnnxUnit) and unit.batch is not None]
    batch = fixed[0].batch if fixed else None
    for unit in fixed[1:]:
        if unit.batch != batch:
            raise LoadError(
                "FixedBatch",
                f"{fixed[0].where} takes exactly {batch} rows, {unit.where} exactly {unit.batch}; "
                "models of one pipeline get the same number of rows",
            )
    for step in steps:
        for rival in step.challengers if isinstance(step, ShadowStep) else []:
            if isinstance(rival, OnnxUnit) and rival.batch not in (None, batch):
                raise LoadError(
                    "FixedBatch",
                    f"{rival.where}, model {rival.model.name!r} takes exactly {rival.batch} rows; "
                    "a challenger gets as many as the champion answers, "
                    f"which is {'any number' if batch is None else batch}",
                )
    return batch


def check_connected(steps: Sequence[Step]) -> None:
    """Every input of a step is an output of the step before, in name, type and known lengths. Raises LoadError."""
    for before, after in pairwise(steps):
        if before.outputs is None or after.inputs is None:
            continue  # found out when it answers
        offered = {field.name: field for field in before.outputs}
        convertible = any(isinstance(unit, SidekickUnit) for unit in before.units)
        for field in after.inputs:
            source = offered.get(field.name)
            if source is None:
                raise LoadError(
                    "NamesDoNotConnect",
                    f"step {after.name!r} takes {field}, step {before.name!r} before it gives "
                    f"{list_fields(before.outputs)}; rename with `inputs: [{{name: …}}]` on step {after.name!r}",
                )
            # What code gives is made the type that the next step takes, where that changes no value.
            given = (
                replace(source, dtype=field.dtype)
                if convertible and _numbers(source, field)
                else source
            )
            if not given.meets(field):
                raise LoadError(
                    "NamesDoNotConnect",
                    f"step {before.name!r} gives {source}, step {after.name!r} takes {field}",
                )


def check_names(steps: Sequence[Step], reserved: Callable[[str], bool]) -> None:
    """Refuse outputs of the last step by names under which answers say something else. Raises LoadError.

    What a Python model does not declare is looked at when it answers.
    """
    last = steps[-1]
    for unit in [last.champion] if isinstance(last, ShadowStep) else last.units:
        if isinstance(unit, SidekickUnit):
            unit.reserved = reserved
        for field in unit.outputs or ():
            if reserved(field.name):
                raise LoadError(
                    "ReservedName",
                    f"{unit.where}, model {unit.model.name!r} gives {field.name!r}, under which answers of this "
                    "pipeline say something else; give the output another name",
                )


def routing_fields(steps: Sequence[Step]) -> tuple[str, ...]:
    """Input fields that splits ask for and the first step does not take."""
    taken = {field.name for field in steps[0].inputs or ()}
    asked = [step.chooser.field for step in steps if isinstance(step, SplitStep)]
    return tuple(dict.fromkeys(name for name in asked if name is not None and name not in taken))


def place_of(step: str, variant: str | None) -> str:
    """How messages name a model's place."""
    return f"step {step!r}" if variant is None else f"step {step!r}, variant {variant!r}"


def _numbers(source: Field, wanted: Field) -> bool:
    return "string" not in (source.dtype, wanted.dtype) and wanted.dtype != "bool"


def _taken(units: Sequence[Unit], *, led: bool) -> tuple[Field, ...] | None:
    """All fields that any of the units takes; a Python model that declares none gets these. None when all are such.

    led: the first is a champion, whose word on missing values counts. Raises LoadError.
    """
    found: dict[str, tuple[Field, Unit]] = {}
    for unit in units:
        for field in unit.inputs or ():
            known, other = found.setdefault(field.name, (field, unit))
            if not known.meets(field):
                raise LoadError(
                    "NamesDoNotConnect",
                    f"{other.where} takes {known}, {unit.where} takes {field}; models of one step get the same rows, "
                    f"so rename one with `inputs: [{{name: …}}]`",
                )
            if known.allow_missing != field.allow_missing:
                _refuse_half_allowed(known, (other, unit), units[0] if led else None)
    return tuple(field for field, _ in found.values()) or None


def _refuse_half_allowed(field: Field, pair: tuple[Unit, Unit], champion: Unit | None) -> None:
    """The first of a pair has the field as it is, the other one allows what it forbids, or forbids what it allows."""
    first, other = pair
    if first is champion and not field.allow_missing:
        return  # callers send what it takes; that a challenger would take more is no matter
    allows, forbids = (first, other) if field.allow_missing else (other, first)
    raise LoadError(
        "NamesDoNotConnect",
        f"{allows.where} has `missing: Allow` on {field}, {forbids.where} has not; models of one step get the same "
        "rows, so set it on both or on neither",
    )


def _agreed(units: Sequence[Unit]) -> tuple[Field, ...] | None:
    """The outputs that all variants give; None when it is known only when they answer. Raises LoadError."""
    known = [(unit, unit.outputs) for unit in units if unit.outputs is not None]
    if not known:
        return None
    first, outputs = known[0]
    wanted = {field.name: field for field in outputs}
    for unit, others in known[1:]:
        given = {field.name: field for field in others}
        if given.keys() != wanted.keys() or not all(
            wanted[name].meets(field) for name, field in given.items()
        ):
            raise LoadError(
                "VariantsDiffer",
                f"{first.where} gives {list_fields(outputs)}, {unit.where} gives {list_fields(others)}; "
                "variants of a split give outputs of the same names and types",
            )
    return outputs if len(known) == len(units) else None


def _put_in_order(units: Sequence[Unit]) -> None:
    """Outputs of all variants in the order of the first's, so that a place among them means the same everywhere."""
    first = units[0].outputs
    for unit in units[1:]:
        if isinstance(unit, OnnxUnit) and first is not None:
            by_name = {field.name: field for field in unit.outputs}
            unit.outputs = tuple(by_name[field.name] for field in first)
            unit.output_names = [field.name for field in first]


def _refuse_fixed_batches(units: Sequence[Unit], why: str) -> None:
    for unit in units:
        if isinstance(unit, OnnxUnit) and unit.batch not in (None, 1):
            raise LoadError(
                "FixedBatch",
                f"{unit.where}, model {unit.model.name!r} takes exactly {unit.batch} rows; {why}",
            )
