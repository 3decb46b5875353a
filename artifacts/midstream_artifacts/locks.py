"""One holder at a time for a name, among all threads and processes that share a folder.

Built on flock: the kernel drops the lock when its holder dies, however it dies, so nothing that crashed
can block. Lock files are removed by their last holder. Not for network file systems that lack flock.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_POLL_S = 0.05
"""Seconds between two attempts: a blocking flock could not be cancelled."""


@contextlib.contextmanager
def held(path: Path, give_up: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file `path` for the length of the block.

    `give_up` is called between attempts and raises when waiting shall end.
    Raises OSError when the lock file cannot be made.
    """
    while (descriptor := try_acquire(path)) is None:
        give_up()
        time.sleep(_POLL_S)
    try:
        yield
    finally:
        release(path, descriptor)


def try_acquire(path: Path) -> int | None:
    """Return the descriptor that holds the lock, or None when somebody else holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The former holder removes the file. Whoever opened it before that has locked a file that
        # nobody else can find, and must take the new one.
        if _is_at(path, descriptor):
            return descriptor
    except BlockingIOError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def release(path: Path, descriptor: int) -> None:
    """Remove the lock file and let go. Removed first, so that nobody locks what is about to vanish."""
    with contextlib.suppress(OSError):
        path.unlink()
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
