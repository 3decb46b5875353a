"""Swap after swap while clients ask, and a verdict on every answer they got."""

import itertools
import json
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kit import load, memory, serving, wire
from kit.checker import Checker, Report
from kit.load import Record

HOUSE = Path(__file__).parents[2] / "examples" / "house-price"
MODELS = {name: HOUSE / "models" / f"{name}.onnx" for name in ("rf", "gbr", "xgb")}
PREPARES = {name: HOUSE / "models" / f"{name}.onnx" for name in ("prepare-a", "prepare-b")}
PATH = "/pipelines/house-price"

Chain = Sequence[tuple[str, Path]]
"""The models of a pipeline's steps, by name and file."""

ONE_STEP: Sequence[Chain] = [[(name, path)] for name, path in MODELS.items()]
TWO_STEPS: Sequence[Chain] = [
    list(pair) for pair in itertools.product(PREPARES.items(), MODELS.items())
]


class Period(NamedTuple):
    """A time in which exactly one version may answer what is asked. Seconds since 1970."""

    version: str
    begin: float
    """Every worker serves the version."""
    end: float
    """The manifest is about to change again."""


class Outcome(NamedTuple):
    report: Report
    stale: int
    """Requests sent after a swap was announced, and answered by another version."""
    swaps: int
    seconds: float
    smallest_difference: float
    """Between any two versions on any row; see `Checker.smallest_difference`."""
    memory: Mapping[int, int]
    """PSS of all processes together after so many swaps, with requests running; bytes."""
    peak: int
    """The largest resident set that one of the processes ever had; bytes."""

    def __str__(self) -> str:
        rate = self.report.answers / self.seconds
        return (
            f"{self.swaps} swaps in {self.seconds:.1f} s under {rate:,.0f} requests/s: "
            f"{self.report}, {self.stale} stale; "
            + "".join(
                f"{bytes_ / memory.MIB:.1f} MiB after {swaps} swaps, "
                for swaps, bytes_ in self.memory.items()
            )
            + f"{self.peak / memory.MIB:.1f} MiB at the peak"
        )


def distinct_rows() -> list[dict[str, Any]]:
    """Rows on which every two of the example's models differ by more than 1 %."""
    rows: list[dict[str, Any]] = json.loads((HOUSE / "samples" / "distinct-rows.json").read_bytes())
    return rows


def requests() -> list[wire.Request]:
    """Each distinct row by itself, and all of them in one request."""
    rows = distinct_rows()
    return [*(wire.records(PATH, [row]) for row in rows), wire.records(PATH, rows)]


def swap_under_load(
    folder: Path,
    chains: Sequence[Chain],
    *,
    swaps: int,
    clients: int = 16,
    workers: int = 1,
    weigh_after: Collection[int] = (),
) -> Outcome:
    """Serve the first chain, then go through all of them in turn by editing the manifest, one swap after the other.

    `weigh_after` says after how many swaps the memory is measured.
    """
    manifests = [serving.manifest_of(*chain) for chain in chains]
    versions = [serving.version_in(manifest, folder) for manifest in manifests]
    chain_of = {
        version: [path for _, path in chain]
        for version, chain in zip(versions, chains, strict=True)
    }
    checker = Checker(chain_of)
    file = folder / "pipeline.yaml"
    file.write_text(manifests[0])
    periods: list[Period] = []
    weights: dict[int, int] = {}
    sent = requests()
    with (
        serving.serving(file, "--workers", str(workers)) as service,
        load.closed(service.port, sent, clients=clients) as running,
    ):
        running.wait_until_answering()
        begin = began = time.time()
        for number in range(1, swaps + 1):
            turn = number % len(chains)
            periods.append(Period(versions[(number - 1) % len(chains)], begin, time.time()))
            swap = service.swap(manifests[turn], versions[turn])
            begin = serving.at(swap.swapped)
            if number in weigh_after:
                weights[number] = sorted(memory.tree_pss(service.pid) for _ in range(5))[2]
        seconds = time.time() - began
        peak = memory.peak_rss(service.pid)
        record = running.stop()
        code = service.stop()
    assert code == 0, service.heard()
    return Outcome(
        checker.check(record, sent),
        stale(record, periods),
        swaps,
        seconds,
        checker.smallest_difference(distinct_rows()),
        weights,
        peak,
    )


def stale(record: Record, periods: Sequence[Period]) -> int:
    """How many requests were sent in a period, and answered by another version than the period's."""
    versions: Mapping[str, int] = {
        version: n for n, version in enumerate({p.version for p in periods})
    }
    answered = np.array([versions.get(answer.version, -1) for answer in record.answers])
    by = answered[np.asarray(record.kind)]
    sent = np.asarray(record.sent) + record.epoch
    found = 0
    for period in periods:
        inside = (sent >= period.begin) & (sent < period.end)
        found += int(np.count_nonzero(by[inside] != versions[period.version]))
    return found
