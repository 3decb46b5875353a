"""Conditions of a Pipeline: their reasons, and the rules by which they change. Pure.

Guarantees: `lastTransitionTime` moves only when `status` does; every condition says of which generation it speaks;
`Reconciling`, `Stalled` and `Pinned` are there only while they are true, which is what kstatus reads.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from midstream_api.status import Condition, ConditionType, Truth

MAX_MESSAGE = 4096
"""Characters; the contract's limit."""


class Reason(enum.StrEnum):
    """Why a condition is as it is, as far as the operator itself gives the reason.

    A failure's reason stands in its place: one of `FAILURES`, or one that an engine or a source gives.
    """

    SERVING = "Serving"
    ENGINES_READY = "EnginesReady"
    NOT_DEPLOYED = "NotDeployed"
    NO_ENGINE_READY = "NoEngineReady"
    LOAD_BALANCER_NOT_READY = "LoadBalancerNotReady"
    UNDEPLOYING = "Undeploying"
    UNDEPLOYED = "Undeployed"
    RESOLVING = "Resolving"
    STARTING = "Starting"
    ROLLING_OUT = "RollingOut"
    ROLLING_BACK = "RollingBack"
    SCALING = "Scaling"
    REPLACING_PODS = "ReplacingPods"
    VERSION_PINNED = "VersionPinned"


REASONS: Mapping[Reason, str] = {
    Reason.SERVING: "the wanted version serves on every replica",
    Reason.ENGINES_READY: "at least one load balancer and one engine are ready: requests are answered",
    Reason.NOT_DEPLOYED: "nothing has been deployed yet",
    Reason.NO_ENGINE_READY: "no engine is ready, so requests are refused",
    Reason.LOAD_BALANCER_NOT_READY: "engines are ready, and a load balancer is not",
    Reason.UNDEPLOYING: "`deployed` is false, and pods are still stopping",
    Reason.UNDEPLOYED: "`deployed` is false and nothing runs, which is what is wanted; the versions stay",
    Reason.RESOLVING: "the models' sources are asked what they hold",
    Reason.STARTING: "the first engines start",
    Reason.ROLLING_OUT: "the wanted version goes to the engines; the one before serves meanwhile",
    Reason.ROLLING_BACK: "the engines go back to the version before",
    Reason.SCALING: "the wanted version serves, but not yet on as many replicas as are wanted, or on other ones too",
    Reason.REPLACING_PODS: "image, resources, architecture or Service have changed, which needs new pods",
    Reason.VERSION_PINNED: "`spec.version` says which version serves, whatever the steps say",
}
"""What each reason means; docs/reasons.md has the same sentences."""

FAILURES: Mapping[str, str] = {
    "InvalidSpec": "the spec breaks a rule that only the operator checks, such as the syntax of an expression; "
    "or it has what this operator does not know: it is older than the CRD",
    "VersionNotFound": "`spec.version` names a version that is not recorded",
    "SourceIsLocal": "a source is a file, which a cluster cannot read",
    "SecretNotFound": "the Secret that a source refers to is not there",
    "ApplyRefused": "the API server refuses an object that the pipeline needs, such as a request above its limit",
    "ConfigTooLarge": "a revision's document does not fit in a ConfigMap: "
    "too much code in `inline`, or too many golden rows",
    "SecretInvalid": "the Secret that a source refers to holds no Docker config",
}
"""Failures that the operator itself finds; those of engines and sources are in docs/errors.md."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A condition as it is to be now."""

    type: ConditionType
    status: Truth
    reason: str
    message: str


def update(
    previous: Sequence[Condition], wanted: Iterable[Wanted], *, generation: int, now: str
) -> list[Condition]:
    """Return the conditions to write; such as are not wanted any more go.

    now: RFC 3339; the time of those whose status is new.
    """
    known = {one.type: one for one in previous}
    return [_updated(known.get(one.type), one, generation, now) for one in wanted]


def _updated(before: Condition | None, wanted: Wanted, generation: int, now: str) -> Condition:
    same = before is not None and before.status == wanted.status
    since = before.last_transition_time if before is not None and same else None
    return Condition(
        type=wanted.type.value,
        status=wanted.status,
        reason=wanted.reason,
        message=clipped(wanted.message, MAX_MESSAGE),
        observed_generation=generation,
        last_transition_time=since or now,
    )


def clipped(text: str, limit: int) -> str:
    """Return at most `limit` characters, the last of them an ellipsis where something is left out."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
