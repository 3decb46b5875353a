"""One revision of the pipeline: its states and its leases.

    NEW → LOADING → READY → QUIESCING → UNLOADED
              ↘ FAILED, and from there NEW again when it may heal

A revision that nobody wants any more goes from NEW, LOADING or FAILED straight to UNLOADED.

States and leases change on the event loop's thread only; `loader` makes what `loaded` holds.
"""

import asyncio
import enum
from dataclasses import dataclass, field
from typing import Any

from midstream_api.engineconfig import RevisionDocument
from midstream_engine.errors import LoadError, contained
from midstream_engine.revisions.loader import Loaded
from midstream_engine.schema import Field
from midstream_engine.steps.connect import routing_fields


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


class IllegalMoveError(RuntimeError):
    """A revision was asked to leave its state in a way that is not in the table: a defect of the engine."""


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
    _models: list[dict[str, Any]] | None = None
    """What the document says of the models, for `report`; it never changes."""

    def move(self, state: State) -> None:
        if state not in _MOVES[self.state]:
            raise IllegalMoveError(f"revision {self.id}: {self.state} → {state}")
        self.state = state

    def fail(self, error: LoadError) -> None:
        self.move(State.FAILED)
        self.error = contained(error)

    def acquire(self) -> bool:
        """Take one lease; False when it takes no more work."""
        if self.state is not State.READY:
            return False
        self.leases += 1
        return True

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
            "models": self._reported_models(),
            "inputs": _reported(loaded.inputs if loaded else None),
            "optionalInputs": list(routing_fields(loaded.steps)) if loaded else [],
            "outputs": _reported(loaded.outputs if loaded else None),
            "stages": {name: round(ms, 3) for name, ms in self.stages.items()},
        }

    def _reported_models(self) -> list[dict[str, Any]]:
        if self._models is None:
            self._models = [
                {
                    "step": step.name,
                    **({} if placed.variant is None else {"variant": placed.variant}),
                    "name": placed.model.name,
                    "version": placed.model.version,
                    "sha256": placed.model.sha256,
                }
                for step in self.document.steps
                for placed in step.models()
            ]
        return self._models


def _reported(fields: tuple[Field, ...] | None) -> list[dict[str, object]]:
    """Empty, too, when it is not known before a request says it."""
    return [field.report() for field in fields or ()]
