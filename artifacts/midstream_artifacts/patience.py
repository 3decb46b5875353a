"""How long, and how often, a transfer may try.

`Patience` is what a caller chooses, `Attempt` watches over one fetch: everything that waits or loops in this
package calls its `check`, so that no transfer outlives its deadline or its caller's wish.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from midstream_artifacts.errors import (
    FetchCancelled,
    SourceError,
    SourceTimeout,
    SourceUnreachable,
)

_T = TypeVar("_T")

_SLICE_S = 0.1
"""Seconds until a wait looks again whether it was cancelled."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Time-outs and retries of one fetch. Times are in seconds."""

    connect_s: float = 10.0
    """For a connection, TLS included."""
    read_s: float = 30.0
    """For the next bytes of an answer."""
    total_s: float = 3600.0
    """For the whole fetch: waiting for another process that fetches the same, retries and all."""
    attempts: int = 5
    """Failures in a row without progress until the fetch fails."""
    backoff_s: float = 0.5
    """Longest wait before the second attempt; doubles with each, the wait itself is random below it."""
    backoff_limit_s: float = 10.0
    """Longest wait of any attempt."""
    retry_after_limit_s: float = 60.0
    """Longest wait that a server may ask for (`Retry-After`)."""
    redirects: int = 5
    """Redirects in a row that are followed."""

    def wait_s(self, failures: int, error: SourceError) -> float:
        """Return how long to wait after so many failures in a row, the last of which was `error`."""
        asked_s = error.after_s if isinstance(error, SourceUnreachable) else 0.0
        longest_s = min(self.backoff_s * 2 ** (failures - 1), self.backoff_limit_s)
        jitter_s = random.uniform(0, longest_s)  # noqa: S311 - jitter, no secret
        return min(asked_s, self.retry_after_limit_s) + jitter_s


class Attempt:
    """One fetch on its way: its deadline, and its caller's wish to stop. Belongs to one thread."""

    def __init__(self, what: str, total_s: float, cancelled: Callable[[], bool] | None) -> None:
        self._what = what
        self._total_s = total_s
        self._cancelled = cancelled
        self._end = time.monotonic() + total_s

    def check(self) -> None:
        """Raise `FetchCancelled` or `SourceTimeout` when it is time to stop."""
        if self._cancelled is not None and self._cancelled():
            raise FetchCancelled(f"fetching {self._what} was cancelled")
        if time.monotonic() >= self._end:
            raise SourceTimeout(
                f"{self._what} was not here after {self._total_s:g} s; look whether the source is slow, "
                "or whether another process that fetches the same hangs"
            )

    def is_over(self) -> bool:
        """Tell whether `check` would raise. The one method that another thread may call."""
        return time.monotonic() >= self._end or (self._cancelled is not None and self._cancelled())

    def at_most(self, seconds: float) -> float:
        """Return `seconds`, or what is left until the deadline when that is less; above 0."""
        return max(0.001, min(seconds, self._end - time.monotonic()))

    def wait(self, seconds: float) -> None:
        """Wait so long, and stop early as `check` does."""
        end = time.monotonic() + seconds
        self.check()
        while (left := end - time.monotonic()) > 0:
            time.sleep(self.at_most(min(left, _SLICE_S)))
            self.check()


def retried(patience: Patience, attempt: Attempt, work: Callable[[], _T]) -> _T:
    """Do `work` until it succeeds, fails for good, or has failed too often; return what it returns."""
    failures = 0
    while True:
        attempt.check()
        try:
            return work()
        except SourceError as error:
            failures += 1
            if not error.transient or failures >= patience.attempts:
                raise
            wait_s = patience.wait_s(failures, error)
        attempt.wait(wait_s)
