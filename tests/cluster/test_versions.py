"""The history: back by applying what was there before, and by `spec.version`; undeploy, delete."""

from datetime import datetime

from kit import wire
from kit.cluster import kubectl
from kit.cluster.kubectl import Object
from kit.cluster.shelf import NAME, Model, pipeline, version
from kit.cluster.spaces import Space, condition
from kit.cluster.watched import watched

TWO: Object = {"replicas": 2}
OWNED = (
    "pods,deployments,replicasets,services,configmaps,secrets,serviceaccounts,controllerrevisions"
)


def test_the_earlier_steps_bring_the_earlier_version_back(
    space: Space, rf: Model, gbr: Model, requests: list[wire.Request]
) -> None:
    """A → B → A: A has the UUID that it had, stands in front again, and its revision number counts on."""
    space.apply(pipeline(rf, deployment=TWO, tags=["first"]))
    space.until_ready(version(rf))
    before = space.identities()
    with watched(space, [[rf], [gbr]], requests) as load:
        for model, tag in ((gbr, "second"), (rf, "third")):
            load.changing()
            space.apply(pipeline(model, deployment=TWO, tags=[tag]))
            seen = space.until_ready(version(model))
            load.promised(version(model))
        verdict = load.stop()

    newest, older = seen["status"]["versions"]
    assert (newest["version"], newest["revision"]) == (version(rf), 3)
    assert (older["version"], older["revision"]) == (version(gbr), 2)
    assert (newest["deployed"], older["deployed"]) == (True, False)
    assert (newest["steps"], older["steps"]) == ([rf.name], [gbr.name])
    assert (newest["tags"], older["tags"]) == (["third"], ["second"])
    assert _time(newest["creationTime"]) <= _time(older["creationTime"])
    assert _time(newest["lastUpdatedTime"]) >= _time(older["lastUpdatedTime"])
    assert verdict.clean == (0, 0, 0), str(verdict)
    assert space.identities() == before


def test_a_pinned_version_is_swapped_in_and_holds(
    space: Space, rf: Model, gbr: Model, xgb: Model, requests: list[wire.Request]
) -> None:
    """`spec.version` brings an earlier version back in the same pods; a change of steps meanwhile is only recorded."""
    space.apply(pipeline(rf, deployment=TWO))
    space.until_ready(version(rf))
    before = space.identities()
    with watched(space, [[rf], [gbr], [xgb]], requests) as load:
        load.changing()
        space.apply(pipeline(gbr, deployment=TWO))
        space.until_ready(version(gbr))
        space.apply(pipeline(gbr, deployment=TWO, version=version(rf)))
        seen = space.until_ready(version(rf))
        load.promised(version(rf))
        assert condition(seen, "Pinned")["status"] == "True"
        assert seen["status"]["latestVersion"] == version(gbr)

        space.apply(pipeline(xgb, deployment=TWO, version=version(rf)))
        seen = space.until_ready(version(rf))
        assert seen["status"]["latestVersion"] == version(xgb)
        assert [each["version"] for each in seen["status"]["versions"]] == [
            version(model) for model in (xgb, gbr, rf)
        ]
        assert [each["deployed"] for each in seen["status"]["versions"]] == [False, False, True]

        load.changing()
        space.apply(pipeline(xgb, deployment=TWO))
        seen = space.until_ready(version(xgb))
        load.promised(version(xgb))
        assert not condition(seen, "Pinned")
        verdict = load.stop()

    assert verdict.clean == (0, 0, 0), str(verdict)
    assert space.identities() == before


def test_a_version_that_is_not_on_record_is_refused(space: Space, rf: Model) -> None:
    """Pinning an unknown version says so, and what serves goes on."""
    space.apply(pipeline(rf))
    space.until_ready(version(rf))
    unknown = "01234567-89ab-5def-8123-456789abcdef"

    space.apply(pipeline(rf, version=unknown))

    seen = space.until_refused("VersionNotFound")
    assert unknown in condition(seen, "Stalled")["message"]
    assert space.served() == {version(rf)}
    space.apply(pipeline(rf))
    space.until_ready(version(rf))


def test_equal_bytes_under_another_name_are_a_version_of_their_own(
    space: Space, rf: Model, requests: list[wire.Request]
) -> None:
    """The same file as another model swaps, in the same pods."""
    other = rf.named("champion-house-price")
    space.apply(pipeline(rf, deployment=TWO))
    space.until_ready(version(rf))
    before = space.identities()
    with watched(space, [[rf], [other]], requests) as load:
        load.changing()
        space.apply(pipeline(other, deployment=TWO))
        space.until_ready(version(other))
        load.promised(version(other))
        verdict = load.stop()

    assert version(other) != version(rf)
    assert verdict.clean == (0, 0, 0), str(verdict)
    assert space.identities() == before


def test_undeploying_keeps_the_versions(space: Space, rf: Model, gbr: Model) -> None:
    """`deployed: false` takes all pods away; a change meanwhile is recorded; deploying brings it up."""
    space.apply(pipeline(rf))
    space.until_ready(version(rf))

    space.apply(pipeline(rf, deployed=False))
    for app in ("engine", "engine-lb"):
        kubectl.until_gone("deployment", f"{NAME}-{app}", space.name)
        kubectl.until_gone("service", f"{NAME}-{app}", space.name)
        kubectl.until_gone("configmap", f"{NAME}-{app}", space.name)
        assert space.until_pods(lambda pods: not pods, "no pods", app) == []
    seen = space.until(lambda seen: not seen["status"].get("version"), "nothing serves")
    assert condition(seen, "Available")["status"] == "False"
    assert [each["version"] for each in seen["status"]["versions"]] == [version(rf)]

    space.apply(pipeline(gbr, deployed=False))
    seen = space.until(
        lambda seen: seen["status"].get("latestVersion") == version(gbr), "the new version"
    )
    assert [each["version"] for each in seen["status"]["versions"]] == [version(gbr), version(rf)]
    assert [each["deployed"] for each in seen["status"]["versions"]] == [False, False]

    space.apply(pipeline(gbr))
    space.until_ready(version(gbr))
    space.until_pods(bool, "load balancers", "engine-lb")
    space.do("rollout", "status", f"deployment/{NAME}-engine-lb", "--timeout=120s")
    space.until_answered(version(gbr))


def test_a_pipeline_without_steps_can_wait_undeployed(space: Space, rf: Model) -> None:
    """`steps: []` with `deployed: false` is settled, and steps may come later."""
    space.apply(pipeline(deployed=False))
    space.until(lambda seen: bool(condition(seen, "Ready")), "a Ready condition")

    space.apply(pipeline(rf))

    space.until_ready(version(rf))


def test_deleting_leaves_nothing(space: Space, rf: Model, gbr: Model) -> None:
    """All that was made for a pipeline goes with it, the versions too."""
    space.apply(pipeline(rf))
    space.until_ready(version(rf))
    space.apply(pipeline(gbr))
    space.until_ready(version(gbr))

    space.do("delete", "pipeline", NAME, "--timeout=60s")

    labels = f"midstream.dev/pipeline={NAME}"
    space.do("wait", "--for=delete", OWNED, "-l", labels, "--timeout=120s")
    left = [
        f"{each['kind']} {each['metadata']['name']}"
        for each in kubectl.listed(OWNED, space.name)
        if NAME in each["metadata"]["name"]
    ]
    assert left == []


def test_a_new_object_of_the_same_name_begins_anew(space: Space, rf: Model, gbr: Model) -> None:
    """Deleted and made again at once: the new object serves what it says, with a history of its own."""
    space.apply(pipeline(rf))
    space.until_ready(version(rf))
    space.do("delete", "pipeline", NAME, "--timeout=60s")

    space.apply(pipeline(gbr))

    seen = space.until_ready(version(gbr))
    assert [each["version"] for each in seen["status"]["versions"]] == [version(gbr)]
    space.until_pods(
        lambda pods: len(pods) == 1,
        "the old object's engine to be gone",
    )
    assert space.served() == {version(gbr)}


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
