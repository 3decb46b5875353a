"""The steps as written become a revision document: every source is pinned to the bytes it holds now.

Blocking parts run in threads. A registry is asked for its manifest only; an http address is read once, keeping nothing.
What was learnt is remembered for as long as the address cannot change, so that many revisions cost little.
"""

import asyncio
import base64
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
_AT_ONCE = 4
"""Sources of one pipeline that are asked at the same time."""


class Unresolved(Exception):
    """A source cannot be pinned. The message names step, model, the field in the manifest, and the address."""

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
        """Return the revision that steps and validations ask for.

        `logins`: Docker config documents by the name of their Secret. Raises Unresolved for the first model, in the
        order of the manifest, that fails.
        """
        models = list(_models(spec))
        answers = await self._ask_all(models, logins)
        pinned: dict[int, ResolvedModel] = {}
        for each in models:
            answer = _inline(each.model) if each.uri is None else answers[each.address]
            if isinstance(answer, BaseException):
                raise answer
            _require_promised(each, answer.sha256)
            pinned[id(each.model)] = ResolvedModel.of(
                each.model,
                uri=None if each.uri is None else answer.uri,
                sha256=answer.sha256,
                size=answer.size,
            )
        steps = [ResolvedStep.of(step, lambda model: pinned[id(model)]) for step in spec.steps]
        return RevisionDocument(
            pipeline=pipeline,
            version=version.version_of(pipeline, steps, spec.validations),
            steps=steps,
            validations=spec.validations,
        )

    async def _ask_all(
        self, models: Sequence["_Placed"], logins: Mapping[str, Mapping[str, Any]]
    ) -> dict["_Address", Pinned | BaseException]:
        """Ask each address once: two models with the same tag have the same bytes, whatever happens meanwhile."""
        first: dict[_Address, _Placed] = {}
        for each in models:
            if each.uri is not None:
                first.setdefault(each.address, each)
        free = asyncio.Semaphore(_AT_ONCE)

        async def ask(each: _Placed) -> Pinned:
            async with free:
                return await self._pinned(each, logins)

        found = await asyncio.gather(*map(ask, first.values()), return_exceptions=True)
        return dict(zip(first, found, strict=True))

    async def _pinned(self, placed: "_Placed", logins: Mapping[str, Mapping[str, Any]]) -> Pinned:
        known = self._known.get(placed.address)
        if known is None:
            uri, _ = placed.address
            ref = placed.model.source.secret_ref
            login = None if ref is None else logins[ref.name]
            known = await asyncio.to_thread(self._learn, placed, login)
            if uri.startswith("oci://") and "@sha256:" in uri:
                self._known[placed.address] = known
                if len(self._known) > _REMEMBERED:
                    del self._known[next(iter(self._known))]
        return known

    def _learn(self, placed: "_Placed", login: Mapping[str, Any] | None) -> Pinned:
        (uri, insecure), where = placed.address, placed.where
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
                access = RegistryAccess(None, insecure)
                return describe(source, access, patience=_PATIENCE)
            with tempfile.TemporaryDirectory(prefix="midstream-") as folder:
                config = Path(folder) / "config.json"
                config.touch(mode=0o600)
                config.write_text(json.dumps(login), encoding="utf-8")
                access = RegistryAccess(config, insecure)
                return describe(source, access, patience=_PATIENCE)
        except ArtifactError as error:
            raise Unresolved(
                error.reason, f"{where}: {error}", transient=error.transient
            ) from error


_Address = tuple[str, bool]
"""`uri` and `insecure`."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """A model as it is written, and where."""

    step: str
    place: str
    """Its field in the manifest: `spec.steps[1].split.variants[0].model`."""
    model: Model

    @property
    def uri(self) -> str | None:
        return self.model.source.uri

    @property
    def address(self) -> _Address:
        """Of the bytes; none when they are inline."""
        return self.model.source.uri or "", self.model.source.insecure

    @property
    def where(self) -> str:
        """For the beginning of a message."""
        return f"step {self.step!r}, model {self.model.name!r} ({self.place}.source)"


def _models(spec: PipelineSpec) -> Iterator[_Placed]:
    for index, step in enumerate(spec.steps):
        for placed in step.models():
            yield _Placed(step.name, f"spec.steps[{index}].{placed.place}", placed.model)


def _inline(model: Model) -> Pinned:
    data = (model.source.inline or "").encode()
    return Pinned("", None, hashlib.sha256(data).hexdigest(), len(data))


def _require_promised(placed: _Placed, found: str) -> None:
    promised = placed.model.sha256
    if promised is None or promised == found:
        return
    what = "the code in inline" if placed.uri is None else redacted(placed.uri)
    raise Unresolved(
        "DigestMismatch",
        f"{placed.where}: {what} has sha256 {found}, and {placed.place}.sha256 promises {promised}; "
        f"correct the sha256, or look who changed the {'code' if placed.uri is None else 'file'}",
        transient=False,
    )


def secrets_of(spec: PipelineSpec) -> dict[str, str]:
    """Names of the Secrets that the steps' sources refer to, each with the first model that does, for messages."""
    found: dict[str, str] = {}
    for each in _models(spec):
        if each.model.source.secret_ref is not None:
            found.setdefault(each.model.source.secret_ref.name, each.where)
    return dict(sorted(found.items()))


def docker_config(secret: Mapping[str, Any] | None, name: str, where: str) -> Mapping[str, Any]:
    """Read the Docker config of a Secret; `where` begins the message. Raises Unresolved."""
    if secret is None:
        raise Unresolved(
            "SecretNotFound",
            f"{where}: Secret {name!r} is not in the pipeline's namespace; make it with "
            "`kubectl create secret docker-registry`",
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
            f"{where}: Secret {name!r} holds no Docker config under .dockerconfigjson; make it with "
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
