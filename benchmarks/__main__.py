"""`python -m benchmarks`: everything that is measured, in one run, with the verdicts at the end."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import crashing, machine, peers, pipelines, shadow, swap, throughput
from benchmarks.machine import Missing
from benchmarks.report import Verdict
from midstream_api import __version__

_WHAT = ("throughput", "pipelines", "crashing", "shadow", "swap")


def main(arguments: Sequence[str] | None = None) -> int:
    """0: every verdict holds. 1: one does not. 2: something is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("what", nargs="?", choices=_WHAT, help="default: all of them")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default: 5)")
    parser.add_argument("--seconds", type=float, default=3, help="of each timing (default: 3)")
    parser.add_argument("--blocks", type=int, default=5, help="of 5 swaps (default: 5)")
    parser.add_argument("--peers", help="only these, by name, with commas between them")
    parser.add_argument("--mlserver", type=Path, help="Python of MLServer's environment")
    options = parser.parse_args(arguments)
    before = machine.Usage.now()
    try:
        verdicts = list(_run(options))
    except Missing as missing:
        print(f"cannot measure: {missing}", file=sys.stderr)
        return 2
    print(f"\n{machine.Usage.now().since(before)}\n")
    for verdict in verdicts:
        print(verdict)
    return 0 if all(verdict.holds for verdict in verdicts) else 1


def _run(options: argparse.Namespace) -> list[Verdict]:
    verdicts: list[Verdict] = []
    if len(os.sched_getaffinity(0)) < 2:
        raise Missing("two cores are needed: one for the server, one for the load")
    this = machine.Machine.this()
    print(
        f"Midstream {__version__}; Python {this.python}; {this.cpu}, {this.cores} cores; {this.system}"
    )
    if options.what in (None, "throughput"):
        some = peers.all_of(throughput.peers(options.mlserver))
        if options.peers:
            wanted = options.peers.split(",")
            some = [peer for peer in some if peer.name in wanted]
        for peer in some:
            found = machine.versions(peer.python, peer.packages)
            print(f"{peer.name}: " + ", ".join(f"{name} {found[name]}" for name in found))
        rounds = throughput.run(some, rounds=options.rounds, seconds=options.seconds)
        verdicts += throughput.report(rounds)
    if options.what in (None, "pipelines"):
        verdicts += pipelines.run(rounds=options.rounds, seconds=options.seconds)
    if options.what in (None, "crashing"):
        verdicts += crashing.run(rounds=options.rounds, seconds=options.seconds)
    if options.what in (None, "shadow"):
        verdicts += shadow.run(rounds=options.rounds)
    if options.what in (None, "swap"):
        verdicts += swap.run(blocks=options.blocks)
    return verdicts


if __name__ == "__main__":
    sys.exit(main())
