"""What the engines of a pipeline have been told: the engine's ConfigMap, read back. Pure."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from midstream_api import names, version
from midstream_api.engineconfig import Index, IndexEntry, RevisionDocument
from midstream_operator.observed import Object
from midstream_operator.versions import Recorded


@dataclass(frozen=True, slots=True)
class Configured:
    """The index and what it can be written with."""

    index: Index | None
    """None: there is none, or its documents are not what it says; then a new one is begun."""
    proven: str | None
    """The stable revision, once it has served."""
    documents: dict[str, bytes]
    """By file name: those of the ConfigMap, and all that are recorded."""


def read(config_map: Object | None, history: Sequence[Recorded]) -> Configured:
    """Read a ConfigMap. One that was damaged by hand counts as absent."""
    recorded = {f"{each.revision}.json": version.dump(each.document) for each in history}
    if config_map is None:
        return Configured(None, None, recorded)
    data = config_map.get("data") or {}
    found = {key: text.encode() for key, text in data.items() if key != names.INDEX_FILE}
    # What is recorded is right; what stands in the ConfigMap may have been changed by hand.
    documents = {**found, **recorded}
    annotations = config_map["metadata"].get("annotations") or {}
    try:
        index = Index.model_validate_json(data.get(names.INDEX_FILE, ""))
    except ValidationError:
        return Configured(None, None, documents)
    for entry in index.entries():
        if hashlib.sha256(found.get(entry.document, b"")).hexdigest() != entry.sha256:
            return Configured(None, None, documents)
    return Configured(index, annotations.get(names.PROVEN_ANNOTATION), documents)


def entry_of(document: RevisionDocument) -> IndexEntry:
    """Return what `index.json` says of a revision."""
    revision = version.revision_id(document)
    return IndexEntry(
        revision=revision,
        version=document.version,
        document=f"{revision}.json",
        sha256=hashlib.sha256(version.dump(document)).hexdigest(),
    )
