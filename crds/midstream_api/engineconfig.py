"""The config folder: what an engine is told, and nothing else.

One folder holds `index.json`, one document for each revision, and the engine's assignment beside them. It is
the same folder whether the kubelet projects it, `midstream run` writes it or an edge engine unpacks it
from a bundle. Every document says `schemaVersion: 1`; another one is refused. `docs/config-folder.md` shows an example.
"""

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, model_validator

from midstream_api import names
from midstream_api.base import Strict
from midstream_api.model import Batching, Framework, InputField, Model, OutputField, Verify
from midstream_api.refusal import refusal
from midstream_api.steps import Step, StepOf, replaced
from midstream_api.validation import Validation

Sha256 = Annotated[str, Field(pattern=names.SHA256)]
RevisionId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][-._A-Za-z0-9]*$", max_length=253)]
PipelineName = Annotated[str, Field(pattern=names.DNS_LABEL, max_length=names.MAX_PIPELINE_NAME)]


class ResolvedModel(Strict):
    """A model whose bytes are pinned: its source has been resolved to a sha256."""

    name: str
    version: str | None = None
    framework: Annotated[Framework, Field(strict=False)] = Framework.ONNX
    uri: str | None = None
    """Absolute address of the bytes; None where they stand in `inline`."""
    inline: str | None = None
    """The code of a Python model."""
    insecure: bool = False
    """Ask the registry of an `oci://` address over plain HTTP."""
    sha256: Sha256
    size: NonNegativeInt
    """Bytes."""
    inputs: list[InputField] | None = None
    outputs: list[OutputField] | None = None
    batch: Annotated[Batching, Field(strict=False)] = Batching.ROWS
    verify: Verify | None = None

    @model_validator(mode="after")
    def _bytes_are_somewhere(self) -> "ResolvedModel":
        if (self.uri is None) == (self.inline is None):
            raise refusal("source_kind", "give exactly one of uri and inline")
        return self

    @classmethod
    def of(cls, model: Model, *, uri: str | None, sha256: str, size: int) -> "ResolvedModel":
        """Pin a model as it is written in a manifest to the bytes that its source holds.

        uri: None when they are the manifest's own (`source.inline`).
        """
        return cls(
            name=model.name,
            version=model.version,
            framework=model.framework,
            uri=uri,
            inline=model.source.inline,
            insecure=model.source.insecure,
            sha256=sha256,
            size=size,
            inputs=model.inputs,
            outputs=model.outputs,
            batch=model.batch,
            verify=model.verify,
        )


class ResolvedStep(StepOf[ResolvedModel]):
    """A step whose models are pinned."""

    @classmethod
    def of(cls, step: Step, pin: Callable[[Model], ResolvedModel]) -> "ResolvedStep":
        """Pin every model of a step as it is written in a manifest."""
        return cls(**replaced(step, pin))


class RevisionDocument(Strict):
    """One revision of a pipeline, complete: an engine needs nothing else to serve it."""

    schema_version: Literal[1] = 1
    pipeline: PipelineName
    version: str
    """The pipeline's version UUID: the same content has the same one everywhere."""
    steps: Annotated[list[ResolvedStep], Field(min_length=1, max_length=32)]
    validations: Annotated[list[Validation], Field(max_length=32)] = Field(default_factory=list)

    def models(self) -> list[ResolvedModel]:
        """All models of all steps; the same one may come more than once."""
        return [placed.model for step in self.steps for placed in step.models()]


class IndexEntry(Strict):
    revision: RevisionId
    """Identity of the document: the start of its SHA-256. Two revisions may share a version."""
    version: str
    document: FileName
    """The file in this folder that holds the `RevisionDocument`."""
    sha256: Sha256
    """Of that file's bytes, so that a half-written folder is noticed."""


class Index(Strict):
    """`index.json`: the revisions there are."""

    schema_version: Literal[1] = 1
    pipeline: PipelineName
    uid: Annotated[str, Field(min_length=1, max_length=64)]
    """Identity of the Pipeline object. A new uid starts a new sequence."""
    sequence: NonNegativeInt
    """Grows with every change; a lower one is older and ignored."""
    stable: IndexEntry
    """What an engine without an assignment serves."""
    candidate: IndexEntry | None = None
    allow_schema_change: bool = False
    """The candidate may have other inputs and outputs than the revision that serves."""

    def entries(self) -> list[IndexEntry]:
        return [self.stable] if self.candidate is None else [self.stable, self.candidate]


class Assignment(Strict):
    """`assignment.json`: what this one engine holds ready and what it serves.

    It is obeyed only when `uid` and `sequence` are those of the index beside it, and when every revision it names
    is in the folder.
    """

    schema_version: Literal[1] = 1
    uid: str
    sequence: NonNegativeInt
    hold: list[RevisionId]
    serve: RevisionId

    @model_validator(mode="after")
    def _serves_what_it_holds(self) -> "Assignment":
        if self.serve not in self.hold:
            raise ValueError(f"serve names {self.serve!r}, which is not among hold {self.hold}")
        return self
