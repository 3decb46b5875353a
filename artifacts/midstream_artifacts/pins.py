"""What a mutable address holds now, learnt without keeping its bytes. Blocking."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from midstream_artifacts import headers, layout, verdicts
from midstream_artifacts.errors import (
    DigestMismatch,
    SourceTooLarge,
    SourceUnreachable,
)
from midstream_artifacts.http import Web
from midstream_artifacts.patience import Attempt, Patience, retried
from midstream_artifacts.registry import RegistryAccess, Repository
from midstream_artifacts.sources import Source


@dataclass(frozen=True, slots=True)
class Pinned:
    """What was there."""

    uri: str
    """The address; of a registry the one that ends in `@sha256:<manifest digest>` and cannot change any more."""
    manifest_digest: str | None
    """`sha256:` and 64 hexadecimal digits; None where there are no manifests."""
    sha256: str
    """Of the model file."""
    size: int
    """Bytes of the model file."""


def describe(
    source: Source,
    access: RegistryAccess = RegistryAccess(),
    *,
    cancelled: Callable[[], bool] | None = None,
    patience: Patience = Patience(),
) -> Pinned:
    """Return what an `oci://` source holds, from its manifest alone: digest and size as the registry states them.

    Raises an `ArtifactError`.
    """
    if source.reference is None:
        raise ValueError(f"{source} is not in a registry; measure() learns what it holds")
    attempt = Attempt(str(source), patience.total_s, cancelled)
    return described(Repository(source.reference, access, patience, attempt), patience, attempt)


def described(repository: Repository, patience: Patience, attempt: Attempt) -> Pinned:
    """Return what the repository's reference holds. Raises an `ArtifactError`."""
    body, digest = retried(patience, attempt, repository.manifest)
    layer = layout.model_layer(body, str(repository.reference))
    return Pinned(
        uri=str(repository.reference.at(digest)),
        manifest_digest=f"sha256:{digest}",
        sha256=layer.sha256,
        size=layer.size,
    )


def measure(
    source: Source,
    size_limit: int,
    *,
    sha256: str | None = None,
    cancelled: Callable[[], bool] | None = None,
    patience: Patience = Patience(),
) -> Pinned:
    """Return what an http or https source holds, by reading all of it and keeping nothing.

    `size_limit` is in bytes. With `sha256`, other bytes raise `DigestMismatch`. Raises an `ArtifactError`.
    """
    if source.path is not None or source.reference is not None:
        raise ValueError(f"{source} is not an http or https address")
    attempt = Attempt(str(source), patience.total_s, cancelled)
    web = Web(patience, attempt)

    def read() -> Pinned:
        hasher, size = hashlib.sha256(), 0
        with web.get(source.absolute_uri, {}) as answer:
            if answer.status != 200:
                raise verdicts.refusal(answer)
            verdicts.require_plain(answer)
            total = headers.length(answer.headers)
            _require_size(source, total or 0, size_limit)
            while data := answer.read():
                hasher.update(data)
                size += len(data)
                _require_size(source, size, size_limit)
                attempt.check()
            attempt.check()
            if total is not None and size != total:
                raise SourceUnreachable(
                    f"{answer.shown}: the connection ended after {size} of {total} bytes"
                )
        return Pinned(source.absolute_uri, None, hasher.hexdigest(), size)

    pinned = retried(patience, attempt, read)
    if sha256 is not None and pinned.sha256 != sha256:
        raise DigestMismatch(
            f"{source} has sha256 {pinned.sha256} ({pinned.size} bytes), and the manifest promises {sha256}; "
            "correct the sha256, or look who changed the file"
        )
    return pinned


def _require_size(source: Source, size: int, limit: int) -> None:
    if size > limit:
        raise SourceTooLarge(
            f"{source} has {size} bytes or more, and the size limit is {limit} bytes"
        )
