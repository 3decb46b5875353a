"""From nothing to the right answer, with the commands that the documentation gives."""

import json
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import yaml

from kit import client
from kit.cluster import kubectl
from kit.cluster.shelf import NAME, Model, Shelf, pipeline, version
from kit.cluster.spaces import Space, condition
from kit.swapping import HOUSE, distinct_rows

SAMPLES = ("one-row", "large-house")


def test_push_apply_wait_and_ask(space: Space, shelf: Shelf, tmp_path: Path) -> None:
    """`midstream push`, `kubectl apply`, `kubectl wait`, and the load balancer gives the expected price."""
    pushed = tmp_path / "pushed.yaml"
    shelf.push(HOUSE / "pipeline.yaml", "first", "-o", str(pushed))

    space.do("apply", "-f", str(pushed))
    space.do("wait", "--for=condition=Ready", f"pipeline/{NAME}", "--timeout=120s")

    expected = json.loads((HOUSE / "expected" / "rf.json").read_bytes())
    with kubectl.forwarded(f"{NAME}-engine-lb", 29502, space.name) as port:
        for sample in SAMPLES:
            rows = json.loads((HOUSE / "samples" / f"{sample}.json").read_bytes())
            answer = client.infer(port, rows)
            assert answer.status == 200, answer.text
            assert answer.version == version(shelf.example("rf"))
            assert [row["out"] for row in answer.value] == expected[sample]


def test_the_status_tells_where_to_ask_and_what_serves(
    space: Space, rf: Model, shelf: Shelf
) -> None:
    """`status.url` answers from a pod; version, replicas, engines and conditions say what is so; two steps in a row."""
    prepare = shelf.example("prepare-a")
    space.apply(pipeline(prepare, rf, deployment={"replicas": 2}))
    status = space.until_ready(version(prepare, rf))["status"]

    url = urlsplit(status["url"])
    assert url.hostname is not None
    assert url.port == 29502
    (answer,) = space.load_pod.ask([url.hostname], url.port, url.path, distinct_rows()[:1])
    assert (answer.status, answer.version) == (200, status["version"])

    assert status["version"] == status["latestVersion"] == status["targetVersion"]
    assert status["replicas"] == {"desired": 2, "ready": 2, "updated": 2}
    pods = {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in space.pods()}
    assert {engine["name"]: engine["ip"] for engine in status["engines"]} == pods
    assert {engine["status"] for engine in status["engines"]} == {"Running"}
    for engine in status["engines"]:
        (served,) = engine["pipelineStatuses"]["pipelines"]
        assert (served["id"], served["version"]) == (NAME, status["version"])
        shas = [model["sha"] for model in engine["modelStatuses"]["models"]]
        assert sorted(shas) == sorted([prepare.sha256, rf.sha256])
    assert [each["status"] for each in status["engineLBs"]] == ["Running"]
    assert condition({"status": status}, "Available")["status"] == "True"
    assert not condition({"status": status}, "Reconciling")
    assert not condition({"status": status}, "Stalled")


def test_a_pod_has_no_rights(space: Space, rf: Model) -> None:
    """Engines and load balancers carry no token, write only to their volumes, and run as nobody.

    The namespace admits restricted pods only, so that they run at all says the rest.
    """
    space.apply(pipeline(rf))
    space.until_ready()
    for app in ("engine", "engine-lb"):
        (pod,) = space.pods(app=app)
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["serviceAccountName"] == f"{NAME}-{app}"
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert not [
                mount
                for mount in container["volumeMounts"]
                if "serviceaccount" in mount["mountPath"]
            ]
            cpu = container["resources"]["requests"]["cpu"]
            assert int(cpu.removesuffix("m")) <= 50


def test_a_manifest_from_a_laptop_is_answered_with_the_command(space: Space) -> None:
    """A local path is refused with `midstream push` in the message, and heals by applying what push wrote."""
    manifest = yaml.safe_load((HOUSE / "pipeline.yaml").read_text())
    space.apply(manifest)

    seen = space.until_refused("SourceIsLocal")

    message = condition(seen, "Stalled")["message"]
    assert "midstream push" in message
    assert "'predict'" in message
    assert "'rf-house-price'" in message


def test_prices_are_right_for_every_row(space: Space, rf: Model) -> None:
    """Every distinct row, in one request, is answered as the committed expectations say."""
    space.apply(pipeline(rf))
    space.until_ready()
    rows = distinct_rows()
    expected = json.loads((HOUSE / "expected" / "rf.json").read_bytes())["distinct-rows"]

    answer = space.ask(rows)

    assert answer.status == 200, answer.text
    given = np.array([row["out"]["variable"] for row in answer.value])
    np.testing.assert_array_equal(given, np.array([row["variable"] for row in expected]))
