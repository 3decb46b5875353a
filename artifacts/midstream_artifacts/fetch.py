"""From an address to a verified copy in the cache.

The one entrance for whoever needs a model's bytes: chooses the way by the kind of address, lets one process at a
time fetch the same thing, and asks the source nothing when the cache has the digest already. Blocking; made for
loader threads, not for an event loop.
"""

from collections.abc import Callable

from midstream_artifacts import download, local, partials
from midstream_artifacts.cache import Artifact, Cache
from midstream_artifacts.errors import DigestMismatch, SourceTooLarge
from midstream_artifacts.http import Web
from midstream_artifacts.patience import Attempt, Patience
from midstream_artifacts.pins import described
from midstream_artifacts.progress import Meter, Progress
from midstream_artifacts.references import Reference
from midstream_artifacts.registry import RegistryAccess, Repository
from midstream_artifacts.sources import Source

SIZE_LIMIT = 2 << 30
"""Bytes: the largest ONNX file there is, as protobuf ends at 2 GiB."""


def fetch(
    source: Source,
    cache: Cache,
    *,
    sha256: str | None = None,
    size_limit: int = SIZE_LIMIT,
    registry: RegistryAccess = RegistryAccess(),
    progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    patience: Patience = Patience(),
) -> Artifact:
    """Return a verified copy of what is at `source`.

    With `sha256` (64 lower-case hexadecimal digits) only bytes with that digest are kept, and a copy that is in the
    cache already is returned without touching the source. Without it the source is read, and the artifact tells the
    digest. `size_limit` is in bytes. `registry` says how an `oci://` source may be asked. `progress` is called in this
    thread, at most every half second and once at the end. `cancelled` is asked often, from a second thread too; true
    ends the fetch with `FetchCancelled`.

    Raises an `ArtifactError`. What was downloaded of a broken transfer stays and is resumed by the next fetch;
    bytes with a wrong digest are never kept.
    """
    if sha256 is not None and (cached := cache.get(sha256)) is not None:
        return cached
    attempt = Attempt(str(source), patience.total_s, cancelled)
    attempt.check()
    meter = Meter(progress)
    if source.path is not None:
        # Copying is cheap, so it needs no lock: two copies at once end as one file.
        return local.copy(
            source.path, cache, sha256=sha256, size_limit=size_limit, attempt=attempt, meter=meter
        )
    uri = source.absolute_uri
    web: download.Asks = Web(patience, attempt)
    if source.reference is not None:
        web = repository = Repository(source.reference, registry, patience, attempt)
        uri, sha256 = _blob(repository, sha256, size_limit, patience, attempt)
        if (cached := cache.get(sha256)) is not None:
            return cached
    with cache.lock(partials.name_of(uri, sha256), attempt.check):
        if sha256 is not None and (cached := cache.get(sha256)) is not None:
            return cached  # another thread or process was faster
        return download.download(
            uri,
            cache,
            web=web,
            sha256=sha256,
            size_limit=size_limit,
            patience=patience,
            attempt=attempt,
            meter=meter,
        )


def resolve(
    source: Source,
    cache: Cache,
    *,
    size_limit: int = SIZE_LIMIT,
    registry: RegistryAccess = RegistryAccess(),
    progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    patience: Patience = Patience(),
) -> Artifact:
    """Pin a mutable source: fetch what is there now, and learn its digest.

    The same as `fetch` without a `sha256`, under the name of what it is for.
    """
    return fetch(
        source,
        cache,
        size_limit=size_limit,
        registry=registry,
        progress=progress,
        cancelled=cancelled,
        patience=patience,
    )


def _blob(
    repository: Repository,
    sha256: str | None,
    size_limit: int,
    patience: Patience,
    attempt: Attempt,
) -> tuple[str, str]:
    """Return the address of the model file in a registry, and its digest."""
    reference: Reference = repository.reference
    pinned = described(repository, patience, attempt)
    if sha256 is not None and pinned.sha256 != sha256:
        raise DigestMismatch(
            f"{reference} holds a model with sha256 {pinned.sha256} ({pinned.size} bytes), and the manifest "
            f"promises {sha256}; correct the sha256 or the address. Nothing was fetched"
        )
    if pinned.size > size_limit:
        raise SourceTooLarge(
            f"{reference} holds a model of {pinned.size} bytes, and the size limit is {size_limit} bytes"
        )
    return repository.uri("blobs", f"sha256:{pinned.sha256}"), pinned.sha256
