"""Each situation of a pipeline has its conditions."""

from dataclasses import replace

import pytest

from kit.situations import (
    BALANCER,
    DOWN,
    FAILED,
    NOT_READY,
    SWAPPING,
    UNDEPLOYED,
    VERIFY,
    WELL,
    A,
    B,
    engines,
    history,
    pod,
    report,
    rollout,
    spec,
)
from midstream_api.status import PipelineStatus, RolloutStatus, Stage
from midstream_operator.observed import Failure
from midstream_operator.status import View, describe

ANSWERS = ("True", "EnginesReady")

CASES: list[tuple[str, View, dict[str, tuple[str, str]]]] = [
    (
        "every replica serves the wanted version",
        WELL,
        {"Available": ANSWERS, "Ready": ("True", "Serving")},
    ),
    (
        "nothing has been deployed yet",
        replace(WELL, index=None, pods=(), lb_pods=(), rollout=None),
        {
            "Available": ("False", "NotDeployed"),
            "Ready": ("False", "Starting"),
            "Reconciling": ("True", "Starting"),
        },
    ),
    (
        "sources are being resolved for the first time",
        replace(
            WELL,
            index=None,
            pods=(),
            lb_pods=(),
            target=None,
            rollout=RolloutStatus(stage=Stage.RESOLVING, generation=4),
        ),
        {
            "Available": ("False", "NotDeployed"),
            "Ready": ("False", "Resolving"),
            "Reconciling": ("True", "Resolving"),
        },
    ),
    (
        "the first engines start",
        replace(WELL, pods=(pod(1, **NOT_READY),), rollout=rollout(Stage.STARTING)),
        {
            "Available": ("False", "NoEngineReady"),
            "Ready": ("False", "Starting"),
            "Reconciling": ("True", "Starting"),
        },
    ),
    (
        "engines are ready before the load balancer",
        replace(WELL, lb_pods=(replace(BALANCER, ready=False),)),
        {
            "Available": ("False", "LoadBalancerNotReady"),
            "Ready": ("False", "LoadBalancerNotReady"),
            "Reconciling": ("True", "LoadBalancerNotReady"),
        },
    ),
    (
        "one of two load balancers is ready",
        replace(WELL, spec=spec(deployment={"replicas": 3, "engineLB": {"replicas": 2}})),
        {
            "Available": ANSWERS,
            "Ready": ("False", "LoadBalancerNotReady"),
            "Reconciling": ("True", "LoadBalancerNotReady"),
        },
    ),
    (
        "a swap has begun",
        SWAPPING,
        {
            "Available": ANSWERS,
            "Ready": ("False", "RollingOut"),
            "Reconciling": ("True", "RollingOut"),
        },
    ),
    (
        "every replica serves the new version and it is not promoted yet",
        replace(SWAPPING, pods=engines(B, B, B), rollout=rollout(Stage.SERVING, B)),
        {
            "Available": ANSWERS,
            "Ready": ("False", "RollingOut"),
            "Reconciling": ("True", "RollingOut"),
        },
    ),
    (
        "a swap failed for good",
        FAILED,
        {
            "Available": ANSWERS,
            "Ready": ("False", "VerifyFailed"),
            "Stalled": ("True", "VerifyFailed"),
        },
    ),
    (
        "engines go back after a swap failed for good",
        replace(FAILED, pods=engines(B, A, A), rollout=rollout(Stage.ROLLING_BACK, B)),
        {
            "Available": ANSWERS,
            "Ready": ("False", "VerifyFailed"),
            "Stalled": ("True", "VerifyFailed"),
        },
    ),
    (
        "engines go back because the old version is wanted again",
        replace(WELL, pods=engines(B, A, A), rollout=rollout(Stage.ROLLING_BACK)),
        {
            "Available": ANSWERS,
            "Ready": ("False", "RollingBack"),
            "Reconciling": ("True", "RollingBack"),
        },
    ),
    (
        "a source does not answer for now",
        replace(WELL, target=None, failure=DOWN, rollout=rollout(Stage.RESOLVING)),
        {
            "Available": ANSWERS,
            "Ready": ("False", "SourceUnreachable"),
            "Reconciling": ("True", "SourceUnreachable"),
        },
    ),
    (
        "the first version can never serve",
        replace(WELL, pods=(pod(1, report(None, A), **NOT_READY),), failure=VERIFY),
        {
            "Available": ("False", "NoEngineReady"),
            "Ready": ("False", "VerifyFailed"),
            "Stalled": ("True", "VerifyFailed"),
        },
    ),
    (
        "a replica is missing",
        replace(WELL, pods=engines(A, A)),
        {"Available": ANSWERS, "Ready": ("False", "Scaling"), "Reconciling": ("True", "Scaling")},
    ),
    (
        "there are more replicas than wanted",
        replace(WELL, spec=spec(replicas=2)),
        {"Available": ANSWERS, "Ready": ("False", "Scaling"), "Reconciling": ("True", "Scaling")},
    ),
    (
        "a replica that has just come serves another version",
        replace(WELL, pods=engines(A, A, B)),
        {"Available": ANSWERS, "Ready": ("False", "Scaling"), "Reconciling": ("True", "Scaling")},
    ),
    (
        "a pod is going away and another one has taken its place",
        replace(WELL, pods=(*engines(A, A, A), pod(4, report(A), deleting=True))),
        {"Available": ANSWERS, "Ready": ("True", "Serving")},
    ),
    (
        "a failed pod that nobody cleared away is no replica",
        replace(WELL, pods=(*engines(A, A, A), pod(4, **NOT_READY))),
        {"Available": ANSWERS, "Ready": ("True", "Serving")},
    ),
    (
        "a ready engine did not answer just now and cannot serve anything else",
        replace(WELL, pods=(*engines(A, A), pod(3))),
        {"Available": ANSWERS, "Ready": ("True", "Serving")},
    ),
    (
        "a ready engine did not answer just now and there are two revisions",
        replace(SWAPPING, pods=(*engines(B, B), pod(3)), rollout=rollout(Stage.DONE, B)),
        {"Available": ANSWERS, "Ready": ("False", "Scaling"), "Reconciling": ("True", "Scaling")},
    ),
    (
        "it is undeployed and pods are stopping",
        replace(UNDEPLOYED, lb_pods=(replace(BALANCER, deleting=True),)),
        {
            "Available": ("False", "Undeployed"),
            "Ready": ("False", "Undeploying"),
            "Reconciling": ("True", "Undeploying"),
        },
    ),
    (
        "it is undeployed",
        UNDEPLOYED,
        {"Available": ("False", "Undeployed"), "Ready": ("True", "Undeployed")},
    ),
    (
        "it is undeployed without steps",
        replace(UNDEPLOYED, spec=spec(deployed=False, steps=False), target=None, history=()),
        {"Available": ("False", "Undeployed"), "Ready": ("True", "Undeployed")},
    ),
    (
        "it is undeployed after a swap that failed",
        replace(UNDEPLOYED, rollout=FAILED.rollout),
        {"Available": ("False", "Undeployed"), "Ready": ("True", "Undeployed")},
    ),
    (
        "it is undeployed and its new steps cannot be resolved",
        replace(UNDEPLOYED, failure=DOWN, target=None),
        {
            "Available": ("False", "Undeployed"),
            "Ready": ("False", "SourceUnreachable"),
            "Reconciling": ("True", "SourceUnreachable"),
        },
    ),
    (
        "an earlier version is pinned and serves",
        replace(WELL, spec=spec(version=A.version), history=history(A, B)),
        {
            "Available": ANSWERS,
            "Ready": ("True", "Serving"),
            "Pinned": ("True", "VersionPinned"),
        },
    ),
    (
        "the pinned version is not recorded",
        replace(
            WELL,
            spec=spec(version=B.version),
            target=None,
            failure=Failure("", "VersionNotFound", "spec.version is not recorded", False),
        ),
        {
            "Available": ANSWERS,
            "Ready": ("False", "VersionNotFound"),
            "Stalled": ("True", "VersionNotFound"),
            "Pinned": ("True", "VersionPinned"),
        },
    ),
    (
        "the spec cannot be read",
        replace(WELL, spec=None, failure=Failure("", "InvalidSpec", "spec.steps: new", False)),
        {
            "Available": ("Unknown", "InvalidSpec"),
            "Ready": ("False", "InvalidSpec"),
            "Stalled": ("True", "InvalidSpec"),
        },
    ),
]


def told(view: View) -> dict[str, tuple[str, str]]:
    """Status and reason of each condition."""
    return {one.type: (one.status, one.reason) for one in describe(view).conditions}


@pytest.mark.parametrize(
    ("view", "expected"),
    [(view, expected) for _, view, expected in CASES],
    ids=[about for about, _, _ in CASES],
)
def test_conditions_when(view: View, expected: dict[str, tuple[str, str]]) -> None:
    """Each situation has its conditions, with reasons, and no other."""
    assert told(view) == expected


@pytest.mark.parametrize("view", [view for _, view, _ in CASES], ids=[case[0] for case in CASES])
def test_status_of_every_situation_is_one_that_an_api_server_takes(view: View) -> None:
    """Written and read back it is the same, every condition has its generation, and none contradicts another."""
    status = describe(view)
    written = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert PipelineStatus.read(written) == status
    assert {one.observed_generation for one in status.conditions} == {view.generation}
    found = {one.type: one.status for one in status.conditions}
    assert not {"Reconciling", "Stalled"} <= found.keys()
    assert (found["Ready"] == "True") == (not {"Reconciling", "Stalled"} & found.keys())
