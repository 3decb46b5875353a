"""Names, labels, owner and digest of every object that a Pipeline owns.

Pure. An owned object is found by its labels, deleted by Kubernetes with its owner, and applied only when its digest or
a field of it differs. Nothing here is ever written on a user's own object.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from midstream_api import names, version
from midstream_operator.observed import Object

ENGINE = "engine"
"""`app.kubernetes.io/name` of what serves."""

ENGINE_LB = "engine-lb"
"""`app.kubernetes.io/name` of what callers talk to."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The Pipeline that owns an object."""

    name: str
    namespace: str
    uid: str

    @property
    def engine(self) -> str:
        """Name of the engine's Deployment, headless Service, ConfigMap, ServiceAccount and Secret."""
        return self.name + names.ENGINE_SUFFIX

    @property
    def engine_lb(self) -> str:
        """Name of the load balancer's Deployment, Service, ConfigMap and ServiceAccount."""
        return self.name + names.ENGINE_LB_SUFFIX


def selector(owner: Owner, component: str) -> dict[str, str]:
    """Labels that only this pipeline's pods of this component have; a Deployment's can never be changed."""
    return {"app.kubernetes.io/name": component, names.PIPELINE_LABEL: owner.name}


def labels(owner: Owner, component: str) -> dict[str, str]:
    """All labels of an owned object and of its pods."""
    return {
        **selector(owner, component),
        "app.kubernetes.io/instance": owner.name,
        "app.kubernetes.io/managed-by": names.MANAGED_BY,
    }


def reference(owner: Owner) -> Object:
    """Make the `ownerReferences` entry by which an object goes when its Pipeline goes."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.PIPELINE_KIND,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def of(
    owner: Owner, component: str, name: str, annotations: Mapping[str, str] | None = None
) -> Object:
    """Make an owned object's `metadata`, still without its digest."""
    made: Object = {
        "name": name,
        "namespace": owner.namespace,
        "labels": labels(owner, component),
        "ownerReferences": [reference(owner)],
    }
    if annotations:
        made["annotations"] = dict(annotations)
    return made


def digested(desired: Object) -> Object:
    """Give the object with its digest annotation."""
    metadata = desired["metadata"]
    annotations = {
        **(metadata.get("annotations") or {}),
        names.DIGEST_ANNOTATION: digest(desired),
    }
    return {**desired, "metadata": {**metadata, "annotations": annotations}}


def digest(desired: Object) -> str:
    """SHA-256, in hexadecimal, of everything in the object but the digest annotation."""
    metadata: dict[str, Any] = {**desired["metadata"]}
    annotations = {**(metadata.pop("annotations", None) or {})}
    annotations.pop(names.DIGEST_ANNOTATION, None)
    if annotations:
        metadata["annotations"] = annotations
    content = version.canonical({**desired, "metadata": metadata})
    return hashlib.sha256(content).hexdigest()
