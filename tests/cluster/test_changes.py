"""Things that happen while a change is under way: another change, scaling, pods and processes that go."""

from collections.abc import Callable

import pytest

from kit import wire
from kit.cluster import install, kubectl, node
from kit.cluster.kubectl import Object
from kit.cluster.shelf import Model, Shelf, pipeline, version
from kit.cluster.spaces import Space, is_current, is_up
from kit.cluster.watched import watched

THREE: Object = {"replicas": 3}


@pytest.fixture(scope="session")
def turns(shelf: Shelf) -> list[Model]:
    return [shelf.example(name) for name in ("rf", "gbr", "xgb")]


def underway(seen: Object) -> bool:
    """A rollout has told an engine of its candidate, and is not at its end."""
    rollout = seen.get("status", {}).get("rollout") or {}
    return rollout.get("stage") in {"Canary", "Preparing", "Serving", "Promoting"}


def test_the_newest_of_many_changes_serves_in_the_end(
    space: Space, turns: list[Model], requests: list[wire.Request]
) -> None:
    """Ten changes without waiting for any: the last one serves, and the status speaks of it."""
    space.apply(pipeline(turns[0], deployment=THREE))
    space.until_ready(version(turns[0]))
    before = space.identities()
    with watched(space, [[model] for model in turns], requests) as load:
        load.changing()
        for number in range(1, 11):
            space.apply(pipeline(turns[number % 3], deployment=THREE))
        seen = space.until_ready(version(turns[1]))
        load.promised(version(turns[1]))
        verdict = load.stop()

    assert seen["status"]["observedGeneration"] == seen["metadata"]["generation"]
    assert verdict.clean == (0, 0, 0), str(verdict)
    assert space.identities() == before
    assert space.served() == {version(turns[1])}


def test_a_change_in_the_middle_of_a_rollout_wins(
    space: Space, turns: list[Model], requests: list[wire.Request]
) -> None:
    """Changed as soon as a rollout is seen to be under way, back to what served and on to a third."""
    space.apply(pipeline(turns[0], deployment=THREE))
    space.until_ready(version(turns[0]))
    before = space.identities()
    with watched(space, [[model] for model in turns], requests) as load:
        load.changing()
        for then in (turns[0], turns[2]):
            _begin(space, pipeline(turns[1], deployment=THREE))
            space.apply(pipeline(then, deployment=THREE))
            space.until_ready(version(then))
            load.promised(version(then))
            load.changing()
        verdict = load.stop()

    assert verdict.clean == (0, 0, 0), str(verdict)
    assert space.identities() == before


def test_scaling_up_and_down_during_a_rollout(
    space: Space, turns: list[Model], requests: list[wire.Request]
) -> None:
    """1 → 5 → 2 replicas, each in the middle of a swap: the new version serves on all, nothing is lost."""
    space.apply(pipeline(turns[0], deployment={"replicas": 1}))
    space.until_ready(version(turns[0]))
    with watched(space, [[model] for model in turns], requests) as load:
        load.changing()
        for model, replicas in ((turns[1], 5), (turns[2], 2)):
            current = space.get()["spec"]["deployment"]["replicas"]
            _begin(space, pipeline(model, deployment={"replicas": current}))
            space.patch({"spec": {"deployment": {"replicas": replicas}}})
            space.until_pods(
                lambda pods, replicas=replicas: (  # type: ignore[misc]
                    sum(map(is_up, pods)) == len(pods) == replicas
                ),
                f"{replicas} engines",
            )
            seen = space.until_ready(version(model))
            load.promised(version(model))
            assert seen["status"]["replicas"] == {
                "desired": replicas,
                "ready": replicas,
                "updated": replicas,
            }
            load.changing()
        verdict = load.stop()

    assert verdict.clean == (0, 0, 0), str(verdict)
    assert space.served() == {version(turns[2])}


def test_a_pod_deleted_in_the_middle_of_a_rollout(
    space: Space, turns: list[Model], requests: list[wire.Request]
) -> None:
    """The one that comes in its place serves the new version as well, and nothing is lost."""
    space.apply(pipeline(turns[0], deployment=THREE))
    space.until_ready(version(turns[0]))
    victim = space.identities()[0]
    with watched(space, [[model] for model in turns], requests) as load:
        load.changing()
        _begin(space, pipeline(turns[1], deployment=THREE))
        space.do("delete", "pod", victim.name, "--wait=false")
        space.until_pods(
            lambda pods: (
                len(pods) == 3
                and all(map(is_up, pods))
                and victim.name not in {pod["metadata"]["name"] for pod in pods}
            ),
            "an engine in place of the deleted one",
        )
        space.until_ready(version(turns[1]))
        load.promised(version(turns[1]))
        verdict = load.stop()

    assert verdict.clean == (0, 0, 0), str(verdict)
    assert space.served() == {version(turns[1])}


@pytest.mark.parametrize("which", ["the canary", "another one"])
def test_an_engine_killed_in_the_middle_of_a_rollout(
    space: Space, turns: list[Model], requests: list[wire.Request], which: str
) -> None:
    """`kill -9` of an engine: its pod comes back, the new version serves on all, and the retries lose nothing."""
    space.apply(pipeline(turns[0], deployment=THREE))
    space.until_ready(version(turns[0]))
    pods = space.pods()
    node.processes(pods[0], "midstream_engine")
    with watched(space, [[model] for model in turns], requests) as load:
        load.changing()
        seen = _begin(space, pipeline(turns[1], deployment=THREE))
        canary = seen["status"]["rollout"]["canary"]
        (victim, *_) = [
            pod for pod in pods if (pod["metadata"]["name"] == canary) == (which == "the canary")
        ]
        node.kill(victim, "midstream_engine")
        # A killed engine may be blamed on the candidate that it was loading; then it says so, and asking again helps.
        space.until(
            lambda seen: is_current(seen, 2) and not underway(seen), "the rollout to come to an end"
        )
        space.until_pods(lambda pods: all(map(is_up, pods)), "all engines to be ready again")
        space.apply(pipeline(turns[2], deployment=THREE))
        space.until_ready(version(turns[2]))
        load.promised(version(turns[2]))
        verdict = load.stop()

    assert verdict.clean == (0, 0, 0), str(verdict)
    assert space.served() == {version(turns[2])}
    assert sum(pod.restarts for pod in space.identities()) == 1


def test_the_load_balancer_killed_in_the_middle_of_a_rollout(
    space: Space, turns: list[Model], requests: list[wire.Request]
) -> None:
    """`kill -9` of the only load balancer: it comes back by itself, and the rollout does not wait for it.

    Requests are cut while there is none; every answer that is given is right.
    """
    space.apply(pipeline(turns[0], deployment=THREE))
    space.until_ready(version(turns[0]))
    engines = space.identities()
    (balancer,) = space.pods(app="engine-lb")
    with watched(space, [[model] for model in turns], requests) as load:
        load.changing()
        _begin(space, pipeline(turns[1], deployment=THREE))
        node.kill(balancer, "envoy")
        space.until_pods(_restarted, "the load balancer to be back", "engine-lb")
        space.until_ready(version(turns[1]))
        load.promised(version(turns[1]))
        verdict = load.stop()

    assert (verdict.report.mixed, verdict.stale) == (0, 0), str(verdict)
    assert space.ask().version == version(turns[1])
    assert space.identities() == engines


def test_the_operator_killed_in_the_middle_of_a_rollout(
    space: Space, turns: list[Model], requests: list[wire.Request]
) -> None:
    """The next operator takes the rollout up where it is."""
    space.apply(pipeline(turns[0], deployment=THREE))
    space.until_ready(version(turns[0]))
    before = space.identities()
    with watched(space, [[model] for model in turns], requests) as load:
        load.changing()
        _begin(space, pipeline(turns[1], deployment=THREE))
        for pod in install.pods():
            name = pod["metadata"]["name"]
            kubectl.kubectl(
                "delete", "pod", name, "-n", install.NAMESPACE, "--force", "--wait=false"
            )
        install.ready()
        space.until_ready(version(turns[1]))
        load.promised(version(turns[1]))
        verdict = load.stop()

    assert verdict.clean == (0, 0, 0), str(verdict)
    assert space.identities() == before


@pytest.mark.parametrize("kind", ["deployment", "configmap", "service"])
@pytest.mark.parametrize("app", ["engine", "engine-lb"])
def test_an_owned_object_that_somebody_deletes_is_made_anew(
    space: Space, rf: Model, kind: str, app: str
) -> None:
    """Deployment, Service and ConfigMap of both come back, and the pipeline answers again."""
    space.apply(pipeline(rf))
    space.until_ready(version(rf))
    name = f"house-price-{app}"
    found = kubectl.get(kind, name, space.name)
    assert found is not None

    space.do("delete", kind, name, "--wait=false")

    kubectl.until(
        kind,
        name,
        space.name,
        lambda seen: seen["metadata"]["uid"] != found["metadata"]["uid"],
        f"another {kind} {name}",
    )
    for each in ("engine", "engine-lb"):
        space.do("rollout", "status", f"deployment/house-price-{each}", "--timeout=120s")
    space.until_ready(version(rf))
    space.until_answered(version(rf))


def _restarted(pods: list[Object]) -> bool:
    return any(
        is_up(pod) and sum(each["restartCount"] for each in pod["status"]["containerStatuses"])
        for pod in pods
    )


def _begin(space: Space, manifest: Object) -> Object:
    """Apply a change, and return as soon as its rollout is seen to be under way."""
    return _during(space, lambda: space.apply(manifest))


def _during(space: Space, change: Callable[[], object]) -> Object:
    with kubectl.watching("pipelines", space.name) as watch:
        known = watch.until(lambda _: True, "the object as it is")["metadata"]["generation"]
        change()
        return watch.until(
            lambda seen: is_current(seen, known + 1) and (underway(seen) or _over(seen, known + 1)),
            "the rollout to be under way",
        )


def _over(seen: Object, generation: int) -> bool:
    """It was too quick to be seen; what follows then happens after it."""
    rollout = seen["status"].get("rollout") or {}
    return rollout.get("generation", 0) >= generation and rollout.get("stage") == "Done"
