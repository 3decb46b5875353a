"""What cannot serve: the old version goes on everywhere, the object says why, and changing the spec heals it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kit import models, wire
from kit.cluster import node
from kit.cluster.kubectl import Object
from kit.cluster.pods import program, sources
from kit.cluster.shelf import Model, Shelf, pipeline, version
from kit.cluster.spaces import Space, condition, is_up, restarts
from kit.cluster.watched import watched
from kit.load import CUT
from kit.swapping import distinct_rows

Push = Callable[..., Model]
TWO: Object = {"replicas": 2}
NOWHERE = "0" * 64


@dataclass(frozen=True)
class Bad:
    """A model that must not serve."""

    reason: str
    make: Callable[[Push, Model], Model]
    """Of `push` and the model that serves."""
    deployment: Object = field(default_factory=lambda: TWO)


def _large(path: Path) -> Path:
    return models.big_mlp(path, 150)


def _truncated(path: Path) -> Path:
    return models.truncated(path, models.big_mlp(path.with_suffix(".whole"), 1))


def _golden(good: Model) -> Model:
    rows = [{"tensor": row["tensor"]} for row in distinct_rows()[:1]]
    wrong = {"inputs": rows, "outputs": [{"variable": [1.0]}]}
    return good.named("golden-house-price").saying(verify=wrong)


def _absent(good: Model) -> Model:
    repository = good.uri.partition("@")[0].rpartition(":")[0]
    return good.named("absent-house-price").at(f"{repository}@sha256:{NOWHERE}", insecure=True)


SMALL: Object = {
    "replicas": 2,
    "engine": {"resources": {"limits": {"memory": "320Mi"}, "requests": {"cpu": "50m"}}},
}
BAD = {
    "a file that is not there": Bad("SourceNotFound", lambda _, good: _absent(good)),
    "another sha256 than promised": Bad(
        "DigestMismatch", lambda _, good: good.named("other-house-price").saying(sha256=NOWHERE)
    ),
    "a file cut off": Bad("InvalidModel", lambda push, _: push(_truncated, "truncated")),
    "a page in place of a model": Bad(
        "InvalidModel", lambda push, _: push(models.not_onnx, "page")
    ),
    "an exception in the warm-up": Bad(
        "WarmupFailed", lambda push, _: push(models.fails_at_run, "fails-at-run")
    ),
    "golden rows that come out differently": Bad("VerifyFailed", lambda _, good: _golden(good)),
    "more than the memory limit": Bad(
        "ModelDoesNotFit", lambda push, _: push(_large, "large"), SMALL
    ),
    "other inputs than callers send": Bad(
        "SchemaChanged", lambda push, _: push(models.two_outputs, "two-outputs")
    ),
}


@pytest.mark.parametrize("bad", [pytest.param(bad, id=name) for name, bad in BAD.items()])
def test_a_model_that_cannot_serve_changes_nothing(
    space: Space, rf: Model, gbr: Model, push: Push, requests: list[wire.Request], bad: Bad
) -> None:
    """The old version answers everything, the same pods run, condition and event name step, model and reason.

    What failed is not tried again and again, and the next good model heals it.
    """
    space.apply(pipeline(rf, deployment=bad.deployment))
    space.until_ready(version(rf))
    before = space.identities()
    candidate = bad.make(push, rf)
    with watched(space, [[rf], [gbr]], requests) as load:
        space.apply(pipeline(candidate, deployment=bad.deployment))

        seen = space.until_refused(bad.reason)

        _blames(seen, candidate, bad.reason)
        assert space.served() == {version(rf)}
        assert space.identities() == before
        assert seen["status"]["version"] == version(rf)
        assert condition(seen, "Available")["status"] == "True"
        _is_told_once(space, candidate, bad.reason)
        # Another look, and one at every pod, must not make it try again.
        sequence = space.sequence()
        space.patch({"spec": {"tags": ["another-look"]}})
        space.until_refused(bad.reason)
        assert space.sequence() - sequence in {0, 2}, "a change of the spec may be one more try"
        assert space.identities() == before

        load.changing()
        space.apply(pipeline(gbr, deployment=bad.deployment))
        seen = space.until_ready(version(gbr))
        load.promised(version(gbr))
        assert not condition(seen, "Stalled")
        verdict = load.stop()

    assert verdict.clean == (0, 0, 0), str(verdict)
    assert space.identities() == before


def test_a_candidate_that_kills_its_process_costs_one_restart(
    space: Space, rf: Model, gbr: Model, push: Push, requests: list[wire.Request]
) -> None:
    """Only the canary dies, once, comes back with the old version, and not one request is lost."""
    space.apply(pipeline(rf, deployment={"replicas": 3}))
    space.until_ready(version(rf))
    before = space.identities()
    killer = push(models.crashes_process, "killer")
    with watched(space, [[rf], [gbr]], requests) as load:
        space.apply(pipeline(killer, deployment={"replicas": 3}))

        seen = space.until_refused("CandidateKilledEngine")

        _blames(seen, killer, "CandidateKilledEngine")
        space.until_pods(lambda pods: all(map(is_up, pods)), "all engines to be ready again")
        assert space.served() == {version(rf)}
        after = space.identities()
        assert [pod.uid for pod in after] == [pod.uid for pod in before]
        assert sorted(pod.restarts for pod in after) == [0, 0, 1]

        # A pod that comes later starts with the old version, and nobody tries the killer again.
        healthy = next(pod.name for pod in after if not pod.restarts)
        space.do("delete", "pod", healthy, "--wait=false")
        space.until_pods(
            lambda pods: (
                len(pods) == 3
                and all(map(is_up, pods))
                and healthy not in {pod["metadata"]["name"] for pod in pods}
            ),
            "an engine in place of the deleted one",
        )
        assert space.served() == {version(rf)}
        assert sorted(pod.restarts for pod in space.identities()) == [0, 0, 1]

        load.changing()
        space.apply(pipeline(gbr, deployment={"replicas": 3}))
        space.until_ready(version(gbr))
        load.promised(version(gbr))
        verdict = load.stop()

    assert verdict.clean == (0, 0, 0), str(verdict)


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_one_pod_without_room_holds_the_swap_until_it_heals(
    space: Space, rf: Model, gbr: Model, requests: list[wire.Request], how: str
) -> None:
    """A full or read-only cache in one pod: the old version everywhere, the reason in the object, then it heals."""
    space.apply(pipeline(rf, deployment={"replicas": 3}))
    space.until_ready(version(rf))
    before = space.identities()
    sick = space.pods()[1]
    with watched(space, [[rf], [gbr]], requests) as load:
        with _without_room(sick, how):
            load.changing()  # the canary serves the new version until another pod cannot
            space.apply(pipeline(gbr, deployment={"replicas": 3}))

            seen = space.until_waiting(_REASONS[how])

            said = condition(seen, "Reconciling")["message"]
            assert sick["metadata"]["name"] in said
            assert condition(seen, "Available")["status"] == "True"
            assert "'predict'" in said
            assert gbr.name in said
            space.until_event(_REASONS[how])
            assert version(rf) in space.served()
        space.until_ready(version(gbr))
        load.promised(version(gbr))
        verdict = load.stop()

    assert verdict.clean == (0, 0, 0), str(verdict)
    assert space.identities() == before


_CACHE = "/persist/models"
_REASONS = {"full": "NoSpace", "read-only": "CacheUnwritable"}


@contextmanager
def _without_room(pod: Object, how: str) -> Iterator[None]:
    """Make the model cache of a pod full or read-only; undone at the end."""

    def mount(*arguments: str) -> None:
        node.enter(pod, "midstream_engine", "mount", *arguments, _CACHE)

    if how == "full":
        mount("-t", "tmpfs", "-o", "size=16k,mode=1777", "full")
    else:
        mount("--bind", _CACHE)
        mount("-o", "remount,ro,bind")
    try:
        yield
    finally:
        node.enter(pod, "midstream_engine", "umount", _CACHE)


def test_a_registry_that_is_down_for_a_while_heals_by_itself(
    space: Space, shelf: Shelf, rf: Model, gbr: Model, requests: list[wire.Request]
) -> None:
    """Without the registry the change waits, with the reason, and goes on by itself when the registry is back."""
    registry = _Registry(space, shelf.registry)
    registry.up()
    here, there = registry.model(rf), registry.model(gbr)
    space.apply(pipeline(here, deployment=TWO))
    space.until_ready(version(rf))
    before = space.identities()
    with watched(space, [[rf], [gbr]], requests) as load:
        registry.down()
        space.apply(pipeline(there, deployment=TWO))

        seen = space.until_waiting("SourceUnreachable")

        _blames(seen, there, "SourceUnreachable", where="Reconciling")
        assert space.served() == {version(rf)}
        load.changing()
        registry.up()
        space.until_ready(version(gbr))
        load.promised(version(gbr))
        verdict = load.stop()

    assert verdict.clean == (0, 0, 0), str(verdict)
    assert space.identities() == before


def test_a_registry_that_goes_away_between_resolving_and_fetching(
    space: Space, shelf: Shelf, rf: Model, gbr: Model
) -> None:
    """A version that is known already, and that new pods cannot fetch, waits for the registry, too."""
    registry = _Registry(space, shelf.registry)
    registry.up()
    space.apply(pipeline(registry.model(gbr)))
    space.until_ready(version(gbr))
    space.apply(pipeline(registry.model(rf)))
    space.until_ready(version(rf))
    registry.down()
    old = {pod["metadata"]["name"] for pod in space.pods()}
    space.do("delete", "pod", *old, "--wait=false")
    space.until(
        lambda seen: condition(seen, "Reconciling").get("reason") == "SourceUnreachable",
        "the new pod's reason in the object",
    )

    registry.up()

    space.until(lambda seen: condition(seen, "Ready").get("status") == "True", "Ready again")
    assert not old & {pod["metadata"]["name"] for pod in space.pods()}
    assert space.served() == {version(rf)}


class _Registry:
    """The real registry as the test's namespace knows it, behind a forwarder that can be taken away."""

    def __init__(self, space: Space, real: str) -> None:
        self._space = space
        self._real = real
        self._address = f"registry.{space.name}.svc:5000"
        labels = {"app": "registry"}
        space.apply(
            sources("forward"),
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "registry"},
                "spec": {"selector": labels, "ports": [{"port": 5000}]},
            },
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "registry"},
                "spec": {
                    "replicas": 0,
                    "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": self._pod()},
                },
            },
        )

    def _pod(self) -> Object:
        command = ["-m", "kit.cluster.forward", "5000", self._real]
        spec = program("registry", "forward", command)
        # With 0 the pod is gone for the API before its process is.
        spec["terminationGracePeriodSeconds"] = 1
        (container,) = spec["containers"]
        container["readinessProbe"] = {"tcpSocket": {"port": 5000}, "periodSeconds": 1}
        return spec

    def up(self) -> None:
        self._space.do("scale", "deployment/registry", "--replicas=1")
        self._space.do("rollout", "status", "deployment/registry", "--timeout=120s")
        self._until(200)

    def down(self) -> None:
        self._space.do("scale", "deployment/registry", "--replicas=0")
        self._space.do("wait", "--for=delete", "pods", "-l", "app=registry", "--timeout=120s")
        self._until(CUT)

    def _until(self, status: int) -> None:
        """Wait until pods see it so: routes follow a pod a moment later."""
        deadline = time.monotonic() + 60
        host, _, port = self._address.partition(":")
        while self._space.load_pod.ask([host], int(port), "/v2/")[0].status != status:
            assert time.monotonic() < deadline, f"{self._address} does not answer {status}"

    def model(self, model: Model) -> Model:
        """The same model, fetched through the forwarder."""
        return model.at(model.uri.replace(self._real, self._address, 1), insecure=True)


def _blames(seen: Object, model: Model, reason: str, where: str = "Stalled") -> None:
    """Conditions name step, model and reason."""
    for kind in ("Ready", where):
        said = condition(seen, kind)
        assert said["reason"] == reason, said
        assert "'predict'" in said["message"], said
        assert model.name in said["message"], said


def _is_told_once(space: Space, model: Model, reason: str) -> None:
    """An event says the same, and is not repeated over and over."""
    space.until_event(reason)
    events: list[Any] = [event for event in space.events() if event["reason"] == reason]
    assert all("'predict'" in event["message"] for event in events)
    assert all(model.name in event["message"] for event in events)
    assert {event["type"] for event in events} == {"Warning"}
    assert sum(_times(event) for event in events) <= 3


def _times(event: Object) -> int:
    return int((event.get("series") or {}).get("count") or event.get("count") or 1)


def test_an_engine_image_that_cannot_be_pulled_keeps_the_old_pods(
    space: Space, rf: Model, gbr: Model, requests: list[wire.Request]
) -> None:
    """New pods that never start do not cost the old ones, and the object says what is the matter."""
    space.apply(pipeline(rf, deployment=TWO))
    space.until_ready(version(rf))
    before = {pod.uid for pod in space.identities()}
    with watched(space, [[rf], [gbr]], requests) as load:
        broken = {**TWO, "engine": {"image": "localhost/nobody/has-this:1"}}
        space.apply(pipeline(rf, deployment=broken))
        space.until_pods(
            lambda pods: any(map(_waits_for_its_image, pods)),
            "a pod that waits for its image",
        )
        assert before <= {pod.uid for pod in space.identities()}
        seen = space.until(
            lambda seen: condition(seen, "Ready").get("status") == "False", "not Ready"
        )
        assert condition(seen, "Available")["status"] == "True"
        space.apply(pipeline(rf, deployment=TWO))
        space.until_ready(version(rf))
        verdict = load.stop()

    assert verdict.clean == (0, 0, 0), str(verdict)
    assert before == {pod.uid for pod in space.identities()}
    assert [restarts(pod) for pod in space.pods()] == [0, 0]


def _waits_for_its_image(pod: Object) -> bool:
    return any(
        each.get("state", {}).get("waiting", {}).get("reason")
        in {"ErrImagePull", "ImagePullBackOff"}
        for each in pod["status"].get("containerStatuses") or []
    )
