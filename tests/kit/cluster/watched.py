"""A load on a pipeline while its models are swapped, with a verdict on every answer."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kit import swapping, wire
from kit.checker import Checker, Report
from kit.cluster.pods import Load
from kit.cluster.shelf import Model, version
from kit.cluster.spaces import Space
from kit.load import Record
from kit.swapping import Period

RATE = 150
"""Requests a second: with load balancer and engines well below a third of a core."""


class Verdict(NamedTuple):
    """What became of the requests."""

    report: Report
    stale: int
    """Sent while the object was Ready with one version, and answered by another."""
    record: Record

    @property
    def clean(self) -> tuple[int, int, int]:
        """Failed, mixed, stale."""
        return self.report.failed, self.report.mixed, self.stale

    def __str__(self) -> str:
        return f"{self.report}, {self.stale} stale; load: {self.record.cpu_seconds:.2f} s of CPU"


class Watched:
    """A load under way, and what was promised meanwhile."""

    def __init__(
        self, load: Load, requests: Sequence[wire.Request], chains: Mapping[str, Sequence[Path]]
    ) -> None:
        self._load = load
        self._requests = requests
        self._checker = Checker(chains)
        self._periods: list[Period] = []
        self._since: tuple[str, float] | None = None

    def promised(self, version: str) -> None:
        """From now on exactly this version may answer what is asked."""
        self._since = (version, self._load.mark())

    def changing(self) -> None:
        """From now on another one may answer, too."""
        if self._since is not None:
            self._periods.append(Period(*self._since, self._load.mark()))
            self._since = None

    def stop(self) -> Verdict:
        """End the load and judge its answers."""
        self.changing()
        record = self._load.stop()
        return Verdict(
            self._checker.check(record, self._requests),
            swapping.stale(record, self._periods) if self._periods else 0,
            record,
        )


@contextmanager
def watched(
    space: Space,
    chains: Sequence[Sequence[Model]],
    requests: Sequence[wire.Request],
    *,
    rate: float = RATE,
) -> Iterator[Watched]:
    """Ask a pipeline that serves the first of some chains, any of which may come to serve."""
    known = {version(*chain): [model.path for model in chain] for chain in chains}
    with space.load_pod.load(space.host, requests, rate=rate) as load:
        running = Watched(load, requests, known)
        running.promised(version(*chains[0]))
        yield running
