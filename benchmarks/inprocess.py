"""onnxruntime without a server: what no server on this machine can be faster than."""

import json
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from benchmarks import HOUSE, MODEL
from benchmarks.floor import Floor
from benchmarks.machine import SERVER_CORE
from benchmarks.report import table

_SECONDS = 1.0
_REPEATS = 5


def microseconds(call: Callable[[], object]) -> float:
    """The best of some repeats, each about a second in all, per call."""
    call()
    begin = time.perf_counter()
    call()
    number = max(1, round(_SECONDS / _REPEATS / max(1e-6, time.perf_counter() - begin)))
    best = float("inf")
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        for _ in range(number):
            call()
        best = min(best, (time.perf_counter() - begin) / number)
    return best * 1e6


def main(only: str | None = None) -> None:
    """Print the microseconds of each case as JSON (runs pinned, in a process of its own); of one, of its run alone."""
    floor = Floor(MODEL, "rf-house-price", "")
    found = {}
    for name, file in (("1 row", "one-row.json"), ("1000 rows", "rows-1000.json")):
        if only not in (None, name):
            continue
        body = (HOUSE / "samples" / file).read_bytes()
        tensor = np.array([row["tensor"] for row in json.loads(body)], np.float32)
        feed = {floor.input: tensor}
        found[name] = [microseconds(lambda feed=feed: floor.run(floor.outputs, feed))]  # type: ignore[misc]
        if only is None:
            found[name].append(microseconds(lambda body=body: floor.answer(body)))  # type: ignore[misc]
    print(json.dumps(found))


def measured(*only: str) -> dict[str, list[float]]:
    """Microseconds of a run alone, and of bytes to bytes, by case; measured pinned to the server's core."""
    command = ["taskset", "-c", str(SERVER_CORE), sys.executable, "-m", "benchmarks.inprocess"]
    command += only
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


def run_microseconds(case: str) -> float:
    """Of a run alone."""
    return measured(case)[case][0]


def report() -> None:
    """Print the table."""
    rows = [
        (name, f"{run:,.1f}", f"{1e6 / run:,.0f}", f"{whole:,.1f}", f"{1e6 / whole:,.0f}")
        for name, (run, whole) in measured().items()
    ]
    print("\nin process, without a server")
    print(table(("case", "run us", "runs/s", "bytes to bytes us", "answers/s"), rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
