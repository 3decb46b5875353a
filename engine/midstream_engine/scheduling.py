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
from collections.abc import Callable
from pathlib import Path

LATER = 15
"""Niceness of threads that load: as low as it can be. While such a thread has the GIL the event loop waits for it, and
with less than this for tens of milliseconds where others keep the processors busy."""

LAST = 19
"""Niceness of what has nothing that a request waits for."""

_SLICE_NS = 100_000
"""The shortest that Linux grants."""

_BEAT_NS = 400_000
"""Between two beats of one thread of the metronome. Each costs about 10 us."""

_THREADS = 2
"""Of the metronome, one half of a beat apart."""

_ROUND = 1000
"""Beats that a thread waits for in one call into the C library: 0.4 s. Between two it needs the interpreter's lock."""

_AFTER_SECONDS = 0.1
"""How long the metronome goes on at least: what follows, a swap or the next load, is told to others and fetched."""

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
    """Lower the priority of this thread, and of what it starts from now on.

    It has its share of the processor as before, but does not interrupt others by waking up. Without that, a thread
    which is given work, or the lock of the interpreter, runs at once, before the one that answers has gone on.
    """
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, min(19, nice + niceness))
    if hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


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


class _TimerSpec(ctypes.Structure):
    """`struct itimerspec`: the period, then the first expiry."""

    _fields_ = (
        ("period_s", ctypes.c_long),
        ("period_ns", ctypes.c_long),
        ("first_s", ctypes.c_long),
        ("first_ns", ctypes.c_long),
    )


class Metronome:
    """Makes the kernel choose anew who runs, every 0.2 ms, while something loads: `with metronome: ...`.

    Linux interrupts a loading thread for a request only when the thread that answers is owed time at that moment. It
    often is not, by a microsecond, and then waits for the next tick of the clock, up to 4 ms. Whenever another thread
    wakes whose turns are short, the kernel looks again who is owed time. One such thread is not enough: it may come
    while the loading thread has just begun its turn, and then waits as long as the one that answers.

    The threads wait in the C library, without the interpreter's lock, and sleep from some tenths of a second after
    the last one has left until the next one enters. Enter it from a thread with the priority of those that answer; it
    may be entered again before it is left. Does nothing where there are no timers that can be read, which are Linux's.
    """

    def __init__(self, libc: str | None = None) -> None:
        """`libc`: the C library's file; None for what this process has loaded."""
        self._lock = threading.Lock()
        self._inside = 0
        self._left = 0.0
        self._closed = False
        self._libc = _library(libc)
        self.timers: list[_Timer] = []
        """Of the threads; none before the first time it is entered."""

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside > 1 or self._closed or self._libc is None:
                return
            with contextlib.suppress(OSError):
                while len(self.timers) < _THREADS:
                    self.timers.append(_Timer(self._libc, self._is_over))
            for number, timer in enumerate(self.timers):
                timer.start(_BEAT_NS + _BEAT_NS * number // _THREADS)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            self._left = time.monotonic()

    def close(self) -> None:
        """End the threads; from now on nothing happens."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            for timer in self.timers:
                timer.close()

    def _is_over(self, timer: "_Timer") -> None:
        with self._lock:
            if not self._inside and time.monotonic() - self._left >= _AFTER_SECONDS:
                timer.stop()


class _Timer:
    """A timer and a thread that reads it. `start` and `stop` are for one thread at a time."""

    def __init__(self, libc: ctypes.CDLL, after_round: Callable[["_Timer"], None]) -> None:
        """Raises OSError. `after_round` is called by the thread, every so many beats."""
        self._libc = libc
        self._after_round = after_round
        self._beating = False
        self.descriptor: int = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_CLOEXEC)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        stream = libc.fdopen(self.descriptor, b"r")
        if stream is None:
            os.close(self.descriptor)
            raise OSError(ctypes.get_errno(), "fdopen")
        self._stream = ctypes.c_void_p(stream)
        libc.setvbuf(self._stream, None, _UNBUFFERED, ctypes.c_size_t(0))
        self._thread = threading.Thread(target=self._beat, name="midstream-metronome", daemon=True)
        self._thread.start()

    def start(self, first_ns: int) -> None:
        """Beat from now on, if it does not yet; the first time after `first_ns` nanoseconds."""
        if not self._beating:
            self._beating = True
            self._set(_BEAT_NS, first_ns)

    def stop(self) -> None:
        self._beating = False
        self._set(0, 0)

    def close(self) -> None:
        """End the thread."""
        # One more beat, at once; the read after it says that there is none, and does not wait.
        os.set_blocking(self.descriptor, False)
        self._set(0, 1)
        self._thread.join()
        self._libc.fclose(self._stream)

    def _set(self, period_ns: int, first_ns: int) -> None:
        spec = _TimerSpec(0, period_ns, 0, first_ns)
        self._libc.timerfd_settime(self.descriptor, 0, ctypes.byref(spec), None)

    def _beat(self) -> None:
        answer_at_once()
        # A beat is a read of 8 bytes. Of all that reads, only the C library's streams go on without coming back to
        # Python, which would ask for the interpreter's lock each time.
        beats = ctypes.create_string_buffer(8 * _ROUND)
        size, wanted = ctypes.c_size_t(8), ctypes.c_size_t(_ROUND)
        while self._libc.fread(beats, size, wanted, self._stream) == _ROUND or (
            ctypes.get_errno() == errno.EINTR
        ):
            self._after_round(self)


def _library(name: str | None) -> ctypes.CDLL | None:
    """The C library, if it is there and has timers that can be read."""
    try:
        libc = ctypes.CDLL(name, use_errno=True)
    except OSError:
        return None
    if not hasattr(libc, "timerfd_create"):
        return None
    libc.fdopen.restype = ctypes.c_void_p
    libc.fread.restype = ctypes.c_size_t
    return libc
