"""The objects that a Pipeline owns: complete, restricted, and blind to what must not replace pods."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from kit.situations import OWNER, A, index_of
from midstream_api import names, version
from midstream_api.pipeline import PipelineSpec
from midstream_operator import drift, metadata, objects
from midstream_operator.metadata import Owner

IMAGES = objects.Images("engine:1", "engine-lb:1")


def spec(
    model: str = "rf",
    deployment: dict[str, Any] | None = None,
    steps: list[dict[str, Any]] | None = None,
    **fields: Any,
) -> PipelineSpec:
    source = {"uri": f"oci://registry/models/{model}:1"}
    steps = steps or [{"name": "predict", "model": {"name": model, "source": source}}]
    return PipelineSpec.model_validate(
        {"steps": steps, "deployment": deployment or {}, **fields}, strict=False
    )


SIDEKICK = spec(deployment={"sidekick": {}})


def desired(given: PipelineSpec | None = None, owner: Owner = OWNER) -> dict[str, dict[str, Any]]:
    """All objects, as `Kind/name` without the pipeline's name."""
    made = objects.desired(owner, given or spec(), IMAGES)
    return {
        f"{each['kind']}/{each['metadata']['name'].removeprefix(owner.name)}": each for each in made
    }


def pod(given: PipelineSpec | None = None, name: str = "engine") -> dict[str, Any]:
    found: dict[str, Any] = desired(given)[f"Deployment/-{name}"]["spec"]["template"]["spec"]
    return found


def container(given: PipelineSpec | None = None, name: str = "engine") -> dict[str, Any]:
    found: dict[str, Any] = pod(given, name)["containers"][0]
    return found


def everything() -> list[dict[str, Any]]:
    index, files = index_of(version.dump(A))
    secret = objects.registry_secret(OWNER, [{"auths": {"registry": {"auth": "eDp5"}}}])
    assert secret is not None
    return [
        *objects.desired(OWNER, spec(), IMAGES),
        objects.config_map(OWNER, index, files),
        secret,
    ]


def test_a_deployed_pipeline_owns_these_objects() -> None:
    """Accounts and Services come before what needs them."""
    assert [
        "ServiceAccount/-engine",
        "ServiceAccount/-engine-lb",
        "Service/-engine",
        "Service/-engine-lb",
        "ConfigMap/-engine-lb",
        "Deployment/-engine",
        "Deployment/-engine-lb",
    ] == list(desired())


def test_a_pipeline_that_is_not_deployed_owns_nothing_that_runs() -> None:
    """Undeploy leaves nothing to apply."""
    assert {} == desired(spec(deployed=False))


@pytest.mark.parametrize(
    "made",
    [*everything(), *objects.desired(OWNER, SIDEKICK, IMAGES)],
    ids=lambda each: f"{each['kind']}",
)
def test_every_object_names_its_owner_and_its_pipeline(made: dict[str, Any]) -> None:
    """Labels find it, the owner reference deletes it, the digest says when it is as it should be."""
    found = made["metadata"]
    component = found["name"].removeprefix("house-price-")

    assert "workspace-a" == found["namespace"]
    assert {
        "app.kubernetes.io/name": component,
        "app.kubernetes.io/instance": "house-price",
        "app.kubernetes.io/managed-by": "midstream",
        "midstream.dev/pipeline": "house-price",
    } == found["labels"]
    assert [
        {
            "apiVersion": "midstream.dev/v1alpha1",
            "kind": "Pipeline",
            "name": "house-price",
            "uid": OWNER.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ] == found["ownerReferences"]
    assert metadata.digest(made) == found["annotations"][names.DIGEST_ANNOTATION]
    assert drift.differs(made, json.loads(json.dumps(made))) is None


def test_names_fit_at_the_longest_pipeline_name() -> None:
    """Names and label values stay within Kubernetes' 63 characters."""
    owner = Owner("p" * names.MAX_PIPELINE_NAME, "workspace-a", "uid")
    for made in objects.desired(owner, spec(), IMAGES):
        assert len(made["metadata"]["name"]) <= 63
        assert all(len(value) <= 63 for value in made["metadata"]["labels"].values())


def empties(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        if not value and not path.endswith("emptyDir"):
            yield path
        for key, each in value.items():
            yield from empties(each, f"{path}.{key}")
    elif isinstance(value, list):
        if not value:
            yield path
        for each in value:
            yield from empties(each, path)
    elif value is None or value == "":
        yield path


@pytest.mark.parametrize(
    "made",
    [*everything(), *objects.desired(OWNER, SIDEKICK, IMAGES)],
    ids=lambda each: f"{each['kind']}",
)
def test_nothing_is_written_that_the_server_would_drop(made: dict[str, Any]) -> None:
    """An empty list or a null would come back as nothing, and be drift for ever."""
    assert [] == list(empties(made))


def python(code: str) -> dict[str, Any]:
    return {"name": "pre", "framework": "Python", "source": {"inline": code}}


STEP_CHANGES = {
    "another model": spec("gbr"),
    "code": spec(steps=[{"name": "predict", "model": python("def process(inputs): ...")}]),
    "a split": spec(
        steps=[
            {
                "name": "predict",
                "split": {
                    "hashKey": "session",
                    "variants": [
                        {"name": "a", "model": python("1")},
                        {"name": "b", "weight": 2, "model": python("2")},
                    ],
                },
            }
        ]
    ),
    "a shadow that takes its time": spec(
        steps=[
            {
                "name": "predict",
                "shadow": {
                    "champion": {"name": "a", "model": python("1")},
                    "challengers": [{"name": "b", "model": python("2")}],
                    "wait": True,
                    "timeoutSeconds": 300,
                },
            }
        ]
    ),
    "validations": spec(validations=[{"name": "high", "expression": "out.y < 5.0"}]),
    "tags": spec(tags=["blue"]),
    "a pinned version": spec(version="11111111-2222-4333-8444-555555555555"),
    "rollout settings": spec(rollout={"allowSchemaChange": True}),
}


@pytest.mark.parametrize("given", STEP_CHANGES.values(), ids=STEP_CHANGES)
def test_a_change_of_what_serves_changes_no_object_but_the_config(given: PipelineSpec) -> None:
    """Steps, tags, version and rollout leave every Deployment as it is, so that no pod is replaced."""
    assert desired() == desired(given)


def test_replicas_change_the_number_and_not_the_template() -> None:
    """Scaling replaces no pod."""
    one, many = desired(), desired(spec(deployment={"replicas": 5, "engineLB": {"replicas": 2}}))
    for name in ("Deployment/-engine", "Deployment/-engine-lb"):
        assert one[name]["spec"]["template"] == many[name]["spec"]["template"]
    assert 5 == many["Deployment/-engine"]["spec"]["replicas"]
    assert 2 == many["Deployment/-engine-lb"]["spec"]["replicas"]


@pytest.mark.parametrize("name", ["engine", "engine-lb"])
def test_pods_are_restricted(name: str) -> None:
    """Not root, no token, nothing to gain, a root file system that cannot be written."""
    found = pod(name=name)

    assert found["automountServiceAccountToken"] is False
    assert f"house-price-{name}" == found["serviceAccountName"]
    assert {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    } == found["securityContext"]
    assert {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
    } == found["containers"][0]["securityContext"]
    mounted = {each["name"] for each in found["containers"][0]["volumeMounts"]}
    assert mounted == {each["name"] for each in found["volumes"]}
    assert {"configMap", "projected", "emptyDir"} >= {
        kind for each in found["volumes"] for kind in each if kind != "name"
    }


def sidekick(given: PipelineSpec = SIDEKICK) -> dict[str, Any]:
    """The container of Python models."""
    (found,) = pod(given)["initContainers"]
    assert isinstance(found, dict)
    return found


def test_without_a_sidekick_pods_have_one_container() -> None:
    """Python models run in it, and its template is that of a pipeline without any."""
    assert "initContainers" not in pod()
    assert ["engine"] == [each["name"] for each in pod()["containers"]]
    assert not [each for each in container()["args"] if "sidekick" in each]


def test_a_sidekick_is_a_container_that_starts_before_the_engine_and_ends_after_it() -> None:
    """Of the engine's image, with a socket that both know."""
    found, engine = sidekick(), container(SIDEKICK)

    assert ("sidekick", "Always") == (found["name"], found["restartPolicy"])
    assert (engine["image"], engine["imagePullPolicy"]) == (
        found["image"],
        found["imagePullPolicy"],
    )
    assert ["python", "-m", "midstream_engine.sidekicks.host"] == found["command"]
    assert ["--socket=/run/midstream/sidekick.sock"] == found["args"]
    assert [*container()["args"], "--sidekick-socket=/run/midstream/sidekick.sock"] == engine[
        "args"
    ]
    mine = spec(deployment={"sidekick": {}, "engine": {"image": "mine:2"}})
    assert "mine:2" == sidekick(mine)["image"]


def test_a_sidekick_sees_nothing_of_the_engine() -> None:
    """One small folder is shared; no config, no logins, no models, no temporary files, no environment."""
    found, engine = sidekick(), container(SIDEKICK)
    mounts = {each["name"]: each["mountPath"] for each in found["volumeMounts"]}
    of_engine = {each["name"]: each["mountPath"] for each in engine["volumeMounts"]}

    assert {"sidekick-sockets": "/run/midstream", "sidekick-tmp": of_engine["tmp"]} == mounts
    assert {"sidekick-sockets"} == set(mounts) & set(of_engine)
    assert mounts["sidekick-sockets"] == of_engine["sidekick-sockets"]
    assert "env" not in found
    volumes = {each["name"]: each for each in pod(SIDEKICK)["volumes"]}
    assert set(mounts) | set(of_engine) == set(volumes)
    assert {"medium": "Memory", "sizeLimit": "1Mi"} == volumes["sidekick-sockets"]["emptyDir"]


def test_a_sidekick_is_restricted_and_bounded() -> None:
    """As every container; with resources of its own, which change nothing of the engine's."""
    given = spec(deployment={"sidekick": {"resources": {"limits": {"memory": "3Gi"}}}})

    assert container()["securityContext"] == sidekick()["securityContext"]
    assert {
        "requests": {"cpu": "50m", "memory": "128Mi"},
        "limits": {"memory": "1Gi"},
    } == sidekick()["resources"]
    assert {"memory": "3Gi"} == sidekick(given)["resources"]["limits"]
    assert container()["resources"] == container(given)["resources"]


def test_a_sidekick_makes_no_new_pods_when_only_steps_change() -> None:
    """Its code comes to it through the engine."""
    step = {"name": "predict", "model": python("def process(inputs): ...")}
    given = spec(deployment={"sidekick": {}}, steps=[step])
    assert desired(SIDEKICK) == desired(given)
    assert desired() != desired(SIDEKICK)


def test_the_engine_is_told_its_folders_and_ports() -> None:
    """Command, folders, ports and its own name."""
    found = container()

    assert ["python", "-m", "midstream_engine"] == found["command"]
    assert [
        "serve",
        "--config=/etc/midstream/config",
        "--state=/persist/state",
        "--cache=/persist/models",
        "--host=0.0.0.0",
        "--port=8080",
        "--management-port=8081",
        "--partition=$(POD_NAME)",
        "--registry-config=/etc/midstream/config/registry/config.json",
    ] == found["args"]
    assert ["POD_NAME"] == [each["name"] for each in found["env"]]


def test_config_assignment_and_logins_are_one_volume() -> None:
    """One projected volume, so that the kubelet changes its files in one stroke; logins may be absent."""
    volume = next(each for each in pod()["volumes"] if each["name"] == "config")
    config_map, downward, secret = volume["projected"]["sources"]

    assert {"name": "house-price-engine"} == config_map["configMap"]
    item = downward["downwardAPI"]["items"][0]
    assert "assignment.json" == item["path"]
    assert "metadata.annotations['midstream.dev/assignment']" == item["fieldRef"]["fieldPath"]
    assert {
        "name": "house-price-engine",
        "optional": True,
        "items": [{"key": "config.json", "path": "registry/config.json"}],
    } == secret["secret"]


def test_the_template_has_no_annotation_that_a_pod_is_told_things_by() -> None:
    """Assignment and nudge are of the pod: in the template they would replace all pods."""
    assert {"labels"} == set(desired()["Deployment/-engine"]["spec"]["template"]["metadata"])


def test_liveness_never_asks_for_a_model() -> None:
    """Only readiness depends on what serves; the others ask the port that callers cannot fill."""
    found = container()

    assert {"path": "/readyz", "port": "data"} == found["readinessProbe"]["httpGet"]
    for probe in ("startupProbe", "livenessProbe"):
        assert {"path": "/livez", "port": "management"} == found[probe]["httpGet"]


def test_a_stopping_engine_serves_until_others_know() -> None:
    """It sleeps for longer than DNS answers are commonly cached, then has time for what is under way."""
    slept = container()["lifecycle"]["preStop"]["sleep"]["seconds"]

    assert 30 < slept <= pod()["terminationGracePeriodSeconds"] - 30


def test_arch_and_image_are_the_users() -> None:
    """Architecture becomes a node selector, the image replaces the operator's."""
    given = spec(deployment={"engine": {"arch": "arm64", "image": "mine:2"}})

    assert {"kubernetes.io/arch": "arm64"} == pod(given)["nodeSelector"]
    assert "nodeSelector" not in pod()
    assert "mine:2" == container(given)["image"]
    assert "engine:1" == container()["image"]
    assert "engine-lb:1" == container(given, "engine-lb")["image"]


RESOURCES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing given": (
        {},
        {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}},
    ),
    "one field given": (
        {"requests": {"cpu": 1}},
        {"requests": {"cpu": "1", "memory": "256Mi"}, "limits": {"memory": "2Gi"}},
    ),
    "more requested than the default limit": (
        {"requests": {"memory": "4Gi"}},
        {"requests": {"cpu": "50m", "memory": "4Gi"}, "limits": {"memory": "4Gi"}},
    ),
    "less allowed than the default request": (
        {"limits": {"memory": "128Mi", "cpu": "20m"}},
        {
            "requests": {"cpu": "20m", "memory": "128Mi"},
            "limits": {"cpu": "20m", "memory": "128Mi"},
        },
    ),
    "everything given": (
        {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "1Gi"}},
        {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "1Gi"}},
    ),
    "a contradiction of the user's own is the server's to refuse": (
        {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}},
        {"requests": {"cpu": "50m", "memory": "2Gi"}, "limits": {"memory": "1Gi"}},
    ),
}


@pytest.mark.parametrize(("given", "wanted"), RESOURCES.values(), ids=RESOURCES)
def test_resources_are_the_users_field_by_field(
    given: dict[str, Any], wanted: dict[str, Any]
) -> None:
    """A default fills what is left out, and gives way where it would contradict."""
    assert wanted == container(spec(deployment={"engine": {"resources": given}}))["resources"]


def test_the_headless_service_leads_to_ready_engines() -> None:
    """Its name gives one address for each ready engine; both ports are named."""
    found = desired()["Service/-engine"]["spec"]

    assert "None" == found["clusterIP"]
    assert [("data", 8080), ("management", 8081)] == [
        (each["name"], each["port"]) for each in found["ports"]
    ]
    # A port's target is the container's port of that name.
    assert {each["targetPort"] for each in found["ports"]} == {
        each["name"] for each in container()["ports"]
    }
    assert "publishNotReadyAddresses" not in found


def test_the_load_balancers_service_is_as_the_user_says() -> None:
    """Type and annotations come from the spec; ours are kept."""
    service = {"type": "LoadBalancer", "annotations": {"provider/internal": "true"}}
    found = desired(spec(deployment={"engineLB": {"service": service}}))["Service/-engine-lb"]

    assert "LoadBalancer" == found["spec"]["type"]
    assert "true" == found["metadata"]["annotations"]["provider/internal"]
    assert names.DIGEST_ANNOTATION in found["metadata"]["annotations"]
    assert [29502] == [each["port"] for each in found["spec"]["ports"]]
    assert "ClusterIP" == desired()["Service/-engine-lb"]["spec"]["type"]


def test_selectors_are_labels_of_the_pods_and_of_no_other_component() -> None:
    """A Service or Deployment selects its own pods only."""
    made = desired()
    for name in ("-engine", "-engine-lb"):
        labels = made[f"Deployment/{name}"]["spec"]["template"]["metadata"]["labels"]
        for other in ("-engine", "-engine-lb"):
            selectors = [
                made[f"Deployment/{other}"]["spec"]["selector"]["matchLabels"],
                made[f"Service/{other}"]["spec"]["selector"],
            ]
            assert [name == other] * 2 == [each.items() <= labels.items() for each in selectors]


def test_a_change_of_the_bootstrap_replaces_the_load_balancer() -> None:
    """The memory limit is in Envoy's bootstrap; its digest is in the pod template."""
    limit = {"engineLB": {"resources": {"limits": {"memory": "1Gi"}}}}
    one, other = desired(), desired(spec(deployment=limit))
    key = "midstream.dev/bootstrap"

    def checksum(made: dict[str, Any]) -> str:
        found: str = made["Deployment/-engine-lb"]["spec"]["template"]["metadata"]["annotations"][
            key
        ]
        return found

    for made in (one, other):
        text = made["ConfigMap/-engine-lb"]["data"]["bootstrap.json"]
        assert hashlib.sha256(text.encode()).hexdigest() == checksum(made)
    assert checksum(one) != checksum(other)
    assert (
        one["ConfigMap/-engine-lb"]["data"]["rds.json"]
        == other["ConfigMap/-engine-lb"]["data"]["rds.json"]
    )


def test_the_load_balancers_files_are_mounted_where_the_launcher_reads_them() -> None:
    """`/etc/engine-lb/bootstrap.json` and `/etc/engine-lb/dynamic/rds.json`, of one volume."""
    volume = pod(name="engine-lb")["volumes"][0]

    assert {"bootstrap.json": "bootstrap.json", "rds.json": "dynamic/rds.json"} == {
        each["key"]: each["path"] for each in volume["configMap"]["items"]
    }
    assert "/etc/engine-lb" == container(name="engine-lb")["volumeMounts"][0]["mountPath"]
    assert {"bootstrap.json", "rds.json"} == set(desired()["ConfigMap/-engine-lb"]["data"])


def test_the_digest_is_of_everything_but_itself() -> None:
    """Applying it again changes nothing, a change of any field does."""
    made = desired()["Service/-engine"]

    assert made == metadata.digested(made)
    changed = {**made, "spec": {**made["spec"], "type": "NodePort"}}
    assert metadata.digest(made) != metadata.digest(changed)
