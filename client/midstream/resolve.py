"""A manifest becomes a revision: every source is fetched, pinned by its SHA-256, and given a version.

The bytes end in the cache; the revision document names them and holds everything an engine needs. No model is opened
here: whether the bytes are a model that fits its neighbours is found out when the revision is loaded.
"""

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midstream import dockerconfig, documents, models, problems, syntax
from midstream.manifest import Manifest
from midstream.problems import FieldPath, Problem
from midstream_api import version
from midstream_api.engineconfig import IndexEntry, ResolvedModel, ResolvedStep, RevisionDocument
from midstream_api.model import Framework
from midstream_artifacts import errors, fetch
from midstream_artifacts.cache import Artifact, Cache
from midstream_artifacts.progress import Progress
from midstream_artifacts.registry import RegistryAccess
from midstream_artifacts.sources import Source

StepProgress = Callable[[str, Progress], None]
"""Called with the step's name while a model of it is on the way, at most every half second."""


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
    """One model that a step will load."""

    step: str
    variant: str | None
    """The name of the variant, champion or challenger; None in a step that is a model."""
    at: FieldPath
    """Where the model stands in the manifest."""
    model: ResolvedModel
    path: Path | None
    """The immutable copy in the cache; None for code that stands in the document itself."""
    from_cache: bool
    """No byte was read from the source: the manifest gives the digest, and the cache has it."""

    @property
    def title(self) -> str:
        """Names it to people: `predict`, or `predict (control)`."""
        return models.title(self.step, self.variant)

    @property
    def source(self) -> FieldPath:
        """The field that holds its bytes or says where they are."""
        return (*self.at, "source", "uri" if self.model.inline is None else "inline")


@dataclass(frozen=True, slots=True)
class Resolved:
    """A revision that an engine can be told about."""

    document: RevisionDocument
    revision: str
    """Identity of the document."""
    allow_schema_change: bool
    models: tuple[StepModel, ...]
    """In the order of the manifest."""

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
        """Size of all models; a file that two of them share counts once."""
        return sum({one.model.sha256: one.model.size for one in self.models}.values())

    def content(self) -> dict[str, Any]:
        """What changes answers: `steps`, and `validations` where there are some."""
        return version.content(self.document.steps, self.document.validations)

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
    """Fetch all models, in order, and build the revision.

    Blocking. `cancelled` is asked often; true ends the work. Raises ResolveError for the first model that fails, and
    where there is none.
    """
    if not manifest.pipeline.spec.steps:
        problem = manifest.problem(
            ("spec", "steps"), "is empty, so there is nothing to serve", "add a step to serve it"
        )
        raise ResolveError(manifest.path, problem, "NotDeployed", transient=False)
    given = models.written(manifest)
    found = tuple(_resolve_model(manifest, one, cache, progress, cancelled) for one in given)
    # Two models may be written alike; which is which, the object itself tells.
    pinned = {id(one.model): each.model for one, each in zip(given, found, strict=True)}
    spec, name = manifest.pipeline.spec, manifest.pipeline.metadata.name
    steps = [ResolvedStep.of(step, lambda model: pinned[id(model)]) for step in spec.steps]
    document = RevisionDocument(
        pipeline=name,
        version=version.version_of(name, steps, spec.validations),
        steps=steps,
        validations=spec.validations,
    )
    if (oversize := documents.too_large(manifest, document)) is not None:
        raise ResolveError(manifest.path, oversize, "DocumentTooLarge", transient=False)
    return Resolved(
        document=document,
        revision=version.revision_id(document),
        allow_schema_change=manifest.pipeline.spec.rollout.allow_schema_change,
        models=found,
    )


def local_problems(manifest: Manifest) -> list[Problem]:
    """Tell what is wrong with the local files that a manifest names: missing, a folder, another sha256, no Python.

    Addresses of other kinds are only parsed. Leaves nothing behind.
    """
    found = []
    for one in models.written(manifest):
        try:
            if one.model.source.uri is None:
                continue
            source = Source.parse(one.model.source.uri, manifest.folder)
            if source.path is None:
                continue
            # A cache of one file for a moment: the same reading, and the same messages, as when it is run.
            with tempfile.TemporaryDirectory(prefix="midstream-") as folder:
                artifact = fetch.fetch(source, Cache(Path(folder)), sha256=one.model.sha256)
                wrong = _code_fault(one.model.framework, artifact.path, source.path.name)
        except errors.ArtifactError as error:
            found.append(_problem(manifest, one, error))
        else:
            if wrong is not None:
                found.append(manifest.problem(one.source, wrong))
    return found


def inline_problems(manifest: Manifest) -> list[Problem]:
    """Tell what is wrong with the code that stands in the manifest itself: no Python, another sha256."""
    found = []
    for one in models.written(manifest):
        code = one.model.source.inline
        if code is None:
            continue
        if (wrong := _inline_digest_problem(manifest, one, code)) is not None:
            found.append(wrong)
        if (fault := syntax.fault(code.encode(), "the code")) is not None:
            if fault.line is None:
                found.append(manifest.problem(one.source, fault.message))
            else:
                found.append(manifest.problem_inside(one.source, fault.line, fault.message))
    return found


def _code_fault(framework: Framework, path: Path, name: str) -> str | None:
    if framework is not Framework.PYTHON:
        return None
    fault = syntax.fault(path.read_bytes(), name)
    return None if fault is None else fault.message


def _resolve_model(
    manifest: Manifest,
    one: models.Written,
    cache: Cache,
    progress: StepProgress | None,
    cancelled: Callable[[], bool] | None,
) -> StepModel:
    model = one.model
    if model.source.inline is not None:
        return _resolve_inline(manifest, one, model.source.inline)
    assert model.source.uri is not None

    def report(done: Progress) -> None:
        if progress is not None:
            progress(one.step, done)

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
            _problem(manifest, one, error),
            error.reason,
            transient=error.transient,
        ) from error
    resolved = ResolvedModel.of(
        model, uri=source.absolute_uri, sha256=artifact.sha256, size=artifact.size
    )
    return StepModel(
        one.step, one.variant, one.at, resolved, artifact.path, from_cache=held is not None
    )


def _resolve_inline(manifest: Manifest, one: models.Written, code: str) -> StepModel:
    problem = _inline_digest_problem(manifest, one, code)
    if problem is not None:
        raise ResolveError(manifest.path, problem, "DigestMismatch", transient=False)
    data = code.encode()
    sha256 = hashlib.sha256(data).hexdigest()
    resolved = ResolvedModel.of(one.model, uri=None, sha256=sha256, size=len(data))
    return StepModel(one.step, one.variant, one.at, resolved, None, from_cache=False)


def _inline_digest_problem(manifest: Manifest, one: models.Written, code: str) -> Problem | None:
    got, promised = hashlib.sha256(code.encode()).hexdigest(), one.model.sha256
    if promised in {None, got}:
        return None
    return manifest.problem(
        (*one.at, "sha256"),
        f"the code in source.inline has sha256 {got}, and the manifest promises {promised}",
        "correct the sha256, or remove it",
    )


def _problem(manifest: Manifest, one: models.Written, error: errors.ArtifactError) -> Problem:
    """Say which field leads to an error: the digest, or the address."""
    wrong_digest = isinstance(error, errors.DigestMismatch)
    return manifest.problem((*one.at, "sha256") if wrong_digest else one.source, str(error))
