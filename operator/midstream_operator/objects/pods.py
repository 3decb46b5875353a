"""What every pod of a Pipeline has in common: no privileges, no token, spread over nodes, bounded resources.

Pure. A namespace that enforces the *restricted* pod security standard takes all of them.
"""

from typing import Any

from midstream_api.deployment import Quantities, Resources
from midstream_operator import metadata, quantities
from midstream_operator.metadata import Owner
from midstream_operator.observed import Object

USER = 65532
"""Has no name and owns nothing in the images."""

TMP: Object = {"name": "tmp", "emptyDir": {}}
TMP_MOUNT: Object = {"name": "tmp", "mountPath": "/tmp"}  # noqa: S108 - a volume of the pod's own
"""The root file system is read-only."""

_CONTAINER_SECURITY: Object = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
}


def deployment(
    owner: Owner,
    component: str,
    name: str,
    *,
    replicas: int,
    container: Object,
    volumes: list[Object],
    grace_seconds: int,
    settled_seconds: int = 0,
    node_selector: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    sidecar: Object | None = None,
) -> Object:
    """Make a Deployment of one container that never has fewer ready pods than it should while it is rolled.

    sidecar: a container that starts before the one and ends after it.
    """
    template: Object = {"labels": metadata.labels(owner, component)}
    if annotations:
        template["annotations"] = annotations
    selector = metadata.selector(owner, component)
    pod: Object = {
        "serviceAccountName": name,
        "automountServiceAccountToken": False,
        # Variables that name every Service of the namespace would differ from pod to pod.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            _spread("kubernetes.io/hostname", selector),
            _spread("topology.kubernetes.io/zone", selector),
        ],
        "containers": [{**container, "securityContext": _CONTAINER_SECURITY}],
        "volumes": volumes,
    }
    if sidecar is not None:
        # What Kubernetes calls a sidecar container: it is told to end when the others have ended. An ordinary second
        # container would end at once, while requests are still answered.
        pod["initContainers"] = [
            {**sidecar, "restartPolicy": "Always", "securityContext": _CONTAINER_SECURITY}
        ]
    if node_selector:
        pod["nodeSelector"] = node_selector
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata.of(owner, component, name),
        "spec": {
            "replicas": replicas,
            "minReadySeconds": settled_seconds,
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": selector},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
            },
            "template": {"metadata": template, "spec": pod},
        },
    }


def service_account(owner: Owner, component: str, name: str) -> Object:
    """Make an account that may do nothing and has no token."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata.of(owner, component, name),
        "automountServiceAccountToken": False,
    }


def http_probe(path: str, port: str, *, period: int, timeout: int, failures: int) -> Object:
    """Make a probe: seconds between two, seconds for an answer, failures in a row that count."""
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period,
        "timeoutSeconds": timeout,
        "failureThreshold": failures,
    }


def resources(given: Resources | None, defaults: Resources) -> dict[str, dict[str, str]]:
    """Lay what a user gave over the defaults, field by field.

    A default gives way where it would contradict: the server refuses a request above its limit.
    """
    given = given or Resources()
    requests = _merged(given.requests, defaults.requests)
    limits = _merged(given.limits, defaults.limits)
    for field in requests.keys() & limits.keys():
        if quantities.parse(requests[field]) <= quantities.parse(limits[field]):
            continue
        if getattr(given.limits, field, None) is None:
            limits[field] = requests[field]
        elif getattr(given.requests, field, None) is None:
            requests[field] = limits[field]
    return {
        name: amounts for name, amounts in (("requests", requests), ("limits", limits)) if amounts
    }


def _merged(given: Quantities | None, defaults: Quantities | None) -> dict[str, str]:
    found: dict[str, Any] = {}
    for source in (defaults, given):
        if source is not None:
            found.update(source.model_dump(exclude_none=True))
    return {field: str(found[field]) for field in sorted(found)}


def _spread(topology: str, selector: dict[str, str]) -> Object:
    return {
        "maxSkew": 1,
        "topologyKey": topology,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selector},
        "matchLabelKeys": ["pod-template-hash"],
    }
