"""Where a pipeline runs in a cluster, and how large: no part of its version."""

import enum
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from midstream_api import names
from midstream_api.base import Strict
from midstream_api.refusal import refusal


def _quantity(value: Any) -> Any:
    """Refuse what Kubernetes would: a fraction that is no text, and a text that is no quantity."""
    is_whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if is_whole or (isinstance(value, str) and re.fullmatch(names.QUANTITY, value)):
        return value
    raise refusal("quantity", "not a quantity")


Quantity = Annotated[
    int | str,
    BeforeValidator(_quantity),
    Field(
        json_schema_extra={
            "x-kubernetes-int-or-string": True,
            "maxLength": 32,
            "pattern": names.QUANTITY,
            "x-kubernetes-validations": [
                # The pattern judges texts only.
                {
                    "rule": "type(self) != int || self >= 0",
                    "message": names.RULES[names.QUANTITY],
                }
            ],
        }
    ),
]
"""Of CPU or memory, as Kubernetes writes it: `250m`, `1`, `512Mi`."""


class Quantities(Strict):
    """Amounts of what a container may ask for."""

    cpu: Quantity | None = None
    """Processors: `250m`, `1`."""
    memory: Quantity | None = None
    """Bytes: `512Mi`, `2Gi`."""


class Resources(Strict):
    """What one container asks for, and what it may use."""

    requests: Quantities | None = None
    """What the scheduler keeps free for it."""
    limits: Quantities | None = None
    """What it never gets more than; a candidate that cannot fit in the memory limit is refused."""


class Arch(enum.StrEnum):
    """Processor architecture of a node, as the label `kubernetes.io/arch` has it."""

    AMD64 = "amd64"
    ARM64 = "arm64"


class EngineDeployment(Strict):
    """The pods that answer. A change here replaces pods; a change of steps never does."""

    resources: Resources | None = None
    """Of each engine. Left out: 50m CPU and 256Mi requested, limited to 2Gi of memory."""
    arch: Annotated[Arch, Field(strict=False)] | None = None
    """Run on nodes of this architecture only."""
    image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """Left out: the operator's default."""


class ServiceType(enum.StrEnum):
    """How the load balancer can be reached."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"


class LoadBalancerService(Strict):
    """The Service before the load balancer."""

    type: Annotated[ServiceType, Field(strict=False)] = ServiceType.CLUSTER_IP
    """`ClusterIP` (inside the cluster only), `NodePort` or `LoadBalancer`."""
    annotations: Annotated[
        dict[str, Annotated[str, Field(max_length=4096)]], Field(max_length=32)
    ] = Field(default_factory=dict)
    """For the provider of the load balancer; every value is a text."""


class LoadBalancerDeployment(Strict):
    """The load balancer that callers talk to."""

    replicas: Annotated[int, Field(ge=1, le=16)] = 1
    """Pods."""
    resources: Resources | None = None
    """Of each pod. Left out: 50m CPU and 96Mi requested, limited to 512Mi of memory."""
    service: LoadBalancerService = LoadBalancerService()
    """How it can be reached."""


class SidekickDeployment(Strict):
    """A container of their own for the processes of Python models, in each engine pod."""

    resources: Resources | None = None
    """Of that container. Left out: 50m CPU and 128Mi requested, limited to 1Gi of memory."""


class Deployment(Strict):
    """Where and how large. No part of the version."""

    replicas: Annotated[int, Field(ge=1, le=100)] = 1
    """Engine pods."""
    engine: EngineDeployment = EngineDeployment()
    """The pods that answer."""
    sidekick: SidekickDeployment | None = None
    """Where Python models run; left out: in the engine's own container."""
    engine_lb: Annotated[LoadBalancerDeployment, Field(alias="engineLB")] = LoadBalancerDeployment()
    """The load balancer that callers talk to."""
