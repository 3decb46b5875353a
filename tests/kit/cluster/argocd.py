"""A Git repository with manifests, and a real Argo CD that brings what it says to the cluster.

Argo CD must be able to read the repository's folder (`file://`). It is told of each commit as a webhook would tell it,
so nothing here depends on how often it looks by itself.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import yaml

from kit.cluster import kubectl
from kit.cluster.command import run
from kit.cluster.kubectl import Object

NAMESPACE = "argocd"
SETTINGS = "argocd-cm"
CRD = "applications.argoproj.io"
_REFRESH = "argocd.argoproj.io/refresh"
_SECONDS = 120.0


class Repository:
    """A Git repository on disk; one file for each name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self._git("init", "--initial-branch=main", "--quiet")

    def commit(self, message: str, **manifests: Object) -> str:
        """Write manifests to the files of these names, and commit; the commit's id."""
        for name, manifest in manifests.items():
            (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))
        self._git("add", "--all")
        self._git("commit", "--quiet", f"--message={message}")
        return self._head()

    def revert(self, commits: int = 1) -> str:
        """`git revert` the last commits, as one new one; its id."""
        self._git("revert", "--no-commit", f"HEAD~{commits}..HEAD")
        self._git("commit", "--quiet", "--message=Revert")
        return self._head()

    def _head(self) -> str:
        return self._git("rev-parse", "HEAD")

    def _git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
        return run("git", "-C", str(self.folder), *identity, *arguments, seconds=30).strip()


class Shown(NamedTuple):
    """What somebody who looks at an Application sees."""

    revision: str
    sync: str
    """`Synced` or `OutOfSync`."""
    health: str
    """`Healthy`, `Progressing`, `Degraded`, …"""


class Application:
    """An Application and everything that it has shown, without a gap."""

    def __init__(self, name: str, watch: kubectl.Watch) -> None:
        self.name = name
        self._watch = watch
        self.shown: list[Shown] = []
        """One after the other, since the last `forget`."""
        self.syncs: list[tuple[str, str]] = []
        """Revision and second of every sync that was begun."""

    def forget(self) -> None:
        """Let what comes now begin a new `shown`, after what is shown at last."""
        del self.shown[:-1]

    def until(
        self, wanted: Callable[[Object], bool], what: str, seconds: float = _SECONDS
    ) -> Object:
        """The first state from now on that is as wanted."""

        def seen(state: Object) -> bool:
            self._note(state)
            return wanted(state)

        return self._watch.until(seen, f"Application {self.name} {what}", seconds)

    def until_shown(self, revision: str, sync: str, health: str) -> Object:
        """Wait until it shows this, told of the commit."""
        self.refresh()
        wanted = Shown(revision, sync, health)
        return self.until(lambda seen: _shown(seen) == wanted, str(wanted))

    def until_settled(self, revision: str) -> Object:
        """Wait until a commit is applied and what it says has come about: Synced, Healthy, the sync at its end."""
        self.refresh()
        return self.until(
            lambda seen: (
                _shown(seen) == Shown(revision, "Synced", "Healthy")
                and _operation(seen) == (revision, "Succeeded")
            ),
            f"Synced and Healthy at {revision}",
        )

    def until_failed(self, revision: str) -> Object:
        """Wait until the sync of a commit has failed."""
        self.refresh()
        return self.until(
            lambda seen: _operation(seen) == (revision, "Failed"),
            f"with a failed sync of {revision}",
        )

    def refresh(self, how: str = "normal") -> None:
        """Have Git looked at again, and with `hard` everything rendered and compared anew."""
        _annotate(self.name, how)

    def compared_anew(self) -> Object:
        """What it shows when everything was compared once more."""
        self.refresh("hard")
        # The two states that are waited for: asked for, and done.
        self.until(_is_asked_to_refresh, "asked to compare")
        return self.until(lambda seen: not _is_asked_to_refresh(seen), "compared anew")

    def _note(self, seen: Object) -> None:
        shown = _shown(seen)
        if not self.shown or self.shown[-1] != shown:
            self.shown.append(shown)
        state = seen.get("status", {}).get("operationState") or {}
        if "startedAt" in state:
            begun = (state["operation"]["sync"].get("revision", ""), state["startedAt"])
            if begun not in self.syncs:
                self.syncs.append(begun)


@contextmanager
def application(
    name: str, namespace: str, repository: Repository, **policy: object
) -> Iterator[Application]:
    """An Application that keeps a namespace as the repository says; deleted at the end, what it made is not."""
    document = {
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
            "destination": {"server": "https://kubernetes.default.svc", "namespace": namespace},
            # Without selfHeal, so that a drift stays to be seen. With it Argo CD now and then syncs a commit twice: it
            # compares before its own view of the cluster has what it has just applied.
            "syncPolicy": {"automated": {"prune": True}, **policy},
        },
    }
    kubectl.apply(document, namespace=NAMESPACE)
    try:
        with kubectl.watching(
            "applications", NAMESPACE, "--field-selector", f"metadata.name={name}"
        ) as watch:
            yield Application(name, watch)
    finally:
        kubectl.kubectl("delete", "application", name, "-n", NAMESPACE, "--wait=false")


@contextmanager
def settings(data: Mapping[str, str]) -> Iterator[None]:
    """Entries of Argo CD's own ConfigMap, taken out again at the end. It looks at them without a restart."""
    _patch(data)
    try:
        yield
    finally:
        _patch(dict.fromkeys(data))


def is_installed() -> bool:
    return kubectl.run("get", "crd", CRD).returncode == 0


def running(name: str, repository: Repository) -> None:
    """Fail at once, and not in every test, where the CRDs are there and no Argo CD is."""
    with application(name, "default", repository, automated=None) as probe:
        probe.until(
            lambda seen: bool(seen.get("status")),
            "looked at by Argo CD; its CRDs are there, but does it run",
            60,
        )


def health(kind: str, name: str, namespace: str) -> tuple[str, str]:
    """What Argo CD says of a live object with the settings that it has now: status and message.

    The Application itself holds the message of a resource only where `controller.resource.health.persist` is set;
    otherwise it is in Argo CD's cache, from which its UI shows it. This asks Argo CD's own command line instead.
    """
    live = kubectl.kubectl("get", kind, name, "-n", namespace, "-o", "json")
    command = ("argocd", "admin", "settings", "resource-overrides", "health", "/dev/stdin")
    said = run(*command, "--load-cluster-settings", "-n", NAMESPACE, stdin=live)
    fields = dict(line.split(": ", 1) for line in said.splitlines() if ": " in line)
    return fields["STATUS"], fields["MESSAGE"]


def synced_messages(seen: Object, kind: str) -> Sequence[str]:
    """What the last sync says about objects of a kind."""
    resources = seen["status"]["operationState"]["syncResult"]["resources"]
    return [each["message"] for each in resources if each["kind"] == kind]


def _annotate(name: str, how: str) -> None:
    kubectl.kubectl(
        *("annotate", "application", name, f"{_REFRESH}={how}", "--overwrite", "-n", NAMESPACE)
    )


def _patch(data: Mapping[str, str | None]) -> None:
    patch = json.dumps({"data": dict(data)})
    kubectl.kubectl("patch", "configmap", SETTINGS, "-n", NAMESPACE, "--type=merge", "-p", patch)


def _is_asked_to_refresh(seen: Object) -> bool:
    return _REFRESH in (seen["metadata"].get("annotations") or {})


def _shown(seen: Object) -> Shown:
    status = seen.get("status", {})
    sync = status.get("sync", {})
    health = status.get("health", {})
    return Shown(sync.get("revision", ""), sync.get("status", ""), health.get("status", ""))


def _operation(seen: Object) -> tuple[str, str]:
    """Revision and phase of the sync at hand, or of the last one."""
    state = seen.get("status", {}).get("operationState") or {}
    return (state.get("syncResult") or {}).get("revision", ""), state.get("phase", "")
