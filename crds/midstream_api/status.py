"""`status` of a `Pipeline`: what the operator has seen, and nothing that it could not see again.

Follows Kubernetes' API conventions: conditions and `observedGeneration`, no phase. `engines`, `engineLBs` and `sidekicks` hold what the
seeds' status document holds of them, in Kubernetes' spelling.
"""

import enum
from typing import Annotated

from pydantic import Field

from midstream_api.base import Strict

Text = Annotated[str, Field(max_length=1024)]
Time = Annotated[str, Field(max_length=32, json_schema_extra={"format": "date-time"})]
"""RFC 3339 in UTC; with milliseconds where a stage of a swap is timed: `2026-11-21T14:05:09.123Z`."""

MAX_LISTED = 32
"""Pods that are listed one by one; `engineCount` tells how many there are."""

MAX_VERSIONS = 20


class ConditionType(enum.StrEnum):
    """What a condition is about. `Reconciling`, `Stalled` and `Pinned` are there only while they are true."""

    AVAILABLE = "Available"
    """Requests are answered."""
    READY = "Ready"
    """The wanted version serves on every replica."""
    RECONCILING = "Reconciling"
    """On the way, or waiting for something that heals by itself; the reason says which."""
    STALLED = "Stalled"
    """Nothing more happens until the spec changes."""
    PINNED = "Pinned"
    """`spec.version` holds an earlier version."""


class Condition(Strict):
    """One condition, as Kubernetes writes it."""

    type: Annotated[str, Field(max_length=64)]
    status: Annotated[str, Field(max_length=8)]
    """`True`, `False` or `Unknown`."""
    reason: Annotated[str, Field(max_length=128)]
    """A constant in CamelCase; docs/reasons.md lists them."""
    message: Annotated[str, Field(max_length=4096)] = ""
    observed_generation: int | None = None
    last_transition_time: Time | None = None


class VersionStatus(Strict):
    """One version of the pipeline's history."""

    version: Annotated[str, Field(max_length=36)]
    """UUID."""
    revision: int
    """Grows with each version that becomes the latest; a version that comes back gets a new number."""
    creation_time: Time
    last_updated_time: Time
    deployed: bool
    """It is the one that serves."""
    tags: Annotated[list[Annotated[str, Field(max_length=128)]], Field(max_length=32)] = Field(
        default_factory=list
    )
    steps: Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=32)] = Field(
        default_factory=list
    )
    """Names of the steps' models, in order."""


class ReplicaStatus(Strict):
    """Counts of engine pods."""

    desired: int = 0
    ready: int = 0
    """Ready by Kubernetes' judgement: they answer requests."""
    updated: int = 0
    """They serve the target version."""


class PipelineState(Strict):
    """What one engine says of the pipeline."""

    id: Annotated[str, Field(max_length=63)]
    """The pipeline's name."""
    status: Annotated[str, Field(max_length=32)]
    version: Annotated[str, Field(max_length=36)] | None = None
    """The version that serves there."""


class ModelState(Strict):
    """What one engine says of a model."""

    name: Annotated[str, Field(max_length=100)]
    version: Annotated[str, Field(max_length=128)] | None = None
    sha: Annotated[str, Field(max_length=64)]
    status: Annotated[str, Field(max_length=32)]


class PipelineStatuses(Strict):
    pipelines: Annotated[list[PipelineState], Field(max_length=4)] = Field(default_factory=list)


class ModelStatuses(Strict):
    models: Annotated[list[ModelState], Field(max_length=64)] = Field(default_factory=list)


class PodStatus(Strict):
    """One pod, as the seeds' status document has it."""

    ip: Annotated[str, Field(max_length=45)] | None = None
    name: Annotated[str, Field(max_length=253)]
    status: Annotated[str, Field(max_length=32)]
    """`Running`, `Starting` or `Error`."""
    reason: Text | None = None
    details: Annotated[list[Text], Field(max_length=8)] = Field(default_factory=list)


class EngineStatus(PodStatus):
    """One engine pod, and what it says of itself."""

    pipeline_statuses: PipelineStatuses = PipelineStatuses()
    model_statuses: ModelStatuses = ModelStatuses()


class StageTimes(Strict):
    """When each stage of the newest swap was reached. Left out: not yet."""

    seen: Time | None = None
    """The operator saw the change."""
    fetched: Time | None = None
    """The canary has the models' files."""
    verified: Time | None = None
    """Their SHA-256 is right."""
    loaded: Time | None = None
    """The canary's sessions are built."""
    warmed: Time | None = None
    """Warm-up and golden rows have passed on the canary."""
    canary: Time | None = None
    """The canary serves the target."""
    prepared: Time | None = None
    """Every replica holds the target ready."""
    serving: Time | None = None
    """Every replica serves the target."""
    promoted: Time | None = None
    """New pods start with the target."""


class Stage(enum.StrEnum):
    """How far the newest change has come."""

    RESOLVING = "Resolving"
    STARTING = "Starting"
    CANARY = "Canary"
    PREPARING = "Preparing"
    SERVING = "Serving"
    PROMOTING = "Promoting"
    DONE = "Done"
    ROLLING_BACK = "RollingBack"
    FAILED = "Failed"


class RolloutStatus(Strict):
    """The newest change of what serves."""

    stage: Annotated[Stage, Field(strict=False)]
    generation: int
    """Of the spec that asked for it."""
    version: Annotated[str, Field(max_length=36)] | None = None
    """The version it goes to."""
    revision: Annotated[str, Field(max_length=16)] | None = None
    """The revision document it goes to."""
    canary: Annotated[str, Field(max_length=253)] | None = None
    """The pod that tries it first."""
    reason: Annotated[str, Field(max_length=128)] | None = None
    """Why it failed or waits."""
    message: Annotated[str, Field(max_length=4096)] | None = None
    stages: StageTimes = StageTimes()


class PipelineStatus(Strict):
    """What the operator has seen."""

    observed_generation: int | None = None
    url: Annotated[str, Field(max_length=512)] | None = None
    """Where to send requests from inside the cluster."""
    version: Annotated[str, Field(max_length=36)] | None = None
    """The version that serves on every replica; during a rollout the one it comes from."""
    latest_version: Annotated[str, Field(max_length=36)] | None = None
    """Of the newest steps."""
    target_version: Annotated[str, Field(max_length=36)] | None = None
    """The one wanted: the latest, or the pinned one."""
    replicas: ReplicaStatus | None = None
    conditions: Annotated[
        list[Condition],
        Field(
            max_length=16,
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
            },
        ),
    ] = Field(default_factory=list)
    rollout: RolloutStatus | None = None
    versions: Annotated[list[VersionStatus], Field(max_length=MAX_VERSIONS)] = Field(
        default_factory=list
    )
    """Newest first."""
    engines: Annotated[list[EngineStatus], Field(max_length=MAX_LISTED)] = Field(
        default_factory=list
    )
    engine_count: int | None = None
    """Engine pods there are, also where the list is cut."""
    engine_lbs: Annotated[list[PodStatus], Field(max_length=MAX_LISTED, alias="engineLBs")] = Field(
        default_factory=list
    )
    sidekicks: Annotated[list[PodStatus], Field(max_length=MAX_LISTED)] = Field(
        default_factory=list
    )
    """Workers of Python models."""
