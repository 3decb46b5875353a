"""GitOps with a real Argo CD and the health check of the chart: commits swap models, `git revert` rolls back.

Needs Argo CD in the cluster, and its command line on the PATH.
Argo CD must be able to read Git repositories of this machine (`file://`): `MIDSTREAM_TEST_GIT` names a folder that both
see; left out, the tests' temporary folder.

A swap takes about half a second. Argo CD mostly sees it on its way, and does not have to: so what is shown *meanwhile*
is tested with a change that waits, for a Secret that is not there yet.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from kit import models, wire
from kit.cluster import argocd, install, kubectl
from kit.cluster.argocd import Application, Repository, Shown
from kit.cluster.command import run
from kit.cluster.kubectl import Object
from kit.cluster.shelf import NAME, Model, pipeline, version
from kit.cluster.spaces import Space, condition
from kit.cluster.watched import watched

TWO: Object = {"replicas": 2}
KEY = "resource.customizations.health.midstream.dev_Pipeline"
SECRET = "login"  # noqa: S105 - a name


@pytest.fixture(scope="module")
def gitops(
    cluster: None,  # noqa: ARG001 - first of all
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[], Repository]]:
    """Argo CD with the health check as the chart renders it; makes repositories that it can read."""
    if not argocd.is_installed():
        pytest.skip(f"needs Argo CD in the cluster, and {argocd.CRD} is not there")
    folder = Path(os.environ.get("MIDSTREAM_TEST_GIT") or tmp_path_factory.mktemp("git"))

    def repository() -> Repository:
        return Repository(folder / f"git-{os.urandom(4).hex()}")

    with argocd.settings({KEY: _health_check()}):
        argocd.running(f"probe-{os.urandom(4).hex()}", repository())
        yield repository


@pytest.fixture
def repository(gitops: Callable[[], Repository]) -> Repository:
    return gitops()


def test_commits_swap_models_and_a_revert_rolls_back(
    space: Space, repository: Repository, rf: Model, gbr: Model, requests: list[wire.Request]
) -> None:
    """Synced and Healthy mean that the commit's version serves; same pods, no lost request, no drift."""
    first = repository.commit("Serve the forest", pipeline=pipeline(rf, deployment=TWO))
    with argocd.application(space.name, space.name, repository) as application:
        application.until_settled(first)
        assert Shown(first, "Synced", "Progressing") in application.shown
        before, template = space.identities(), space.template()
        with watched(space, [[rf], [gbr]], requests) as load:
            load.changing()
            application.forget()
            second = repository.commit(
                "Serve the boosted trees", pipeline=pipeline(gbr, deployment=TWO)
            )
            application.until_settled(second)
            load.promised(version(gbr))
            assert space.get()["status"]["version"] == version(gbr)
            _is_a_straight_way(application.shown, first, second)
            _is_without_drift(space, application, repository, second)

            load.changing()
            application.forget()
            third = repository.revert()
            application.until_settled(third)
            load.promised(version(rf))
            assert space.served() == {version(rf)}
            _is_a_straight_way(application.shown, second, third)
            _is_without_drift(space, application, repository, third)
            verdict = load.stop()

        # One sync for each commit: what the operator does is no reason for another.
        assert [revision for revision, _ in application.syncs] == [first, second, third]
    assert verdict.clean == (0, 0, 0), str(verdict)
    assert (space.identities(), space.template()) == (before, template)
    assert space.get()["metadata"]["generation"] == 3
    assert [each["version"] for each in space.get()["status"]["versions"]] == [
        version(rf),
        version(gbr),
    ]


def test_a_change_on_its_way_is_progressing(
    space: Space, repository: Repository, rf: Model, gbr: Model, requests: list[wire.Request]
) -> None:
    """Synced but Progressing, with the reason, as long as a change waits; then Healthy by itself, in the same pods."""
    first = repository.commit("Serve the forest", pipeline=pipeline(rf, deployment=TWO))
    with argocd.application(space.name, space.name, repository) as application:
        application.until_settled(first)
        before = space.identities()
        with watched(space, [[rf], [gbr]], requests) as load:
            application.forget()
            waiting = gbr.at(gbr.uri, insecure=True, secretRef={"name": SECRET})
            second = repository.commit(
                "Serve trees behind a login", pipeline=pipeline(waiting, deployment=TWO)
            )
            application.until_shown(second, "Synced", "Progressing")
            space.until_waiting("SecretNotFound")
            status, message = argocd.health("pipeline", NAME, space.name)
            assert status == "Progressing"
            assert message.startswith("SecretNotFound: ")
            assert repr(SECRET) in message
            assert space.served() == {version(rf)}

            load.changing()
            space.do(
                *("create", "secret", "docker-registry", SECRET),
                *("--docker-server=registry.example.com", "--docker-username=a"),
                "--docker-password=b",
            )
            application.until_settled(second)
            load.promised(version(gbr))
            assert application.shown[-2:] == [
                Shown(second, "Synced", "Progressing"),
                Shown(second, "Synced", "Healthy"),
            ]
            _is_a_straight_way(application.shown, first, second)
            verdict = load.stop()

        assert [revision for revision, _ in application.syncs] == [first, second]
    assert verdict.clean == (0, 0, 0), str(verdict)
    assert space.identities() == before


def test_a_broken_model_is_degraded_while_the_old_version_serves(
    space: Space,
    repository: Repository,
    push: Callable[..., Model],
    rf: Model,
    requests: list[wire.Request],
) -> None:
    """Degraded with the condition's reason; what comes in a later sync wave is held back; `git revert` heals."""
    first = repository.commit("Serve the forest", pipeline=pipeline(rf, deployment=TWO))
    # Argo CD itself would try a failed sync of the same commit five times more.
    with argocd.application(space.name, space.name, repository, retry={"limit": 0}) as application:
        application.until_settled(first)
        before = space.identities()
        page = push(models.not_onnx, "page")
        other = rf.named("other-house-price").saying(sha256="0" * 64)
        with watched(space, [[rf]], requests) as load:
            application.forget()
            second = repository.commit("Serve a page", pipeline=pipeline(page, deployment=TWO))
            application.until_shown(second, "Synced", "Degraded")
            status, message = argocd.health("pipeline", NAME, space.name)
            assert (status, message.partition(": ")[0]) == ("Degraded", "InvalidModel")
            _blames(space, page, "InvalidModel", message)
            assert space.ask().version == version(rf)
            assert space.served() == {version(rf)}
            assert {shown.health for shown in application.shown} <= {
                *("Healthy", "Progressing", "Degraded")
            }
            _is_without_drift(space, application, repository, second)

            # The running controller's own words: it waits for the pipeline before the next wave.
            third = repository.commit(
                "Serve other bytes, and then tell",
                pipeline=pipeline(other, deployment=TWO),
                after=_in_wave(1),
            )
            seen = application.until_failed(third)
            (said,) = argocd.synced_messages(seen, "Pipeline")
            assert said.startswith("DigestMismatch: ")
            _blames(space, other, "DigestMismatch", said)
            assert kubectl.get("configmap", "after", space.name) is None
            assert space.ask().version == version(rf)

            fourth = repository.revert(commits=2)
            application.until_settled(fourth)
            assert not condition(space.get(), "Stalled")
            verdict = load.stop()

    assert verdict.clean == (0, 0, 0), str(verdict)
    assert space.identities() == before
    assert space.served() == {version(rf)}


def _health_check() -> str:
    """The Lua that the chart ships, as it renders it for `argocd-cm`."""
    template = ("helm", "template", "midstream", str(install.CHART))
    shown = ("--set", "argocd.healthCheck=true", "--show-only", "templates/argocd-health.yaml")
    check: str = yaml.safe_load(run(*template, *shown))["data"][KEY]
    return check


def _in_wave(number: int) -> Object:
    """A manifest of something small that Argo CD applies when all before is Healthy."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "after",
            "annotations": {"argocd.argoproj.io/sync-wave": str(number)},
        },
    }


def _is_a_straight_way(shown: list[Shown], before: str, after: str) -> None:
    """From Healthy to Healthy; nothing in between but Progressing, and that never for the commit before."""
    assert shown[0] == Shown(before, "Synced", "Healthy"), shown
    assert shown[-1] == Shown(after, "Synced", "Healthy"), shown
    assert {each.health for each in shown} <= {"Healthy", "Progressing"}, shown
    assert {each.revision for each in shown[1:]} == {after}, shown


def _is_without_drift(
    space: Space, application: Application, repository: Repository, revision: str
) -> None:
    """Compared anew, Argo CD finds nothing to do, and `kubectl diff` nothing to change."""
    syncs = list(application.syncs)
    seen = application.compared_anew()
    assert application.syncs == syncs
    assert application.shown[-1][:2] == (revision, "Synced")
    assert {each["status"] for each in seen["status"]["resources"]} == {"Synced"}
    # On the server's side: Argo CD's own annotations are not in the file, and are no matter of it.
    command = ["diff", "--server-side", "--field-manager=test", "--force-conflicts"]
    done: subprocess.CompletedProcess[str] = kubectl.run(
        *command, "-n", space.name, "-f", str(repository.folder / "pipeline.yaml")
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def _blames(space: Space, model: Model, reason: str, message: str) -> None:
    """Message and condition name step, model and reason, and say what serves."""
    seen = space.until_refused(reason)
    assert condition(seen, "Available")["status"] == "True"
    assert message == f"{reason}: {condition(seen, 'Stalled')['message']}"
    assert "'predict'" in message
    assert model.name in message
    assert seen["status"]["version"] in message
