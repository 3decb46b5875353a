"""The `Pipeline` resource: what a user writes.

No I/O happens here: whether a model's file exists or connects to its neighbour is found out when the
sources are resolved and the revision is loaded.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from midstream_api import names
from midstream_api.base import Strict
from midstream_api.deployment import Deployment
from midstream_api.refusal import refusal, refuse_duplicates
from midstream_api.steps import Step, repeated_challenger
from midstream_api.validation import Validation


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
                {
                    "rule": "self.steps.all(s, !has(s.shadow) || self.steps.all(t, t.name == s.name || !has(t.shadow) "
                    "|| s.shadow.challengers.all(c, t.shadow.challengers.all(d, c.name != d.name))))",
                    "message": "two steps have a challenger of the same name; "
                    "rename one: its outputs are columns out_<name>",
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
    validations: Annotated[
        list[Validation],
        Field(
            max_length=32,
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
            },
        ),
    ] = Field(default_factory=list)
    """What is said of each row of an answer; no answer is held back."""
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
            raise refusal(
                "no_steps",
                "a pipeline that is deployed needs at least one step; add one, or say deployed: false",
                field="steps",
            )
        return self

    @model_validator(mode="after")
    def _names_are_unique(self) -> "PipelineSpec":
        refuse_duplicates("steps", [step.name for step in self.steps])
        refuse_duplicates("validations", [each.name for each in self.validations])
        if (repeated := repeated_challenger(self.steps)) is not None:
            name, step, place = repeated
            raise refusal(
                "duplicate_name",
                f"two steps have a challenger named {name!r}; rename one: its outputs are columns out_{name}",
                list="steps",
                index=step,
                below=place,
            )
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
