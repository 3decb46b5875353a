"""The chart as Helm renders it: rights, isolation, and what its values change."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from kit.cluster.command import run

CHART = Path(__file__).parents[2] / "charts" / "midstream"

pytestmark = pytest.mark.usefixtures("cluster")


def rendered(*values: str) -> list[dict[str, Any]]:
    command = ("helm", "template", "midstream", str(CHART), "--namespace", "midstream-system")
    sets = [part for value in values for part in ("--set", value)]
    done = subprocess.run([*command, *sets], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def kinds(documents: list[dict[str, Any]]) -> list[str]:
    return sorted(document["kind"] for document in documents)


def one(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [document for document in documents if document["kind"] == kind]
    return found


def test_lint() -> None:
    """Helm has nothing to say against the chart."""
    run("helm", "lint", "--strict", str(CHART))


def test_the_crd_outlives_the_release() -> None:
    """Uninstalling keeps the CRD, or it would take every Pipeline with it; it can be left out altogether."""
    crd = one(rendered(), "CustomResourceDefinition")
    assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    original = yaml.safe_load((CHART / "files" / "crds" / "pipelines.yaml").read_text())
    assert crd["spec"] == original["spec"]
    assert "CustomResourceDefinition" not in kinds(rendered("crds.install=false"))


def test_rights_are_the_least() -> None:
    """No wildcard; no list of Secrets; Pipelines are never written; nothing may be updated as a whole."""
    rules = one(rendered(), "ClusterRole")["rules"]
    verbs = {
        (group, resource): set(rule["verbs"])
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert verbs["midstream.dev", "pipelines"] == {"get", "list", "watch"}
    assert verbs["midstream.dev", "pipelines/status"] == {"get", "patch"}
    assert not verbs["", "secrets"] & {"list", "watch", "update"}
    assert verbs["", "pods"] == {"get", "list", "watch", "patch"}
    assert "*" not in {word for key in verbs for word in (*key, *verbs[key])}
    assert [key for key in verbs if "update" in verbs[key]] == [
        ("midstream.dev", "pipelines/finalizers")
    ]


def test_rights_in_some_namespaces_only() -> None:
    """With `watchNamespaces` there is a Role in each of them and nothing for the whole cluster."""
    documents = rendered("watchNamespaces={a,b}")
    roles = [document for document in documents if document["kind"] == "Role"]
    assert [role["metadata"]["namespace"] for role in roles] == ["a", "b"]
    assert roles[0]["rules"] == one(rendered(), "ClusterRole")["rules"]
    assert not {"ClusterRole", "ClusterRoleBinding"} & set(kinds(documents))
    container = one(documents, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "NAMESPACES", "value": "a,b"} in container["env"]


def test_images_by_registry_tag_and_digest() -> None:
    """A registry stands before all images; a tag is the chart's unless given for all, or for one; a digest wins."""
    digest = "sha256:" + "a" * 64
    values = (
        "images.registry=registry.example.com/x",
        "images.engine.tag=2",
        f"images.engineLB.digest={digest}",
    )
    container = one(rendered(*values), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert container["image"] == f"registry.example.com/x/midstream-operator:{version}"
    assert environment["ENGINE_IMAGE"] == "registry.example.com/x/midstream-engine:2"
    assert "value: localhost/midstream-engine:dev" in yaml.safe_dump(
        rendered("images.registry=localhost", "images.tag=dev")
    )
    assert environment["ENGINE_LB_IMAGE"] == f"registry.example.com/x/midstream-engine-lb@{digest}"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("images.engien.tag=1", "engien"),
        ("images.pullPolicy=Sometimes", "pullPolicy"),
        ("workers=0", "workers"),
        ("watchNamespaces={A_B}", "watchNamespaces"),
    ],
)
def test_wrong_values_are_refused(value: str, said: str) -> None:
    """A value that is misspelt or out of range is refused with its name."""
    with pytest.raises(AssertionError, match=said):
        rendered(value)


def test_health_check_is_rendered_on_request() -> None:
    """Nothing for Argo CD by default; with the value, the script under the key that Argo CD wants."""
    assert "ConfigMap" not in kinds(rendered())
    data = one(rendered("argocd.healthCheck=true"), "ConfigMap")["data"]
    script = (CHART / "files" / "argocd-health.lua").read_text()
    assert data["resource.customizations.health.midstream.dev_Pipeline"].strip() == script.strip()
