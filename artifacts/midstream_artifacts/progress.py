"""Progress of one transfer, reported seldom enough to be printed."""

import time
from collections.abc import Callable
from dataclasses import dataclass

INTERVAL_S = 0.5
"""Seconds between two reports."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a transfer is."""

    done: int
    """Bytes here, those of an earlier attempt included."""
    total: int | None
    """Bytes in all; None when the server does not say."""
    rate: float
    """Bytes per second since this process began to transfer; 0.0 until that can be told."""


class Meter:
    """Counts bytes and reports at most every half second, and once more at the end.

    Belongs to one thread. An exception of the callback passes through and ends the transfer.
    """

    def __init__(
        self, report: Callable[[Progress], None] | None, interval_s: float = INTERVAL_S
    ) -> None:
        self._report = report
        self._interval_s = interval_s
        self._began = self._reported = time.monotonic()
        self._moved = 0

    def moved(self, count: int, *, done: int, total: int | None) -> None:
        """Note that `count` more bytes came, so that `done` are here."""
        self._moved += count
        now = time.monotonic()
        if now - self._reported >= self._interval_s:
            self._send(now, done, total)

    def finished(self, size: int) -> None:
        """Report the end: all `size` bytes are here."""
        self._send(time.monotonic(), size, size)

    def _send(self, now: float, done: int, total: int | None) -> None:
        self._reported = now
        if self._report is not None:
            elapsed = now - self._began
            self._report(Progress(done, total, self._moved / elapsed if elapsed > 0 else 0.0))
