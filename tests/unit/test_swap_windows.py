"""The arithmetic behind the swap benchmark."""

import numpy as np
import pytest

from kit import windows
from kit.windows import Requests, Window


def test_requests_that_touch_a_window_belong_to_it() -> None:
    """Begun before, ended after, inside or around: whatever overlaps counts, and nothing else."""
    requests = Requests(
        scheduled=np.array([0.0, 0.9, 1.1, 0.5, 1.9, 2.0]),
        ended=np.array([1.0, 1.05, 1.2, 2.5, 2.1, 2.2]),
    )

    latencies = requests.latencies(Window(1.0, 2.0))

    assert latencies.tolist() == pytest.approx([150.0, 100.0, 2000.0, 200.0])


def test_latency_counts_from_the_scheduled_time() -> None:
    """A request that was due at 1.0 and answered at 1.5 took 500 ms, whenever it was sent."""
    requests = Requests(scheduled=np.array([1.0]), ended=np.array([1.5]))

    assert windows.p99s(requests, [Window(0.0, 2.0)]) == pytest.approx([500.0])


def test_windows_without_requests_are_left_out() -> None:
    """They would otherwise count as infinitely fast."""
    requests = Requests(scheduled=np.array([1.0]), ended=np.array([1.5]))

    assert len(windows.p99s(requests, [Window(0.0, 0.5), Window(1.0, 2.0)])) == 1


def test_a_gap_that_reaches_into_a_window_counts_whole() -> None:
    """A stall from before the window to inside it, or from inside to after it, is as long as it was."""
    ticks = np.array([0.0, 0.1, 0.5, 0.6, 0.7, 1.4, 1.5])

    found = windows.longest_gaps(ticks, [Window(0.3, 0.65), Window(0.65, 0.9), Window(0.61, 0.69)])

    assert found == pytest.approx([400.0, 700.0, 100.0])
