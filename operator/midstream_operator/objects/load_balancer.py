"""The load balancer of a Pipeline: Deployment, Service, ConfigMap, ServiceAccount.

Pure. `bootstrap.json` is read when Envoy starts, so a change of it replaces pods, through a checksum in the pod
template. `dynamic/rds.json` is watched, so a change of it does not.
"""

import hashlib

from midstream_api import names
from midstream_api.deployment import Quantities, Resources
from midstream_api.pipeline import PipelineSpec
from midstream_operator import envoy, metadata, quantities
from midstream_operator.metadata import ENGINE_LB, Owner
from midstream_operator.objects import pods
from midstream_operator.objects.images import Images
from midstream_operator.observed import Object

DEFAULTS = Resources(
    requests=Quantities(cpu="50m", memory="96Mi"), limits=Quantities(memory="512Mi")
)

BOOTSTRAP_ANNOTATION = f"{names.GROUP}/bootstrap"
"""On the pod template: digest of what Envoy reads only at its start."""

HEALTH_PORT = 29504
"""The launcher's: `/readyz` when Envoy has applied the routes of the file, `/livez` while both live."""

_SETTLED_SECONDS = 3
"""Ready for so long before it counts: nodes learn the address of a new pod up to two seconds after it is ready."""
_GRACE_SECONDS = 75
"""After the signal the launcher serves until the Service leads elsewhere and what is under way is answered, for 60 s at
most, and then gives Envoy 10 s to end."""


def deployment(owner: Owner, spec: PipelineSpec, images: Images) -> Object:
    """Make the Deployment of the load balancer. The image's entry point starts Envoy on the mounted files."""
    wanted = spec.deployment.engine_lb
    bootstrap = _files(owner, spec)["bootstrap.json"]
    container: Object = {
        "name": ENGINE_LB,
        "image": images.engine_lb,
        "imagePullPolicy": images.pull_policy,
        "ports": [
            {"name": "http", "containerPort": names.ENGINE_LB_PORT},
            {"name": "health", "containerPort": HEALTH_PORT},
        ],
        "resources": pods.resources(wanted.resources, DEFAULTS),
        "startupProbe": pods.http_probe("/livez", "health", period=1, timeout=5, failures=120),
        "livenessProbe": pods.http_probe("/livez", "health", period=10, timeout=10, failures=6),
        "readinessProbe": pods.http_probe("/readyz", "health", period=2, timeout=3, failures=3),
        "volumeMounts": [
            {"name": "config", "mountPath": envoy.FOLDER, "readOnly": True},
            pods.TMP_MOUNT,
        ],
    }
    volume: Object = {
        "name": "config",
        "configMap": {
            "name": owner.engine_lb,
            "items": [
                {"key": "bootstrap.json", "path": "bootstrap.json"},
                {"key": "rds.json", "path": envoy.ROUTES_FILE},
            ],
        },
    }
    return pods.deployment(
        owner,
        ENGINE_LB,
        owner.engine_lb,
        replicas=wanted.replicas,
        container=container,
        volumes=[volume, pods.TMP],
        grace_seconds=_GRACE_SECONDS,
        settled_seconds=_SETTLED_SECONDS,
        annotations={BOOTSTRAP_ANNOTATION: hashlib.sha256(bootstrap.encode()).hexdigest()},
    )


def service(owner: Owner, spec: PipelineSpec) -> Object:
    """Make the Service that callers talk to, of the type and with the annotations that the spec asks for."""
    wanted = spec.deployment.engine_lb.service
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata.of(owner, ENGINE_LB, owner.engine_lb, wanted.annotations),
        "spec": {
            "type": wanted.type.value,
            "selector": metadata.selector(owner, ENGINE_LB),
            "ports": [
                {
                    "name": "http",
                    "port": names.ENGINE_LB_PORT,
                    "targetPort": "http",
                    "protocol": "TCP",
                    "appProtocol": "http",
                }
            ],
        },
    }


def config_map(owner: Owner, spec: PipelineSpec) -> Object:
    """Make the ConfigMap of Envoy's files."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata.of(owner, ENGINE_LB, owner.engine_lb),
        "data": _files(owner, spec),
    }


def service_account(owner: Owner) -> Object:
    """Make the load balancer's ServiceAccount."""
    return pods.service_account(owner, ENGINE_LB, owner.engine_lb)


def _files(owner: Owner, spec: PipelineSpec) -> dict[str, str]:
    limits = pods.resources(spec.deployment.engine_lb.resources, DEFAULTS)["limits"]
    # Without dots, so that the first search domain of the pod, its namespace's, answers at once: one query instead of
    # four, and the cluster's domain need not be known.
    settings = envoy.Envoy(
        engines=((owner.engine, names.ENGINE_PORT),),
        memory=int(quantities.parse(limits["memory"])),
    )
    return {
        "bootstrap.json": envoy.dump(envoy.bootstrap(settings)),
        "rds.json": envoy.dump(envoy.routes()),
    }
