"""A namespace of a test's own, with one pipeline in it, and what is seen of it there."""

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from kit.cluster import kubectl
from kit.cluster.kubectl import SECONDS, Object
from kit.cluster.pods import PATH, LoadPod, Reply
from kit.cluster.shelf import NAME
from kit.swapping import distinct_rows

ENGINE_PORT = 8080
MANAGEMENT_PORT = 8081
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


class Identity(NamedTuple):
    """What must stay when a model is swapped."""

    name: str
    uid: str
    restarts: int
    node: str
    ip: str


class Space:
    """A namespace. The pipeline is `house-price` unless another name is given."""

    def __init__(self, name: str, load: LoadPod) -> None:
        self.name = name
        self.load_pod = load

    # Doing

    def apply(self, *objects: Mapping[str, Any]) -> str:
        return kubectl.apply(*objects, namespace=self.name)

    def patch(self, patch: Mapping[str, Any], name: str = NAME) -> str:
        """Change some fields of the pipeline's object."""
        return self.do("patch", "pipeline", name, "--type=merge", "-p", json.dumps(patch))

    def do(self, *arguments: str) -> str:
        """Run kubectl in this namespace."""
        return kubectl.kubectl(*arguments, "-n", self.name)

    # Seeing

    def get(self, name: str = NAME) -> Object:
        """The pipeline's object."""
        found = kubectl.get("pipeline", name, self.name)
        assert found is not None, f"pipeline {name} is gone"
        return found

    def pods(self, name: str = NAME, app: str = "engine") -> list[Object]:
        """Pods of a pipeline that are not being deleted, by name."""
        labels = f"midstream.dev/pipeline={name},app.kubernetes.io/name={app}"
        found = kubectl.listed("pods", self.name, labels)
        alive = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
        return sorted(alive, key=lambda pod: str(pod["metadata"]["name"]))

    def identities(self, app: str = "engine") -> list[Identity]:
        """Who the pods are, and how often they were started anew."""
        return [
            Identity(
                pod["metadata"]["name"],
                pod["metadata"]["uid"],
                restarts(pod),
                pod["spec"].get("nodeName", ""),
                pod["status"].get("podIP", ""),
            )
            for pod in self.pods(app=app)
        ]

    def deployment(self, name: str = f"{NAME}-engine") -> Object:
        found = kubectl.get("deployment", name, self.name)
        assert found is not None, f"Deployment {name} is gone"
        return found

    def template(self, name: str = f"{NAME}-engine") -> Any:
        """The pod template of the engines, and how often it changed."""
        found = self.deployment(name)
        return found["spec"]["template"], found["metadata"]["annotations"].get(
            "deployment.kubernetes.io/revision"
        )

    def events(self, name: str = NAME) -> list[Object]:
        """Events about the pipeline's object."""
        return [
            event
            for event in kubectl.listed("events", self.name)
            if event["involvedObject"]["kind"] == "Pipeline"
            and event["involvedObject"]["name"] == name
        ]

    def revisions(self, name: str = NAME) -> list[Object]:
        """The versions on record."""
        return kubectl.listed("controllerrevisions", self.name, f"midstream.dev/pipeline={name}")

    def sequence(self, name: str = NAME) -> int:
        """How often the engines' folder was written."""
        found = kubectl.get("configmap", f"{name}-engine", self.name)
        assert found is not None
        return int(json.loads(found["data"]["index.json"])["sequence"])

    # Asking

    @property
    def host(self) -> str:
        """The load balancer's Service, as pods know it."""
        return f"{NAME}-engine-lb.{self.name}.svc"

    def ask(self, rows: Sequence[Mapping[str, Any]] | None = None) -> Reply:
        """Ask through the load balancer, from a pod."""
        rows = rows or distinct_rows()[:1]
        (reply,) = self.load_pod.ask([self.host], 29502, PATH, rows)
        return reply

    def until_answered(self, version: str, seconds: float = 60) -> None:
        """Ask through the load balancer until a version answers: the cluster's name server may remember old things."""
        deadline = time.monotonic() + seconds
        while (reply := self.ask()).version != version:
            assert time.monotonic() < deadline, f"not {version} within {seconds} s: {reply}"

    def answering(self, rows: Sequence[Mapping[str, Any]] | None = None) -> list[Reply]:
        """Ask every engine by itself."""
        ips = [pod["status"]["podIP"] for pod in self.pods()]
        return self.load_pod.ask(ips, ENGINE_PORT, PATH, rows or distinct_rows()[:1])

    def served(self) -> set[str]:
        """The versions that the engines answer with; `""` for one that does not answer."""
        return {reply.version if reply.status == 200 else "" for reply in self.answering()}

    # Waiting

    def until(
        self,
        wanted: Callable[[Object], bool],
        what: str,
        *,
        name: str = NAME,
        seconds: float = SECONDS,
    ) -> Object:
        """Wait until the pipeline's object is as wanted."""
        return kubectl.until("pipeline", name, self.name, wanted, what, seconds)

    def until_ready(
        self, version: str | None = None, *, name: str = NAME, seconds: float = SECONDS
    ) -> Object:
        """Wait until the object as it is now is Ready, and serves this version."""
        generation = self.get(name)["metadata"]["generation"]
        return self.until(
            lambda seen: (
                is_current(seen, generation)
                and condition(seen, "Ready").get("status") == "True"
                and (version is None or seen["status"].get("version") == version)
            ),
            f"Ready with version {version} at generation {generation}",
            name=name,
            seconds=seconds,
        )

    def until_refused(self, reason: str | None = None, *, seconds: float = SECONDS) -> Object:
        """Wait until the object as it is now is not Ready for a lasting reason: Stalled, with that reason."""
        generation = self.get()["metadata"]["generation"]
        return self.until(
            lambda seen: (
                is_current(seen, generation)
                and condition(seen, "Ready").get("status") == "False"
                and condition(seen, "Stalled").get("status") == "True"
                and reason in (None, condition(seen, "Stalled").get("reason"))
            ),
            f"Stalled because of {reason} at generation {generation}",
            seconds=seconds,
        )

    def until_waiting(self, reason: str | None = None, *, seconds: float = SECONDS) -> Object:
        """Wait until the object as it is now is Reconciling for this reason, which heals by itself."""
        generation = self.get()["metadata"]["generation"]
        return self.until(
            lambda seen: (
                is_current(seen, generation)
                and condition(seen, "Ready").get("status") == "False"
                and condition(seen, "Reconciling").get("status") == "True"
                and reason in (None, condition(seen, "Reconciling").get("reason"))
            ),
            f"Reconciling because of {reason} at generation {generation}",
            seconds=seconds,
        )

    def until_event(self, reason: str, name: str = NAME, seconds: float = SECONDS) -> Object:
        """Wait for an event with this reason about the pipeline."""
        with kubectl.watching("events", self.name) as watch:
            return watch.until(
                lambda event: event["reason"] == reason and event["involvedObject"]["name"] == name,
                f"event {reason}",
                seconds,
            )

    def until_pods(
        self, wanted: Callable[[list[Object]], bool], what: str, app: str = "engine"
    ) -> list[Object]:
        """Wait until the pods of the pipeline that are not being deleted are as wanted."""
        labels = f"midstream.dev/pipeline={NAME},app.kubernetes.io/name={app}"
        with kubectl.watching("pods", self.name, "-l", labels) as watch:
            while True:
                watch.drain()
                seen = self.pods(app=app)
                if wanted(seen):
                    return seen
                watch.next_of(what)

    # Telling

    def describe(self) -> str:
        """Everything that may tell why a test failed."""
        commands = [
            ("get", "pipelines", "-o", "yaml", "--show-managed-fields=false"),
            ("get", "pods,deployments,services,configmaps,controllerrevisions", "-o", "wide"),
            ("get", "events", "--sort-by=.lastTimestamp"),
            ("logs", "-l", "app.kubernetes.io/name=engine", "--tail=40", "--prefix"),
            ("logs", "-l", "app.kubernetes.io/name=engine-lb", "--tail=20", "--prefix"),
        ]
        return "\n".join(
            f"$ kubectl {' '.join(command)}\n{done.stdout}{done.stderr}"
            for command in commands
            for done in [kubectl.run(*command, "-n", self.name)]
        )


@contextmanager
def space(load: LoadPod) -> Iterator[Space]:
    """A namespace in which only restricted pods may run."""
    with namespace(f"test-{uuid.uuid4().hex[:8]}") as name:
        yield Space(name, load)


@contextmanager
def namespace(name: str) -> Iterator[str]:
    """Make a namespace; deleted at the end, which nobody waits for."""
    document = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": RESTRICTED},
    }
    kubectl.apply(document)
    try:
        yield name
    finally:
        kubectl.kubectl("delete", "namespace", name, "--wait=false")


def is_current(seen: Object, generation: int) -> bool:
    """The status speaks of this generation, or of a later one."""
    return int(seen.get("status", {}).get("observedGeneration") or 0) >= generation


def condition(seen: Object, kind: str) -> Object:
    """A condition of an object; empty when it is not there."""
    conditions = seen.get("status", {}).get("conditions") or []
    return next((each for each in conditions if each["type"] == kind), {})


def restarts(pod: Object) -> int:
    """How often the containers of a pod were started anew."""
    status = pod["status"]
    lists = (status.get(name) or [] for name in ("containerStatuses", "initContainerStatuses"))
    return sum(each["restartCount"] for found in lists for each in found)


def is_up(pod: Object) -> bool:
    """Ready, and not being deleted."""
    return (
        "deletionTimestamp" not in pod["metadata"]
        and condition(pod, "Ready").get("status") == "True"
    )
