"""How all workers move from one revision to the next: decisions only, no I/O, no clock.

    PREPARING ──all prepared──▶ ACTIVATING ──all serve it──▶ (promoted)
        └───────────failed────────┴──▶ RETURNING ──all serve stable──▶ (over)

Guarantee: nothing is activated before every worker has it prepared, nothing is promoted before every worker serves it,
and the first failure takes everyone back to the stable revision.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PREPARE_SECONDS = 300.0
"""For all workers together, and once more for the activation."""

RETURN_SECONDS = 30.0
"""How long a return to the stable revision is waited for before the next change may begin."""

CONFIG_SECONDS = 5.0
"""How long a worker may refuse the config folder: it may have read it while it changed."""

FROM_OUTSIDE = frozenset({"SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"})
"""Signals that somebody sends; the others come from what a process does itself."""


class Phase(enum.StrEnum):
    PREPARING = "Preparing"
    ACTIVATING = "Activating"
    RETURNING = "Returning"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a revision does not serve."""

    reason: str
    message: str
    transient: bool = False

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


@dataclass(frozen=True, slots=True)
class Rollout:
    """One attempt to make a candidate the stable revision."""

    stable: str
    candidate: str
    sequence: int
    """Of the config folder's newest state; reports of an older one do not count."""
    phase: Phase
    since: float
    """When the phase began, in seconds of the caller's clock."""


@dataclass(frozen=True, slots=True)
class RevisionReport:
    """What a worker says of one revision."""

    prepared: bool
    """Loaded, or, under the resource policy, fetched and verified."""
    refusal: Refusal | None


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker says of itself; one that is starting has said nothing yet."""

    worker: int
    sequence: int = -1
    serving: str | None = None
    config: Refusal | None = None
    """Why it does not obey the config folder."""
    revisions: Mapping[str, RevisionReport] = field(default_factory=dict)


def report(worker: int, status: Mapping[str, Any] | None, uid: str) -> Report:
    """Read a worker's status document; one about another pipeline object says nothing."""
    if status is None:
        return Report(worker)
    config = status["config"]
    refused = None
    if not config["accepted"] and config["reason"]:
        refused = Refusal(config["reason"], config["message"])
    if status["uid"] != uid:
        return Report(worker, config=refused)
    return Report(
        worker=worker,
        sequence=status["sequence"],
        serving=status["serving"]["revision"] if status["serving"] else None,
        config=refused,
        revisions={one["revision"]: _revision(one) for one in status["revisions"]},
    )


def _revision(one: Mapping[str, Any]) -> RevisionReport:
    refusal = None
    if one["state"] == "FAILED":
        refusal = Refusal(one["reason"], one["message"], one["transient"])
    return RevisionReport(
        prepared=one["state"] == "READY" or (one["prepared"] and refusal is None), refusal=refusal
    )


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until a report, a death or the clock says something new."""


@dataclass(frozen=True, slots=True)
class Activate:
    """Every worker is to serve the candidate."""


@dataclass(frozen=True, slots=True)
class Promote:
    """The candidate is the stable revision from now on."""


@dataclass(frozen=True, slots=True)
class Abort:
    """Everyone back to the stable revision."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Settled:
    """Everyone serves the stable revision again: the rollout is over."""


Move = Wait | Activate | Promote | Abort | Settled


def next_move(rollout: Rollout, reports: Sequence[Report], now: float) -> Move:
    """Decide from what the workers say. `now`: seconds of the clock of `rollout.since`."""
    elapsed = now - rollout.since
    current = [one for one in reports if one.sequence >= rollout.sequence]
    everyone = len(current) == len(reports)
    if rollout.phase is Phase.RETURNING:
        back = everyone and all(one.serving == rollout.stable for one in current)
        return Settled() if back or elapsed > RETURN_SECONDS else Wait()
    candidates = [one.revisions.get(rollout.candidate) for one in current]
    for candidate in candidates:
        if candidate is not None and candidate.refusal is not None:
            return Abort(candidate.refusal)
    for one in reports:
        if one.config is not None and elapsed > CONFIG_SECONDS:
            return Abort(one.config)
    if rollout.phase is Phase.PREPARING:
        if everyone and all(one is not None and one.prepared for one in candidates):
            return Activate()
    elif everyone and all(one.serving == rollout.candidate for one in current):
        return Promote()
    return Abort(_late(rollout, reports)) if elapsed > PREPARE_SECONDS else Wait()


def _late(rollout: Rollout, reports: Sequence[Report]) -> Refusal:
    def done(one: Report) -> bool:
        if one.sequence < rollout.sequence:
            return False
        if rollout.phase is Phase.ACTIVATING:
            return one.serving == rollout.candidate
        return rollout.candidate in one.revisions and one.revisions[rollout.candidate].prepared

    waited = ", ".join(str(one.worker) for one in reports if not done(one))
    verb = "prepared" if rollout.phase is Phase.PREPARING else "activated"
    return Refusal(
        "DeadlineExceeded", f"not {verb} by worker {waited} within {PREPARE_SECONDS:.0f} s"
    )


@dataclass(frozen=True, slots=True)
class Death:
    """How a worker ended."""

    worker: int
    pid: int | None = None
    code: int | None = None
    """Exit code, when it ended by itself."""
    signal: str | None = None
    """`SIGSEGV`, ..., when a signal ended it."""
    error: str | None = None
    """Why there was no process at all."""
    mark: str | None = None
    """The candidate it was loading: the mark it left in its state folder."""
    served: str | None = None
    """The revision that it served, as far as it said."""

    @property
    def from_outside(self) -> bool:
        """Somebody ended it, or the kernel did for want of memory; it did not fail by itself."""
        return self.error is not None or self.code == 0 or self.signal in FROM_OUTSIDE

    def __str__(self) -> str:
        if self.error is not None:
            return self.error
        if self.signal is not None:
            return f"was killed by {self.signal}"
        return f"exited with code {self.code}"


@dataclass(frozen=True, slots=True)
class Forgive:
    """Let the next worker try the candidate once more: its mark is to be deleted."""


def after_death(
    rollout: Rollout | None, death: Death, forgiven: Iterable[tuple[int, str]]
) -> Forgive | Abort | Wait:
    """Judge whether a candidate killed its worker.

    A worker that was killed from outside while it loaded a candidate says little about the candidate, so that one more
    attempt is allowed for each worker and revision (`forgiven`); a second time (memory running out looks like
    this) counts against it. A crash counts at once.
    """
    if rollout is None or rollout.phase is Phase.RETURNING:
        return Wait()
    loading = death.mark == rollout.candidate
    if death.from_outside:
        if not loading:
            return Wait()
        if (death.worker, rollout.candidate) not in forgiven:
            return Forgive()
    elif not loading and death.served != rollout.candidate:
        return Wait()
    when = "while it loaded" if loading else "while it served"
    again = ", for the second time" if death.from_outside else ""
    return Abort(
        Refusal(
            "CandidateKilledEngine",
            f"worker {death.worker} {death} {when} this revision{again}; "
            "it is not tried again until the pipeline changes",
        )
    )
