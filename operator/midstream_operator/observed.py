"""What was seen of one pipeline: plain values made from objects and from the engines' own reports.

Pure. Every decision of the operator is a function of these values, so it can be made again at any time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from midstream_api import names
from midstream_api.engineconfig import Assignment

Object = dict[str, Any]
"""A Kubernetes object as JSON."""


@dataclass(frozen=True, slots=True)
class RevisionReport:
    """What an engine says of one revision (`/status`, `revisions[]`)."""

    revision: str
    version: str
    state: str
    """`NEW`, `LOADING`, `READY`, `QUIESCING`, `UNLOADED` or `FAILED`."""
    prepared: bool = False
    reason: str | None = None
    message: str | None = None
    transient: bool = False
    """The engine tries again by itself."""
    models: tuple[Mapping[str, Any], ...] = ()
    stages: Mapping[str, float] = field(default_factory=dict)
    """Milliseconds that each stage of loading took."""

    @property
    def failed(self) -> bool:
        """It has a reason not to serve, for good or for now."""
        return self.reason is not None


@dataclass(frozen=True, slots=True)
class SidekickReport:
    """What an engine says of one worker of a Python model (`/status`, `sidekicks[]`)."""

    name: str
    """`sidekick-<model>-<number>`; the same in every engine."""
    model: str
    sha256: str
    """Of the code."""
    status: str
    """`Running`, `Starting` or `Error`."""
    restarts: int = 0
    reason: str | None = None
    """Why the last one ended."""


@dataclass(frozen=True, slots=True)
class EngineReport:
    """What an engine says of itself (`/status`)."""

    uid: str | None
    sequence: int
    serving: str | None
    """The revision that answers there."""
    serving_version: str | None
    revisions: Mapping[str, RevisionReport] = field(default_factory=dict)
    hold: tuple[str, ...] = ()
    """What it was told to hold ready, as far as it obeys."""
    serve: str | None = None
    """What it was told to serve, as far as it obeys."""
    config_accepted: bool = False
    config_reason: str | None = None
    config_message: str | None = None
    sidekicks: tuple[SidekickReport, ...] = ()

    @classmethod
    def of(cls, status: Mapping[str, Any]) -> "EngineReport":
        """Read the JSON of `/status`."""
        serving = status.get("serving") or {}
        config = status.get("config") or {}
        goal = status.get("goal") or {}
        return cls(
            uid=status.get("uid"),
            sequence=status.get("sequence") or 0,
            serving=serving.get("revision"),
            serving_version=serving.get("version"),
            revisions={
                each["revision"]: RevisionReport(
                    revision=each["revision"],
                    version=each["version"],
                    state=each["state"].upper(),
                    prepared=bool(each.get("prepared")),
                    reason=each.get("reason"),
                    message=each.get("message"),
                    transient=bool(each.get("transient")),
                    models=tuple(each.get("models") or ()),
                    stages=each.get("stages") or {},
                )
                for each in status.get("revisions") or ()
            },
            hold=tuple(goal.get("hold") or ()),
            serve=goal.get("serve"),
            config_accepted=bool(config.get("accepted")),
            config_reason=config.get("reason"),
            config_message=config.get("message"),
            sidekicks=tuple(
                SidekickReport(
                    name=str(each["name"]),
                    model=str(each["model"]),
                    sha256=str(each["sha256"]),
                    status=str(each["status"]),
                    restarts=int(each.get("restarts") or 0),
                    reason=each.get("reason"),
                )
                for each in status.get("sidekicks") or ()
            ),
        )

    def obeys(self, assignment: Assignment) -> bool:
        """It has read the assignment and acts on it."""
        return (self.uid, self.sequence, self.serve, self.hold) == (
            assignment.uid,
            assignment.sequence,
            assignment.serve,
            tuple(assignment.hold),
        )

    def ready(self, revision: str) -> bool:
        """It holds the revision ready to serve."""
        found = self.revisions.get(revision)
        return self.serving == revision or (found is not None and found.state == "READY")


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of a pipeline."""

    name: str
    uid: str
    ip: str | None
    created: str
    """RFC 3339."""
    running: bool
    """Its containers run."""
    ready: bool
    """Ready by Kubernetes' judgement."""
    deleting: bool
    restarts: int
    image_id: str
    details: tuple[str, ...] = ()
    """Why it does not run or is not ready, for people."""
    assignment: Assignment | None = None
    """Of an engine: what it was last told; None also when the annotation cannot be read."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    report: EngineReport | None = None
    """Of an engine that answered just now."""

    @classmethod
    def of(cls, pod: Object, report: EngineReport | None = None) -> "Pod":
        """Read a pod object."""
        metadata, status = pod["metadata"], pod.get("status") or {}
        annotations = metadata.get("annotations") or {}
        containers = [
            *(status.get("containerStatuses") or ()),
            *(status.get("initContainerStatuses") or ()),  # those that run beside the others
        ]
        conditions = {each["type"]: each for each in status.get("conditions") or []}
        return cls(
            name=metadata["name"],
            uid=metadata["uid"],
            ip=status.get("podIP"),
            created=metadata.get("creationTimestamp") or "",
            running=bool(containers)
            and all("running" in (each.get("state") or {}) for each in containers),
            ready=conditions.get("Ready", {}).get("status") == "True",
            deleting="deletionTimestamp" in metadata,
            restarts=sum(each.get("restartCount") or 0 for each in containers),
            image_id=containers[0].get("imageID", "") if containers else "",
            details=tuple(_details(containers, conditions)),
            assignment=_assignment(annotations.get(names.ASSIGNMENT_ANNOTATION)),
            annotations=annotations,
            report=report,
        )


def _assignment(text: str | None) -> Assignment | None:
    if not text:
        return None
    try:
        return Assignment.model_validate_json(text)
    except ValidationError:
        return None


def _details(containers: Sequence[Object], conditions: Mapping[str, Object]) -> list[str]:
    found = []
    for each in containers:
        for state in ("waiting", "terminated"):
            said = (each.get("state") or {}).get(state)
            if said:
                text = f"container {each['name']} {said.get('reason') or state}"
                found.append(f"{text}: {said['message']}" if said.get("message") else text)
    for kind in ("PodScheduled", "Initialized", "ContainersReady"):
        condition = conditions.get(kind, {})
        if condition.get("status") == "False" and condition.get("message"):
            found.append(condition["message"])
    return found


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a revision does not serve."""

    revision: str
    reason: str
    """A constant of the errors table: `VerifyFailed`, `SourceNotFound`, …"""
    message: str
    """Names step, model and engine."""
    transient: bool
    """It heals by itself."""
