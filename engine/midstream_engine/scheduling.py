"""What the kernel's scheduler is told about the engine's threads: requests come first. Needs no privileges.

Both settings are of the calling thread. Where the kernel does not know one, things stay as they are.
"""

import ctypes
import os
import platform
from pathlib import Path

LATER = 15
"""Niceness of threads that load: as low as it can be. While such a thread has the GIL the event loop waits for it, and
with less than this for tens of milliseconds where others keep the processors busy."""

LAST = 19
"""Niceness of what has nothing that a request waits for."""

_SLICE_NS = 100_000
"""The shortest that Linux grants."""

_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
"""Number of the system call, which glibc does not wrap everywhere."""


class _Attributes(ctypes.Structure):
    """`struct sched_attr` of Linux, first version."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def yield_to_requests(niceness: int = LATER) -> None:
    """Lower the priority of this thread, and of what it starts from now on."""
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, min(19, nice + niceness))


def answer_at_once() -> bool:
    """Ask for short turns for this thread, so that it runs as soon as it has something to do.

    Linux 6.12 and newer let a thread with shorter turns interrupt one with longer ones; otherwise a request may wait
    for 1 to 3 ms behind a thread that loads, or another process, on the same processor. Says whether the kernel took
    it.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None or not Path("/proc/self/sched").exists():
        return False
    attributes = _Attributes(
        size=ctypes.sizeof(_Attributes),
        nice=os.getpriority(os.PRIO_PROCESS, 0),
        runtime=_SLICE_NS,
    )
    result: int = ctypes.CDLL(None).syscall(number, 0, ctypes.byref(attributes), 0)
    return result == 0
