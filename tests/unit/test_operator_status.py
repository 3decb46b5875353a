"""What is seen of a pipeline becomes its status: conditions, counts, pods, versions."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from kit.folder import document, entry
from midstream_api import names, version
from midstream_api.engineconfig import Index, ResolvedModel, RevisionDocument
from midstream_api.pipeline import Pipeline, PipelineSpec
from midstream_api.status import Condition, PipelineStatus, RolloutStatus, Stage
from midstream_operator import versions
from midstream_operator.metadata import Owner
from midstream_operator.observed import EngineReport, Failure, Object, Pod, RevisionReport
from midstream_operator.status import View, describe

UID = "0f8fad5b-d9cb-469f-a165-70867728950e"
OWNER = Owner("house-price", "workspace-a", UID)
NOW = "2026-11-21T14:05:09.123Z"


def revision(letter: str) -> RevisionDocument:
    model = ResolvedModel(
        name=f"rf-{letter}", uri=f"https://x/{letter}", sha256=letter * 64, size=1
    )
    return document(model, pipeline=OWNER.name)


A, B = revision("a"), revision("b")
ID_A, ID_B = version.revision_id(A), version.revision_id(B)


def spec(*, replicas: int = 3, steps: bool = True, **fields: Any) -> PipelineSpec:
    step = {"name": "predict", "model": {"name": "rf", "source": {"uri": "oci://r.example.com/rf"}}}
    given = {"steps": [step] if steps else [], "deployment": {"replicas": replicas}, **fields}
    return Pipeline.read(
        {
            "apiVersion": names.API_VERSION,
            "kind": names.PIPELINE_KIND,
            "metadata": {"name": OWNER.name},
            "spec": given,
        }
    ).spec


def report(
    serving: RevisionDocument | None, failed: RevisionDocument | None = None, **fields: Any
) -> EngineReport:
    """What an engine says that serves one revision, and could not load another one."""
    revisions = {}
    if serving is not None:
        revisions[version.revision_id(serving)] = RevisionReport(
            version.revision_id(serving),
            serving.version,
            "READY",
            models=tuple(
                {
                    "step": step.name,
                    "name": step.model.name,
                    "version": None,
                    "sha256": step.model.sha256,
                }
                for step in serving.steps
            ),
        )
    if failed is not None:
        revisions[version.revision_id(failed)] = RevisionReport(
            version.revision_id(failed),
            failed.version,
            "FAILED",
            reason="VerifyFailed",
            message="step 'predict', model 'rf-b': golden row 0 differs",
        )
    given: dict[str, Any] = {"uid": UID, "sequence": 1, "config_accepted": True, **fields}
    return EngineReport(
        serving=version.revision_id(serving) if serving else None,
        serving_version=serving.version if serving else None,
        revisions=revisions,
        **given,
    )


def pod(number: int, said: EngineReport | None = None, **fields: Any) -> Pod:
    """An engine that is ready unless told otherwise."""
    given: dict[str, Any] = {
        "name": f"house-price-engine-{number}",
        "uid": str(number),
        "ip": f"10.244.0.{number}",
        "created": f"2026-11-21T14:00:{number:02d}Z",
        "running": True,
        "ready": True,
        "deleting": False,
        "restarts": 0,
        "image_id": "",
        **fields,
    }
    return Pod(report=said, **given)


def engines(*serving: RevisionDocument | None) -> tuple[Pod, ...]:
    return tuple(pod(number, report(one)) for number, one in enumerate(serving, 1))


BALANCER = pod(9, name="house-price-engine-lb-9")
NOT_READY: dict[str, Any] = {
    "ready": False,
    "running": False,
    "details": ("containers with unready status: [engine]",),
}


def rollout(stage: Stage, target: RevisionDocument = A, **fields: Any) -> RolloutStatus:
    revision_id = version.revision_id(target)
    return RolloutStatus(
        stage=stage, generation=4, version=target.version, revision=revision_id, **fields
    )


def history(*documents: RevisionDocument) -> tuple[versions.Recorded, ...]:
    """Oldest first."""
    return versions.history(
        versions.record(
            OWNER,
            one,
            number=number,
            tags=(),
            source_digest="",
            created=NOW,
            updated=NOW,
        )
        for number, one in enumerate(documents, 1)
    )


def index(stable: RevisionDocument, candidate: RevisionDocument | None = None) -> Index:
    return Index(
        pipeline=OWNER.name,
        uid=UID,
        sequence=1,
        stable=entry(stable),
        candidate=entry(candidate) if candidate else None,
    )


WELL = View(
    name=OWNER.name,
    namespace=OWNER.namespace,
    generation=4,
    spec=spec(),
    previous=PipelineStatus(),
    history=history(A),
    index=index(A),
    target=A,
    pods=engines(A, A, A),
    lb_pods=(BALANCER,),
    rollout=rollout(Stage.DONE),
    failure=None,
    now=NOW,
)
"""All is well: three replicas serve the one version there is."""

SWAPPING = replace(
    WELL, history=history(A, B), index=index(A, B), target=B, rollout=rollout(Stage.CANARY, B)
)
"""B is on its way and serves nowhere yet."""

VERIFY = Failure(ID_B, "VerifyFailed", "engine e-1: step 'predict', model 'rf-b': differs", False)
DOWN = Failure("", "SourceUnreachable", "step 'predict', model 'rf': no answer", True)

FAILED = replace(
    SWAPPING,
    index=index(A),
    failure=VERIFY,
    rollout=rollout(Stage.FAILED, B, reason="VerifyFailed", message=VERIFY.message),
)

UNDEPLOYED = replace(
    WELL, spec=spec(deployed=False), index=None, pods=(), lb_pods=(), rollout=None, target=A
)


def conditions(view: View) -> dict[str, Condition]:
    return {one.type: one for one in describe(view).conditions}


def told(view: View) -> dict[str, tuple[str, str]]:
    """Status and reason of each condition."""
    return {kind: (one.status, one.reason) for kind, one in conditions(view).items()}


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
    full = {"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, **status}
    metadata = {"name": "house-price-engine", "generation": 2}
    return {"metadata": metadata, "spec": {"replicas": 3}, "status": full}


@pytest.mark.parametrize(
    "status", [{"observedGeneration": 1}, {"updatedReplicas": 2}, {"replicas": 4}]
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
