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
from midstream_api.engineconfig import (
    Assignment,
    Index,
    ResolvedStep,
    RevisionDocument,
)
from midstream_api.validation import Validation

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, names.GROUP)


def canonical(value: Any) -> bytes:
    """JSON with sorted keys, no spaces, UTF-8: equal content gives equal bytes."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def content(
    steps: Iterable[ResolvedStep], validations: Iterable[Validation] = ()
) -> dict[str, Any]:
    """What changes answers: steps, models by name, version, sha256 and fields, and validations.

    Defaults are left out, so a later field with a default changes no digest. Where the bytes lie (`uri`, `inline`),
    how large they are and the golden rows (`verify`) are left out too: they decide whether a revision may serve, not
    what it answers.
    """
    found: dict[str, Any] = {"steps": [_step(step) for step in steps]}
    checks = [
        each.model_dump(mode="json", by_alias=True, exclude_defaults=True) for each in validations
    ]
    if checks:
        found["validations"] = checks
    return found


_MODEL = {"model": {"uri": True, "inline": True, "insecure": True, "size": True, "verify": True}}

_ELSEWHERE: dict[str, Any] = {
    **_MODEL,
    "split": {"variants": {"__all__": _MODEL}},
    "shadow": {"champion": _MODEL, "challengers": {"__all__": _MODEL}},
}
"""What is left out, by the places where a step has models: users name keys, fields and variants as they like."""


def _step(step: ResolvedStep) -> dict[str, Any]:
    return step.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=_ELSEWHERE)


def digest(steps: Iterable[ResolvedStep], validations: Iterable[Validation] = ()) -> str:
    """SHA-256, in hexadecimal, of the canonical content."""
    return hashlib.sha256(canonical(content(steps, validations))).hexdigest()


def version_of(
    pipeline: str, steps: Iterable[ResolvedStep], validations: Iterable[Validation] = ()
) -> str:
    """The version UUID: UUIDv5 of the pipeline's name and the digest of its content."""
    return str(uuid.uuid5(NAMESPACE, f"{pipeline}/{digest(steps, validations)}"))


def dump(document: RevisionDocument | Index | Assignment) -> bytes:
    """The bytes of a document as they lie in the config folder.

    Defaults are left out (but `schemaVersion`), so a later field with a default changes no revision.
    """
    value = document.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return canonical({"schemaVersion": document.schema_version, **value})


def revision_id(document: RevisionDocument) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the document's bytes."""
    return hashlib.sha256(dump(document)).hexdigest()[:16]
