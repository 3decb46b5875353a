"""How a revision is made ready: hash, build, connect, warm up, verify. And how it is given back.

Runs in the loading thread and touches nothing that requests use: what it makes is handed over with one assignment.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from midstream_api.engineconfig import ResolvedModel, RevisionDocument
from midstream_api.model import Framework
from midstream_api.steps import Placed
from midstream_engine import memory
from midstream_engine.batch import Batch, Facts
from midstream_engine.codec import Codec
from midstream_engine.errors import LoadError, RequestError
from midstream_engine.events import Emit
from midstream_engine.expressions.scope import Scope, StepScope
from midstream_engine.revisions import golden
from midstream_engine.revisions.trial import try_code
from midstream_engine.schema import Field, is_fixed
from midstream_engine.sessions import SessionPool, zeros
from midstream_engine.steps.connect import (
    assemble,
    check_connected,
    check_names,
    fixed_batch,
    place_of,
    routing_fields,
)
from midstream_engine.steps.flow import is_plain, run_here
from midstream_engine.steps.kinds import Run, ShadowStep, SplitStep, Step
from midstream_engine.steps.options import check_options
from midstream_engine.steps.units import (
    OnnxUnit,
    Remote,
    SidekickUnit,
    Unit,
    bind_onnx,
    bind_sidekick,
    release_later,
)
from midstream_engine.validations import Validator, compile_validations

_TIMED_RUNS = 3
_LONG_RUN_NS = 20_000_000
"""A model that takes longer is slow, however often it is timed."""


class SidekickPool(Protocol):
    """What `midstream_engine.sidekicks.Sidekicks` is to the loading thread."""

    def has(self, sha256: str) -> bool: ...

    def acquire(self, name: str, code: bytes, sha256: str) -> Any: ...

    def release(self, sidekick: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """What requests need of a revision, immutable, taken by one reference."""

    version: str
    steps: tuple[Step, ...]
    inputs: tuple[Field, ...] | None
    """None: the first step takes whatever comes."""
    outputs: tuple[Field, ...] | None
    """None: the last step does not say what it gives."""
    codec: Codec
    validator: Validator | None
    batch: int | None
    """Rows the model insists on; None is any number."""
    warm_ns: int
    """What one row took at warm-up."""
    fixed: bool
    """Rows are all of one size."""
    plain: bool
    """ONNX models only, one for each step."""
    shadowed: bool
    """There are challengers."""
    waits: bool
    """Somebody else than the caller's thread has a part in it."""

    @property
    def units(self) -> list[Unit]:
        return [unit for step in self.steps for unit in step.units]


@dataclass(frozen=True, slots=True)
class Loader:
    """Loads revisions, in its caller's thread."""

    pool: SessionPool
    sidekicks: SidekickPool
    verified_path: Callable[[str], Path]
    """The immutable copy of a SHA-256, hashed again just now."""
    partition: str
    """Names this engine in answers."""
    memory_limit: int | None
    warm_up_seconds: float

    def load(self, document: RevisionDocument, stages: dict[str, float], tell: Emit) -> Loaded:
        """Hash, build, connect, warm up and verify. Raises LoadError; then nothing is left behind."""
        made: list[Unit] = []

        def bind(step: str, placed: Placed[ResolvedModel]) -> Unit:
            made.append(self._bind(step, placed, stages, tell))
            return made[-1]

        try:
            steps = tuple(assemble(step, bind) for step in document.steps)
            check_connected(steps)
            check_options(document.steps, steps[0].inputs)
            rows = fixed_batch(steps)
            validator = _validator(document, steps, tell)
            warm_ns = self._warm_up(document, steps, rows, stages, tell)
            self._verify(document, steps, stages, tell)
            return self._loaded(document, steps, validator, rows, warm_ns)
        except BaseException:
            self._release(made)
            raise

    def free(self, loaded: Loaded) -> None:
        """Give sessions and sidekicks back, and the memory with them."""
        self._release(loaded.units)

    def _release(self, units: list[Unit]) -> None:
        for unit in units:
            onnx = isinstance(unit, OnnxUnit)
            # The session must die here, in this thread, not with the last reader of the unit.
            held = release_later(unit)
            (self.pool if onnx else self.sidekicks).release(held)
            del held

    def _bind(
        self, step: str, placed: Placed[ResolvedModel], stages: dict[str, float], tell: Emit
    ) -> Unit:
        model = placed.model
        where = place_of(step, placed.variant)
        start = time.perf_counter()
        python = model.framework is Framework.PYTHON
        path = None if model.inline is not None else self.verified_path(model.sha256)
        hashed = time.perf_counter()
        _add(stages, "hashed", hashed - start)
        known = False
        try:
            if python:
                known = self.sidekicks.has(model.sha256)
                held: Any = self._sidekick(model, path)
            else:
                assert path is not None
                known = self.pool.has(model.sha256)
                if not known:
                    memory.check_fits(path.stat().st_size, self.memory_limit)
                held = self.pool.acquire(model.sha256, path)
        except LoadError as error:
            raise LoadError(
                error.reason,
                f"{where}, model {model.name!r}: {error.message}",
                transient=error.transient,
            ) from error
        _add(stages, "built", time.perf_counter() - hashed)
        try:
            unit: Unit
            if python:
                unit = bind_sidekick(where, placed.variant, model, held)
            else:
                unit = bind_onnx(where, placed.variant, model, held)
        except BaseException:
            (self.sidekicks if python else self.pool).release(held)
            raise
        tell(
            "loaded",
            step=step,
            **({} if placed.variant is None else {"variant": placed.variant}),
            model=model.name,
            ms=_ms(time.perf_counter() - start),
            bytes=model.size,
            reused=known,
        )
        return unit

    def _sidekick(self, model: ResolvedModel, path: Path | None) -> Remote:
        code = model.inline.encode() if model.inline is not None else path.read_bytes()  # type: ignore[union-attr]
        sidekick: Remote = self.sidekicks.acquire(model.name, code, model.sha256)
        return sidekick

    def _warm_up(
        self,
        document: RevisionDocument,
        steps: tuple[Step, ...],
        rows: int | None,
        stages: dict[str, float],
        tell: Emit,
    ) -> int:
        """Run rows through all models: golden rows where there are some, else zeros. Returns ns for each row.

        What Python code gives for zeros is looked at, not whether it bears them.
        """
        start = time.perf_counter()
        try:
            if is_plain(steps):
                warm_ns = self._warm_chain(document, steps, rows)
            else:
                # A split runs one of its models, and code need not bear zeros: each model by itself.
                for step in steps:
                    for unit in step.units:
                        if isinstance(unit, OnnxUnit):
                            unit.row_ns = self._warm_unit(unit)
                chained = self._try_golden_chain(document, steps, rows)
                proven = [step.units[0] for step in steps if not isinstance(step, SplitStep)]
                try_code(
                    steps,
                    rows or 1,
                    self.warm_up_seconds,
                    lambda unit: chained and unit in proven,
                    tell,
                )
                warm_ns = int(sum(_slowest(step) for step in steps))
        except RequestError as error:
            raise LoadError("WarmupFailed", f"warm-up failed: {error.message}") from error
        seconds = time.perf_counter() - start
        _add(stages, "warmed", seconds)
        tell("warmed", ms=_ms(seconds))
        return warm_ns

    def _warm_chain(
        self, document: RevisionDocument, steps: tuple[Step, ...], rows: int | None
    ) -> int:
        first = steps[0].units[0]
        verify = document.steps[0].main.verify
        if verify is not None and rows is None:
            batch = golden.read(first, "spec.steps[0].model", [verify.inputs[0]])
        else:
            batch = _zeros(first.inputs or (), rows)
        run_here(steps, Run(batch), self.warm_up_seconds)
        if rows is None:
            # Two rows show a hidden fixed batch.
            batch = _doubled(batch)
            run_here(steps, Run(batch), self.warm_up_seconds)
        # It ends, so it may be timed as requests run it. Any run may wait for the processor: the fastest tells.
        fastest = math.inf
        for _ in range(_TIMED_RUNS):
            run = Run(batch)
            run_here(steps, run)
            fastest = min(fastest, sum(run.elapsed))
            if fastest > _LONG_RUN_NS:
                break
        return int(fastest) // batch.rows

    def _warm_unit(self, unit: OnnxUnit) -> float:
        batch = _zeros(unit.inputs, unit.batch)
        unit.run_bounded(batch.fields, batch.rows, self.warm_up_seconds)
        if unit.batch is None:
            batch = _doubled(batch)
            unit.run_bounded(batch.fields, batch.rows, self.warm_up_seconds)
        fastest = math.inf
        for _ in range(_TIMED_RUNS):
            start = time.perf_counter_ns()
            unit.run(batch.fields, batch.rows)
            fastest = min(fastest, time.perf_counter_ns() - start)
            if fastest > _LONG_RUN_NS:
                break
        return fastest / batch.rows

    def _try_golden_chain(
        self, document: RevisionDocument, steps: tuple[Step, ...], rows: int | None
    ) -> bool:
        """With golden rows for the first step all steps can be seen to work together. Whether they were."""
        placed = document.steps[0].models()[0]
        if placed.model.verify is None:
            return False
        batch = golden.read(
            steps[0].units[0], f"spec.steps[0].{placed.place}", placed.model.verify.inputs
        )
        if steps[0].inputs is not None and {f.name for f in steps[0].inputs} - batch.fields.keys():
            return False  # another variant takes more than these rows have
        if rows not in (None, batch.rows):
            return False  # a later step takes another number of rows
        run_here(steps, Run(batch), self.warm_up_seconds)
        return True

    def _verify(
        self,
        document: RevisionDocument,
        steps: tuple[Step, ...],
        stages: dict[str, float],
        tell: Emit,
    ) -> None:
        start = time.perf_counter()
        rows = 0
        for number, (resolved, step) in enumerate(zip(document.steps, steps, strict=True)):
            for placed, unit in zip(resolved.models(), step.units, strict=True):
                if placed.model.verify is not None:
                    place = f"spec.steps[{number}].{placed.place}"
                    rows += golden.verify(unit, place, placed.model.verify, self.warm_up_seconds)
        if rows:
            seconds = time.perf_counter() - start
            _add(stages, "verified", seconds)
            tell("verified", ms=_ms(seconds), rows=rows)

    def _loaded(
        self,
        document: RevisionDocument,
        steps: tuple[Step, ...],
        validator: Validator | None,
        rows: int | None,
        warm_ns: int,
    ) -> Loaded:
        first = steps[0]
        codec = Codec(
            first.inputs,
            steps[-1].outputs,
            routing_fields(steps),
            self._facts(document, steps, validator),
            as_sent=any(isinstance(unit, SidekickUnit) for unit in first.units),
        )
        check_names(steps, codec.oip_writer.reserved)
        return Loaded(
            version=document.version,
            steps=steps,
            inputs=first.inputs,
            outputs=steps[-1].outputs,
            codec=codec,
            validator=validator,
            batch=rows,
            warm_ns=warm_ns,
            fixed=is_fixed(first.inputs),
            plain=is_plain(steps),
            shadowed=any(isinstance(step, ShadowStep) for step in steps),
            waits=any(step.waits for step in steps),
        )

    def _facts(
        self, document: RevisionDocument, steps: tuple[Step, ...], validator: Validator | None
    ) -> Facts:
        last = document.steps[-1].main
        return Facts(
            pipeline=document.pipeline,
            version=document.version,
            partition=self.partition,
            last_model=last.name,
            last_sha256=last.sha256,
            last_version=last.version,
            split_last=isinstance(steps[-1], SplitStep),
            validations=tuple(
                zip(validator.names, validator.failures, strict=True) if validator else ()
            ),
            splits=tuple(step.name for step in steps if isinstance(step, SplitStep)),
            challengers=tuple(
                str(unit.variant)
                for step in steps
                if isinstance(step, ShadowStep) and step.wait
                for unit in step.challengers
            ),
        )


def _validator(document: RevisionDocument, steps: tuple[Step, ...], tell: Emit) -> Validator | None:
    scope = Scope(
        steps[0].inputs,
        tuple(
            StepScope.of(resolved, step.outputs)
            for resolved, step in zip(document.steps, steps, strict=True)
        ),
        routing_fields(steps),
    )
    return compile_validations(document.validations, scope, tell)


def _zeros(fields: Sequence[Field], rows: int | None) -> Batch:
    """So many rows of zeros; None is one."""
    return Batch(dict(zeros([replace(field, batch=rows) for field in fields])), rows or 1)


def _doubled(batch: Batch) -> Batch:
    return Batch(
        {name: np.concatenate([array, array]) for name, array in batch.fields.items()},
        2 * batch.rows,
    )


def _slowest(step: Step) -> float:
    # Challengers that nobody waits for take nothing of a request's time.
    units = [step.champion] if isinstance(step, ShadowStep) else step.units
    return max((unit.row_ns for unit in units if isinstance(unit, OnnxUnit)), default=0.0)


def _add(stages: dict[str, float], name: str, seconds: float) -> None:
    stages[name] = stages.get(name, 0.0) + seconds * 1e3


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
