"""`status` of a `Pipeline`: what the operator has seen, and nothing that it could not see again.

Follows Kubernetes' API conventions: conditions and `observedGeneration`, no phase. `engines`, `engineLBs` and
`sidekicks` list the pods one by one, each with what it says of itself.
"""

import enum
from typing import Annotated, Literal

from pydantic import Field

from midstream_api.base import Strict

Text = Annotated[str, Field(max_length=1024)]
Time = Annotated[str, Field(max_length=32, json_schema_extra={"format": "date-time"})]
"""RFC 3339 in UTC; with milliseconds where a stage of a swap is timed: `2026-11-21T14:05:09.123Z`."""

MAX_LISTED = 32
"""Pods that are listed one by one; `engineCount` and `sidekickCount` tell how many there are."""

MAX_VERSIONS = 20
"""Versions that are kept and listed."""

Truth = Literal["True", "False", "Unknown"]
"""Status of a condition."""


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
    """What it is about."""
    status: Truth
    """`True`, `False` or `Unknown`."""
    reason: Annotated[str, Field(max_length=128)]
    """A constant in CamelCase; docs/reasons.md lists them."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """For people: names step, model and engine where one is to blame."""
    observed_generation: int | None = None
    """The generation of the spec that it speaks of."""
    last_transition_time: Time | None = None
    """When `status` last changed."""


class VersionStatus(Strict):
    """One version of the pipeline's history."""

    version: Annotated[str, Field(max_length=36)]
    """UUID."""
    revision: int
    """Grows with each version that becomes the latest; a version that comes back gets a new number."""
    creation_time: Time
    """When it was first recorded."""
    last_updated_time: Time
    """When it, or its tags or sources, last changed, or it came back."""
    deployed: bool
    """It is the one that serves."""
    tags: Annotated[list[Annotated[str, Field(max_length=128)]], Field(max_length=32)] = Field(
        default_factory=list
    )
    """As `spec.tags` was when it was last applied."""
    steps: Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=32)] = Field(
        default_factory=list
    )
    """Names of the steps' models, in order."""


class ReplicaStatus(Strict):
    """Counts of engine pods."""

    desired: int = 0
    """As the spec, or an autoscaler, wants it."""
    ready: int = 0
    """Ready by Kubernetes' judgement: they answer requests."""
    updated: int = 0
    """They serve the target version."""


class PipelineState(Strict):
    """What one engine says of the pipeline."""

    id: Annotated[str, Field(max_length=63)]
    """The pipeline's name."""
    status: Annotated[str, Field(max_length=32)]
    """`Running`, `Starting` or `Error`."""
    version: Annotated[str, Field(max_length=36)] | None = None
    """The version that serves there."""


class ModelState(Strict):
    """What one engine says of a model."""

    name: Annotated[str, Field(max_length=100)]
    """As the manifest names it."""
    version: Annotated[str, Field(max_length=128)] | None = None
    """Its own version, where the manifest gives one."""
    sha: Annotated[str, Field(max_length=64)]
    """SHA-256 of its file."""
    status: Annotated[str, Field(max_length=32)]
    """`Running`, `Starting` or `Error`."""


class PipelineStatuses(Strict):
    """What one engine says of its pipelines."""

    pipelines: Annotated[list[PipelineState], Field(max_length=4)] = Field(default_factory=list)
    """One for each."""


class ModelStatuses(Strict):
    """What one engine says of its models."""

    models: Annotated[list[ModelState], Field(max_length=64)] = Field(default_factory=list)
    """One for each that serves, in the order of the steps."""


class PodStatus(Strict):
    """One pod."""

    ip: Annotated[str, Field(max_length=45)] | None = None
    """Inside the cluster; left out while it has none."""
    name: Annotated[str, Field(max_length=253)]
    """The pod's name."""
    status: Annotated[str, Field(max_length=32)]
    """`Running`, `Starting` or `Error`."""
    reason: Text | None = None
    """Why it does not serve what it should; docs/errors.md and docs/reasons.md explain it."""
    details: Annotated[list[Text], Field(max_length=8)] = Field(default_factory=list)
    """What Kubernetes and the engine say of it, for people."""


class EngineStatus(PodStatus):
    """One engine pod, and what it says of itself."""

    pipeline_statuses: PipelineStatuses = PipelineStatuses()
    """The pipeline that serves there."""
    model_statuses: ModelStatuses = ModelStatuses()
    """The models that serve there."""


class SidekickStatus(PodStatus):
    """The processes of one Python model beside one engine; `name` has the pod and the step, `ip` is the pod's."""

    statuses: Text | None = None
    """What they said last, line by line."""


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
    retry: Annotated[str, Field(max_length=253)] | None = None
    """What the annotation `midstream.dev/retry` said when it was tried."""
    version: Annotated[str, Field(max_length=36)] | None = None
    """The version it goes to."""
    revision: Annotated[str, Field(max_length=16)] | None = None
    """The revision document it goes to."""
    canary: Annotated[str, Field(max_length=253)] | None = None
    """The pod that tries it first."""
    reason: Annotated[str, Field(max_length=128)] | None = None
    """Why it failed or waits."""
    message: Annotated[str, Field(max_length=4096)] | None = None
    """The reason in a sentence, with step, model and engine."""
    stages: StageTimes = StageTimes()
    """When each stage was reached."""


class PipelineStatus(Strict):
    """What the operator has seen."""

    observed_generation: int | None = None
    """The generation of the spec that all of this speaks of; -1: nobody has looked yet."""
    url: Annotated[str, Field(max_length=512)] | None = None
    """Where to send requests from inside the cluster."""
    version: Annotated[str, Field(max_length=36)] | None = None
    """The version that serves on every replica; during a rollout the one it comes from."""
    latest_version: Annotated[str, Field(max_length=36)] | None = None
    """Of the newest steps."""
    target_version: Annotated[str, Field(max_length=36)] | None = None
    """The one wanted: the latest, or the pinned one."""
    replicas: ReplicaStatus | None = None
    """Counts of engine pods."""
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
    """`Available`, `Ready`, and while they are true `Reconciling`, `Stalled` and `Pinned`."""
    rollout: RolloutStatus | None = None
    """The newest change of what serves, with the time of each stage."""
    versions: Annotated[list[VersionStatus], Field(max_length=MAX_VERSIONS)] = Field(
        default_factory=list
    )
    """Newest first."""
    engines: Annotated[list[EngineStatus], Field(max_length=MAX_LISTED)] = Field(
        default_factory=list
    )
    """Engine pods, oldest first."""
    engine_count: int | None = None
    """Engine pods there are, also where the list is cut."""
    engine_lbs: Annotated[list[PodStatus], Field(max_length=MAX_LISTED, alias="engineLBs")] = Field(
        default_factory=list
    )
    """Load balancer pods, oldest first."""
    sidekicks: Annotated[list[SidekickStatus], Field(max_length=MAX_LISTED)] = Field(
        default_factory=list
    )
    """Processes of Python models, by engine and step; engines as they are listed above."""
    sidekick_count: int | None = None
    """Sidekicks there are, also where the list is cut; left out where no step has a Python model."""
