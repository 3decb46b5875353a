"""The revision that a pipeline wants: resolved from its steps once, recorded, or pinned.

Records a version the moment it is known, also while the pipeline is undeployed or pinned.
"""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from midstream_api import names, version
from midstream_api.engineconfig import RevisionDocument
from midstream_api.pipeline import PipelineSpec
from midstream_operator import configured, timeline, versions
from midstream_operator.cluster import CONFIG_MAP, CONTROLLER_REVISION, SECRET, Cluster
from midstream_operator.look import Look
from midstream_operator.objects.config import ConfigTooLarge
from midstream_operator.observed import Failure
from midstream_operator.resolve import Resolver, Unresolved, docker_config, secrets_of
from midstream_operator.store import Store
from midstream_operator.versions import Recorded

_RETRY_SECONDS = 1.0
_RETRY_LIMIT_SECONDS = 60.0


@dataclass(slots=True)
class Attempts:
    """To resolve the sources of one pipeline. A restart may forget them."""

    request: tuple[int, str | None] | None = None
    failures: int = 0
    """In a row."""
    again: float = 0.0
    """When to try again, on the monotonic clock."""
    problem: Failure | None = None
    logins: str = ""
    """Digest of the logins that were tried last."""

    def failed(self, reason: str, message: str, *, transient: bool) -> Failure:
        # 2 ** 10 seconds are beyond the limit; a larger exponent would only grow, until it is no number any more.
        wait = min(_RETRY_SECONDS * 2.0 ** min(self.failures, 10), _RETRY_LIMIT_SECONDS)
        self.failures += 1
        self.again = time.monotonic() + wait
        self.problem = Failure("", reason, message, transient)
        return self.problem

    def waiting(self, request: tuple[int, str | None]) -> Failure | None:
        """Return the last failure while it is not worth trying again."""
        if self.request != request:
            self.request, self.failures, self.again, self.problem = request, 0, 0.0, None
        if self.problem is not None and (
            not self.problem.transient or time.monotonic() < self.again
        ):
            return self.problem
        return None


class Wanted:
    """Finds, and records, what is wanted."""

    def __init__(self, cluster: Cluster, store: Store, resolver: Resolver) -> None:
        self._cluster = cluster
        self._store = store
        self._resolver = resolver

    def history(self, look: Look) -> tuple[Recorded, ...]:
        """Return what is recorded of a pipeline, newest first."""
        owner = look.owner
        return versions.history(self._store.owned(CONTROLLER_REVISION, owner.namespace, owner.name))

    async def find(
        self, look: Look, spec: PipelineSpec, wrong: Failure | None, attempts: Attempts
    ) -> tuple[RevisionDocument | None, Failure | None]:
        """Return the revision to serve, recorded, or why there is none; with a pinned version perhaps both.

        `wrong`: why the steps cannot be read.
        """
        latest: RevisionDocument | None = None
        problem = wrong
        if spec.steps:
            latest, problem = await self._latest(look, spec, attempts)
        if not spec.version:
            return latest, problem
        pinned = versions.by_version(self.history(look), spec.version)
        if pinned is not None:
            return pinned.document, problem
        return None, Failure(
            "",
            "VersionNotFound",
            f"spec.version {spec.version!r} is not among the recorded versions; status.versions lists them",
            transient=False,
        )

    async def logins(self, look: Look, spec: PipelineSpec) -> dict[str, Mapping[str, Any]]:
        """Read the Secrets that sources refer to. Raises Unresolved."""
        namespace = look.owner.namespace
        return {
            name: docker_config(await self._cluster.get(SECRET, namespace, name), name, where)
            for name, where in secrets_of(spec).items()
        }

    async def _latest(
        self, look: Look, spec: PipelineSpec, attempts: Attempts
    ) -> tuple[RevisionDocument | None, Failure | None]:
        history = self.history(look)
        source = versions.source_digest(spec)
        same = versions.by_source(history, source)
        if same is not None:
            # A mutable source is resolved once: the same steps mean the same bytes.
            document = same.document
        else:
            found = await self._resolved(look, spec, attempts)
            if isinstance(found, Failure):
                return None, found
            document = found
            same = versions.by_revision(history, version.revision_id(document))
        newest = versions.latest(history)
        is_newest = same is not None and newest is not None and newest.revision == same.revision
        as_it_is = same is not None and (same.source_digest, tuple(same.tags)) == (
            source,
            tuple(spec.tags),
        )
        if not (is_newest and as_it_is):
            now = timeline.written(look.now)
            made = versions.record(
                look.owner,
                document,
                number=same.number
                if same is not None and is_newest
                else versions.next_number(history),
                tags=spec.tags,
                source_digest=source,
                created=same.created if same is not None else now,
                updated=now,
            )
            await self._cluster.apply(made)
            await self._prune(look, spec)
        return document, None

    async def _resolved(
        self, look: Look, spec: PipelineSpec, attempts: Attempts
    ) -> RevisionDocument | Failure:
        waiting = attempts.waiting(look.request)
        if waiting is not None and (waiting.transient or not secrets_of(spec)):
            return waiting
        try:
            logins = await self.logins(look, spec)
            digest = hashlib.sha256(version.canonical(logins)).hexdigest()
            if waiting is not None and digest == attempts.logins:
                return waiting  # for good, unless somebody mends a Secret
            attempts.logins = digest
            document = await self._resolver.document(look.owner.name, spec, logins)
        except Unresolved as error:
            return attempts.failed(error.reason, str(error), transient=error.transient)
        size = len(version.dump(document))
        if size > names.MAX_CONFIG:
            large = ConfigTooLarge.of(document, size)
            return attempts.failed(large.reason, str(large), transient=False)
        attempts.problem, attempts.failures = None, 0
        return document

    async def _prune(self, look: Look, spec: PipelineSpec) -> None:
        """Forget the oldest versions that nothing uses."""
        owner, history = look.owner, self.history(look)
        told = configured.read(self._store.get(CONFIG_MAP, owner.namespace, owner.engine), ())
        in_use = {entry.revision for entry in told.index.entries()} if told.index else set()
        pinned = versions.by_version(history, spec.version)
        if pinned is not None:
            in_use.add(pinned.revision)
        for old in versions.surplus(history, in_use=in_use):
            await self._cluster.delete(CONTROLLER_REVISION, owner.namespace, old.name)
