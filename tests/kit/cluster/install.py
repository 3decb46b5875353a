"""The operator as `helm install` brings it, with the images of this tree, and the faults that happen to it."""

import os
from pathlib import Path

from kit.cluster import kubectl
from kit.cluster.command import run
from kit.cluster.kubectl import Object

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "midstream"
RELEASE = "midstream"
NAMESPACE = "midstream-system"
IMAGES = {
    "engine": os.environ.get("MIDSTREAM_ENGINE_IMAGE", "localhost/midstream-engine:dev"),
    "operator": os.environ.get("MIDSTREAM_OPERATOR_IMAGE", "localhost/midstream-operator:dev"),
    "engine-lb": os.environ.get("MIDSTREAM_ENGINE_LB_IMAGE", "localhost/midstream-engine-lb:dev"),
}
_LABELS = "app.kubernetes.io/name=midstream"


def install() -> None:
    """Install the chart, or bring what is installed up to this tree; the operator is ready at the end."""
    try:
        run(
            *("helm", "upgrade", "--install", RELEASE, str(CHART)),
            *("--namespace", NAMESPACE, "--create-namespace", "--wait", "--timeout", "60s"),
            "--take-ownership",  # of a CRD that was there before
            *_values(),
            seconds=120,
        )
    except AssertionError as error:
        error.add_note(logs())
        raise


def restart() -> None:
    """Replace the operator's pods, and wait until the new one is ready."""
    kubectl.kubectl("rollout", "restart", _deployment(), "-n", NAMESPACE)
    ready()


def ready() -> None:
    kubectl.kubectl("rollout", "status", _deployment(), "-n", NAMESPACE, "--timeout=120s")


def scale(replicas: int) -> None:
    """Have so many operators; with 0, wait until none runs."""
    kubectl.kubectl("scale", _deployment(), f"--replicas={replicas}", "-n", NAMESPACE)
    if replicas:
        ready()
    else:
        kubectl.kubectl(
            *("wait", "--for=delete", "pods", "-l", _LABELS, "-n", NAMESPACE, "--timeout=120s")
        )


def pods() -> list[Object]:
    return kubectl.listed("pods", NAMESPACE, _LABELS)


def patch(patch: str) -> None:
    """Change the operator's Deployment by a strategic merge patch, and wait for the new pod."""
    kubectl.kubectl("patch", _deployment(), "-n", NAMESPACE, "-p", patch)
    ready()


def deployment() -> Object:
    (found,) = kubectl.listed("deployments", NAMESPACE, _LABELS)
    return found


def logs(lines: int = 80) -> str:
    done = kubectl.run("logs", "-n", NAMESPACE, "-l", _LABELS, f"--tail={lines}", "--prefix")
    return done.stdout + done.stderr


def _deployment() -> str:
    return f"deployment/{deployment()['metadata']['name']}"


def _values() -> list[str]:
    values: list[str] = []
    for name, image in IMAGES.items():
        repository, _, tag = image.rpartition(":")
        key = {"engine": "engine", "operator": "operator", "engine-lb": "engineLB"}[name]
        values += [
            "--set",
            f"images.{key}.repository={repository}",
            "--set",
            f"images.{key}.tag={tag}",
        ]
    return values
