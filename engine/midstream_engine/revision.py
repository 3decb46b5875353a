"""One revision of the pipeline: its states, its leases, and how it is loaded.

    NEW → LOADING → READY → QUIESCING → UNLOADED
              ↘ FAILED, and from there NEW again when it may heal

A revision that nobody wants any more goes from NEW, LOADING or FAILED straight to UNLOADED.

States and leases change on the event loop's thread only. `load` and `free` run in the loader's thread and touch
nothing that requests use: what they make is handed over with one assignment.
"""

import asyncio
import enum
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from midstream_api.engineconfig import ResolvedStep, RevisionDocument
from midstream_engine import memory
from midstream_engine.errors import BadInput, LoadError, StepFailed, contained
from midstream_engine.events import Emit
from midstream_engine.formats.records import Reader, Writer, dumps
from midstream_engine.schema import Field
from midstream_engine.sessions import SessionPool, zeros
from midstream_engine.steps import Step, bind, check_connected, run_chain


class State(enum.StrEnum):
    NEW = "NEW"
    LOADING = "LOADING"
    READY = "READY"
    QUIESCING = "QUIESCING"
    UNLOADED = "UNLOADED"
    FAILED = "FAILED"


_MOVES = {
    State.NEW: {State.LOADING, State.FAILED, State.UNLOADED},
    State.LOADING: {State.READY, State.FAILED, State.NEW, State.UNLOADED},
    State.READY: {State.QUIESCING},
    State.QUIESCING: {State.UNLOADED},
    State.FAILED: {State.NEW, State.UNLOADED},
    State.UNLOADED: set(),
}


_TIMED_RUNS = 3
_LONG_RUN_NS = 20_000_000
"""A model that takes longer is slow, however often it is timed."""


class IllegalMoveError(RuntimeError):
    """A revision was asked to leave its state in a way that is not in the table: a defect of the engine."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What requests need of a revision, immutable, taken by one reference."""

    version: str
    steps: tuple[Step, ...]
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    reader: Reader
    writer: Writer
    headers: bytes
    """Of every answer: content type and version."""
    batch: int | None
    """Rows the model insists on; None is any number."""
    warm_ns: int
    """What one row took at warm-up."""


@dataclass(slots=True, eq=False)
class Revision:
    """A document, and what has become of it."""

    id: str
    document: RevisionDocument
    state: State = State.NEW
    prepared: bool = False
    """All files are in the cache and their SHA-256 is verified."""
    loaded: Loaded | None = None
    error: LoadError | None = None
    leases: int = 0
    """Requests that run on it off the event loop's thread."""
    attempts: int = 0
    row_ns: float = 0.0
    """What one row takes, a moving average of nanoseconds."""
    stages: dict[str, float] = field(default_factory=dict)
    """Milliseconds of each stage of its life."""
    drained: asyncio.Event = field(default_factory=asyncio.Event)

    def move(self, state: State) -> None:
        if state not in _MOVES[self.state]:
            raise IllegalMoveError(f"revision {self.id}: {self.state} → {state}")
        self.state = state

    def fail(self, error: LoadError) -> None:
        self.move(State.FAILED)
        self.error = contained(error)

    def release(self) -> None:
        """Give back one lease. The last one of a quiescing revision drains it."""
        self.leases -= 1
        if self.leases == 0 and self.state is State.QUIESCING:
            self.drained.set()

    def report(self) -> dict[str, Any]:
        loaded = self.loaded
        return {
            "revision": self.id,
            "version": self.document.version,
            "state": self.state.value,
            "prepared": self.prepared,
            "reason": self.error.reason if self.error else None,
            "message": self.error.message if self.error else None,
            "transient": bool(self.error and self.error.transient),
            "models": [
                {
                    "step": step.name,
                    "name": step.model.name,
                    "version": step.model.version,
                    "sha256": step.model.sha256,
                }
                for step in self.document.steps
            ],
            "inputs": [field.report() for field in loaded.inputs] if loaded else [],
            "outputs": [field.report() for field in loaded.outputs] if loaded else [],
            "stages": {name: round(ms, 3) for name, ms in self.stages.items()},
        }


@dataclass(frozen=True, slots=True)
class Loader:
    """Loads revisions, in its caller's thread."""

    pool: SessionPool
    verified_path: Callable[[str], Path]
    """The immutable copy of a SHA-256, hashed again just now."""
    partition: str
    """Names this engine in answers."""
    memory_limit: int | None
    warm_up_seconds: float

    def load(self, document: RevisionDocument, stages: dict[str, float], tell: Emit) -> Loaded:
        """Hash, build, warm up and verify. Raises LoadError; then no session is left behind."""
        steps: list[Step] = []
        try:
            for step in document.steps:
                steps.append(self._build(step, stages, tell))  # noqa: PERF401 - those before a failure must be released
            check_connected(steps)
            warm_ns = self._warm_up(document, steps, stages, tell)
            self._verify(document, steps, stages, tell)
        except BaseException:
            self.release(steps)
            raise
        return self._loaded(document, steps, warm_ns)

    def free(self, loaded: Loaded) -> None:
        """Give the sessions back and the memory with them."""
        self.release(list(loaded.steps))

    def release(self, steps: list[Step]) -> None:
        for step in steps:
            self.pool.release(step.session)
            # The session must die here, in this thread, not with the last reader of the step.
            del step.session

    def _build(self, step: ResolvedStep, stages: dict[str, float], tell: Emit) -> Step:
        model = step.model
        start = time.perf_counter()
        path = self.verified_path(model.sha256)
        hashed = time.perf_counter()
        _add(stages, "hashed", hashed - start)
        known = self.pool.has(model.sha256)
        try:
            if not known:
                memory.check_fits(path.stat().st_size, self.memory_limit)
            session = self.pool.acquire(model.sha256, path)
        except LoadError as error:
            raise LoadError(
                error.reason,
                f"step {step.name!r}, model {model.name!r}: {error.message}",
                transient=error.transient,
            ) from error
        seconds = time.perf_counter() - hashed
        _add(stages, "built", seconds)
        try:
            bound = bind(step, session)
        except BaseException:
            self.pool.release(session)
            raise
        tell(
            "loaded",
            step=step.name,
            model=model.name,
            ms=_ms(time.perf_counter() - start),
            bytes=model.size,
            reused=known,
        )
        return bound

    def _warm_up(
        self, document: RevisionDocument, steps: list[Step], stages: dict[str, float], tell: Emit
    ) -> int:
        """Run one row through all steps: golden rows where there are some, else zeros."""
        start = time.perf_counter()
        first = document.steps[0].model.verify
        fixed = steps[0].inputs[0].batch is not None
        if first is not None and not fixed:
            feed = self._golden(steps[0], 0, [first.inputs[0]])
        else:
            feed = dict(zeros(steps[0].inputs))
        rows = len(next(iter(feed.values())))
        try:
            run_chain(steps, feed, rows, self.warm_up_seconds)
            if not fixed:
                # Two rows show a hidden fixed batch.
                feed = {name: np.concatenate([array, array]) for name, array in feed.items()}
                rows *= 2
                run_chain(steps, feed, rows, self.warm_up_seconds)
            # It ends, so it may be timed as requests run it. Any run may wait for the processor: the fastest tells.
            fastest = math.inf
            for _ in range(_TIMED_RUNS):
                _, elapsed = run_chain(steps, feed, rows)
                fastest = min(fastest, sum(elapsed))
                if fastest > _LONG_RUN_NS:
                    break
        except StepFailed as error:
            raise LoadError("WarmupFailed", f"warm-up failed: {error.message}") from error
        seconds = time.perf_counter() - start
        _add(stages, "warmed", seconds)
        tell("warmed", ms=_ms(seconds))
        return int(fastest) // rows

    def _verify(
        self, document: RevisionDocument, steps: list[Step], stages: dict[str, float], tell: Emit
    ) -> None:
        start = time.perf_counter()
        rows = 0
        for number, (resolved, step) in enumerate(zip(document.steps, steps, strict=True)):
            golden = resolved.model.verify
            if golden is None:
                continue
            rows += len(golden.inputs)
            feed = self._golden(step, number, golden.inputs)
            try:
                outputs, _ = run_chain([step], feed, len(golden.inputs), self.warm_up_seconds)
            except StepFailed as error:
                raise LoadError("VerifyFailed", f"golden rows: {error.message}") from error
            named = {f.name: array for f, array in zip(step.outputs, outputs, strict=True)}
            _compare(step, golden.outputs, named, golden.tolerance)
        if rows:
            seconds = time.perf_counter() - start
            _add(stages, "verified", seconds)
            tell("verified", ms=_ms(seconds), rows=rows)

    def _golden(self, step: Step, number: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
        try:
            feed, _, _ = Reader(step.inputs).read(dumps(rows))
        except BadInput as error:
            raise LoadError(
                "VerifyInvalid",
                f"step {step.name!r}, spec.steps[{number}].model.verify.inputs: {error.message}",
            ) from error
        return feed

    def _loaded(self, document: RevisionDocument, steps: list[Step], warm_ns: int) -> Loaded:
        last = document.steps[-1].model
        version = document.version
        writer = Writer(
            steps[-1].outputs,
            last_model=last.name,
            last_sha256=last.sha256,
            version=version,
            partition=self.partition,
        )
        headers = (
            b"content-type: application/json; format=pandas-records\r\nx-midstream-version: %b\r\n"
            % version.encode()
        )
        return Loaded(
            version=version,
            steps=tuple(steps),
            inputs=steps[0].inputs,
            outputs=steps[-1].outputs,
            reader=Reader(steps[0].inputs),
            writer=writer,
            headers=headers,
            batch=steps[0].inputs[0].batch if steps[0].inputs else None,
            warm_ns=warm_ns,
        )


def _compare(
    step: Step,
    expected: list[dict[str, Any]],
    got: dict[str, np.ndarray[Any, Any]],
    tolerance: float,
) -> None:
    """Raise LoadError for the first golden value that the model does not reproduce."""
    where = f"step {step.name!r}, model {step.model!r}"
    for row, wanted in enumerate(expected):
        for name, value in wanted.items():
            if name not in got:
                raise LoadError(
                    "VerifyInvalid",
                    f"{where}: verify.outputs[{row}] names {name!r}, the model gives {', '.join(got)}",
                )
            answer = got[name][row]
            try:
                want = np.array(value, dtype=np.float64)
            except (TypeError, ValueError, OverflowError) as error:
                raise LoadError(
                    "VerifyInvalid",
                    f"{where}: verify.outputs[{row}].{name} is not numbers: {value!r}",
                ) from error
            if want.shape != answer.shape and want.size != answer.size:
                raise LoadError(
                    "VerifyFailed",
                    f"{where}: golden row {row}, {name}: expected the shape {list(want.shape)}, "
                    f"got {list(answer.shape)}",
                )
            have = answer.astype(np.float64).reshape(want.shape)
            # atol covers expected zeros, where a relative difference says nothing.
            if not np.allclose(have, want, rtol=tolerance, atol=tolerance * 1e-3, equal_nan=True):
                raise LoadError(
                    "VerifyFailed",
                    f"{where}: golden row {row}, {name}: expected {want.tolist()}, got {have.tolist()} "
                    f"(tolerance {tolerance:g})",
                )


def _add(stages: dict[str, float], name: str, seconds: float) -> None:
    stages[name] = stages.get(name, 0.0) + seconds * 1e3


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
