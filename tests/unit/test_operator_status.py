"""What is seen of a pipeline becomes its status: counts, pods, versions, messages."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from kit.situations import (
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
from midstream_api.engineconfig import RevisionDocument
from midstream_api.status import Condition, PipelineStatus, Stage
from midstream_operator.observed import EngineReport, Failure, Object, Pod, SidekickReport
from midstream_operator.status import View, describe


def conditions(view: View) -> dict[str, Condition]:
    return {one.type: one for one in describe(view).conditions}


def told(view: View) -> dict[str, tuple[str, str]]:
    """Status and reason of each condition."""
    return {kind: (one.status, one.reason) for kind, one in conditions(view).items()}


def test_the_same_view_again_changes_nothing() -> None:
    """Later, and with its own status before it, it says the same with the same times: nothing is to be written."""
    first = describe(FAILED)
    later = replace(FAILED, previous=first, now="2026-11-21T15:00:00.000Z")
    assert describe(later) == first


# Messages


def test_a_failure_names_step_model_and_what_callers_get_meanwhile() -> None:
    """Nobody needs to look elsewhere."""
    said = conditions(FAILED)["Ready"].message
    assert "step 'predict', model 'rf-b'" in said
    assert said.endswith(f"version {A.version} serves on 3 of 3 replicas")
    assert conditions(FAILED)["Stalled"].message == said


def test_a_failure_before_anything_served_says_so() -> None:
    """The first version cannot be kept while there is none."""
    nothing = replace(WELL, pods=(pod(1, **NOT_READY),), failure=VERIFY)
    assert conditions(nothing)["Ready"].message.endswith("; nothing serves")


def test_a_rollout_tells_how_far_it_is() -> None:
    """Stage, canary and count."""
    view = replace(
        SWAPPING, pods=engines(B, A, A), rollout=rollout(Stage.PREPARING, B, canary="e-1")
    )
    assert conditions(view)["Reconciling"].message == (
        f"version {B.version} serves on 1 of 3 replicas, stage Preparing on e-1 first"
    )


def test_what_keeps_a_pod_from_starting_is_in_the_message() -> None:
    """An image that cannot be pulled is seen without describing the pod."""
    stuck = pod(
        1, **{**NOT_READY, "details": ("container engine ImagePullBackOff: no such image",)}
    )
    view = replace(WELL, pods=(stuck,), rollout=rollout(Stage.STARTING))
    for kind in ("Available", "Ready"):
        assert conditions(view)[kind].message.endswith(
            "; pod house-price-engine-1: container engine ImagePullBackOff: no such image"
        )


def test_a_pin_names_both_versions() -> None:
    """What serves, and what the steps would."""
    view = replace(WELL, spec=spec(version=A.version), history=history(A, B))
    assert conditions(view)["Pinned"].message == (
        f"spec.version holds version {A.version} (revision 1); "
        f"the latest is {B.version} (revision 2), and does not serve"
    )


def deployment(**status: int) -> Object:
    full = {"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3}
    full |= status
    metadata = {"name": "house-price-engine", "generation": 2}
    return {"metadata": metadata, "spec": {"replicas": 3}, "status": full}


@pytest.mark.parametrize(
    "status",
    [{"observedGeneration": 1}, {"updatedReplicas": 2}, {"replicas": 4}, {"availableReplicas": 2}],
)
def test_pods_that_kubernetes_still_replaces_are_waited_for(status: dict[str, int]) -> None:
    """A new image is there when the last pod has it."""
    assert told(replace(WELL, deployments=[deployment()]))["Ready"] == ("True", "Serving")
    view = replace(WELL, deployments=[deployment(**status)])
    assert told(view)["Ready"] == ("False", "ReplacingPods")
    assert "house-price-engine" in conditions(view)["Ready"].message


# What is beside the conditions


def test_address_is_that_of_the_load_balancer() -> None:
    """It can be pasted inside the cluster, and is gone when there is nothing to ask."""
    assert describe(WELL).url == (
        "http://house-price-engine-lb.workspace-a.svc:29502/pipelines/house-price"
    )
    assert describe(UNDEPLOYED).url is None


@pytest.mark.parametrize(
    ("about", "view", "expected"),
    [
        ("all serve it", WELL, A),
        ("nobody has switched", SWAPPING, A),
        ("some have switched", replace(SWAPPING, pods=engines(B, A, A)), A),
        ("all have switched", replace(SWAPPING, pods=engines(B, B, B)), B),
        ("nobody answers, and it was known", replace(WELL, pods=()), A),
        ("nobody serves yet", replace(WELL, pods=engines(None), previous=PipelineStatus()), None),
        ("it is undeployed", UNDEPLOYED, None),
    ],
)
def test_serving_version(about: str, view: View, expected: RevisionDocument | None) -> None:
    """What every replica serves; during a rollout the one it comes from."""
    if "was known" in about:
        view = replace(view, previous=PipelineStatus(version=A.version))
    assert describe(view).version == (expected.version if expected else None)


def test_latest_and_target_differ_while_pinned() -> None:
    """The newest steps are recorded, the pinned version is wanted."""
    pinned = replace(WELL, spec=spec(version=A.version), history=history(A, B))
    status = describe(pinned)
    assert (status.version, status.latest_version, status.target_version) == (
        A.version,
        B.version,
        A.version,
    )
    assert [(one.version, one.deployed) for one in status.versions] == [
        (B.version, False),
        (A.version, True),
    ]


def test_replicas_are_counted() -> None:
    """Wanted, ready, and those that serve the target."""
    pods = (*engines(B, A), pod(3, **NOT_READY))
    counts = describe(replace(SWAPPING, pods=pods)).replicas
    assert counts is not None
    assert (counts.desired, counts.ready, counts.updated) == (3, 2, 1)


def test_an_engine_is_listed_with_what_it_serves() -> None:
    """Address, state, pipeline and models."""
    listed = describe(WELL).engines[0].model_dump(mode="json", by_alias=True)
    assert listed == {
        "ip": "10.244.0.1",
        "name": "house-price-engine-1",
        "status": "Running",
        "reason": None,
        "details": [],
        "pipelineStatuses": {
            "pipelines": [{"id": "house-price", "status": "Running", "version": A.version}]
        },
        "modelStatuses": {
            "models": [{"name": "rf-a", "version": None, "sha": "a" * 64, "status": "Running"}]
        },
    }


def test_an_engine_that_starts_says_what_it_waits_for() -> None:
    """As Kubernetes says it."""
    (listed,) = describe(replace(WELL, pods=(pod(1, **NOT_READY),))).engines
    assert (listed.status, listed.reason) == ("Starting", None)
    assert listed.details == ["containers with unready status: [engine]"]
    assert listed.pipeline_statuses.pipelines == []


def test_an_engine_whose_container_fails_is_in_error() -> None:
    """With the container's own reason."""
    details = ("container engine CrashLoopBackOff: back-off 20s", "containers with unready status")
    (listed,) = describe(replace(WELL, pods=(pod(1, **{**NOT_READY, "details": details}),))).engines
    assert (listed.status, listed.reason) == ("Error", "CrashLoopBackOff")


def test_an_engine_whose_container_is_being_made_starts() -> None:
    """A container that waits for its turn has nothing to complain of."""
    details = ("container engine ContainerCreating",)
    (listed,) = describe(replace(WELL, pods=(pod(1, **{**NOT_READY, "details": details}),))).engines
    assert (listed.status, listed.reason) == ("Starting", None)


def test_an_engine_that_refused_the_target_runs_and_says_why() -> None:
    """It serves the old version, so it is running; the reason is there all the same."""
    pods = (pod(1, report(A, failed=B)), *engines(A, A)[1:])
    listed = describe(replace(SWAPPING, pods=pods)).engines[0]
    assert (listed.status, listed.reason) == ("Running", "VerifyFailed")
    assert listed.details == ["step 'predict', model 'rf-b': golden row 0 differs"]


def test_an_engine_with_nothing_to_serve_is_in_error() -> None:
    """Its only revision failed."""
    pods = (pod(1, report(None, failed=A), **NOT_READY),)
    (listed,) = describe(replace(WELL, pods=pods)).engines
    assert (listed.status, listed.reason) == ("Error", "VerifyFailed")
    assert [one.status for one in listed.pipeline_statuses.pipelines] == ["Error"]


def test_an_engine_that_does_not_obey_its_folder_says_why() -> None:
    """A half-written folder, say."""
    said = report(A, config_accepted=False, config_reason="ConfigOlder", config_message="it is old")
    listed = describe(replace(WELL, pods=(pod(1, said),))).engines[0]
    assert (listed.status, listed.reason, listed.details) == (
        "Running",
        "ConfigOlder",
        ["it is old"],
    )


def many(count: int, *, broken: Sequence[int] = ()) -> tuple[Pod, ...]:
    return tuple(
        pod(n, name=f"e-{n:03d}", created=f"2026-11-21T14:{n // 60:02d}:{n % 60:02d}Z", **NOT_READY)
        if n in broken
        else pod(
            n, report(A), name=f"e-{n:03d}", created=f"2026-11-21T14:{n // 60:02d}:{n % 60:02d}Z"
        )
        for n in range(count)
    )


def test_of_many_engines_those_that_do_not_run_are_listed() -> None:
    """32 at most, the count tells of all, and what is broken is among them."""
    status = describe(replace(WELL, pods=many(80, broken=[70, 79])))
    assert status.engine_count == 80
    assert len(status.engines) == 32
    assert {"e-070", "e-079"} <= {one.name for one in status.engines}
    assert [one.name for one in status.engines] == sorted(one.name for one in status.engines)


def worker(model: str, number: int = 1, **fields: Any) -> SidekickReport:
    """One process, as an engine's `/status` has it."""
    given = {
        "name": f"sidekick-{model}-{number}",
        "model": model,
        "sha256": "ab" * 32,
        "pid": 7,
        "status": "Running",
        "restarts": 0,
        "reason": None,
    }
    (read,) = EngineReport.of({"sidekicks": [{**given, **fields}]}).sidekicks
    return read


def test_sidekicks_are_listed_by_engine_and_model() -> None:
    """Each with the address of its pod, a name that says model, code and pod, and a line for each process."""
    said = (worker("pre"), worker("pre", 2, status="Starting"), worker("post"))
    pods = (pod(1, report(A, sidekicks=said)), pod(2, report(A, sidekicks=said[2:])))
    status = describe(replace(WELL, pods=pods))

    assert [(one.name, one.ip, one.status, one.statuses) for one in status.sidekicks] == [
        (
            "engine-sidekick-pre-abababab-1",
            "10.244.0.1",
            "Running",
            "sidekick-pre-1: Running\nsidekick-pre-2: Starting\n",
        ),
        (
            "engine-sidekick-post-abababab-1",
            "10.244.0.1",
            "Running",
            "sidekick-post-1: Running\n",
        ),
        (
            "engine-sidekick-post-abababab-2",
            "10.244.0.2",
            "Running",
            "sidekick-post-1: Running\n",
        ),
    ]
    assert status.sidekick_count == 3
    assert {(one.reason, tuple(one.details)) for one in status.sidekicks} == {(None, ())}


def test_a_pipeline_without_python_models_has_no_sidekicks() -> None:
    """Nothing is listed and nothing counted."""
    status = describe(WELL)
    assert (status.sidekicks, status.sidekick_count) == ([], None)


def test_a_sidekick_that_does_not_come_up_says_why() -> None:
    """Why the last process ended, and how often there was a new one."""
    said = (
        worker("pre", status="Error", restarts=4, reason="signal SIGKILL"),
        worker("pre", 2, status="Error", restarts=1),
    )
    (listed,) = describe(replace(WELL, pods=(pod(1, report(A, sidekicks=said)),))).sidekicks
    assert (listed.status, listed.reason, listed.details) == (
        "Error",
        "signal SIGKILL",
        ["restarts: 5"],
    )


def test_a_sidekicks_container_that_does_not_run_is_listed() -> None:
    """Also while its engine does not answer, or does not know yet."""
    backoff = "container sidekick CrashLoopBackOff: back-off 40s"
    fresh = "container sidekick PodInitializing"
    pods = (
        pod(1, **{**NOT_READY, "details": (backoff, "not ready")}),
        pod(2, **{**NOT_READY, "details": (fresh,)}),
    )
    listed = describe(replace(WELL, pods=pods)).sidekicks
    assert [(one.name, one.status, one.reason, one.details) for one in listed] == [
        ("engine-sidekick-1", "Error", "CrashLoopBackOff", [backoff]),
        ("engine-sidekick-2", "Starting", None, [fresh]),
    ]


def test_of_many_sidekicks_those_that_do_not_run_are_listed() -> None:
    """32 at most, the count tells of all."""
    said = tuple(worker(f"m{n}", status="Error" if n in {40, 49} else "Running") for n in range(50))
    status = describe(replace(WELL, pods=(pod(1, report(A, sidekicks=said)),)))
    assert (len(status.sidekicks), status.sidekick_count) == (32, 50)
    assert [one.status for one in status.sidekicks[-2:]] == ["Error", "Error"]


def test_names_and_models_keep_within_the_contracts_bounds() -> None:
    """The longest names there may be, and more models than are listed."""
    long = worker("x" * 100)
    one = pod(1, report(A, sidekicks=(long,)), name=f"house-price-engine-{'y' * 230}")
    (listed,) = describe(replace(WELL, pods=(one,))).sidekicks
    assert len(listed.name) == 253

    said = report(A)
    (revision,) = said.revisions.values()
    crowded = replace(revision, models=revision.models * 70)
    said = replace(said, revisions={revision.revision: crowded})
    (listed_engine,) = describe(replace(WELL, pods=(pod(1, said),))).engines
    assert len(listed_engine.model_statuses.models) == 64


def test_load_balancers_are_listed() -> None:
    """With address and state."""
    (listed,) = describe(WELL).engine_lbs
    assert (listed.name, listed.status, listed.ip) == (
        "house-price-engine-lb-9",
        "Running",
        "10.244.0.9",
    )


def test_a_spec_that_cannot_be_read_leaves_the_rest_as_it_was_told() -> None:
    """Nothing was looked at, so nothing else is claimed to have changed."""
    before = describe(WELL)
    failure = Failure("", "InvalidSpec", "spec.steps: new", transient=False)
    after = describe(
        replace(WELL, spec=None, pods=(), previous=before, failure=failure, generation=5)
    )
    assert (after.version, after.replicas, after.engines, after.versions) == (
        before.version,
        before.replicas,
        before.engines,
        before.versions,
    )
    assert after.observed_generation == 5


def test_texts_beyond_the_contracts_bounds_are_cut() -> None:
    """A container may say a lot."""
    details = tuple("x" * 3000 for _ in range(20))
    (listed,) = describe(replace(WELL, pods=(pod(1, **{**NOT_READY, "details": details}),))).engines
    assert [len(text) for text in listed.details] == [1024] * 8
