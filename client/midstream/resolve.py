"""A manifest becomes a revision: every source is fetched, pinned by its SHA-256, and given a version.

The bytes end in the cache; the revision document names them and holds everything an engine needs. No model is opened
here: whether the bytes are a model that fits its neighbours is found out when the revision is loaded.
"""

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from midstream import dockerconfig, problems
from midstream.manifest import Manifest
from midstream.problems import FieldPath, Problem
from midstream_api import version
from midstream_api.engineconfig import IndexEntry, ResolvedModel, ResolvedStep, RevisionDocument
from midstream_artifacts import errors, fetch
from midstream_artifacts.cache import Artifact, Cache
from midstream_artifacts.progress import Progress
from midstream_artifacts.registry import RegistryAccess
from midstream_artifacts.sources import Source

StepProgress = Callable[[str, Progress], None]
"""Called with the step's name while its model is on the way, at most every half second."""


MAX_DOCUMENT_BYTES = 1 << 20
"""Of a revision document: what an engine reads, and what a ConfigMap can hold."""


class ResolveError(Exception):
    """A revision cannot be made. `problem` says which field of the manifest leads to it."""

    def __init__(self, path: Path, problem: Problem, reason: str, *, transient: bool) -> None:
        super().__init__(problems.at(path, problem))
        self.path = path
        self.problem = problem
        self.reason = reason
        """A constant in CamelCase: `SourceNotFound`, `DigestMismatch`, `DocumentTooLarge`, ..."""
        self.transient = transient
        """The same manifest may resolve later."""


@dataclass(frozen=True, slots=True)
class StepModel:
    """What one step will load."""

    step: str
    model: ResolvedModel
    path: Path
    """The immutable copy in the cache."""
    from_cache: bool
    """No byte was read from the source: the manifest gives the digest, and the cache has it."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A revision that an engine can be told about."""

    document: RevisionDocument
    revision: str
    """Identity of the document."""
    allow_schema_change: bool
    models: tuple[StepModel, ...]
    """In the order of the steps."""

    @property
    def pipeline(self) -> str:
        """The pipeline's name."""
        return self.document.pipeline

    @property
    def version(self) -> str:
        """The version UUID."""
        return self.document.version

    @property
    def total_bytes(self) -> int:
        """Size of all model files; a file that two steps share counts once."""
        return sum({one.model.sha256: one.model.size for one in self.models}.values())

    def dump(self) -> bytes:
        """The bytes of the document in the config folder."""
        return version.dump(self.document)

    def entry(self) -> IndexEntry:
        """What `index.json` says about this revision; the document's file is `<revision>.json`."""
        return IndexEntry(
            revision=self.revision,
            version=self.version,
            document=f"{self.revision}.json",
            sha256=hashlib.sha256(self.dump()).hexdigest(),
        )


def resolve(
    manifest: Manifest,
    cache: Cache,
    progress: StepProgress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Resolved:
    """Fetch the models of all steps, in order, and build the revision.

    Blocking. `cancelled` is asked often; true ends the work. Raises ResolveError for the first step that fails, and
    where there is none.
    """
    if not manifest.pipeline.spec.steps:
        problem = manifest.problem(
            ("spec", "steps"), "is empty, so there is nothing to serve", "add a step to serve it"
        )
        raise ResolveError(manifest.path, problem, "NotDeployed", transient=False)
    models = tuple(
        _resolve_step(manifest, index, cache, progress, cancelled)
        for index in range(len(manifest.pipeline.spec.steps))
    )
    name = manifest.pipeline.metadata.name
    steps = [ResolvedStep(name=one.step, model=one.model) for one in models]
    document = RevisionDocument(pipeline=name, version=version.version_of(name, steps), steps=steps)
    size = len(version.dump(document))
    if size > MAX_DOCUMENT_BYTES:
        problem = manifest.problem(
            ("spec", "steps"),
            f"the revision's document has {size} bytes, and at most {MAX_DOCUMENT_BYTES} are allowed",
            "give fewer or smaller golden rows",
        )
        raise ResolveError(manifest.path, problem, "DocumentTooLarge", transient=False)
    return Resolved(
        document=document,
        revision=version.revision_id(document),
        allow_schema_change=manifest.pipeline.spec.rollout.allow_schema_change,
        models=models,
    )


def local_problems(manifest: Manifest) -> list[Problem]:
    """Tell what is wrong with the local files that a manifest names: missing, a folder, another sha256.

    Addresses of other kinds are only parsed. Leaves nothing behind.
    """
    found = []
    for index, step in enumerate(manifest.pipeline.spec.steps):
        try:
            source = Source.parse(step.model.source.uri, manifest.folder)
            if source.path is not None:
                # A cache of one file for a moment: the same reading, and the same messages, as when it is run.
                with tempfile.TemporaryDirectory(prefix="midstream-") as folder:
                    fetch.fetch(source, Cache(Path(folder)), sha256=step.model.sha256)
        except errors.ArtifactError as error:
            found.append(_problem(manifest, index, error))
    return found


def _resolve_step(
    manifest: Manifest,
    index: int,
    cache: Cache,
    progress: StepProgress | None,
    cancelled: Callable[[], bool] | None,
) -> StepModel:
    step = manifest.pipeline.spec.steps[index]
    model = step.model

    def report(done: Progress) -> None:
        if progress is not None:
            progress(step.name, done)

    try:
        source = Source.parse(model.source.uri, manifest.folder)
        held = cache.get(model.sha256) if model.sha256 else None
        artifact: Artifact = held or fetch.fetch(
            source,
            cache,
            sha256=model.sha256,
            registry=RegistryAccess(dockerconfig.path(), model.source.insecure),
            progress=report,
            cancelled=cancelled,
        )
    except errors.ArtifactError as error:
        raise ResolveError(
            manifest.path,
            _problem(manifest, index, error),
            error.reason,
            transient=error.transient,
        ) from error
    resolved = ResolvedModel.of(
        model, uri=source.absolute_uri, sha256=artifact.sha256, size=artifact.size
    )
    return StepModel(step.name, resolved, artifact.path, from_cache=held is not None)


def _problem(manifest: Manifest, index: int, error: errors.ArtifactError) -> Problem:
    """Say which field leads to an error: the digest, or the address."""
    model: FieldPath = ("spec", "steps", index, "model")
    wrong_digest = isinstance(error, errors.DigestMismatch)
    at: FieldPath = (*model, "sha256") if wrong_digest else (*model, "source", "uri")
    return manifest.problem(at, str(error))
