"""How much a swap delays the requests that meet it.

The product as users run it, one worker, on one core; the load has the other one. Requests come at fixed times at half
the rate that it can take, and latency counts from the time at which a request was to be sent. Two swaps, a second
apart, alternate with four seconds without any: a machine that others share changes its pace within seconds. The window
of a swap lasts from the begin of loading to 50 ms after the old model was freed; for each of them there is a window of
the same length two seconds later, without a swap, and another one two seconds later again (A/A).
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import machine, ticker
from benchmarks.machine import LOAD_CORE, SERVER_CORE, Missing
from benchmarks.report import Verdict, table
from benchmarks.wrk import Script
from kit import load, serving, swapping, windows, wire
from kit.load import Record
from kit.windows import Requests, Window

PERIOD_SECONDS = 1.0
"""Between two swaps."""
SWAPS_IN_A_BLOCK = 5
SWAPS_AT_ONCE = 2
"""One a second, until there are as many seconds without one, twice."""
_SHARE = 0.5
"""Of the rate that the service can take."""
_CLIENTS = 16


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    chains: Sequence[swapping.Chain]


class Sample(NamedTuple):
    """One run: what the load saw, and when there were swaps."""

    rate: float
    record: Record
    swaps: list[Window]
    quiet: list[Window]
    again: list[Window]
    """As `quiet`, two seconds later: what differs between the two is noise."""
    ticks: NDArray[np.float64]
    swap_ms: list[float]
    """From the change of the manifest being noticed to all workers serving it."""


def cases(folder: Path) -> list[Case]:
    """The example's trees, and dense networks of 40 MB, which are written to `folder`."""
    try:
        from kit import models  # noqa: PLC0415 - needs onnx, which serving does not
    except ImportError as error:
        raise Missing(f"{error.name} is not installed; `make setup-dev` does that") from error
    large = [
        [(f"mlp-{seed}", models.big_mlp(folder / f"mlp-{seed}.onnx", megabytes=40, seed=seed))]
        for seed in (1, 2)
    ]
    return [Case("trees, 0.2 MB", swapping.ONE_STEP), Case("dense, 40 MB", large)]


def sample(case: Case, *, blocks: int, rate: float | None, ticking: bool) -> Sample:
    """Run one service through blocks with and without swaps. `rate`: requests a second, None to measure it."""
    rows = [[row] for row in swapping.distinct_rows()]
    requests = [wire.records(swapping.PATH, each) for each in rows]
    with machine.folder() as folder:
        manifests = [serving.manifest_of(*chain) for chain in case.chains]
        versions = [serving.version_in(manifest, folder) for manifest in manifests]
        file = folder / "pipeline.yaml"
        file.write_text(manifests[0])
        notes = folder / "ticks"
        env: Mapping[str, str] = ticker.prepare(notes) if ticking else {}
        with serving.serving(file, env=env) as service:
            port = service.port
            for turn in (*range(1, len(manifests)), 0):  # each once, so that all are in the cache
                service.swap(manifests[turn], versions[turn])
            _pin(service)
            bodies = [request.body for request in requests]
            script = Script(folder / "wrk", swapping.PATH, wire.RECORDS, bodies)
            script.run(port, clients=_CLIENTS, seconds=1)
            if rate is None:
                rate = script.run(port, clients=_CLIENTS, seconds=3).rate * _SHARE
            with load.open_loop(port, requests, rate=rate, core=LOAD_CORE) as running:
                running.wait_until_answering()
                found = [
                    swap
                    for done in range(0, blocks * SWAPS_IN_A_BLOCK, SWAPS_AT_ONCE)
                    for swap in _some(service, manifests, versions, done)
                ]
                record = running.stop()
        ticks = ticker.read(notes) if ticking else np.empty(0)
    length = SWAPS_AT_ONCE * PERIOD_SECONDS
    swaps = [
        Window(swap.began - record.epoch, swap.ended - record.epoch + windows.AFTER_SECONDS)
        for swap in found
    ]
    return Sample(
        rate,
        record,
        swaps,
        [window.shifted(length) for window in swaps],
        [window.shifted(2 * length) for window in swaps],
        ticks,
        [swap.swapped["ms"] for swap in found],
    )


def _pin(service: serving.Service) -> None:
    """Keep the service off the load's core, where the load's real-time priority would stop whatever has the GIL.

    Threads that start later inherit this.
    """
    (worker,) = service.events[service.wait_for("serving")]["workers"]
    for process in (service.pid, worker):
        for thread in Path(f"/proc/{process}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {SERVER_CORE})


def _some(
    service: serving.Service, manifests: Sequence[str], versions: Sequence[str], done: int
) -> list[serving.Swap]:
    """One swap a second; then twice as long none."""
    found = []
    begin = time.monotonic()
    for number in range(SWAPS_AT_ONCE):
        time.sleep(max(0.0, begin + number * PERIOD_SECONDS - time.monotonic()))
        turn = (done + number + 1) % len(manifests)
        found.append(service.swap(manifests[turn], versions[turn]))
    time.sleep(max(0.0, begin + 3 * SWAPS_AT_ONCE * PERIOD_SECONDS - time.monotonic()))
    return found


def run(*, blocks: int) -> list[Verdict]:
    """Measure every case, print it, and say whether the promises hold."""
    verdicts = []
    rows = []
    with machine.folder() as folder:
        for case in cases(folder):
            plain = sample(case, blocks=blocks, rate=None, ticking=False)
            ticked = sample(case, blocks=blocks, rate=plain.rate, ticking=True)
            seen = _latency(case, plain)
            gaps = _gaps(case, ticked)
            rows.append((case.name, f"{plain.rate:,.0f}", *seen.cells, *gaps.cells))
            verdicts += [*seen.verdicts, *gaps.verdicts]
            failed = plain.record.failed + ticked.record.failed
            verdicts.append(Verdict(f"requests that failed, {case.name}", failed, "<=", 0))
            print(f"{case.name}: {len(plain.swaps)} swaps, {_instrument(plain)}", flush=True)
    head = (
        *("models", "requests/s", "swap ms", "window ms"),
        *("p99 ms in swaps", "without", "again", "max in swaps", "without"),
        *("gap ms in swaps, longest (median)", "without", "again"),
    )
    print("\nswaps, open loop, latency from the scheduled time; medians over windows")
    print(table(head, rows))
    return verdicts


class _Lines(NamedTuple):
    cells: Sequence[str]
    verdicts: Sequence[Verdict]


def _latency(case: Case, found: Sample) -> _Lines:
    requests = Requests(np.asarray(found.record.scheduled), np.asarray(found.record.ended))
    swaps, quiet, again = (
        windows.p99s(requests, some) for some in (found.swaps, found.quiet, found.again)
    )
    ratio, noise = median(swaps) / median(quiet), median(again) / median(quiet)
    worst = [
        max(float(requests.latencies(window).max(initial=0)) for window in some)
        for some in (found.swaps, found.quiet)
    ]
    cells = (
        f"{median(found.swap_ms):.0f}",
        f"{median(window.length for window in found.swaps) * 1e3:.0f}",
        *(f"{median(some):.2f}" for some in (swaps, quiet, again)),
        *(f"{value:.1f}" for value in worst),
    )
    note = f"median of {len(swaps)} windows; A/A {noise:.2f}"
    return _Lines(cells, [Verdict(f"p99 in swaps / without, {case.name}", ratio, "<=", 2.0, note)])


def _gaps(case: Case, found: Sample) -> _Lines:
    swaps, quiet, again = (
        windows.longest_gaps(found.ticks, some) for some in (found.swaps, found.quiet, found.again)
    )
    cells = [f"{max(some):.1f} ({median(some):.1f})" for some in (swaps, quiet, again)]
    noise = max(quiet)
    note = f"5 ms + {noise:.1f} ms without swaps; again {max(again):.1f} ms"
    what = f"longest gap of a 1 ms ticker in swaps, ms, {case.name}"
    return _Lines(cells, [Verdict(what, max(swaps), "<=", 5.0 + noise, note)])


def _instrument(found: Sample) -> str:
    """How well the load kept its own times, so that a reader can tell its faults from the server's."""
    late = np.asarray(found.record.late) * 1e3
    busy = found.record.cpu_seconds / (found.record.ended[-1] - found.record.scheduled[0])
    return (
        f"{len(found.record):,} requests; the load was late by {np.percentile(late, 99):.2f} ms (p99), "
        f"{late.max():.1f} ms (max), and used {busy:.0%} of its core"
    )
