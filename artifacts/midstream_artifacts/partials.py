"""A partial download: the bytes that are here already, and the note on what they are part of.

Outlives the attempt and the process. Whoever opens one holds the cache's lock of the same name.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from midstream_artifacts import notes
from midstream_artifacts.cache import Artifact, Cache


def name_of(uri: str, sha256: str | None) -> str:
    """Return the name of the partial file and its lock: that of the digest, or else of the address."""
    return f"sha256-{sha256}" if sha256 else f"uri-{address_of(uri)}"


def address_of(uri: str) -> str:
    """Return what notes and file names say instead of the address, which may hold secrets."""
    return hashlib.sha256(uri.encode()).hexdigest()


class Partial:
    """The open file of one download."""

    def __init__(self, uri: str, cache: Cache, sha256: str | None) -> None:
        self._cache = cache
        self._address = address_of(uri)
        self._sha256 = sha256
        self._path = cache.partial(name_of(uri, sha256))
        self._note_path = self._path.with_suffix(".json")
        self._descriptor = -1
        self.size = 0
        """Bytes that are here."""
        self.total: int | None = None
        """Bytes there will be, as far as the server said in this process."""
        self.validator = ""
        """What names the bytes to the server: an ETag or a date; empty when it gave nothing certain."""
        self.is_resumed = False
        """True when bytes of different answers stand in the file."""

    @property
    def is_resumable(self) -> bool:
        """True when more bytes may be put behind these: the server, or at last the digest, tells if they fit."""
        return self.size > 0 and (self._sha256 is not None or self.validator != "")

    def open(self) -> None:
        """Take up what an earlier process left, if it is part of the same thing."""
        with self._cache.writing():
            with suppress(FileNotFoundError):
                self._path.chmod(0o600)  # it may have been killed on the way to its final name
            self._reopen()
            note = notes.Note.read(self._note_path)
        if note is None or (note.address, note.boot) != (self._address, notes.boot()):
            self.discard()
            return
        self.validator = note.validator
        self.size = os.fstat(self._descriptor).st_size
        self.is_resumed = self.size > 0

    def begin(self, validator: str, total: int | None) -> None:
        """Start anew with the bytes that the server names `validator`, `total` of them."""
        self.discard()
        self.validator, self.total = validator, total
        with self._cache.writing():
            notes.Note(self._address, validator, boot=notes.boot()).write(self._note_path)

    def append(self, data: bytes) -> None:
        """Put the next bytes behind those that are here."""
        view = memoryview(data)
        with self._cache.writing():
            while view:
                count = os.pwrite(self._descriptor, view, self.size)
                self.size += count
                view = view[count:]

    def keep(self, origin: str) -> Artifact:
        """Move the complete file into the cache. Raises `DigestMismatch` and leaves it where it is."""
        return self._cache.keep(self._descriptor, self._path, expected=self._sha256, origin=origin)

    def discard(self) -> None:
        """Forget all bytes."""
        with self._cache.writing():
            self._note_path.unlink(missing_ok=True)
            # A new file, not a shorter one: the old one may by now be an immutable copy under its digest.
            self._path.unlink(missing_ok=True)
            self._reopen()
        self.size, self.total, self.validator, self.is_resumed = 0, None, "", False

    def close(self) -> None:
        """Leave the file for a later fetch if that can resume it, else remove it."""
        with suppress(OSError):  # what cannot be removed now is removed when it is a day old
            if not self.is_resumable or not self._path.exists():
                self._path.unlink(missing_ok=True)
                self._note_path.unlink(missing_ok=True)
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def _reopen(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


@contextmanager
def opened(uri: str, cache: Cache, sha256: str | None) -> Iterator[Partial]:
    """Yield the partial download of `uri`; at the end it stays only if it can be resumed."""
    partial = Partial(uri, cache, sha256)
    try:
        partial.open()
        yield partial
    finally:
        partial.close()
