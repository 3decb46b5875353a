"""The history of a pipeline: one `apps/v1` ControllerRevision for each revision document, read and built.

Pure. A document never changes; what may change beside it is its number (a version that comes back moves to the front),
its tags and the digest of the steps that led to it. What cannot be read is left out and named, never guessed.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from midstream_api import names, version
from midstream_api.engineconfig import RevisionDocument
from midstream_api.pipeline import PipelineSpec
from midstream_api.status import MAX_VERSIONS, VersionStatus
from midstream_operator import metadata
from midstream_operator.metadata import Owner
from midstream_operator.observed import Object


@dataclass(frozen=True, slots=True)
class Recorded:
    """One ControllerRevision."""

    name: str
    """Of the object: `<pipeline>-<revision>`."""
    number: int
    """Grows with each revision that becomes the latest."""
    revision: str
    """Identity of the document."""
    version: str
    document: RevisionDocument
    created: str
    """RFC 3339: when the document was first recorded."""
    updated: str
    """RFC 3339: when it last came to the front, or its tags changed."""
    tags: tuple[str, ...] = ()
    source_digest: str = ""
    """Of the steps as they were written when it was last wanted; empty: not known."""


def source_digest(spec: PipelineSpec) -> str:
    """SHA-256, in hexadecimal, of steps and validations as they are written.

    Equal ones are resolved once, also where their sources are mutable. Defaults are left out, so a field that a later
    operator adds with a default changes nothing.
    """
    steps = [
        step.model_dump(mode="json", by_alias=True, exclude_defaults=True) for step in spec.steps
    ]
    checks = [
        each.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        for each in spec.validations
    ]
    # Without validations it is the list of steps alone, as it was when there were none.
    written = {"steps": steps, "validations": checks} if checks else steps
    return hashlib.sha256(version.canonical(written)).hexdigest()


def record(
    owner: Owner,
    document: RevisionDocument,
    *,
    number: int,
    tags: Iterable[str],
    source_digest: str,
    created: str,
    updated: str,
) -> Object:
    """Make the object that records a document; with a higher number, the one that brings it to the front again."""
    revision = version.revision_id(document)
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": f"{owner.name}-{revision}",
            "namespace": owner.namespace,
            "labels": {
                "app.kubernetes.io/instance": owner.name,
                "app.kubernetes.io/managed-by": names.MANAGED_BY,
                names.PIPELINE_LABEL: owner.name,
                names.VERSION_LABEL: document.version,
            },
            "annotations": {
                names.CREATED_ANNOTATION: created,
                names.SOURCE_DIGEST_ANNOTATION: source_digest,
                names.TAGS_ANNOTATION: json.dumps(list(tags), ensure_ascii=False),
                names.UPDATED_ANNOTATION: updated,
            },
            "ownerReferences": [metadata.reference(owner)],
        },
        "revision": number,
        "data": json.loads(version.dump(document)),
    }


def history(objects: Iterable[Object]) -> tuple[Recorded, ...]:
    """Return what is recorded, newest number first; what cannot be read is left out."""
    read = [found for found in map(_read, objects) if isinstance(found, Recorded)]
    return tuple(sorted(read, key=lambda one: (one.number, one.updated, one.name), reverse=True))


def unreadable(objects: Iterable[Object]) -> tuple[str, ...]:
    """Return a sentence for each object that `history` leaves out: its name, and why."""
    return tuple(found for found in map(_read, objects) if isinstance(found, str))


def _read(given: Object) -> "Recorded | str":
    meta: dict[str, Any] = given["metadata"]
    name = meta["name"]
    try:
        # As text: what JSON has for a number or a choice is not always what Python's strict types want.
        document = RevisionDocument.model_validate_json(json.dumps(given.get("data")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("data", *first["loc"])))
        return f"ControllerRevision {name} is left out: {where}: {first['msg']}"
    revision = version.revision_id(document)
    if name != f"{document.pipeline}-{revision}":
        return f"ControllerRevision {name} is left out: its data is that of {document.pipeline}-{revision}"
    annotations = meta.get("annotations") or {}
    created = annotations.get(names.CREATED_ANNOTATION) or meta.get("creationTimestamp") or ""
    return Recorded(
        name=name,
        number=given.get("revision") or 0,
        revision=revision,
        version=document.version,
        document=document,
        created=created,
        updated=annotations.get(names.UPDATED_ANNOTATION) or created,
        tags=_tags(annotations.get(names.TAGS_ANNOTATION)),
        source_digest=annotations.get(names.SOURCE_DIGEST_ANNOTATION) or "",
    )


def _tags(text: str | None) -> tuple[str, ...]:
    """Tags are labels for people: such as cannot be read are as good as none."""
    try:
        found = json.loads(text or "[]")
    except ValueError:
        return ()
    return tuple(map(str, found)) if isinstance(found, list) else ()


def latest(history: Sequence[Recorded]) -> Recorded | None:
    """Return the one of the newest steps."""
    return history[0] if history else None


def next_number(history: Sequence[Recorded]) -> int:
    """Return the number of what is recorded next."""
    return max((one.number for one in history), default=0) + 1


def by_source(history: Sequence[Recorded], digest: str) -> Recorded | None:
    """Return the newest that steps with this digest have led to."""
    return next((one for one in history if one.source_digest == digest), None)


def by_revision(history: Sequence[Recorded], revision: str) -> Recorded | None:
    """Return the one that records this document."""
    return next((one for one in history if one.revision == revision), None)


def by_version(history: Sequence[Recorded], wanted: str) -> Recorded | None:
    """Return the newest document of a version; older ones differ in sources or golden rows only."""
    return next((one for one in history if one.version == wanted), None)


def surplus(
    history: Sequence[Recorded], *, in_use: Collection[str], keep: int = MAX_VERSIONS
) -> tuple[Recorded, ...]:
    """Return what to delete, oldest first.

    Kept are the newest document of each of the newest `keep` versions, the newest `keep` documents of whatever
    version, and every revision that is `in_use`. So many golden rows that were tried do not push versions out.
    """
    kept = {one.revision for one in history[:keep]} | set(in_use)
    kept |= {one.revision for one in _newest_of_each(history)[:keep]}
    return tuple(one for one in reversed(history) if one.revision not in kept)


def version_statuses(history: Sequence[Recorded], serving: str | None) -> list[VersionStatus]:
    """Return `status.versions`: one entry for each version, newest first; `serving` is the version that serves."""
    return [
        VersionStatus(
            version=one.version,
            revision=one.number,
            creation_time=min(each.created for each in _of(history, one.version)),
            last_updated_time=max(each.updated for each in _of(history, one.version)),
            deployed=one.version == serving,
            tags=list(one.tags),
            steps=[step.main.name for step in one.document.steps],
        )
        for one in _newest_of_each(history)[:MAX_VERSIONS]
    ]


def _of(history: Sequence[Recorded], wanted: str) -> list[Recorded]:
    return [one for one in history if one.version == wanted]


def _newest_of_each(history: Sequence[Recorded]) -> list[Recorded]:
    newest: dict[str, Recorded] = {}
    for one in history:
        newest.setdefault(one.version, one)
    return list(newest.values())
