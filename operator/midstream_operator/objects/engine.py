"""The engines of a Pipeline: Deployment, headless Service, ServiceAccount.

Pure. **Guarantee:** nothing in the pod template depends on steps, tags, version or rollout: a change of those reaches
running pods through the config volume and never replaces one.
"""

from midstream_api import names
from midstream_api.deployment import Quantities, Resources, SidekickDeployment
from midstream_api.pipeline import PipelineSpec
from midstream_operator import metadata
from midstream_operator.metadata import ENGINE, Owner
from midstream_operator.objects import pods
from midstream_operator.objects.images import Images
from midstream_operator.observed import Object

DEFAULTS = Resources(
    requests=Quantities(cpu="50m", memory="256Mi"), limits=Quantities(memory="2Gi")
)
"""No CPU limit: an idle neighbour's processor makes a swap and a large batch fast."""

SIDEKICK = "sidekick"
"""The container of Python models' processes, where `spec.deployment.sidekick` asks for one."""

SIDEKICK_DEFAULTS = Resources(
    requests=Quantities(cpu="50m", memory="128Mi"), limits=Quantities(memory="1Gi")
)

_SOCKETS = "/run/midstream"
"""Of both containers: here the engine asks the other one for a process."""

_SOCKET = f"{_SOCKETS}/sidekick.sock"

CONFIG = "/etc/midstream/config"
"""The config folder. One volume, so that the kubelet changes its files in one stroke."""

_PERSIST = "/persist"

_PRE_STOP_SECONDS = 35
"""A stopping engine goes on serving until every load balancer has looked up the others. DNS in clusters is commonly
cached for 30 s; a pod that replaces this one may be unknown for so long."""

_GRACE_SECONDS = _PRE_STOP_SECONDS + 40
"""The engine itself lets requests under way finish for 25 s."""


def deployment(owner: Owner, spec: PipelineSpec, images: Images) -> Object:
    """Make the Deployment of the engines."""
    wanted = spec.deployment.engine
    container: Object = {
        "name": ENGINE,
        "image": wanted.image or images.engine,
        "imagePullPolicy": images.pull_policy,
        "command": ["python", "-m", "midstream_engine"],
        "args": [
            "serve",
            f"--config={CONFIG}",
            f"--state={_PERSIST}/state",
            f"--cache={_PERSIST}/models",
            "--host=0.0.0.0",
            f"--port={names.ENGINE_PORT}",
            f"--management-port={names.MANAGEMENT_PORT}",
            "--partition=$(POD_NAME)",
            f"--registry-config={CONFIG}/{names.REGISTRY_FILE}",
        ],
        "env": [
            {
                "name": "POD_NAME",
                "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}},
            }
        ],
        "ports": [
            {"name": "data", "containerPort": names.ENGINE_PORT},
            {"name": "management", "containerPort": names.MANAGEMENT_PORT},
        ],
        "resources": pods.resources(wanted.resources, DEFAULTS),
        # Liveness and start ask only whether the event loop turns, at the port that callers cannot fill. Whether a
        # model is there is for readiness alone: fetching a large one may take its time, and a bad one heals by a new
        # spec, not by a new process.
        "startupProbe": pods.http_probe("/livez", "management", period=1, timeout=5, failures=180),
        "livenessProbe": pods.http_probe("/livez", "management", period=10, timeout=10, failures=6),
        "readinessProbe": pods.http_probe("/readyz", "data", period=2, timeout=3, failures=3),
        "lifecycle": {"preStop": {"sleep": {"seconds": _PRE_STOP_SECONDS}}},
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG, "readOnly": True},
            {"name": "persist", "mountPath": _PERSIST},
            pods.TMP_MOUNT,
        ],
    }
    volumes = [_config_volume(owner), {"name": "persist", "emptyDir": {}}, pods.TMP]
    sidecar: Object | None = None
    if spec.deployment.sidekick is not None:
        sidecar = _sidekick(container, spec.deployment.sidekick)
        container["args"].append(f"--sidekick-socket={_SOCKET}")
        container["volumeMounts"].append(_SOCKETS_MOUNT)
        volumes += _SIDEKICK_VOLUMES
    return pods.deployment(
        owner,
        ENGINE,
        owner.engine,
        replicas=spec.deployment.replicas,
        container=container,
        volumes=volumes,
        grace_seconds=_GRACE_SECONDS,
        node_selector={"kubernetes.io/arch": wanted.arch.value} if wanted.arch else None,
        sidecar=sidecar,
    )


_SOCKETS_MOUNT: Object = {"name": "sidekick-sockets", "mountPath": _SOCKETS}
_SIDEKICK_VOLUMES: list[Object] = [
    # In memory and small: what runs there may write to it as well.
    {"name": "sidekick-sockets", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
    {"name": "sidekick-tmp", "emptyDir": {}},
]


def _sidekick(engine: Object, wanted: SidekickDeployment) -> Object:
    """Make the container in which Python models run: of the engine's image, without its files and without logins."""
    return {
        "name": SIDEKICK,
        "image": engine["image"],
        "imagePullPolicy": engine["imagePullPolicy"],
        "command": ["python", "-m", "midstream_engine.sidekicks.host"],
        "args": [f"--socket={_SOCKET}"],
        "resources": pods.resources(wanted.resources, SIDEKICK_DEFAULTS),
        "volumeMounts": [_SOCKETS_MOUNT, {**pods.TMP_MOUNT, "name": "sidekick-tmp"}],
    }


def service(owner: Owner) -> Object:
    """Make the headless Service whose DNS name gives the addresses of all ready engines."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata.of(owner, ENGINE, owner.engine),
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            "selector": metadata.selector(owner, ENGINE),
            "ports": [
                {
                    "name": name,
                    "port": port,
                    "targetPort": name,
                    "protocol": "TCP",
                    "appProtocol": "http",
                }
                for name, port in (
                    ("data", names.ENGINE_PORT),
                    ("management", names.MANAGEMENT_PORT),
                )
            ],
        },
    }


def service_account(owner: Owner) -> Object:
    """Make the engines' ServiceAccount."""
    return pods.service_account(owner, ENGINE, owner.engine)


def _config_volume(owner: Owner) -> Object:
    assignment = f"metadata.annotations['{names.ASSIGNMENT_ANNOTATION}']"
    sources: list[Object] = [
        {"configMap": {"name": owner.engine}},
        {
            "downwardAPI": {
                "items": [
                    {
                        "path": names.ASSIGNMENT_FILE,
                        "fieldRef": {"apiVersion": "v1", "fieldPath": assignment},
                    }
                ]
            }
        },
        {
            "secret": {
                "name": owner.engine,
                "optional": True,
                "items": [{"key": "config.json", "path": names.REGISTRY_FILE}],
            }
        },
    ]
    return {"name": "config", "projected": {"sources": sources}}
