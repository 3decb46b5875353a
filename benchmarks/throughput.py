"""Requests a second: interleaved rounds, each of which starts, warms and times every peer once.

Machines drift by more than the differences that matter here, so only ratios *within* a round are compared, and each is
printed with its spread and beside the ratio of the floor to itself (A/A), which is what noise alone makes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks import HOUSE, MODEL, inprocess, machine
from benchmarks.peers import Engine, Floor, Hello, MLServer, Peer
from benchmarks.report import Verdict, table
from benchmarks.wrk import Script, Timing
from kit.checker import Checker

_WARM_SECONDS = 1.0
_BODIES_OF_1000 = 4
"""Rotations of the same rows: enough that nobody answers from the processor's memory of one body."""


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    clients: int
    bodies: Sequence[Sequence[dict[str, Any]]]


class Measured(NamedTuple):
    timing: Timing
    cpu: float
    """CPU of the server's process tree, microseconds per request."""


Round = dict[tuple[str, str], Measured]
"""By peer and case."""


def cases() -> list[Case]:
    distinct = json.loads((HOUSE / "samples" / "distinct-rows.json").read_bytes())
    thousand = json.loads((HOUSE / "samples" / "rows-1000.json").read_bytes())
    quarter = len(thousand) // _BODIES_OF_1000
    rotations = [
        thousand[at * quarter :] + thousand[: at * quarter] for at in range(_BODIES_OF_1000)
    ]
    return [Case("1 row", 16, [[row] for row in distinct]), Case("1000 rows", 4, rotations)]


def peers(mlserver: Path | None = None) -> list[Peer]:
    return [Hello(), Floor("floor"), Engine(), Floor("floor again"), MLServer(mlserver)]


def measure(peer: Peer, some: Sequence[Case], checker: Checker, seconds: float) -> Round:
    """Start one peer, check its answers, then warm and time each case. Raises on a wrong answer."""
    found: Round = {}
    with peer.started(some[0].bodies[0]) as server, machine.folder() as folder:
        for number, case in enumerate(some):
            if isinstance(peer, Hello) and number:
                continue
            for rows in case.bodies:
                expected = checker.expected("rf", rows)["variable"].reshape(-1)
                peer.check(server, rows, expected)
            bodies = [peer.body(rows) for rows in case.bodies]
            script = Script(folder / str(number), peer.path, peer.content_type, bodies)
            script.run(server.port, clients=case.clients, seconds=_WARM_SECONDS)
            cpu = machine.cpu_seconds(server.pid)
            timing = script.run(server.port, clients=case.clients, seconds=seconds)
            cpu = machine.cpu_seconds(server.pid) - cpu
            found[peer.name, case.name] = Measured(timing, cpu / max(1, timing.requests) * 1e6)
    return found


def run(some: Sequence[Peer], *, rounds: int, seconds: float) -> list[Round]:
    checker = Checker({"rf": [MODEL]})
    found: list[Round] = []
    for number in range(rounds):
        measured: Round = {}
        start = number % len(some)  # nobody always comes first
        for peer in [*some[start:], *some[:start]]:
            measured |= measure(peer, cases(), checker, seconds)
        found.append(measured)
        print(f"round {number + 1} of {rounds} done", flush=True)
    return found


def ratios(rounds: Sequence[Round], case: str, peer: str, base: str) -> list[float]:
    return [
        each[peer, case].timing.rate / each[base, case].timing.rate
        for each in rounds
        if (peer, case) in each and (base, case) in each
    ]


def spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def failed(rounds: Sequence[Round]) -> int:
    return sum(measured.timing.failed for each in rounds for measured in each.values())


def report(rounds: Sequence[Round]) -> list[Verdict]:
    for case in cases():
        rows = []
        for peer in dict.fromkeys(peer for peer, of in rounds[0] if of == case.name):
            seen = [each[peer, case.name] for each in rounds]
            rows.append(
                (
                    peer,
                    f"{median(one.timing.rate for one in seen):,.0f}",
                    f"{median(one.timing.p50 for one in seen):.3f}",
                    f"{median(one.timing.p99 for one in seen):.3f}",
                    f"{median(one.cpu for one in seen):,.1f}",
                    spread(ratios(rounds, case.name, peer, "floor")),
                    spread(ratios(rounds, case.name, peer, "hello")),
                    str(sum(one.timing.failed for one in seen)),
                )
            )
        print(f"\n{case.name}, {case.clients} clients; medians of {len(rounds)} rounds")
        print(
            table(
                (
                    "peer",
                    "requests/s",
                    "p50 ms",
                    "p99 ms",
                    "CPU us/request",
                    "x floor (min-max)",
                    "x hello (min-max)",
                    "failed",
                ),
                rows,
            )
        )
    inprocess.report()
    return [
        _verdict(rounds, "1 row", "engine", "floor", 0.85),
        _verdict(rounds, "1000 rows", "engine", "floor", 0.85),
        _verdict(rounds, "1 row", "engine", "MLServer", 5.0),
        Verdict("requests that failed in all timed runs", failed(rounds), "<=", 0),
    ]


def _verdict(rounds: Sequence[Round], case: str, peer: str, base: str, least: float) -> Verdict:
    values = ratios(rounds, case, peer, base)
    noise = spread(ratios(rounds, case, "floor again", "floor"))
    return Verdict(
        f"{peer} / {base}, {case}",
        median(values) if values else None,
        ">=",
        least,
        f"{spread(values)}; A/A {noise}",
    )
