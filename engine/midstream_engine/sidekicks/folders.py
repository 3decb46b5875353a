"""The folder under which workers have theirs. What an engine leaves there when it is killed, the next one removes.

A folder belongs to whoever holds the lock on a file in it; the kernel lets go of that when its process ends, however
it ends.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "midstream-sidekicks-"
_LOCK = "lock"


class Folders:
    """A new folder, this process's own until `close`; those of processes that are gone are removed."""

    def __init__(self, base: Path | None = None) -> None:
        self._base = base or Path(tempfile.gettempdir())
        for left in self._base.glob(f"{_PREFIX}*"):
            _remove_if_left(left)
        self._path, self._lock = _own(self._base)

    @property
    def path(self) -> Path:
        """The folder. When something has cleared it away, as old files in /tmp are, it is made again elsewhere."""
        if not self._path.is_dir():
            # Whoever makes a folder in it finds out why that cannot be.
            with contextlib.suppress(OSError):
                before = self._lock
                self._path, self._lock = _own(self._base)
                os.close(before)
        return self._path

    def close(self) -> None:
        shutil.rmtree(self._path, ignore_errors=True)
        os.close(self._lock)


def _own(base: Path) -> tuple[Path, int]:
    """A new folder in `base`, and the descriptor that holds its lock. Raises OSError."""
    path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
    # Under another name until it is locked: nobody must find it without its owner.
    new = path / "new"
    lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    new.rename(path / _LOCK)
    return path, lock


def _remove_if_left(folder: Path) -> None:
    # Not ours, not there any more, or still somebody's: all of that is none of our business.
    with contextlib.suppress(OSError):
        if folder.lstat().st_uid != os.geteuid():
            return
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)
