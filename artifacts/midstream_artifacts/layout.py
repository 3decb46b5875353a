"""How a model lies in an OCI registry: an image manifest with one layer, the model file as it is.

Pure: manifests to bytes and back. The layer's digest is the SHA-256 of the model file, so what a Pipeline promises and
what the registry calls it are the same. Equal files with equal names give equal manifests, so pushing twice is pushing
once.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midstream_api import names
from midstream_artifacts.errors import DigestMismatch, SourceRefused, shortened
from midstream_artifacts.references import Reference

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
ARTIFACT = "application/vnd.midstream.model.v1"
ONNX = "application/vnd.midstream.model.onnx.v1"
PYTHON = "application/vnd.midstream.model.python.v1"
"""Code: one file, or a zip archive of several."""
MODELS = (ONNX, PYTHON)
ENDINGS = (".onnx", ".py", ".zip")
"""Of the titles of layers that other tools made; where one has an earlier of these, the later do not count."""
EMPTY = "application/vnd.oci.empty.v1+json"
EMPTY_BYTES = b"{}"
EMPTY_SHA256 = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
TITLE = "org.opencontainers.image.title"

_MAX_NAMED = 8
"""Layers that a message names."""


@dataclass(frozen=True, slots=True)
class Layer:
    """The model file, as a manifest describes it."""

    sha256: str
    size: int
    """Bytes."""
    title: str
    """File name; empty when the manifest gives none."""
    kind: str = ONNX
    """Media type."""


def manifest(layer: Layer) -> bytes:
    """Return the manifest of a model."""
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": ARTIFACT,
        "config": _descriptor(EMPTY, EMPTY_SHA256, len(EMPTY_BYTES)),
        "layers": [
            {
                **_descriptor(layer.kind, layer.sha256, layer.size),
                "annotations": {TITLE: layer.title},
            }
        ],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def digest(body: bytes, reference: Reference) -> str:
    """Return the SHA-256 of a manifest. Raises `DigestMismatch` when the address promises another one."""
    got = hashlib.sha256(body).hexdigest()
    if reference.digest is not None and got != reference.digest:
        raise DigestMismatch(
            f"the registry answers with another manifest than {reference}: its sha256 is {got}; "
            "look at the registry, or at what is between"
        )
    return got


def require_promised(path: Path, got: str, size: int, promised: str | None) -> None:
    """Raise `DigestMismatch` when a file to be pushed is not what its manifest promises."""
    if promised is not None and got != promised:
        raise DigestMismatch(
            f"{path} has sha256 {got} ({size} bytes), and the manifest promises {promised}; "
            "correct the sha256, or look who changed the file. Nothing was pushed"
        )


def model_layer(body: bytes, shown: str) -> Layer:
    """Return the one layer of a manifest that is a model: by its media type, else by a title's ending.

    Raises `SourceRefused`, which names `shown` and the layers there are.
    """
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise SourceRefused(f"{shown} is no manifest: it is not JSON") from error
    if not isinstance(document, dict):
        raise SourceRefused(f"{shown} is no manifest: it is not a JSON object")
    if document.get("mediaType") in INDEXES or "manifests" in document:
        raise SourceRefused(
            f"{shown} is an index of several manifests; give the address of the one with the model"
        )
    layers = document.get("layers")
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        raise SourceRefused(f"{shown} is no image manifest: it has no list of layers")
    models = [layer for layer in layers if layer.get("mediaType") in MODELS]
    for ending in ENDINGS:
        models = models or [layer for layer in layers if _title(layer).lower().endswith(ending)]
    if len(models) != 1:
        what = f"{len(models)} models" if models else "no model"
        raise SourceRefused(
            f"{shown} holds {what}, and one is expected; its layers are {_named(models or layers)}. "
            "`midstream push` makes an artifact with one model"
        )
    digest, size = models[0].get("digest"), models[0].get("size")
    found = re.fullmatch(rf"sha256:({names.SHA256.strip('^$')})", str(digest))
    if not found or not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise SourceRefused(
            f"{shown}: its layer {_named(models)} has no SHA-256 digest or no size; push the model anew"
        )
    return Layer(found[1], size, _title(models[0]), str(models[0].get("mediaType")))


def _descriptor(kind: str, sha256: str, size: int) -> dict[str, Any]:
    return {"mediaType": kind, "digest": f"sha256:{sha256}", "size": size}


def _title(layer: dict[str, Any]) -> str:
    annotations = layer.get("annotations")
    return str(annotations.get(TITLE, "")) if isinstance(annotations, dict) else ""


def _named(layers: list[dict[str, Any]]) -> str:
    said = [
        shortened(_title(layer) or f"one without a title ({layer.get('mediaType')})")
        for layer in layers[:_MAX_NAMED]
    ]
    if len(layers) > _MAX_NAMED:
        said.append(f"{len(layers) - _MAX_NAMED} more")
    return ", ".join(said) or "none"
