"""What challengers in the shadow cost the champion's callers.

The product as users run it, on one core; the load has the other one. Requests come at fixed times at a third of the
rate that the champion alone can take, and latency counts from the time at which a request was to be sent. One service
goes through rounds: the champion alone, with a challenger, and alone once more (A/A), changed by swaps; nothing is
measured while it swaps. The p99 of each half second is taken, and the medians are compared, so that what others do to
the machine now and then does not count. A challenger that sleeps a second must not be felt. One that computes shares
the core with the champion here, and is shown without a limit.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import yaml

from benchmarks import HOUSE, MODEL, machine
from benchmarks.machine import LOAD_CORE, SERVER_CORE
from benchmarks.report import Verdict, table
from benchmarks.wrk import Script
from kit import load, serving, swapping, windows, wire
from kit.load import Record
from kit.windows import Requests, Window

LIMIT = 1.1
"""p99 with the challenger that sleeps, by p99 without."""
_WINDOW_SECONDS = 0.5
_WINDOWS = 6
"""In a row."""
_CALM_SECONDS = 0.5
"""After a swap, before a window begins."""
_SHARE = 1 / 3
"""Of the rate that the champion alone can take."""
_CLIENTS = 16

_SLEEPS = """\
import time

def process(inputs):
    time.sleep(1)
    return {"variable": inputs["tensor"].sum(axis=1, keepdims=True)}
"""


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    challenger: Mapping[str, Any]
    """Its model, as a manifest has it."""
    limit: float | None


CASES = (
    Case(
        "sleeps 1 s",
        {"name": "sleeps", "framework": "Python", "source": {"inline": _SLEEPS}},
        LIMIT,
    ),
    Case(
        "another model",
        {
            "name": "gbr",
            "source": {"uri": str(HOUSE / "models" / "gbr.onnx")},
            "inputs": [{"name": "tensor"}],
        },
        None,
    ),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One service, all rounds."""

    rate: float
    record: Record
    alone: list[Window]
    again: list[Window]
    shadowed: list[Window]


def manifest(challenger: Mapping[str, Any] | None) -> str:
    """The example's model, alone or as the champion of this challenger."""
    champion = {"name": "rf", "source": {"uri": str(MODEL)}, "inputs": [{"name": "tensor"}]}
    step: dict[str, Any] = {"model": champion}
    if challenger is not None:
        step = {
            "shadow": {
                "champion": {"name": "current", "model": champion},
                "challengers": [{"name": "rival", "model": dict(challenger)}],
            }
        }
    return yaml.safe_dump(
        {
            "apiVersion": "midstream.dev/v1alpha1",
            "kind": "Pipeline",
            "metadata": {"name": "house-price"},
            "spec": {"steps": [{"name": "predict", **step}]},
        }
    )


def sample(case: Case, *, rounds: int) -> Sample:
    """Run one service through all rounds."""
    requests = [wire.records(swapping.PATH, [row]) for row in swapping.distinct_rows()]
    alone, shadowed = manifest(None), manifest(case.challenger)
    taken: dict[str, list[Window]] = {"alone": [], "again": [], "shadowed": []}
    with machine.folder() as folder:
        file = folder / "pipeline.yaml"
        file.write_text(alone)
        with _on_core(SERVER_CORE), serving.serving(file) as service, _on_core(LOAD_CORE):
            port = service.port
            bodies = [request.body for request in requests]
            script = Script(folder / "wrk", swapping.PATH, wire.RECORDS, bodies)
            script.run(port, clients=_CLIENTS, seconds=1)
            rate = script.run(port, clients=_CLIENTS, seconds=3).rate * _SHARE
            with load.open_loop(port, requests, rate=rate, core=LOAD_CORE) as running:
                running.wait_until_answering()
                for _ in range(rounds):
                    taken["alone"] += _measure()
                    _swap(service, shadowed)
                    taken["shadowed"] += _measure()
                    _swap(service, alone)
                    taken["again"] += _measure()
                record = running.stop()
    offset = record.epoch
    found = {name: [each.shifted(-offset) for each in some] for name, some in taken.items()}
    return Sample(rate, record, found["alone"], found["again"], found["shadowed"])


@contextlib.contextmanager
def _on_core(core: int) -> Iterator[None]:
    """Keep this thread, and every process that it starts, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _swap(service: serving.Service, text: str) -> None:
    """Return when the old revision's memory is free again."""
    service.wait_for("freed", after=service.wait_for("swapped", after=service.write(text)))
    time.sleep(_CALM_SECONDS)


def _measure() -> list[Window]:
    """Windows in a row, from now on; returns at the end of the last."""
    times = time.time() + _WINDOW_SECONDS * np.arange(_WINDOWS + 1)
    time.sleep(_WINDOW_SECONDS * _WINDOWS)
    return [Window(float(begin), float(end)) for begin, end in pairwise(times)]


def run(*, rounds: int, cases: Sequence[Case] = CASES) -> list[Verdict]:
    """Measure every case, print it, and say whether the promise holds."""
    verdicts = []
    rows = []
    for case in cases:
        found = sample(case, rounds=rounds)
        requests = Requests(np.asarray(found.record.scheduled), np.asarray(found.record.ended))
        alone, again, shadowed = (
            windows.p99s(requests, some) for some in (found.alone, found.again, found.shadowed)
        )
        ratio, noise = median(shadowed) / median(alone), median(again) / median(alone)
        rows.append(
            (
                case.name,
                f"{found.rate:,.0f}",
                *(f"{median(some):.2f}" for some in (shadowed, alone, again)),
                f"{ratio:.2f}",
                f"{noise:.2f}",
                str(found.record.failed),
            )
        )
        if case.limit is not None:
            note = f"median of {len(shadowed)} windows; A/A {noise:.2f}"
            what = f"champion's p99 with a challenger that {case.name} / without"
            verdicts.append(Verdict(what, ratio, "<=", case.limit, note))
        verdicts.append(
            Verdict(f"requests that failed, challenger {case.name}", found.record.failed, "<=", 0)
        )
    head = ("challenger", "requests/s", "p99 ms", "alone", "again", "ratio", "A/A", "failed")
    print("\nshadow, open loop, latency from the scheduled time; medians over windows")
    print(table(head, rows))
    return verdicts
