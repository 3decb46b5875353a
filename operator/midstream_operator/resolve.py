"""The steps as written become a revision document: every source is pinned to the bytes it holds now.

Blocking parts run in threads. A registry is asked for its manifest only; an http address is read once, keeping nothing.
What was learnt is remembered for as long as the address cannot change, so that many revisions cost little.
"""

import asyncio
import base64
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from midstream_api import version
from midstream_api.engineconfig import ResolvedModel, ResolvedStep, RevisionDocument
from midstream_api.model import Model
from midstream_api.pipeline import PipelineSpec
from midstream_artifacts.errors import ArtifactError, redacted
from midstream_artifacts.patience import Patience
from midstream_artifacts.pins import Pinned, describe, measure
from midstream_artifacts.registry import RegistryAccess
from midstream_artifacts.sources import Source
from midstream_operator.objects.config import REGISTRY_KEY

_PATIENCE = Patience(attempts=1, total_s=540.0)
"""The queue tries again; a thread that waits is one less for the others. It gives up before the look does: a look that
is tried again must not find the thread of the last one still reading."""
_REMEMBERED = 4096
"""Addresses whose content is known; the oldest are forgotten first."""


class Unresolved(Exception):
    """A source cannot be pinned. The message names step, model and source."""

    def __init__(self, reason: str, message: str, *, transient: bool) -> None:
        super().__init__(message)
        self.reason = reason
        self.transient = transient


class Resolver:
    """Pins sources."""

    def __init__(self, size_limit: int) -> None:
        self._size_limit = size_limit
        self._known: dict[tuple[str, bool], Pinned] = {}

    async def document(
        self, pipeline: str, spec: PipelineSpec, logins: Mapping[str, Mapping[str, Any]]
    ) -> RevisionDocument:
        """Return the revision that the steps ask for.

        `logins`: Docker config documents by the name of their Secret. Raises Unresolved for the first step that fails.
        """
        steps = []
        for step in spec.steps:
            where = f"step {step.name!r}, model {step.model.name!r}"
            pinned = await self._pinned(where, step.model, logins)
            model = ResolvedModel.of(
                step.model, uri=pinned.uri, sha256=pinned.sha256, size=pinned.size
            )
            steps.append(ResolvedStep(name=step.name, model=model))
        return RevisionDocument(
            pipeline=pipeline, version=version.version_of(pipeline, steps), steps=steps
        )

    async def _pinned(
        self, where: str, model: Model, logins: Mapping[str, Mapping[str, Any]]
    ) -> Pinned:
        uri, insecure = model.source.uri, model.source.insecure
        known = self._known.get((uri, insecure))
        if known is None:
            login = None
            if model.source.secret_ref is not None:
                login = logins[model.source.secret_ref.name]
            known = await asyncio.to_thread(self._learn, where, model, login)
            if uri.startswith("oci://") and "@sha256:" in uri:
                self._known[uri, insecure] = known
                if len(self._known) > _REMEMBERED:
                    del self._known[next(iter(self._known))]
        if model.sha256 is not None and model.sha256 != known.sha256:
            raise Unresolved(
                "DigestMismatch",
                f"{where}: {redacted(uri)} has sha256 {known.sha256}, and the manifest promises {model.sha256}; "
                "correct the sha256, or look who changed the file",
                transient=False,
            )
        return known

    def _learn(self, where: str, model: Model, login: Mapping[str, Any] | None) -> Pinned:
        uri = model.source.uri
        if not uri.startswith(("oci://", "http://", "https://")):
            raise Unresolved(
                "SourceIsLocal",
                f"{where}: {redacted(uri)!r} is a path, and a cluster cannot read it; run `midstream push "
                "pipeline.yaml --to oci://REGISTRY/REPOSITORY -o pushed.yaml` and apply pushed.yaml",
                transient=False,
            )
        try:
            source = Source.parse(uri, None)
            if source.reference is None:
                return measure(source, self._size_limit, patience=_PATIENCE)
            if login is None:
                access = RegistryAccess(None, model.source.insecure)
                return describe(source, access, patience=_PATIENCE)
            with tempfile.TemporaryDirectory(prefix="midstream-") as folder:
                config = Path(folder) / "config.json"
                config.touch(mode=0o600)
                config.write_text(json.dumps(login), encoding="utf-8")
                access = RegistryAccess(config, model.source.insecure)
                return describe(source, access, patience=_PATIENCE)
        except ArtifactError as error:
            raise Unresolved(
                error.reason, f"{where}: {error}", transient=error.transient
            ) from error


def secrets_of(spec: PipelineSpec) -> list[str]:
    """Names of the Secrets that the steps' sources refer to, without repetition."""
    found = [step.model.source.secret_ref for step in spec.steps]
    return sorted({each.name for each in found if each is not None})


def docker_config(secret: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    """Read the Docker config of a Secret. Raises Unresolved."""
    if secret is None:
        raise Unresolved(
            "SecretNotFound",
            f"Secret {name!r} is not in the pipeline's namespace; make it with `kubectl create secret docker-registry`",
            transient=True,
        )
    try:
        text = base64.b64decode(secret["data"][".dockerconfigjson"])
        document = json.loads(text)
        if not isinstance(document, dict):
            raise TypeError  # noqa: TRY301 - one way out for all forms that are wrong
        if not isinstance(document.get("auths", {}), dict):
            raise TypeError  # noqa: TRY301
        version.canonical(document)  # as it will be written; not every text that is read can be
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise Unresolved(
            "SecretInvalid",
            f"Secret {name!r} holds no Docker config under .dockerconfigjson; make it with "
            "`kubectl create secret docker-registry`",
            transient=True,
        ) from error
    return document


def logins_in(secret: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the Docker config in the engines' own Secret; empty when it was changed by hand."""
    try:
        found = json.loads(base64.b64decode(secret["data"][REGISTRY_KEY]))
        return {"auths": dict(found["auths"])}
    except (KeyError, TypeError, ValueError):
        return {}
