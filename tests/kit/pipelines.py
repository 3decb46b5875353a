"""Revisions of any kind of step, from what a manifest's `spec` would say of local files."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from midstream_api import version
from midstream_api.engineconfig import ResolvedModel, ResolvedStep, RevisionDocument
from midstream_api.model import Model
from midstream_api.pipeline import PipelineSpec


def revision(spec: Mapping[str, Any], pipeline: str = "house-price") -> RevisionDocument:
    """The document of a spec whose sources are absolute paths or inline code."""
    read = PipelineSpec.read(spec)
    steps = [ResolvedStep.of(step, _pin) for step in read.steps]
    return RevisionDocument(
        pipeline=pipeline,
        version=version.version_of(pipeline, steps, read.validations),
        steps=steps,
        validations=read.validations,
    )


def onnx(path: Path, name: str | None = None, **fields: Any) -> dict[str, Any]:
    """A model of a file, as a manifest has it."""
    return {"name": name or path.stem, "source": {"uri": str(path)}, **fields}


def python(code: str, name: str = "code", **fields: Any) -> dict[str, Any]:
    """A model of inline code."""
    return {"name": name, "framework": "Python", "source": {"inline": code}, **fields}


def _pin(model: Model) -> ResolvedModel:
    if model.source.inline is not None:
        data, uri = model.source.inline.encode(), None
    else:
        path = Path(str(model.source.uri))
        data, uri = path.read_bytes(), path.as_uri()
    return ResolvedModel.of(model, uri=uri, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
