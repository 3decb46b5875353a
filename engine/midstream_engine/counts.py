"""What the data plane counts: plain integers and lists, changed on the event loop's thread only.

Adding to them is all that a request does; `metrics` shows them. Bounded, whatever names manifests and callers give.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from midstream_engine.batch import Checks, Choice
from midstream_engine.errors import RequestError, SidekickFailed, SidekickTimedOut, StepFailed
from midstream_engine.shadow.comparison import ShadowCounts
from midstream_engine.steps.kinds import Run, Step

BUCKETS_NS = tuple(
    int(ms * 1e6) for ms in (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 5000)
)

MAX_SERIES = 1024
"""Of one metric, by names in manifests, which swaps change; twice as many as one revision may have variants."""

_FAILURES = (StepFailed, SidekickFailed, SidekickTimedOut)
"""A step's own; what else is answered with an error is the caller's, or a lack of room."""

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Counts:
    """All of them. Where there are too many names the oldest go, as a series that begins anew when it comes back."""

    __slots__ = (
        "buckets",
        "buffered",
        "codes",
        "failed_checks",
        "failures",
        "queued",
        "rows",
        "shadows",
        "steps",
        "total_ns",
        "variants",
        "waiting",
    )

    def __init__(self) -> None:
        self.codes: dict[int, int] = {200: 0}
        self.buckets = [0] * (len(BUCKETS_NS) + 1)
        self.total_ns = 0
        self.rows = 0
        self.steps: dict[str, list[int]] = {}
        """Runs, their nanoseconds, and those of the last, by step."""
        self.variants: dict[tuple[str, str], list[int]] = {}
        """By step and variant of a split: requests of one row; rows of larger ones; how many of these the variant
        answered alone; nanoseconds of all that it answered alone."""
        self.failures: dict[tuple[str, str, str], int] = {}
        """By step, variant and reason. Without a variant: there is none, or it was not one alone."""
        self.failed_checks: dict[str, int] = {}
        """Rows by validation that did not hold."""
        self.shadows = ShadowCounts()
        self.buffered = 0
        """Bytes of request bodies that are arriving, or wait for a thread or for something that serves."""
        self.queued = 0
        """Large batches that wait for a thread or are in one."""
        self.waiting = 0
        """Requests that wait until something serves."""

    def answered(self, rows: int, total_ns: int) -> None:
        self.codes[200] += 1
        self.rows += rows
        self.total_ns += total_ns
        self.buckets[bisect_left(BUCKETS_NS, total_ns)] += 1

    def stepped(self, step: str, ns: int) -> None:
        found = self.steps.get(step)
        if found is None:
            found = _added(self.steps, step, [0, 0, 0])
        found[0] += 1
        found[1] += ns
        found[2] = ns

    def chosen(self, choice: Choice) -> None:
        """After `stepped` of the same request."""
        if choice.only is not None:
            key = (choice.step, choice.variants[choice.only].name)
            found = self.variants.get(key)
            if found is None:
                found = _added(self.variants, key, [0, 0, 0, 0])
            found[0] += 1
            found[3] += self.steps[choice.step][2]
            return
        rows = np.bincount(choice.picked, minlength=len(choice.variants)).tolist()
        for variant, number in zip(choice.variants, rows, strict=True):
            key = (choice.step, variant.name)
            found = self.variants.get(key) or _added(self.variants, key, [0, 0, 0, 0])
            found[1] += number
            if number == len(choice.picked):
                found[2] += 1
                found[3] += self.steps[choice.step][2]

    def failed(self, steps: Sequence[Step], run: Run, error: RequestError) -> None:
        """A request has got as far as `run` on its way through the steps, and is answered with an error."""
        if not isinstance(error, _FAILURES):
            return
        # All steps may have run: what JSON cannot hold is found out when the last one's outputs are written.
        step = steps[min(len(run.elapsed), len(steps) - 1)].name
        variant = next((_alone(each) for each in run.choices if each.step == step), "")
        key = (step, variant, error.reason)
        if key not in self.failures:
            _added(self.failures, key, 0)
        self.failures[key] += 1

    def checked(self, checks: Checks) -> None:
        if 1 not in checks.failed.tobytes():
            return
        for name, number in zip(checks.names, checks.failed.sum(axis=1).tolist(), strict=True):
            if name not in self.failed_checks:
                _added(self.failed_checks, name, 0)
            self.failed_checks[name] += number

    def refused(self, code: int) -> None:
        self.codes[code] = self.codes.get(code, 0) + 1


def _added(into: dict[_Key, _Value], key: _Key, value: _Value) -> _Value:
    if len(into) >= MAX_SERIES:
        del into[next(iter(into))]
    into[key] = value
    return value


def _alone(choice: Choice) -> str:
    """The variant that all rows fell to; none when there were several."""
    first = choice.picked.item(0)
    return choice.variants[first].name if (choice.picked == first).all() else ""
