"""How large a revision's document is, and what makes it so. Pure.

An engine in a cluster is told its revisions by one ConfigMap, which has room for two of `names.MAX_CONFIG` bytes. What
is larger is refused on a laptop, too: the same manifest serves in both places.
"""

from midstream import models
from midstream.manifest import Manifest
from midstream.problems import FieldPath, Problem
from midstream_api import names, version
from midstream_api.engineconfig import ResolvedModel, ResolvedStep, RevisionDocument
from midstream_api.model import Model
from midstream_artifacts import errors
from midstream_artifacts.sources import Source

_LARGEST_FILE = 2 << 30


def too_large(manifest: Manifest, document: RevisionDocument | None = None) -> Problem | None:
    """Return what is wrong when a document has more bytes than fit; None when it fits.

    Without `document` the one is judged that the manifest will have, exact to the digits of the models' sizes.
    """
    if not manifest.pipeline.spec.steps:
        return None  # there will be no document
    document = document or _foreseen(manifest)
    size = len(version.dump(document))
    if size <= names.MAX_CONFIG:
        return None
    at, own, what, advice = max(_parts(manifest), key=lambda part: part[1])
    return manifest.problem(
        at,
        f"the revision's document has {size} bytes, {own} of them {what}, and at most {names.MAX_CONFIG} fit",
        advice,
    )


def _foreseen(manifest: Manifest) -> RevisionDocument:
    def pin(model: Model) -> ResolvedModel:
        uri = None
        if model.source.uri is not None:
            try:
                uri = Source.parse(model.source.uri, manifest.folder).absolute_uri
            except errors.ArtifactError:
                uri = model.source.uri  # that it is none is told elsewhere
        return ResolvedModel.of(model, uri=uri, sha256="0" * 64, size=_LARGEST_FILE)

    spec, name = manifest.pipeline.spec, manifest.pipeline.metadata.name
    steps = [ResolvedStep.of(step, pin) for step in spec.steps]
    return RevisionDocument(
        pipeline=name,
        version=version.version_of(name, steps, spec.validations),
        steps=steps,
        validations=spec.validations,
    )


def _parts(manifest: Manifest) -> list[tuple[FieldPath, int, str, str]]:
    """What may be large: field, bytes, words for it, advice."""
    found: list[tuple[FieldPath, int, str, str]] = [
        (("spec", "steps"), 0, "of steps", "use fewer of them")
    ]
    for one in models.written(manifest):
        if one.model.verify is not None:
            rows = len(version.canonical(one.model.verify.model_dump(mode="json")))
            found.append(
                ((*one.at, "verify"), rows, "golden rows here", "give fewer or smaller ones")
            )
        if one.model.source.inline is not None:
            code = len(version.canonical(one.model.source.inline))
            found.append(
                (one.source, code, "code here", "put it into a file, and give its uri instead")
            )
    return found
