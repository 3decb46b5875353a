"""What whole pipelines cost: Arrow against onnxruntime alone, and a split with validations against a bare model.

Rounds are interleaved and compared within themselves, as in `throughput`; CPU time is that of the server's process
tree per request. The bare model is measured twice in a round, and the ratio of the two is what noise alone makes (A/A).
"""

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

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


def _measure(peer: Engine, case: Case, checker: Checker, seconds: float) -> Measured:
    with peer.started(case.bodies[0]) as server, machine.folder() as folder:
        for rows in case.bodies:
            peer.check(server, rows, checker.expected("rf", rows)["variable"].reshape(-1))
        return _timed(peer, case, server, folder, seconds)


def _timed(peer: Engine, case: Case, server: Server, folder: Path, seconds: float) -> Measured:
    bodies = [peer.body(rows) for rows in case.bodies]
    accept = peer.content_type if isinstance(peer, Arrow) else ""
    script = Script(folder / "wrk", peer.path, peer.content_type, bodies, accept=accept)
    script.run(server.port, clients=case.clients, seconds=_WARM_SECONDS)
    cpu = machine.cpu_seconds(server.pid)
    timing = script.run(server.port, clients=case.clients, seconds=seconds)
    cpu = machine.cpu_seconds(server.pid) - cpu
    return Measured(timing, cpu / max(1, timing.requests) * 1e6)


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
    seen: dict[str, list[Measured]] = {}
    for number in range(rounds):
        turn = number % len(plan)
        for peer, case in [*plan[turn:], *plan[:turn]]:
            seen.setdefault(peer.name, []).append(_measure(peer, case, checker, seconds))
        print(f"round {number + 1} of {rounds} done", flush=True)
    alone = inprocess.measured()["1000 rows"][0]
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
    print(f"onnxruntime in process, 1000 rows: {1e6 / alone:,.0f} runs/s")
    base = [each.cpu for each in seen["engine"]]
    noise = [each.cpu / cpu for each, cpu in zip(seen["engine again"], base, strict=True)]
    cost = [each.cpu / cpu for each, cpu in zip(seen["split and validations"], base, strict=True)]
    arrow = [each.timing.rate * alone / 1e6 for each in seen["Arrow"]]
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
