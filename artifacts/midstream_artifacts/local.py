"""Copies a local file into the cache.

The copy is a real one (the file system may share the blocks until one side changes), so whatever happens to the
file later does not reach the cache. A file that changes while it is copied is harmless: the copy is hashed.
Nothing but a regular file is ever opened, so a FIFO or a device can neither block nor be disturbed.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from midstream_artifacts.cache import Artifact, Cache
from midstream_artifacts.errors import (
    InvalidSource,
    SourceDenied,
    SourceError,
    SourceIsADirectory,
    SourceNotAFile,
    SourceNotFound,
    SourceTooLarge,
    SourceUnreachable,
    shortened,
)
from midstream_artifacts.patience import Attempt
from midstream_artifacts.progress import Meter

_SPAN = 16 << 20
"""Bytes between two looks at the clock."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def copy(
    path: Path, cache: Cache, *, sha256: str | None, size_limit: int, attempt: Attempt, meter: Meter
) -> Artifact:
    """Copy the regular file `path` and return the verified copy.

    Raises a `SourceError`, `DigestMismatch`, a `CacheError` or `FetchCancelled`; then nothing is kept.
    """
    with opened(path) as source:
        total = os.fstat(source).st_size
        _require_size(path, total, size_limit)
        cache.require_room(total)
        with cache.temporary() as (target, place):
            size = 0
            while count := _move(path, cache, source, target):
                size += count
                _require_size(path, size, size_limit)
                meter.moved(count, done=size, total=max(total, size))
                attempt.check()
            artifact = cache.keep(target, place, expected=sha256, origin=str(path))
    meter.finished(artifact.size)
    return artifact


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Yield a descriptor of the regular file `path`. Raises a `SourceError`."""
    try:
        _require_regular(path, path.stat().st_mode)
        # Not blocking, in case that a FIFO has taken the file's place since.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise _explained(path, error) from error
    try:
        _require_regular(path, os.fstat(descriptor).st_mode)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def read_failed(path: Path) -> Iterator[None]:
    """Turn what goes wrong while reading `path` into a `SourceError`."""
    try:
        yield
    except OSError as error:
        raise _explained(path, error) from error


def _move(path: Path, cache: Cache, source: int, target: int) -> int:
    """Move the next bytes from the one file to the other and return how many; 0 at the end."""
    try:
        if count := os.copy_file_range(source, target, _SPAN):
            return count
    except OSError as error:
        if error.errno in _FULL:
            with cache.writing():
                raise
        if error.errno == errno.EIO:
            raise _explained(path, error) from error
        # Not across these two file systems, or not in this sandbox: by hand then.
    with read_failed(path):
        data = os.read(source, 1 << 20)
    view = memoryview(data)
    with cache.writing():
        while view:
            view = view[os.write(target, view) :]
    return len(data)


def _require_regular(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise SourceIsADirectory(f"{path} is a directory; name the model file in it")
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "a special file")
        raise SourceNotAFile(f"{path} is {kind}; a model is a regular file")


def _require_size(path: Path, size: int, limit: int) -> None:
    if size > limit:
        raise SourceTooLarge(
            f"{path} has {size} bytes or more, and the size limit is {limit} bytes"
        )


def _explained(path: Path, error: OSError) -> SourceError:
    match error.errno:
        case errno.ENOENT if path.is_symlink():
            return SourceNotFound(
                f"{path} is a symbolic link to {shortened(str(path.readlink()))}, which does not exist; "
                "mend the link, or name the file itself"
            )
        case errno.ENOENT:
            return SourceNotFound(
                f"{path} does not exist; {_nearest(path)}. Relative paths start at the manifest's folder"
            )
        case errno.ENOTDIR:
            return SourceNotFound(f"{path} does not exist: a part of this path is no folder")
        case errno.ELOOP:
            return SourceNotFound(f"{path} cannot be followed: its symbolic links form a loop")
        case errno.EACCES | errno.EPERM:
            return SourceDenied(
                f"user {os.geteuid()} may not read {path}; give it read permission on the file, and "
                "permission to enter each folder above it"
            )
        case errno.ENAMETOOLONG:
            return InvalidSource(f"{shortened(str(path))} is longer than the file system allows")
        case _:
            return SourceUnreachable(f"cannot read {path}: {error.strerror}")


def _nearest(path: Path) -> str:
    """Say which part of the path does exist: most wrong paths are wrong in one folder."""
    for folder in path.parents:
        try:
            if folder.exists():
                return f"the folder {folder} does"
        except OSError:
            continue
    return "nor do the folders above it"
