"""Canonical digests and the version UUID.

The version of a pipeline is derived from *the content that changes its answers* and nothing else, so
that a laptop, every cluster and the edge agree on it, and an upgrade of Midstream does not change it.
`tests/unit/test_version.py` keeps golden digests.
"""

import hashlib
import json
import uuid
from collections.abc import Iterable
from typing import Any

from midstream_api import names
from midstream_api.engineconfig import Assignment, Index, ResolvedStep, RevisionDocument

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, names.GROUP)


def canonical(value: Any) -> bytes:
    """JSON with sorted keys, no spaces, UTF-8: equal content gives equal bytes."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def content(steps: Iterable[ResolvedStep]) -> dict[str, Any]:
    """What changes answers: steps, and models by name, version, sha256 and inputs.

    Defaults are left out, so a later field with a default changes no digest. Where the bytes lie (`uri`), how large
    they are and the golden rows (`verify`) are left out too: they decide whether a revision may serve, not what it
    answers.
    """
    return {"steps": [_step(step) for step in steps]}


def _step(step: ResolvedStep) -> dict[str, Any]:
    model = step.model.model_dump(
        mode="json",
        by_alias=True,
        exclude_defaults=True,
        exclude={"uri", "insecure", "size", "verify"},
    )
    return {"name": step.name, "model": model}


def digest(steps: Iterable[ResolvedStep]) -> str:
    """SHA-256, in hexadecimal, of the canonical content."""
    return hashlib.sha256(canonical(content(steps))).hexdigest()


def version_of(pipeline: str, steps: Iterable[ResolvedStep]) -> str:
    """The version UUID: UUIDv5 of the pipeline's name and the digest of its content."""
    return str(uuid.uuid5(NAMESPACE, f"{pipeline}/{digest(steps)}"))


def dump(document: RevisionDocument | Index | Assignment) -> bytes:
    """The bytes of a document as they lie in the config folder.

    Defaults are left out (but `schemaVersion`), so a later field with a default changes no revision.
    """
    value = document.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return canonical({"schemaVersion": document.schema_version, **value})


def revision_id(document: RevisionDocument) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the document's bytes."""
    return hashlib.sha256(dump(document)).hexdigest()[:16]
