"""The folder of verified, immutable copies, addressed by their SHA-256.

    root/sha256/<first two digits>/<digest>   a copy, mode 0400, complete from the moment it has this name
    root/partial/                             downloads that broke off and can be resumed
    root/seen/                                which digest an http address had, and its ETag
    root/tmp/                                 copies in the making
    root/locks/                               who is fetching what

Guarantees: a file appears under its digest only after the kept bytes were hashed and are on the disk, and never
changes after that. Threads and processes may share a cache; one that is killed leaves nothing that blocks
others, and its remains are removed after a day. The cache removes no good copy by itself: it has no size limit.
It trusts whoever may write to its folder, up to `verified_path`, which hashes a copy once more right before it
is used.
"""

import contextlib
import errno
import hashlib
import mmap
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from midstream_api import names
from midstream_artifacts import locks
from midstream_artifacts.errors import (
    CacheDamaged,
    CacheUnreadable,
    CacheUnwritable,
    DigestMismatch,
    NoSpace,
    NotCached,
)

_CHUNK = 1 << 20
_STALE_S = 24 * 3600
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class Artifact:
    """A verified copy in the cache."""

    path: Path
    """The immutable copy: the only file that a model may be loaded from."""
    sha256: str
    size: int
    """Bytes."""


class Cache:
    """One cache folder. Thread-safe; makes the folder when it first writes."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._swept = False

    def get(self, sha256: str) -> Artifact | None:
        """Return the copy with this digest, or None. Does not hash it: see `verified_path`."""
        path = self._path(sha256)
        try:
            return Artifact(path, sha256, path.stat().st_size)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreadable(path, error) from error

    def verify(self, artifact: Artifact) -> None:
        """Hash the copy again. One that has changed is removed and raises `CacheDamaged`.

        Raises `NotCached` when it is gone, `CacheUnreadable` when it cannot be read.
        """
        try:
            with artifact.path.open("rb", buffering=0) as file:
                got, size = _digest(file.fileno())
                if got == artifact.sha256:
                    return
                with contextlib.suppress(FileNotFoundError):
                    # Another process may have put a good copy there meanwhile.
                    if os.path.samestat(os.fstat(file.fileno()), artifact.path.stat()):
                        artifact.path.unlink()
        except FileNotFoundError as error:
            raise self._not_cached(artifact.sha256) from error
        except OSError as error:
            raise self._unreadable(artifact.path, error) from error
        raise CacheDamaged(
            f"the cached copy {artifact.path} was damaged ({size} bytes with sha256 {got}) and was removed; "
            "the next fetch brings a new one"
        )

    def verified_path(self, sha256: str) -> Path:
        """Return the path of the copy after hashing it once more: call it right before loading.

        Raises what `verify` raises.
        """
        artifact = self.get(sha256)
        if artifact is None:
            raise self._not_cached(sha256)
        self.verify(artifact)
        return artifact.path

    @contextlib.contextmanager
    def lock(self, name: str, give_up: Callable[[], None]) -> Iterator[None]:
        """Hold the lock `name` against all threads and processes; `give_up` raises to end the waiting."""
        with contextlib.ExitStack() as stack:
            with self.writing():
                self._prepare()
                stack.enter_context(locks.held(self.root / "locks" / name, give_up))
            yield

    @contextlib.contextmanager
    def temporary(self) -> Iterator[tuple[int, Path]]:
        """Yield a new file's descriptor and path; what is not kept (`keep`) by the end is removed."""
        with self.writing():
            self._prepare()
            path = self.root / "tmp" / f"{os.getpid()}-{uuid.uuid4().hex}"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            yield descriptor, path
        finally:
            os.close(descriptor)
            path.unlink(missing_ok=True)

    def partial(self, name: str) -> Path:
        """Return the path of the partial download `name`; whoever uses it holds the lock of that name."""
        return self.root / "partial" / name

    def seen(self, name: str) -> Path:
        """Return the path of the note on what the address `name` held; same lock as `partial`."""
        return self.root / "seen" / f"{name}.json"

    def keep(self, descriptor: int, path: Path, *, expected: str | None, origin: str) -> Artifact:
        """Hash the file, and give it its place in the cache when its digest is the `expected` one.

        The bytes that are kept are hashed, not those that passed by on the way. Raises `DigestMismatch`, naming
        the `origin`, and leaves the file where it is.
        """
        with self.writing():
            got, size = _digest(descriptor)
        if expected is not None and got != expected:
            raise DigestMismatch(
                f"{origin} has sha256 {got} ({size} bytes), and the manifest promises {expected}; "
                "correct the sha256, or look who changed the file. Nothing was kept"
            )
        target = self._path(got)
        with self.writing():
            os.fchmod(descriptor, 0o400)
            os.fsync(descriptor)
            target.parent.mkdir(exist_ok=True)
            path.replace(target)
            _sync_folder(target.parent)
        return Artifact(target, got, size)

    def require_room(self, size: int) -> None:
        """Raise `NoSpace` when `size` more bytes do not fit on the disk now."""
        with self.writing():
            self._prepare()
            disk = os.statvfs(self.root)
        if size > (free := disk.f_bavail * disk.f_frsize):
            raise NoSpace(f"{size} more bytes do not fit: {free} bytes are free in {self.root}")

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turn what goes wrong while writing to the cache into `NoSpace` or `CacheUnwritable`."""
        try:
            yield
        except OSError as error:
            cause = os.strerror(error.errno) if error.errno else str(error)
            if error.errno in _FULL:
                raise NoSpace(
                    f"cannot write to the cache {self.root}: {cause}; free some space, or raise the quota"
                ) from error
            raise CacheUnwritable(
                f"cannot write to the cache {self.root}: {cause}; it must be a folder that user "
                f"{os.geteuid()} may write to"
            ) from error

    def _path(self, sha256: str) -> Path:
        if not re.fullmatch(names.SHA256, sha256):
            raise ValueError(f"{sha256!r} is no SHA-256: 64 lower-case hexadecimal digits are")
        return self.root / "sha256" / sha256[:2] / sha256

    def _prepare(self) -> None:
        # Each time: people empty caches, with or without the folder, while others use them.
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("sha256", "partial", "seen", "tmp", "locks"):
            (self.root / name).mkdir(mode=0o700, exist_ok=True)
        if not self._swept:
            self._remove_stale(time.time() - _STALE_S)
            self._swept = True

    def _remove_stale(self, before: float) -> None:
        """Remove what processes that died before `before` (seconds since the epoch) left behind."""
        for path in self.root.glob("tmp/*"):
            if _modified(path) < before:
                path.unlink(missing_ok=True)
        for path in [*self.root.glob("partial/*"), *self.root.glob("locks/*")]:
            lock = self.root / "locks" / path.name.partition(".")[0]
            if _modified(path) < before and (descriptor := locks.try_acquire(lock)) is not None:
                if path != lock:  # releasing removes that, once: a second time it may be another's
                    path.unlink(missing_ok=True)
                locks.release(lock, descriptor)

    def _not_cached(self, sha256: str) -> NotCached:
        return NotCached(f"the cache {self.root} has no copy with sha256 {sha256}; fetch it first")

    def _unreadable(self, path: Path, error: OSError) -> CacheUnreadable:
        return CacheUnreadable(
            f"cannot read the cached copy {path}: {error.strerror}; user {os.geteuid()} must be its owner"
        )


def _digest(descriptor: int) -> tuple[str, int]:
    """Hash the whole file behind the descriptor: (hexadecimal digest, bytes).

    In chunks of 1 MiB through one buffer: both the reading and the hashing of these let other threads run. Pages of the
    kernel are the buffer, for to fill one of Python's with zeros would stop them for a moment.
    """
    hasher, size = hashlib.sha256(), 0
    with mmap.mmap(-1, _CHUNK) as buffer, memoryview(buffer) as view:
        while count := os.preadv(descriptor, [buffer], size):
            with view[:count] as chunk:
                hasher.update(chunk)
            size += count
    return hasher.hexdigest(), size


def _modified(path: Path) -> float:
    """Return when the file was last written to; an infinite future when it is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _sync_folder(folder: Path) -> None:
    """Make the folder's entries survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
