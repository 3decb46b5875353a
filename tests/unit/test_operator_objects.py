"""The objects that a Pipeline owns: complete, restricted, and blind to what must not replace pods."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import JsonValue

from midstream_api import names, version
from midstream_api.engineconfig import (
    Index,
    IndexEntry,
    ResolvedModel,
    ResolvedStep,
    RevisionDocument,
)
from midstream_api.model import Framework, Verify
from midstream_api.pipeline import PipelineSpec
from midstream_operator import drift, metadata, objects
from midstream_operator.metadata import Owner

OWNER = Owner("house-price", "workspace-a", "11111111-2222-4333-8444-555555555555")
IMAGES = objects.Images("engine:1", "engine-lb:1")


def spec(
    model: str = "rf", deployment: dict[str, Any] | None = None, **fields: Any
) -> PipelineSpec:
    source = {"uri": f"oci://registry/models/{model}:1"}
    steps = [{"name": "predict", "model": {"name": model, "source": source}}]
    return PipelineSpec.model_validate(
        {"steps": steps, "deployment": deployment or {}, **fields}, strict=False
    )


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


def index_of(*documents: bytes) -> tuple[Index, dict[str, bytes]]:
    files = {f"{hashlib.sha256(each).hexdigest()[:16]}.json": each for each in documents}
    entries = [
        IndexEntry(
            revision=name.removesuffix(".json"),
            version="v",
            document=name,
            sha256=hashlib.sha256(data).hexdigest(),
        )
        for name, data in files.items()
    ]
    index = Index(
        pipeline=OWNER.name,
        uid=OWNER.uid,
        sequence=1,
        stable=entries[0],
        candidate=entries[1] if entries[1:] else None,
    )
    return index, files


def document(model: str = "rf") -> bytes:
    resolved = ResolvedModel(name=model, uri="oci://registry/rf", sha256="0" * 64, size=1)
    return version.dump(
        RevisionDocument(
            pipeline=OWNER.name, version="v", steps=[ResolvedStep(name="predict", model=resolved)]
        )
    )


def everything() -> list[dict[str, Any]]:
    index, files = index_of(document())
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


@pytest.mark.parametrize("made", everything(), ids=lambda each: f"{each['kind']}")
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


@pytest.mark.parametrize("made", everything(), ids=lambda each: f"{each['kind']}")
def test_nothing_is_written_that_the_server_would_drop(made: dict[str, Any]) -> None:
    """An empty list or a null would come back as nothing, and be drift for ever."""
    assert [] == list(empties(made))


STEP_CHANGES = {
    "another model": spec("gbr"),
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


def test_the_config_map_is_the_config_folder() -> None:
    """The index and each document, byte for byte."""
    index, files = index_of(document(), document("gbr"))
    data = objects.config_map(OWNER, index, files)["data"]

    assert Index.model_validate_json(data.pop(names.INDEX_FILE)) == index
    assert files == {name: text.encode() for name, text in data.items()}


def test_a_document_that_does_not_fit_is_refused() -> None:
    """The largest that fits is taken, twice with its index; one byte more is an error that gives size and limit."""
    index, files = index_of(b"x" * names.MAX_CONFIG, b"y" * names.MAX_CONFIG)
    data = objects.config_map(OWNER, index, files)["data"]
    assert sum(len(each) for each in data.values()) <= 1 << 20  # what an API server takes

    index, files = index_of(b"x" * (names.MAX_CONFIG + 1))
    with pytest.raises(
        objects.ConfigTooLarge, match="has 409601 bytes, and the limit is 409600"
    ) as said:
        objects.config_map(OWNER, index, files)
    assert "ConfigTooLarge" == said.value.reason


@pytest.mark.parametrize(
    ("code", "rows", "told"),
    [
        (0, 0, r"give it fewer or smaller steps"),
        (9, 0, r"9 of them are code in source\.inline: put it in files.*push`[^;]*$"),
        (0, 2, r"\d\d of them are golden rows: give fewer or smaller ones in verify$"),
        (999, 2, r"code in source\.inline.*; \d\d of them are golden rows"),
        (9, 50, r"golden rows.*; 9 of them are code"),
    ],
)
def test_a_document_that_does_not_fit_says_what_is_large_in_it(
    code: int, rows: int, told: str
) -> None:
    """What takes the most room comes first, with what to do about it; what takes none is not spoken of."""
    row: list[dict[str, JsonValue]] = [{"x": [1]}] * rows
    model = ResolvedModel(
        name="rf",
        framework=Framework.PYTHON,
        uri=None if code else "oci://registry/rf",
        inline="x" * code or None,
        sha256="0" * 64,
        size=1,
        verify=Verify(inputs=row, outputs=row) if rows else None,
    )
    steps = [ResolvedStep(name="predict", model=model)]
    large = RevisionDocument(pipeline=OWNER.name, version="v", steps=steps)

    said = objects.ConfigTooLarge.of(large, 500_000)

    assert "has 500000 bytes, and the limit is 409600" in str(said)
    assert re.search(told, str(said)), str(said)


def test_an_index_without_its_document_is_a_defect() -> None:
    """An engine could not obey it."""
    index, _ = index_of(document())
    with pytest.raises(ValueError, match="which is not among"):
        objects.config_map(OWNER, index, {})


def test_logins_of_several_secrets_become_one() -> None:
    """Every registry's login is kept, the earlier one where two are for the same registry; helpers are left out."""
    secret = objects.registry_secret(
        OWNER,
        [
            {"auths": {"a": {"auth": "MQ=="}}, "credsStore": "desktop"},
            {"auths": {"a": {"auth": "Mg=="}, "b": {"auth": "Mw=="}}},
            {},
        ],
    )
    assert secret is not None
    content = json.loads(base64.b64decode(secret["data"]["config.json"]))

    assert {"auths": {"a": {"auth": "MQ=="}, "b": {"auth": "Mw=="}}} == content


@pytest.mark.parametrize("given", [[], [{}], [{"auths": {}}], [{"auths": None}]])
def test_without_logins_there_is_no_secret(given: list[dict[str, Any]]) -> None:
    """Nothing is made of nothing."""
    assert objects.registry_secret(OWNER, given) is None


def test_the_digest_is_of_everything_but_itself() -> None:
    """Applying it again changes nothing, a change of any field does."""
    made = desired()["Service/-engine"]

    assert made == metadata.digested(made)
    changed = {**made, "spec": {**made["spec"], "type": "NodePort"}}
    assert metadata.digest(made) != metadata.digest(changed)
