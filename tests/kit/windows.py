"""What a swap does to latency: requests and ticks inside the windows of swaps, against windows without one.

Pure functions over arrays of times; seconds on one clock throughout.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]
AFTER_SECONDS = 0.05
"""How long after the old revision is freed a window still lasts."""


class Window(NamedTuple):
    begin: float
    end: float

    def shifted(self, seconds: float) -> "Window":
        return Window(self.begin + seconds, self.end + seconds)

    @property
    def length(self) -> float:
        return self.end - self.begin


class Requests(NamedTuple):
    """Parallel arrays: when each request was to be sent, and when it was answered."""

    scheduled: Times
    ended: Times

    def latencies(self, window: Window) -> Times:
        """Milliseconds from the scheduled time, of the requests that overlap a window."""
        overlap = (self.scheduled < window.end) & (self.ended > window.begin)
        return (self.ended[overlap] - self.scheduled[overlap]) * 1e3


def p99s(requests: Requests, windows: Iterable[Window]) -> list[float]:
    """The 99th percentile of each window's latencies, in milliseconds. Empty windows are left out."""
    found = (requests.latencies(window) for window in windows)
    return [float(np.percentile(latencies, 99)) for latencies in found if latencies.size]


def longest_gaps(ticks: Times, windows: Sequence[Window]) -> list[float]:
    """The longest time between two ticks that overlaps each window, in milliseconds."""
    found = []
    for window in windows:
        first = max(0, int(np.searchsorted(ticks, window.begin, "right")) - 1)
        last = int(np.searchsorted(ticks, window.end, "left")) + 1
        gaps = np.diff(ticks[first:last])
        if gaps.size:
            found.append(float(gaps.max()) * 1e3)
    return found
