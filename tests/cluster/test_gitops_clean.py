"""The user's object stays the user's: nothing of ours is on it, and an operator that is away or newer does no harm."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kit import wire
from kit.cluster import install, kubectl
from kit.cluster.kubectl import Object
from kit.cluster.shelf import NAME, Model, pipeline, version
from kit.cluster.spaces import Space
from kit.cluster.watched import watched

TWO: Object = {"replicas": 2}
OWNED = "deployments,services,configmaps,serviceaccounts,controllerrevisions,secrets"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@pytest.mark.parametrize("how", ["apply", "apply --server-side"])
def test_nothing_of_ours_is_on_the_users_object(
    space: Space, rf: Model, gbr: Model, how: str
) -> None:
    """After swaps `kubectl diff` is empty, and the operator has written to the status alone."""
    (_, *flags) = how.split()
    for model in (rf, gbr):
        manifest = json.dumps(pipeline(model, deployment=TWO))
        kubectl.kubectl("apply", *flags, "-n", space.name, "-f", "-", stdin=manifest)
        space.until_ready(version(model))

    done = kubectl.run("diff", *flags, "-n", space.name, "-f", "-", stdin=manifest)

    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
    found = kubectl.kubectl(
        *("get", "pipeline", NAME, "-n", space.name, "-o", "json", "--show-managed-fields")
    )
    metadata = json.loads(found)["metadata"]
    assert metadata.get("finalizers", []) == []
    assert metadata.get("labels", {}) == {}
    assert set(metadata.get("annotations", {})) <= {LAST_APPLIED}
    for entry in metadata["managedFields"]:
        if not entry["manager"].startswith("kubectl"):
            assert entry.get("subresource") == "status", entry


def test_deleting_with_the_operator_down_does_not_hang(space: Space, rf: Model) -> None:
    """Owner references take everything away, though nobody reconciles; nobody brings it back either."""
    space.apply(pipeline(rf))
    space.until_ready(version(rf))
    with _without_an_operator():
        space.do("delete", "pipeline", NAME, "--timeout=30s")
        labels = f"midstream.dev/pipeline={NAME}"
        space.do("wait", "--for=delete", OWNED, "-l", labels, "--timeout=120s")

    space.apply(pipeline(rf, name="another"))
    space.until_ready(name="another")
    assert not [
        each["metadata"]["name"]
        for each in kubectl.listed(OWNED, space.name)
        if each["metadata"]["name"].startswith(NAME)
    ]


def test_what_happens_while_the_operator_is_down_is_found_again(
    space: Space, rf: Model, gbr: Model, requests: list[wire.Request]
) -> None:
    """A change of the spec, a deleted Service and an edited Deployment are put right; requests go on meanwhile."""
    space.apply(pipeline(rf, deployment=TWO))
    space.until_ready(version(rf))
    before = space.identities()
    with watched(space, [[rf], [gbr]], requests) as load:
        with _without_an_operator():
            space.do("delete", "service", f"{NAME}-engine", "--wait=false")
            space.do("label", "deployment", f"{NAME}-engine-lb", "app.kubernetes.io/managed-by-")
            load.changing()
            space.apply(pipeline(gbr, deployment=TWO))
        space.until_ready(version(gbr))
        load.promised(version(gbr))
        kubectl.until(
            *("service", f"{NAME}-engine", space.name),
            wanted=lambda _: True,
            what="the Service again",
        )
        kubectl.until(
            *("deployment", f"{NAME}-engine-lb", space.name),
            wanted=lambda seen: (
                seen["metadata"]["labels"].get("app.kubernetes.io/managed-by") == "midstream"
            ),
            what="the label again",
        )
        verdict = load.stop()

    assert verdict.report.mixed == 0, str(verdict)
    assert space.identities() == before


def test_a_restart_of_the_operator_writes_nothing(space: Space, rf: Model, gbr: Model) -> None:
    """The next operator finds everything as it should be: no version, no swap, no object is written."""
    for model in (rf, gbr):
        space.apply(pipeline(model, deployment=TWO))
        space.until_ready(version(model))
    before = _written(space)

    install.restart()

    _looked_at_everything(space)
    assert _written(space) == before


def test_an_operator_whose_types_have_one_more_field(
    space: Space, rf: Model, gbr: Model, requests: list[wire.Request]
) -> None:
    """A later operator, with one more field that has a default: no new version, no swap, the same pods."""
    for model in (rf, gbr):
        space.apply(pipeline(model, deployment=TWO))
        space.until_ready(version(model))
    before, pods = _history(space), space.identities()
    sequence, swaps = space.sequence(), _swaps(space)
    with watched(space, [[gbr]], requests) as load, _with_one_more_field():
        _looked_at_everything(space)
        assert _history(space) == before
        assert (space.sequence(), _swaps(space)) == (sequence, swaps)
        # It goes on from there, with the same versions as the one before.
        space.apply(pipeline(gbr, deployment=TWO, tags=["seen-by-a-later-operator"]))
        seen = space.until_ready(version(gbr))
        assert len(seen["status"]["versions"]) == 2
        verdict = load.stop()

    assert verdict.clean == (0, 0, 0), str(verdict)
    assert space.identities() == pods
    assert _swaps(space) == swaps


@contextmanager
def _without_an_operator() -> Iterator[None]:
    install.scale(0)
    try:
        yield
    finally:
        install.scale(1)


@contextmanager
def _with_one_more_field() -> Iterator[None]:
    """Let the operator run with types of its own image, into which one field more was written."""
    script = (
        "import json, pathlib, midstream_api; here = pathlib.Path(midstream_api.__file__).parent; "
        "print(json.dumps({file.name: file.read_text() for file in here.glob('*.py')}))"
    )
    found = install.deployment()
    deployment = f"deployment/{found['metadata']['name']}"
    files = json.loads(_in_operator(deployment, script))
    changed = {name: _one_more_field(text) for name, text in files.items()}
    assert sum(changed[name] != files[name] for name in files) >= 6
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "later-types"},
        "data": changed,
    }
    kubectl.apply(config_map, namespace=install.NAMESPACE)
    (container,) = found["spec"]["template"]["spec"]["containers"]
    volume = {"name": "later", "configMap": {"name": "later-types"}}
    mount = {"name": "later", "mountPath": "/later/midstream_api"}
    path = {"name": "PYTHONPATH", "value": "/later:/opt/midstream/packages"}
    later = {"name": container["name"], "env": [path], "volumeMounts": [mount]}
    spec = {"containers": [later], "volumes": [volume]}
    try:
        install.patch(json.dumps({"spec": {"template": {"spec": spec}}}))
        ask = "from midstream_api.model import Model; print('later_field' in Model.model_fields)"
        assert _in_operator(deployment, ask).strip() == "True"
        yield
    finally:
        kubectl.kubectl("rollout", "undo", deployment, "-n", install.NAMESPACE)
        install.ready()
        kubectl.kubectl("delete", "configmap", "later-types", "-n", install.NAMESPACE)


def _one_more_field(text: str) -> str:
    return re.sub(
        r"(class (?:Model|PipelineSpec|Deployment|ResolvedModel|Validation|(?:Step|Split|Variant|Shadow)Of)"
        r'\(Strict(?:, Generic\[M\])?\):\n(?:    """[^"]*"""\n)?)',
        r'\1    later_field: str = "as it always was"\n',
        text,
    )


def _in_operator(deployment: str, script: str) -> str:
    return kubectl.kubectl(
        "exec", deployment, "-n", install.NAMESPACE, "--", "python", "-c", script
    )


def _looked_at_everything(space: Space) -> None:
    """Return when the operator that runs now has looked at all that was there before.

    It looks at everything in its first lists before it takes a change, so a new pipeline that is settled tells.
    """
    space.apply(pipeline(name="sentinel", deployed=False))
    space.until(
        lambda seen: bool(seen.get("status", {}).get("observedGeneration")),
        "the status of the sentinel",
        name="sentinel",
    )


def _written(space: Space) -> dict[str, str]:
    """How often each object of the pipeline was written, as the API server counts."""
    labels = f"midstream.dev/pipeline={NAME}"
    owned = kubectl.listed(f"{OWNED},pods", space.name, labels)
    return {
        f"{each['kind']}/{each['metadata']['name']}": each["metadata"]["resourceVersion"]
        for each in [*owned, space.get()]
    }


def _history(space: Space) -> list[Object]:
    return [
        {key: each[key] for key in ("version", "revision", "creationTime", "lastUpdatedTime")}
        for each in space.get()["status"]["versions"]
    ]


def _swaps(space: Space) -> list[str]:
    """How often each engine has swapped, as the engines count."""
    ips = [pod["status"]["podIP"] for pod in space.pods()]
    return [
        line
        for reply in space.load_pod.ask(ips, 8081, "/metrics")
        for line in reply.text.splitlines()
        if line.startswith("midstream_engine_swaps_total")
    ]
