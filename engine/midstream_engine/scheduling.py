"""What the kernel's scheduler is told about the engine's threads: requests come first. Needs no privileges.

The settings are of the calling thread. Where the kernel or the C library does not know one, things stay as they are.
"""

import contextlib
import ctypes
import errno
import os
import platform
import threading
import time
from pathlib import Path

LATER = 15
"""Niceness of threads that load: as low as it can be. While such a thread has the GIL the event loop waits for it, and
with less than this for tens of milliseconds where others keep the processors busy."""

LAST = 19
"""Niceness of what has nothing that a request waits for."""

_SLICE_NS = 500_000
"""A turn of a thread that answers requests: shorter than anybody else's, but for the metronome's."""

_SHORTEST_SLICE_NS = 100_000
"""The shortest that Linux grants."""

_BEAT_NS = 250_000
"""Between two beats of the metronome, of which each costs about 10 us."""

_BEATS = 4096
"""Beats that the metronome waits for in one call into the C library."""

_UNBUFFERED = 2
"""`_IONBF` of glibc and musl."""

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


def answer_at_once(slice_ns: int = _SLICE_NS) -> bool:
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
        runtime=slice_ns,
    )
    result: int = ctypes.CDLL(None).syscall(number, 0, ctypes.byref(attributes), 0)
    return result == 0


class _TimerSpec(ctypes.Structure):
    """`struct itimerspec`: the period, then the first expiry."""

    _fields_ = (
        ("period_s", ctypes.c_long),
        ("period_ns", ctypes.c_long),
        ("first_s", ctypes.c_long),
        ("first_ns", ctypes.c_long),
    )


class Metronome:
    """Makes the kernel choose anew who runs, every 0.25 ms, while something loads: `with metronome: ...`.

    Linux interrupts a loading thread for a request only when the thread that answers is owed time at that moment. It
    often is not, by a microsecond, and then waits for the next tick of the clock, up to 4 ms. A thread that wakes, has
    the shortest turns, and sleeps again at once ends that wait: whoever is owed time by then runs next.

    The thread waits in the C library, without the interpreter's lock, and is not woken while nothing loads. Entered
    from threads of the priority of those that answer; may be entered again before it is left. Does nothing where
    there are no timers that can be read, which are Linux's. `close` ends the thread.
    """

    def __init__(self, libc: str | None = None) -> None:
        """`libc`: the C library's file; None for what this process has loaded."""
        self._lock = threading.Lock()
        self._inside = 0
        self._closed = False
        self._thread: threading.Thread | None = None
        self.timer = -1
        """The timer's descriptor, once there is one."""
        self._stream: ctypes.c_void_p | None = None
        self._libc: ctypes.CDLL | None = None
        with contextlib.suppress(OSError):
            self._libc = ctypes.CDLL(libc, use_errno=True)

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1 and not self._closed and self._started():
                self._set(_BEAT_NS, _BEAT_NS)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and not self._closed and self._thread is not None:
                self._set(0, 0)

    def close(self) -> None:
        """End the thread; from now on nothing happens."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._thread is None:
                return
            # One more beat, at once; the read after it says that there is none, and does not wait.
            os.set_blocking(self.timer, False)
            self._set(0, 1)
            self._thread.join()
            assert self._libc is not None
            self._libc.fclose(self._stream)

    def _started(self) -> bool:
        """Have the timer and its thread; whether this system can."""
        libc = self._libc
        if self._thread is None and libc is not None and hasattr(libc, "timerfd_create"):
            self.timer = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_CLOEXEC)
            libc.fdopen.restype = ctypes.c_void_p
            opened = libc.fdopen(self.timer, b"r") if self.timer >= 0 else None
            if opened is not None:
                self._stream = ctypes.c_void_p(opened)
                libc.setvbuf(self._stream, None, _UNBUFFERED, ctypes.c_size_t(0))
                self._thread = threading.Thread(
                    target=self._beat, args=(libc,), name="midstream-metronome", daemon=True
                )
                self._thread.start()
        return self._thread is not None

    def _set(self, period_ns: int, first_ns: int) -> None:
        assert self._libc is not None
        spec = _TimerSpec(0, period_ns, 0, first_ns)
        self._libc.timerfd_settime(self.timer, 0, ctypes.byref(spec), None)

    def _beat(self, libc: ctypes.CDLL) -> None:
        answer_at_once(_SHORTEST_SLICE_NS)
        # A beat is a read of 8 bytes. Of all that reads, only the C library's streams go on without coming back to
        # Python, which would ask for the interpreter's lock each time.
        beats = ctypes.create_string_buffer(8 * _BEATS)
        libc.fread.restype = ctypes.c_size_t
        size, wanted = ctypes.c_size_t(8), ctypes.c_size_t(_BEATS)
        while libc.fread(beats, size, wanted, self._stream) == _BEATS or (
            ctypes.get_errno() == errno.EINTR
        ):
            pass
