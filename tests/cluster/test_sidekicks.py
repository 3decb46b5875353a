"""Code that goes wrong costs its request and nobody else's, in the engine's container and in one of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kit.cluster import kinds, kubectl, node
from kit.cluster.kinds import Priced, asked, manifest, pushed, python
from kit.cluster.kubectl import Object
from kit.cluster.pods import Reply
from kit.cluster.shelf import Shelf
from kit.cluster.spaces import Space, is_up, restarts

FAULTY = """\
import os, time

def process(inputs):
    first = float(inputs["house"][0][0])
    if first == 901:
        raise ValueError("a row that this code does not like")
    if first == 902:
        os.kill(os.getpid(), 9)
    if first == 903:
        hold = [bytearray(64 << 20) for _ in range(200)]
    if first == 904:
        time.sleep(3600)
    return {"price": inputs["house"].sum(axis=1)}
"""
FAULTS = {
    "an exception": (901, 502, "a row that this code does not like"),
    "a dead process": (902, 502, "SIGKILL"),
    "more memory than there is": (903, 502, ""),
    "an endless wait": (904, 504, ""),
}
DEPLOYMENTS: dict[str, Object] = {
    "one container": {"replicas": 1},
    "sidekick": {"replicas": 1, "sidekick": {}},
}


def house(first: float) -> dict[str, Any]:
    return {"house": [first, 1.0, 1.0, 1.0]}


@pytest.mark.parametrize("deployment", DEPLOYMENTS.values(), ids=DEPLOYMENTS)
def test_a_fault_of_code_costs_its_request(space: Space, deployment: Object) -> None:
    """502 or 504 that names the step; the next request is answered, and no container is started anew."""
    model = python("faulty", {"inline": FAULTY}, kinds.HOUSE, "price", [])
    space.apply(manifest([{"name": "check", "model": model}], deployment=deployment))
    space.until_ready()
    before = space.identities()

    for first, status, told in FAULTS.values():
        reply = space.ask([house(first)])
        assert (reply.status, "check" in reply.text) == (status, True), reply.text
        assert told in reply.text
        until_answered(space)

    assert space.identities() == before
    assert {restarts(pod) for pod in space.pods()} == {0}


def test_a_container_of_its_own_has_the_processes_and_nothing_of_the_engine(
    space: Space, shelf: Shelf, tmp_path: Path
) -> None:
    """Added while requests come: new pods, none lost. The code runs there, sees no config, no models and no logins."""
    priced = Priced()
    steps = priced.steps(tmp_path)
    space.apply(pushed(shelf, tmp_path, manifest(steps, deployment={"replicas": 2})))
    seen = space.until_ready()
    engines = space.identities()
    with asked(space, kinds.rows(), rate=40) as load:
        load.serves(seen, priced)
        space.patch({"spec": {"deployment": {"sidekick": {}}}})
        space.until_ready(seen["status"]["version"], seconds=240)
        verdict = load.stop()

    assert verdict.clean == (0, 0, 0), str(verdict)
    pods = space.pods()
    assert not {each.uid for each in space.identities()} & {each.uid for each in engines}
    for pod in pods:
        assert containers(space, pod) == {"engine": 0, "sidekick": 2}
        listing = (
            "import os; print([p for p in ('/etc/midstream', '/persist') if os.path.exists(p)])"
        )
        found = kubectl.kubectl(
            *("exec", pod["metadata"]["name"], "-n", space.name, "-c", "sidekick", "--"),
            *("python", "-c", listing),
        )
        assert found.strip() == "[]"


def test_a_container_that_ends_is_started_again_and_serves(space: Space) -> None:
    """The engine stays as it is; its pod is ready again when the other container is."""
    model = python("faulty", {"inline": FAULTY}, kinds.HOUSE, "price", [])
    deployment = DEPLOYMENTS["sidekick"]
    space.apply(manifest([{"name": "check", "model": model}], deployment=deployment))
    space.until_ready()
    (pod,) = space.pods()

    node.kill(pod, "midstream_engine.sidekicks.host")
    space.until_pods(lambda pods: [restarts(each) for each in pods] == [1], "one restart")
    space.until_pods(lambda pods: all(map(is_up, pods)), "the pod is ready")
    until_answered(space)

    (again,) = space.pods()
    assert again["metadata"]["uid"] == pod["metadata"]["uid"]
    assert [each["restartCount"] for each in again["status"]["containerStatuses"]] == [0]


def until_answered(space: Space) -> Reply:
    """Ask until a process is there again: it is started anew with a growing pause."""
    for _ in range(60):
        reply = space.ask([house(1.0)])
        if reply.status == 200:
            assert reply.value[0]["out"]["price"] == 4.0
            return reply
        assert reply.status in (502, 503), reply.text
    raise AssertionError(f"still not answered: {reply}")


def containers(space: Space, pod: Mapping[str, Any]) -> dict[str, int]:
    """How many processes of Python models each container of a pod has."""
    count = (
        "import glob, os; own = f'/proc/{os.getpid()}/cmdline'\n"
        "found = (open(f, 'rb').read() for f in glob.glob('/proc/[0-9]*/cmdline') if f != own)\n"
        "print(sum(b'sidekicks.worker' in line for line in found))"
    )
    return {
        name: int(
            kubectl.kubectl(
                *("exec", pod["metadata"]["name"], "-n", space.name, "-c", name, "--"),
                *("python", "-c", count),
            )
        )
        for name in ("engine", "sidekick")
    }
