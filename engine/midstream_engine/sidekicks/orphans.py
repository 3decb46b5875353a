"""What a worker leaves behind: processes that its code has started in groups and sessions of their own.

While a worker lives its descendants that lose their parent become its own children; when it has ended, they become
those of the process that started it, which finds and ends them here. They are told from other children by a limit that
a worker has and whatever comes of it inherits. Linux only. Waits for a process that does not die for a second at most.
"""

import contextlib
import ctypes
import os
import resource
import select
import signal
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

_PR_SET_CHILD_SUBREAPER = 36
_ROUNDS = 100
"""Generations of orphans of orphans that are ended at a time."""
_SECONDS = 1.0


def adopt(*, wanted: bool = True) -> None:
    """Have descendants of this process that lose their parent become its children, or not any more."""
    prctl: Any = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0)


def end(spared: Collection[int], file_bytes: int) -> None:
    """Kill and reap the orphans among the children of this process, and those that their ends leave behind.

    spared: children that are no orphans. file_bytes: the limit that tells what comes of a worker. Nothing else of this
    process may start workers meanwhile.
    """
    for _ in range(_ROUNDS):
        found = [pid for pid in _children() if pid not in spared and _file_bytes(pid) == file_bytes]
        # One that does not die is left alone: it would be found over and over.
        if not [pid for pid in found if _ended(pid)]:
            return


def _children() -> Iterator[int]:
    me = str(os.getpid())
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has gone
            if stat.read_text(errors="replace").rpartition(")")[2].split()[1] == me:
                yield int(stat.parent.name)


def _file_bytes(pid: int) -> int | None:
    try:
        return resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
    except OSError:  # it has gone, or is another user's by now
        return None


def _ended(pid: int) -> bool:
    """Kill a child and wait for it; it is nobody else's until it is reaped, so the number is not another's."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
        ready, _, _ = select.select([pidfd], [], [], _SECONDS)
        return bool(ready) and os.waitpid(pid, os.WNOHANG)[0] == pid
    except OSError:  # somebody has reaped it
        return False
    finally:
        os.close(pidfd)
