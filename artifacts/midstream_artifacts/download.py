"""Downloads over http: resumes what broke off, retries what may heal, keeps only what fits its digest.

A partial file is taken up again only when the server confirms that it still has the same bytes (If-Range with the
ETag or date it gave), or when the promised digest will tell at the end; a resumed file that does not fit its digest
is fetched once more from the start. An address without a digest is asked whether its bytes are still those that
are in the cache (If-None-Match) before they are transferred again. The caller holds the partial file's lock.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from midstream_artifacts import headers, notes, partials, verdicts
from midstream_artifacts.cache import Artifact, Cache
from midstream_artifacts.errors import (
    CacheError,
    DigestMismatch,
    SourceError,
    SourceTooLarge,
    SourceUnreachable,
    redacted,
)
from midstream_artifacts.http import Answer
from midstream_artifacts.patience import Attempt, Patience
from midstream_artifacts.progress import Meter

_PROGRESS = 1 << 20
"""Bytes that a failing attempt must bring so that it does not count as a failure in a row."""


class Asks(Protocol):
    """Asks for an address: `http.Web`, or a registry that knows how to log in."""

    def get(self, uri: str, headers: Mapping[str, str]) -> AbstractContextManager[Answer]: ...


def download(
    uri: str,
    cache: Cache,
    *,
    web: Asks,
    sha256: str | None,
    size_limit: int,
    patience: Patience,
    attempt: Attempt,
    meter: Meter,
) -> Artifact:
    """Download `uri` into the cache and return the verified copy.

    Raises a `SourceError`, `DigestMismatch`, a `CacheError` or `FetchCancelled`. After a broken or cancelled
    transfer the partial file stays, to be resumed; after any other error nothing does.
    """
    with partials.opened(uri, cache, sha256) as partial:
        try:
            artifact = _Download(
                uri,
                cache,
                partial,
                sha256=sha256,
                size_limit=size_limit,
                attempt=attempt,
                meter=meter,
            ).run(web, patience)
        except (DigestMismatch, CacheError):
            partial.discard()
            raise
        except SourceError as error:
            if not error.transient:
                partial.discard()
            raise
    meter.finished(artifact.size)
    return artifact


class _Download:
    """One download on its way."""

    def __init__(
        self,
        uri: str,
        cache: Cache,
        partial: partials.Partial,
        *,
        sha256: str | None,
        size_limit: int,
        attempt: Attempt,
        meter: Meter,
    ) -> None:
        self._uri = uri
        self._shown = redacted(uri)
        self._cache = cache
        self._partial = partial
        self._sha256 = sha256
        self._limit = size_limit
        self._attempt = attempt
        self._meter = meter
        self._seen_path = cache.seen(partials.name_of(uri, None))

    def run(self, web: Asks, patience: Patience) -> Artifact:
        """Try until the bytes are here, the failures in a row are too many, or the time is up."""
        failures = 0
        distrusts_parts = False
        while True:
            before = self._partial.size
            try:
                unchanged = self._transfer(web)
                return unchanged or self._kept()
            except SourceError as caught:
                if not caught.transient:
                    raise
                error = caught
            except DigestMismatch:
                if distrusts_parts or not self._partial.is_resumed:
                    raise
                # The parts may belong to different bytes; the whole gets its chance, once.
                distrusts_parts = True
                self._partial.discard()
                continue
            failures = 1 if self._partial.size - before >= _PROGRESS else failures + 1
            if failures >= patience.attempts:
                raise error
            self._attempt.wait(patience.wait_s(failures, error))

    def _kept(self) -> Artifact:
        validator = self._partial.validator
        artifact = self._partial.keep(self._shown)
        if self._sha256 is None and validator.startswith('"'):
            note = notes.Note(partials.address_of(self._uri), validator, sha256=artifact.sha256)
            with self._cache.writing():
                note.write(self._seen_path)
        return artifact

    def _transfer(self, web: Asks) -> Artifact | None:
        """Ask once and take in the answer: the partial file is complete then.

        Returns the cached artifact when the server says that it is still what the address holds.
        """
        asked: dict[str, str] = {}
        seen: Artifact | None = None
        resumes = self._partial.is_resumable
        if resumes:
            asked["Range"] = f"bytes={self._partial.size}-"
            if self._partial.validator:
                asked["If-Range"] = self._partial.validator
        elif self._sha256 is None:
            note = notes.Note.read(self._seen_path)
            if note is not None and note.sha256 and (seen := self._cache.get(note.sha256)):
                asked["If-None-Match"] = note.validator
        with web.get(self._uri, asked) as answer:
            match answer.status:
                case 200:
                    self._begin(answer)
                case 206 if resumes:
                    self._resume(answer)
                case 304 if seen is not None:
                    return seen
                case 416 if resumes and self._is_whole(answer):
                    return None
                case 206 | 416 if resumes:
                    self._start_over(answer)
                case _:
                    raise verdicts.refusal(answer)
            self._receive(answer)
        return None

    def _begin(self, answer: Answer) -> None:
        verdicts.require_plain(answer)
        total = headers.length(answer.headers)
        self._require_size(total or 0)
        self._partial.begin(headers.validator(answer.headers), total)
        self._cache.require_room(total or 0)

    def _resume(self, answer: Answer) -> None:
        first, total = headers.content_range(answer.headers)
        length = headers.length(answer.headers)
        if total is None and length is not None:
            total = self._partial.size + length
        known = self._partial.total
        other = headers.validator(answer.headers)
        if (
            first != self._partial.size
            or (known is not None and total != known)
            or (other and self._partial.validator and other != self._partial.validator)
        ):
            self._start_over(answer)
        self._require_size(total or 0)
        self._partial.total = total
        self._partial.is_resumed = True
        self._cache.require_room((total or 0) - self._partial.size)

    def _is_whole(self, answer: Answer) -> bool:
        """Tell whether the transfer had broken off after the last byte: there is no part left to send."""
        size = self._partial.size
        return headers.content_range(answer.headers) == (None, size) and self._partial.total in {
            None,
            size,
        }

    def _start_over(self, answer: Answer) -> None:
        """Raise, for a next attempt from the first byte: the server's part does not fit ours."""
        self._partial.discard()
        raise SourceUnreachable(
            f"{answer.shown} changed, or answered with another part of the file than the one it was asked for"
        )

    def _receive(self, answer: Answer) -> None:
        partial = self._partial
        while data := answer.read():
            self._require_size(partial.size + len(data))
            partial.append(data)
            self._meter.moved(len(data), done=partial.size, total=partial.total)
            self._attempt.check()
        self._attempt.check()
        if partial.total is not None and partial.size != partial.total:
            raise SourceUnreachable(
                f"{answer.shown}: the connection ended after {partial.size} of {partial.total} bytes"
            )

    def _require_size(self, size: int) -> None:
        if size > self._limit:
            raise SourceTooLarge(
                f"{self._shown} has {size} bytes or more, and the size limit is {self._limit} bytes"
            )
