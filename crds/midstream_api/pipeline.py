"""The `Pipeline` resource: what a user writes.

No I/O happens here: whether a model's file exists or connects to its neighbour is found out when the
sources are resolved and the revision is loaded.
"""

import enum
import re
from typing import Annotated, Any, Literal, LiteralString

from pydantic import BeforeValidator, ConfigDict, Field, JsonValue, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from midstream_api import names
from midstream_api.base import Strict


class Framework(enum.StrEnum):
    """What runs a model."""

    ONNX = "ONNX"


class Missing(enum.StrEnum):
    """What a request's `null` or `NaN` in a field means."""

    FORBID = "Forbid"
    ALLOW = "Allow"


class SecretRef(Strict):
    """A Secret in the pipeline's namespace."""

    name: Annotated[str, Field(min_length=1, max_length=253, pattern=names.OBJECT_NAME)]
    """Of a Secret of type `kubernetes.io/dockerconfigjson`."""


class Source(Strict):
    """Where a model's bytes come from."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "!has(self.secretRef) || self.uri.startsWith('oci://')",
                    "message": "secretRef is for oci:// addresses only; remove it, or give such an address",
                    "fieldPath": ".secretRef",
                },
                {
                    "rule": "!has(self.insecure) || !self.insecure || self.uri.startsWith('oci://')",
                    "message": "insecure is for oci:// addresses only; remove it, or give such an address",
                    "fieldPath": ".insecure",
                },
            ]
        }
    )

    uri: Annotated[str, Field(min_length=1, max_length=2048)]
    """A path (relative to the manifest) or a `file://`, `http://`, `https://` or `oci://` address."""
    secret_ref: SecretRef | None = None
    """The login at the registry of an `oci://` address; left out: anonymous. In a cluster only."""
    insecure: bool = False
    """Ask the registry of an `oci://` address over plain HTTP."""

    @model_validator(mode="after")
    def _registry_fields_for_registries(self) -> "Source":
        if (self.secret_ref or self.insecure) and not self.uri.startswith("oci://"):
            field = "secretRef" if self.secret_ref else "insecure"
            raise _refusal(
                "registry_only",
                f"{field} is for oci:// addresses only; remove it, or give such an address",
                field=field,
            )
        return self


class InputField(Strict):
    """One input of a model, as callers name it."""

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=names.FIELD_NAME)]
    """The name callers use."""
    tensor: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """The model's own name of this input. Left out: the input at the same position."""
    missing: Annotated[Missing, Field(strict=False)] = Missing.FORBID
    """`Forbid` refuses `null` and `NaN`; `Allow` hands them to the model as NaN."""


class Verify(Strict):
    """Golden rows: a candidate that does not reproduce them never serves."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "self.inputs.size() == self.outputs.size()",
                    "message": "give one row of outputs for each row of inputs",
                    "fieldPath": ".outputs",
                },
            ]
        }
    )

    inputs: Annotated[list[dict[str, JsonValue]], Field(min_length=1, max_length=100)]
    """Rows as a request has them: `{tensor: [4.0, 2.5]}`."""
    outputs: Annotated[list[dict[str, JsonValue]], Field(min_length=1, max_length=100)]
    """The expected row of outputs for each row of inputs: `{variable: [718013.75]}`."""
    tolerance: Annotated[float, Field(ge=0, le=1)] = 1e-6
    """Largest accepted difference relative to the expected value."""

    @model_validator(mode="after")
    def _as_many_outputs_as_inputs(self) -> "Verify":
        if len(self.inputs) != len(self.outputs):
            raise ValueError(
                f"verify has {len(self.inputs)} rows of inputs and {len(self.outputs)} of outputs; "
                "give one row of outputs for each row of inputs"
            )
        return self


class Model(Strict):
    """One model, by name, version and source."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "!has(self.inputs) || self.inputs.all(a, self.inputs.exists_one(b, b.name == a.name))",
                    "message": "two inputs have the same name; rename one",
                    "fieldPath": ".inputs",
                },
            ]
        }
    )

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=names.MODEL_NAME)]
    """The model's name; part of the pipeline's version."""
    version: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """The model's own version; part of the pipeline's version."""
    framework: Annotated[Framework, Field(strict=False)] = Framework.ONNX
    """What runs the model."""
    source: Source
    """Where the model's bytes come from."""
    sha256: (
        Annotated[str, Field(pattern=names.SHA256, json_schema_extra={"maxLength": 64})] | None
    ) = None
    """Lower-case hexadecimal SHA-256 of the model file; the file is refused when it differs."""
    inputs: Annotated[list[InputField], Field(min_length=1, max_length=64)] | None = None
    """Renames the model's inputs, by position or by `tensor`. Left out: the model's own names."""
    verify: Verify | None = None
    """Golden rows that a candidate must reproduce before it may serve."""

    @model_validator(mode="after")
    def _input_names_are_unique(self) -> "Model":
        _refuse_duplicates("inputs", [field.name for field in self.inputs or []])
        return self


class Step(Strict):
    """One stage of a pipeline: exactly one kind, here `model`."""

    name: Annotated[str, Field(min_length=1, max_length=63, pattern=names.DNS_LABEL)]
    """Survives swaps: metrics and logs are bound to it."""
    model: Model
    """The model that this step runs."""

    @model_validator(mode="before")
    @classmethod
    def _exactly_one_kind(cls, data: Any) -> Any:
        if isinstance(data, dict):
            kinds = [key for key in ("model", "split", "shadow") if key in data]
            if len(kinds) > 1:
                raise _refusal(
                    "step_kind",
                    f"step has {' and '.join(kinds)}; a step is exactly one kind, so make them two steps",
                    field=kinds[1],
                )
            if kinds and kinds != ["model"]:
                raise _refusal(
                    "step_kind",
                    f"step kind {kinds[0]!r} is not supported; use 'model'",
                    field=kinds[0],
                )
        return data


def _quantity(value: Any) -> Any:
    """Refuse what Kubernetes would: a fraction that is no text, and a text that is no quantity."""
    is_whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if is_whole or (isinstance(value, str) and re.fullmatch(names.QUANTITY, value)):
        return value
    raise _refusal("quantity", "not a quantity")


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


class Deployment(Strict):
    """Where and how large. No part of the version."""

    replicas: Annotated[int, Field(ge=1, le=100)] = 1
    """Engine pods."""
    engine: EngineDeployment = EngineDeployment()
    """The pods that answer."""
    engine_lb: Annotated[LoadBalancerDeployment, Field(alias="engineLB")] = LoadBalancerDeployment()
    """The load balancer that callers talk to."""


class Rollout(Strict):
    """How a change reaches the running engines."""

    allow_schema_change: bool = False
    """Let a swap change the pipeline's inputs or outputs (names, types, shapes)."""


class PipelineSpec(Strict):
    """What is wanted."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "self.steps.size() > 0 || (has(self.deployed) && !self.deployed)",
                    "message": "a pipeline that is deployed needs at least one step; add one, or say deployed: false",
                    "fieldPath": ".steps",
                },
            ]
        }
    )

    steps: Annotated[
        list[Step],
        Field(
            max_length=32,
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
            },
        ),
    ]
    """Run in order: each step's outputs are the next step's inputs. May be empty while not deployed."""
    deployed: bool = True
    """False: engines and load balancer go, versions stay."""
    version: Annotated[
        str,
        Field(pattern=names.PINNED_VERSION, json_schema_extra={"maxLength": 36}),
    ] = ""
    """Serve this earlier version, whatever the steps say. The ordinary way back is to apply the earlier steps."""
    tags: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=128)]], Field(max_length=32)
    ] = Field(default_factory=list)
    """Of the version that is applied with them."""
    deployment: Deployment = Deployment()
    """Where and how large. No part of the version."""
    rollout: Rollout = Rollout()
    """How a change reaches the running engines."""

    @model_validator(mode="after")
    def _has_steps_when_deployed(self) -> "PipelineSpec":
        if self.deployed and not self.steps:
            raise _refusal(
                "no_steps",
                "a pipeline that is deployed needs at least one step; add one, or say deployed: false",
                field="steps",
            )
        return self

    @model_validator(mode="after")
    def _step_names_are_unique(self) -> "PipelineSpec":
        _refuse_duplicates("steps", [step.name for step in self.steps])
        return self


class ObjectMeta(Strict):
    """The part of Kubernetes' object metadata that a manifest carries. What the API server adds is ignored."""

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore")

    name: Annotated[
        str, Field(min_length=1, max_length=names.MAX_PIPELINE_NAME, pattern=names.DNS_LABEL)
    ]
    """The pipeline's name; part of its version and of its address, `/pipelines/{name}`."""
    namespace: str | None = None
    """The workspace, in a cluster."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Of the object in a cluster."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Of the object in a cluster."""


class Pipeline(Strict):
    """A machine-learning pipeline that is served and changed while it serves."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": f"self.metadata.name.size() <= {names.MAX_PIPELINE_NAME}",
                    "message": f"metadata.name has more than {names.MAX_PIPELINE_NAME} characters; shorten it",
                    "fieldPath": ".metadata",
                },
                {
                    "rule": f"self.metadata.name.matches('{names.DNS_LABEL}')",
                    "message": f"metadata.name: {names.RULES[names.DNS_LABEL]}",
                    "fieldPath": ".metadata",
                },
            ]
        }
    )

    api_version: Literal["midstream.dev/v1alpha1"]
    """The version of the API that the manifest is written for."""
    kind: Literal["Pipeline"]
    """The kind of object."""
    metadata: ObjectMeta
    """Name and labels."""
    spec: PipelineSpec
    """What is wanted."""
    status: Annotated[Any, Field(exclude=True)] = None
    """Accepted so that the output of `kubectl get -o yaml` is a manifest too; never read."""


def _refuse_duplicates(where: str, given: list[str]) -> None:
    seen: set[str] = set()
    for index, name in enumerate(given):
        if name in seen:
            message = f"{where} has two entries named {name!r}; names must be unique"
            raise _refusal("duplicate_name", message, list=where, index=index)
        seen.add(name)


def _refusal(error_type: LiteralString, message: str, **context: str | int) -> PydanticCustomError:
    """Make an error whose type and context lead to the field, so that a manifest's line can be told.

    Braces in a message would be taken for placeholders, so the message is a part of the context itself.
    """
    return PydanticCustomError(error_type, "{message}", {"message": message, **context})
