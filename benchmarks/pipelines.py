"""What whole pipelines cost: Arrow against onnxruntime alone, and a split with validations against a bare model.

Turns of a second are compared with those beside them; CPU time is that of the server's process tree per request. The
bare model is measured twice in a turn, and the ratio of the two is what noise alone makes (A/A).
"""

import contextlib
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import yaml
from numpy.typing import NDArray

from benchmarks import HOUSE, MODEL, inprocess, machine
from benchmarks.peers import Engine, Rows, Server
from benchmarks.report import Verdict, table
from benchmarks.throughput import Case, Measured, cases, spread
from benchmarks.wrk import Script
from kit.checker import Checker

_WARM_SECONDS = 1.0
_TURN_SECONDS = 1.0
_LEAST_ARROW = 0.7
_MOST_CPU = 1.15


class Bare(Engine):
    """The engine with one model; `name` tells the two of a round from each other."""

    def __init__(self, name: str) -> None:
        self.name = name


class Watched(Engine):
    """The same model twice in a split, and two validations."""

    name = "split and validations"

    def command(self, port: int, folder: Path) -> Sequence[str]:
        manifest = yaml.safe_load((HOUSE / "pipeline.yaml").read_text())
        step = manifest["spec"]["steps"][0]
        model = step.pop("model")
        model["source"] = {"uri": str(MODEL)}
        step["split"] = {
            "variants": [
                {"name": "control", "weight": 2, "model": model},
                {"name": "challenger", "weight": 1, "model": {**model, "name": "again"}},
            ]
        }
        manifest["spec"]["validations"] = [
            {"name": "too-high", "expression": "out.variable[0] < 1500000.0"},
            {"name": "too-low", "failWhen": "out.variable[0] < 1000.0"},
        ]
        file = folder / "pipeline.yaml"
        file.write_text(yaml.safe_dump(manifest))
        run = (sys.executable, "-m", "midstream", "run", str(file))
        return (*run, "--port", str(port), "--cache", str(folder / "cache"))


class Arrow(Engine):
    """The engine with Arrow files in and out."""

    name = "Arrow"
    content_type = "application/vnd.apache.arrow.file"

    def body(self, rows: Rows) -> bytes:
        values = np.array([row["tensor"] for row in rows], np.float32)
        column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
        table = pa.table({"tensor": column.cast(pa.list_(pa.float32()))})
        sink = io.BytesIO()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        return sink.getvalue()

    def request(self, rows: Rows) -> bytes:
        accept = b"Accept: %b\r\n\r\n" % self.content_type.encode()
        return super().request(rows).replace(b"\r\n\r\n", b"\r\n" + accept, 1)

    def prices(self, body: bytes) -> NDArray[np.float32]:
        outs = pa.ipc.open_file(body).read_all()["out"].to_pylist()
        return np.array([out["variable"][0] for out in outs], np.float32)


class _Running(NamedTuple):
    """A server that is up, and the load for it."""

    peer: Engine
    server: Server
    script: Script
    clients: int

    def timed(self, seconds: float) -> Measured:
        cpu = machine.cpu_seconds(self.server.pid)
        timing = self.script.run(self.server.port, clients=self.clients, seconds=seconds)
        cpu = machine.cpu_seconds(self.server.pid) - cpu
        return Measured(timing, cpu / max(1, timing.requests) * 1e6)


@contextlib.contextmanager
def _running(peer: Engine, case: Case, checker: Checker) -> Iterator[_Running]:
    """Start a server, check its answers, and warm it up."""
    with peer.started(case.bodies[0]) as server, machine.folder() as folder:
        for rows in case.bodies:
            peer.check(server, rows, checker.expected("rf", rows)["variable"].reshape(-1))
        bodies = [peer.body(rows) for rows in case.bodies]
        accept = peer.content_type if isinstance(peer, Arrow) else ""
        script = Script(folder / "wrk", peer.path, peer.content_type, bodies, accept=accept)
        running = _Running(peer, server, script, case.clients)
        running.timed(_WARM_SECONDS)
        yield running


def run(*, rounds: int, seconds: float) -> list[Verdict]:
    """Measure all, print the table, and say what holds."""
    one, thousand = cases()
    checker = Checker({"rf": [MODEL]})
    plan = [
        (Bare("engine"), one),
        (Watched(), one),
        (Bare("engine again"), one),
        (Arrow(), thousand),
    ]
    seen: dict[str, list[Measured]] = {peer.name: [] for peer, _ in plan}
    arrow: list[float] = []
    alone: list[float] = []
    # All are up all the time and take turns of a second: a machine that is slower for a while is so for all of them.
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(_running(peer, case, checker)) for peer, case in plan]
        small, large = servers[:-1], servers[-1]
        for number in range(rounds):
            for turn in range(max(1, round(seconds))):
                first = (number + turn) % len(small)
                for each in [*small[first:], *small[:first]]:
                    seen[each.peer.name].append(each.timed(_TURN_SECONDS))
            for _ in range(2):
                alone.append(inprocess.run_microseconds("1000 rows"))
                seen[large.peer.name].append(found := large.timed(_TURN_SECONDS))
                arrow.append(found.timing.rate * alone[-1] / 1e6)
            print(f"round {number + 1} of {rounds} done", flush=True)
    print(f"\nwhole pipelines; medians of {rounds} rounds")
    lines = [
        (
            peer.name,
            case.name,
            f"{median(each.timing.rate for each in seen[peer.name]):,.0f}",
            f"{median(each.cpu for each in seen[peer.name]):,.1f}",
            str(sum(each.timing.failed for each in seen[peer.name])),
        )
        for peer, case in plan
    ]
    print(table(("peer", "case", "requests/s", "CPU us/request", "failed"), lines))
    print(f"onnxruntime in process, 1000 rows: {1e6 / median(alone):,.0f} runs/s")
    base = [each.cpu for each in seen["engine"]]
    noise = [each.cpu / cpu for each, cpu in zip(seen["engine again"], base, strict=True)]
    cost = [each.cpu / cpu for each, cpu in zip(seen["split and validations"], base, strict=True)]
    return [
        Verdict(
            "Arrow / onnxruntime in process, 1000 rows",
            median(arrow),
            ">=",
            _LEAST_ARROW,
            spread(arrow),
        ),
        Verdict(
            "CPU with split, validations and records / bare, 1 row",
            median(cost),
            "<=",
            _MOST_CPU,
            f"{spread(cost)}; A/A {spread(noise)}",
        ),
    ]
