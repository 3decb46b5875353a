"""Config folders for engine tests, written the plain way: files replaced one by one, index last."""

import hashlib
from pathlib import Path
from typing import Any

from midstream_api import names, version
from midstream_api.engineconfig import (
    Assignment,
    Index,
    IndexEntry,
    ResolvedModel,
    ResolvedStep,
    RevisionDocument,
)


def model(path: Path, name: str | None = None, **fields: Any) -> ResolvedModel:
    """A resolved model of a local file."""
    data = path.read_bytes()
    return ResolvedModel(
        name=name or path.stem,
        uri=path.as_uri(),
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        **fields,
    )


def document(*models: ResolvedModel, pipeline: str = "house-price") -> RevisionDocument:
    """A revision with one step for each model: step-0, step-1, …"""
    steps = [ResolvedStep(name=f"step-{n}", model=each) for n, each in enumerate(models)]
    return RevisionDocument(
        pipeline=pipeline, version=version.version_of(pipeline, steps), steps=steps
    )


def entry(revision: RevisionDocument) -> IndexEntry:
    data = version.dump(revision)
    name = version.revision_id(revision)
    return IndexEntry(
        revision=name,
        version=revision.version,
        document=f"{name}.json",
        sha256=hashlib.sha256(data).hexdigest(),
    )


class ConfigFolder:
    """Writes wishes into one folder, counting the sequence up."""

    def __init__(self, path: Path, uid: str = "test") -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.uid = uid
        self.sequence = 0

    def write(
        self,
        stable: RevisionDocument,
        candidate: RevisionDocument | None = None,
        *,
        serve: RevisionDocument | None = None,
        hold: list[RevisionDocument] | None = None,
        sequence: int | None = None,
        allow_schema_change: bool = False,
    ) -> None:
        """Write documents, assignment and index. serve: default candidate, else stable. hold: default both."""
        self.sequence = self.sequence + 1 if sequence is None else sequence
        present = [stable] if candidate is None else [stable, candidate]
        for each in present:
            self.put(entry(each).document, version.dump(each))
        assignment = Assignment(
            uid=self.uid,
            sequence=self.sequence,
            hold=[entry(each).revision for each in (present if hold is None else hold)],
            serve=entry(serve or present[-1]).revision,
        )
        self.put(names.ASSIGNMENT_FILE, version.dump(assignment))
        index = Index(
            pipeline=stable.pipeline,
            uid=self.uid,
            sequence=self.sequence,
            stable=entry(stable),
            candidate=entry(candidate) if candidate else None,
            allow_schema_change=allow_schema_change,
        )
        self.put(names.INDEX_FILE, version.dump(index))

    def put(self, name: str, data: bytes) -> None:
        temporary = self.path / f".{name}.new"
        temporary.write_bytes(data)
        temporary.replace(self.path / name)
