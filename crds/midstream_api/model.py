"""A model as a manifest has it: its name, where its bytes come from, and how callers name its fields."""

import enum
from typing import Annotated

from pydantic import ConfigDict, Field, JsonValue, model_validator

from midstream_api import names
from midstream_api.base import Strict
from midstream_api.refusal import refusal, refuse_duplicates


class Framework(enum.StrEnum):
    """What runs a model."""

    ONNX = "ONNX"
    PYTHON = "Python"
    """Code of its own, in a process beside the engine."""


class DType(enum.StrEnum):
    """Type of a field's elements."""

    FLOAT16 = "float16"
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    INT8 = "int8"
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"
    UINT8 = "uint8"
    UINT16 = "uint16"
    UINT32 = "uint32"
    UINT64 = "uint64"
    BOOL = "bool"
    STRING = "string"


class Batching(enum.StrEnum):
    """What the first dimension of a model's inputs and outputs is."""

    ROWS = "Rows"
    """The rows of a request."""
    SINGLE = "Single"
    """A dimension like any other: the model knows no batches, and runs once for each row."""


class Missing(enum.StrEnum):
    """What a request's `null` or `NaN` in a field means."""

    FORBID = "Forbid"
    ALLOW = "Allow"


class SecretRef(Strict):
    """A Secret in the pipeline's namespace."""

    name: Annotated[str, Field(min_length=1, max_length=253, pattern=names.OBJECT_NAME)]
    """Of a Secret of type `kubernetes.io/dockerconfigjson`."""


class Source(Strict):
    """Where a model's bytes come from: exactly one of `uri` and `inline`."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "has(self.uri) != has(self.inline)",
                    "message": "give exactly one of uri and inline",
                },
                {
                    "rule": "!has(self.secretRef) || (has(self.uri) && self.uri.startsWith('oci://'))",
                    "message": "secretRef is for oci:// addresses only; remove it, or give such an address",
                    "fieldPath": ".secretRef",
                },
                {
                    "rule": "!has(self.insecure) || !self.insecure || (has(self.uri) && self.uri.startsWith('oci://'))",
                    "message": "insecure is for oci:// addresses only; remove it, or give such an address",
                    "fieldPath": ".insecure",
                },
            ]
        }
    )

    uri: Annotated[str, Field(min_length=1, max_length=2048)] | None = None
    """A path (relative to the manifest) or a `file://`, `http://`, `https://` or `oci://` address."""
    inline: Annotated[str, Field(min_length=1, max_length=names.MAX_INLINE)] | None = None
    """The code itself, of a model with framework Python: at most 64 KiB."""
    secret_ref: SecretRef | None = None
    """The login at the registry of an `oci://` address; left out: anonymous. In a cluster only."""
    insecure: bool = False
    """Ask the registry of an `oci://` address over plain HTTP."""

    @model_validator(mode="after")
    def _exactly_one(self) -> "Source":
        if (self.uri is None) == (self.inline is None):
            raise refusal("source_kind", "give exactly one of uri and inline")
        return self

    @model_validator(mode="after")
    def _registry_fields_for_registries(self) -> "Source":
        registry = self.uri is not None and self.uri.startswith("oci://")
        if (self.secret_ref or self.insecure) and not registry:
            field = "secretRef" if self.secret_ref else "insecure"
            raise refusal(
                "registry_only",
                f"{field} is for oci:// addresses only; remove it, or give such an address",
                field=field,
            )
        return self

    @model_validator(mode="after")
    def _inline_is_small(self) -> "Source":
        # The length in a schema counts characters, a config document bytes; a rule for an API server that counts bytes
        # would cost more than it allows.
        size = len((self.inline or "").encode())
        if size > names.MAX_INLINE:
            raise refusal(
                "inline_too_large",
                f"inline has {size} bytes, at most {names.MAX_INLINE} fit in a manifest; "
                "put the code in a file and give its uri",
                field="inline",
            )
        return self


Length = Annotated[int, Field(ge=-1, le=1 << 30)]


class InputField(Strict):
    """One input of a model, as callers name it."""

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=names.FIELD_NAME)]
    """The name callers use."""
    tensor: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """The model's own name of this input. Left out: the input at the same position."""
    missing: Annotated[Missing, Field(strict=False)] = Missing.FORBID
    """`Forbid` refuses `null` and `NaN`; `Allow` hands them to the model as NaN."""
    dtype: Annotated[DType, Field(strict=False)] | None = None
    """Of a Python model's input, which needs it. ONNX files say it themselves."""
    shape: Annotated[list[Length], Field(max_length=8)] | None = None
    """Of one row of a Python model's input; left out: a single value. -1 is any length."""


class OutputField(Strict):
    """One output of a Python model."""

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=names.FIELD_NAME)]
    """As the code names it."""
    dtype: Annotated[DType, Field(strict=False)]
    """Of its elements."""
    shape: Annotated[list[Length], Field(max_length=8)] = Field(default_factory=list)
    """Of one row; left out: a single value. -1 is any length."""


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


_FIELDS = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}


class Model(Strict):
    """One model, by name, version and source."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "self.framework == 'Python' || !has(self.source.inline)",
                    "message": "source.inline is code, so the model needs framework: Python; "
                    "for an ONNX file give source.uri",
                    "fieldPath": ".source",
                },
                {
                    "rule": "self.framework == 'Python' || !has(self.outputs)",
                    "message": "outputs are declared for framework: Python only; an ONNX file says them itself",
                    "fieldPath": ".outputs",
                },
                {
                    "rule": "self.framework != 'Python' || self.batch == 'Rows'",
                    "message": "batch: Single is for ONNX models; a Python model gets all rows of a request",
                    "fieldPath": ".batch",
                },
                {
                    "rule": "self.framework != 'Python' || !has(self.inputs) || self.inputs.all(i, !has(i.tensor))",
                    "message": "tensor renames an ONNX model's input; "
                    "a Python model gets its fields under their own names",
                    "fieldPath": ".inputs",
                },
                {
                    "rule": "self.framework != 'Python' || !has(self.inputs) || self.inputs.all(i, has(i.dtype))",
                    "message": "each input of a Python model needs its dtype; "
                    "or leave inputs out, and it gets whatever comes",
                    "fieldPath": ".inputs",
                },
                {
                    "rule": "self.framework == 'Python' || !has(self.inputs) "
                    "|| self.inputs.all(i, !has(i.dtype) && !has(i.shape))",
                    "message": "dtype and shape are for framework: Python only; an ONNX file says them itself",
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
    inputs: (
        Annotated[list[InputField], Field(min_length=1, max_length=64, json_schema_extra=_FIELDS)]
        | None
    ) = None
    """Renames the model's inputs, by position or by `tensor`. Left out: the model's own names. Of a Python model: the
    fields it takes; left out: whatever comes."""
    outputs: (
        Annotated[list[OutputField], Field(min_length=1, max_length=64, json_schema_extra=_FIELDS)]
        | None
    ) = None
    """What a Python model gives; left out: known only when it answers."""
    batch: Annotated[Batching, Field(strict=False)] = Batching.ROWS
    """`Single` for an ONNX model without a batch dimension."""
    verify: Verify | None = None
    """Golden rows that a candidate must reproduce before it may serve."""

    @model_validator(mode="after")
    def _field_names_are_unique(self) -> "Model":
        refuse_duplicates("inputs", [field.name for field in self.inputs or []])
        refuse_duplicates("outputs", [field.name for field in self.outputs or []])
        return self

    @model_validator(mode="after")
    def _fields_of_its_framework(self) -> "Model":
        if self.framework is Framework.PYTHON:
            if self.batch is not Batching.ROWS:
                raise refusal(
                    "framework_field",
                    "batch: Single is for ONNX models; a Python model gets all rows of a request",
                    field="batch",
                )
            for index, field in enumerate(self.inputs or []):
                if field.tensor is not None:
                    raise refusal(
                        "framework_field",
                        "tensor renames an ONNX model's input; "
                        "a Python model gets its fields under their own names",
                        list="inputs",
                        index=index,
                        below="tensor",
                    )
                if field.dtype is None:
                    raise refusal(
                        "framework_field",
                        "each input of a Python model needs its dtype; "
                        "or leave inputs out, and it gets whatever comes",
                        list="inputs",
                        index=index,
                        below="dtype",
                    )
            return self
        if self.source.inline is not None:
            raise refusal(
                "framework_field",
                "source.inline is code, so the model needs framework: Python; "
                "for an ONNX file give source.uri",
                field="source",
            )
        if self.outputs is not None:
            raise refusal(
                "framework_field",
                "outputs are declared for framework: Python only; an ONNX file says them itself",
                field="outputs",
            )
        for index, field in enumerate(self.inputs or []):
            if field.dtype is not None or field.shape is not None:
                what = "dtype" if field.dtype is not None else "shape"
                raise refusal(
                    "framework_field",
                    f"{what} is for framework: Python only; an ONNX file says it itself",
                    list="inputs",
                    index=index,
                    below=what,
                )
        return self
