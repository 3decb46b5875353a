"""GitOps with a real Argo CD: a commit swaps models in place, `git revert` rolls back, a broken model is Degraded.

Argo CD must be able to read Git repositories of this machine (`file://`): `MIDSTREAM_TEST_GIT` names a folder that both
see; left out, the tests' temporary folder.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from kit import models, wire
from kit.cluster import install, kubectl
from kit.cluster.kubectl import Object
from kit.cluster.shelf import Model, pipeline, version
from kit.cluster.spaces import Space
from kit.cluster.watched import watched

ARGOCD = "argocd"
TWO: Object = {"replicas": 2}
HEALTH = install.CHART / "files" / "argocd-health.lua"
KEY = "resource.customizations.health.midstream.dev_Pipeline"


class Repository:
    """A Git repository with one manifest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._git("init", "--initial-branch=main", "--quiet")

    def commit(self, manifest: Object, message: str) -> str:
        """Change the manifest; the commit's id."""
        (self.folder / "pipeline.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))
        self._git("add", "pipeline.yaml")
        self._git("commit", "--quiet", f"--message={message}")
        return self._git("rev-parse", "HEAD")

    def revert(self) -> str:
        """Take the last commit back by another one."""
        self._git("revert", "--no-edit", "HEAD")
        return self._git("rev-parse", "HEAD")

    def _git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
        done = subprocess.run(
            ["git", *identity, *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture(scope="module")
def argocd(cluster: None) -> None:  # noqa: ARG001 - first of all
    """Argo CD with the health check that the chart ships."""
    if kubectl.run("get", "crd", "applications.argoproj.io").returncode != 0:
        pytest.skip("needs Argo CD in the cluster: applications.argoproj.io is not there")
    data = {KEY: HEALTH.read_text()}
    patch = json.dumps({"data": data})
    kubectl.kubectl("patch", "configmap", "argocd-cm", "-n", ARGOCD, "--type=merge", "-p", patch)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    folder = Path(os.environ.get("MIDSTREAM_TEST_GIT", tmp_path)) / f"git-{os.urandom(4).hex()}"
    folder.mkdir(parents=True)
    return Repository(folder)


@pytest.fixture
def application(space: Space, repository: Repository) -> Iterator[Callable[[], str]]:
    """Make the Application, once there is a commit; its name."""
    name = space.name

    def make() -> str:
        kubectl.apply(
            {
                "apiVersion": "argoproj.io/v1alpha1",
                "kind": "Application",
                "metadata": {"name": name},
                "spec": {
                    "project": "default",
                    "source": {
                        "repoURL": f"file://{repository.folder}",
                        "path": ".",
                        "targetRevision": "main",
                    },
                    "destination": {
                        "server": "https://kubernetes.default.svc",
                        "namespace": space.name,
                    },
                    "syncPolicy": {"automated": {"selfHeal": True, "prune": True}},
                },
            },
            namespace=ARGOCD,
        )
        return name

    yield make
    kubectl.run("delete", "application", name, "-n", ARGOCD, "--ignore-not-found", "--wait=false")


def test_commits_swap_models_and_a_revert_rolls_back(
    space: Space,
    argocd: None,  # noqa: ARG001 - must be there
    repository: Repository,
    application: Callable[[], str],
    rf: Model,
    gbr: Model,
    requests: list[wire.Request],
) -> None:
    """Progressing, then Synced and Healthy, for each commit; in the same pods, without a lost request or drift."""
    first = repository.commit(pipeline(rf, deployment=TWO), "Serve the forest")
    name = application()
    with kubectl.watching(
        "applications", ARGOCD, "--field-selector", f"metadata.name={name}"
    ) as watch:
        watch.until(lambda seen: _health(seen) == "Progressing", "Progressing")
        watch.until(lambda seen: _is_settled(seen, first), "Synced and Healthy")
    space.until_ready(version(rf))
    before = space.identities()
    with watched(space, [[rf], [gbr]], requests) as load:
        load.changing()
        second = repository.commit(pipeline(gbr, deployment=TWO), "Serve the boosted trees")
        space.until(lambda seen: _serves(seen, gbr), "the second commit's model to serve")
        application_now = _until(name, lambda seen: _is_settled(seen, second), "settled")
        load.promised(version(gbr))
        assert _is_without_drift(application_now)
        load.changing()
        third = repository.revert()
        space.until(lambda seen: _serves(seen, rf), "the first commit's model to serve")
        application_now = _until(name, lambda seen: _is_settled(seen, third), "settled")
        load.promised(version(rf))
        verdict = load.stop()

    # One sync for each commit: what the operator does is no reason to heal.
    assert [each["revision"] for each in application_now["status"]["history"]] == [
        *(first, second, third)
    ]
    assert _is_without_drift(application_now)
    assert verdict.clean == (0, 0, 0), str(verdict)
    assert space.identities() == before
    assert [each["version"] for each in space.get()["status"]["versions"]] == [
        version(rf),
        version(gbr),
    ]


def test_a_broken_model_is_degraded_while_the_old_version_serves(
    space: Space,
    argocd: None,  # noqa: ARG001 - must be there
    repository: Repository,
    application: Callable[[], str],
    push: Callable[..., Model],
    rf: Model,
    requests: list[wire.Request],
) -> None:
    """The Application is Degraded with the reason of the condition, and Healthy again after `git revert`."""
    first = repository.commit(pipeline(rf, deployment=TWO), "Serve the forest")
    name = application()
    _until(name, lambda seen: _is_settled(seen, first), "Synced and Healthy")
    space.until_ready(version(rf))
    broken = push(models.not_onnx, "page")
    with watched(space, [[rf]], requests) as load:
        repository.commit(pipeline(broken, deployment=TWO), "Serve a page")
        seen = _until(name, lambda seen: _health(seen) == "Degraded", "Degraded")
        (resource,) = [each for each in seen["status"]["resources"] if each["kind"] == "Pipeline"]
        assert resource["health"]["status"] == "Degraded"
        found = space.until_refused("InvalidModel")
        assert found["status"]["version"] == version(rf)
        application_tree = json.dumps(seen["status"])
        assert "InvalidModel" in application_tree or broken.name in application_tree
        assert space.served() == {version(rf)}
        last = repository.revert()
        _until(name, lambda seen: _is_settled(seen, last), "Synced and Healthy")
        verdict = load.stop()

    assert verdict.clean == (0, 0, 0), str(verdict)


def _until(name: str, wanted: Callable[[Object], bool], what: str) -> Object:
    return kubectl.until("applications", name, ARGOCD, wanted, what, 180)


def _health(seen: Object) -> str:
    return str(seen.get("status", {}).get("health", {}).get("status", ""))


def _is_settled(seen: Object, revision: str) -> bool:
    status = seen.get("status", {})
    sync = status.get("sync", {})
    return (sync.get("status"), sync.get("revision"), _health(seen)) == (
        *("Synced", revision),
        "Healthy",
    ) and status.get("operationState", {}).get("phase") == "Succeeded"


def _is_without_drift(seen: Object) -> bool:
    return all(each["status"] == "Synced" for each in seen["status"]["resources"])


def _serves(seen: Object, model: Model) -> bool:
    return bool(seen.get("status", {}).get("version") == version(model))
