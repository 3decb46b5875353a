"""From an address to a verified copy in the cache.

The one entrance for whoever needs a model's bytes: chooses the way by the kind of address, lets one process at a
time fetch the same thing, and asks the source nothing when the cache has the digest already. Blocking; made for
loader threads, not for an event loop.
"""

from collections.abc import Callable

from midstream_artifacts import download, local, partials
from midstream_artifacts.cache import Artifact, Cache
from midstream_artifacts.patience import Attempt, Patience
from midstream_artifacts.progress import Meter, Progress
from midstream_artifacts.sources import Source

SIZE_LIMIT = 2 << 30
"""Bytes: the largest ONNX file there is, as protobuf ends at 2 GiB."""


def fetch(
    source: Source,
    cache: Cache,
    *,
    sha256: str | None = None,
    size_limit: int = SIZE_LIMIT,
    progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    patience: Patience = Patience(),
) -> Artifact:
    """Return a verified copy of what is at `source`.

    With `sha256` (64 lower-case hexadecimal digits) only bytes with that digest are kept, and a copy that is in the
    cache already is returned without touching the source. Without it the source is read, and the artifact tells the
    digest. `size_limit` is in bytes. `progress` is called in this thread, at most every half second and once at the
    end. `cancelled` is asked often, from a second thread too; true ends the fetch with `FetchCancelled`.

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
    with cache.lock(partials.name_of(source.absolute_uri, sha256), attempt.check):
        if sha256 is not None and (cached := cache.get(sha256)) is not None:
            return cached  # another thread or process was faster
        return download.download(
            source.absolute_uri,
            cache,
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
        progress=progress,
        cancelled=cancelled,
        patience=patience,
    )
