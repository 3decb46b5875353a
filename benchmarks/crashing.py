"""What callers feel of a Python model that dies with each request that falls to it.

One pipeline, a split by key: a row says whether it goes to an ONNX model or to code that ends its process. Rounds are
the ONNX model's requests alone, the same while a client sends what crashes as fast as it is answered, and alone once
more (A/A). The server has one core, the load the other one.
"""

import contextlib
import json
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import yaml

from benchmarks import HOUSE, MODEL, machine
from benchmarks.peers import Engine, Rows
from benchmarks.report import Verdict, table
from benchmarks.throughput import spread
from benchmarks.wrk import Script

_CLIENTS = 8
_WARM_SECONDS = 1.0
_LEAST = 0.8

CODE = "import os\ndef process(inputs):\n    os._exit(1)\n"


class Crashing(Engine):
    """The engine with a variant that dies."""

    name = "crashing"

    def command(self, port: int, folder: Path) -> Sequence[str]:
        manifest = yaml.safe_load((HOUSE / "pipeline.yaml").read_text())
        step = manifest["spec"]["steps"][0]
        model = {**step.pop("model"), "source": {"uri": str(MODEL)}}
        dies = {"name": "dies", "framework": "Python", "source": {"inline": CODE}}
        step["split"] = {
            "key": "who",
            "options": {"bad": "dies"},
            "default": "lives",
            "variants": [{"name": "lives", "model": model}, {"name": "dies", "model": dies}],
        }
        file = folder / "pipeline.yaml"
        file.write_text(yaml.safe_dump(manifest))
        run = (sys.executable, "-m", "midstream", "run", str(file))
        return (*run, "--port", str(port), "--cache", str(folder / "cache"))


@contextlib.contextmanager
def _crashes(peer: Engine, port: int, rows: Rows, seen: list[int]) -> Iterator[None]:
    """One client that asks for nothing but crashes; `seen` gets the status of each answer."""
    request = peer.request([{**row, "who": "bad"} for row in rows])
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            seen.append(machine.ask(port, request).status)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def run(*, rounds: int, seconds: float) -> list[Verdict]:
    """Measure, print, and say what holds."""
    rows = json.loads((HOUSE / "samples" / "distinct-rows.json").read_bytes())
    peer = Crashing()
    alone: list[float] = []
    beside: list[float] = []
    again: list[float] = []
    seen: list[int] = []
    with peer.started(rows[:1]) as server, machine.folder() as folder:
        bodies = [peer.body([row]) for row in rows]
        script = Script(folder / "wrk", peer.path, peer.content_type, bodies)
        script.run(server.port, clients=_CLIENTS, seconds=_WARM_SECONDS)
        for _ in range(rounds):
            alone.append(script.run(server.port, clients=_CLIENTS, seconds=seconds).rate)
            with _crashes(peer, server.port, rows[:1], seen):
                timing = script.run(server.port, clients=_CLIENTS, seconds=seconds)
            beside.append(timing.rate)
            if timing.failed:
                raise ValueError(
                    f"{timing.failed} requests failed that have nothing to do with crashes"
                )
            again.append(script.run(server.port, clients=_CLIENTS, seconds=seconds).rate)
    if not seen or set(seen) != {502}:
        raise ValueError(f"what crashes should be answered with 502, and was with {set(seen)}")
    ratios = [with_ / without for with_, without in zip(beside, alone, strict=True)]
    noise = [b / a for a, b in zip(alone, again, strict=True)]
    print(f"\nbeside a step that crashes; {len(seen)} crashes in {rounds} rounds")
    lines = [
        (name, f"{median(rates):,.0f}")
        for name, rates in (("alone", alone), ("beside crashes", beside), ("again", again))
    ]
    print(table(("requests", "a second"), lines))
    return [
        Verdict(
            "requests beside a crashing step / alone",
            median(ratios),
            ">=",
            _LEAST,
            f"{spread(ratios)}; A/A {spread(noise)}",
        )
    ]
