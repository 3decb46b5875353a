"""Fuzz: `python -m fuzz --count 200000`. Prints the seed, and everything that is needed to see a finding again.

The inputs run in processes of their own, so that one which ends its process is found, and named.
"""

import argparse
import faulthandler
import json
import logging
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from fuzz.campaign import Tally, campaign
from fuzz.inputs import BLOCK

_SHOWN = 20
"""Kinds of findings."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=200_000, help="inputs")
    parser.add_argument("--seed", type=int, help="default: a new one")
    parser.add_argument("--only", type=int, help="the number of one input to run again")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes")
    parser.add_argument("--part", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part is not None:
        seed, first, end = map(int, arguments.part[:3])
        return _part(seed, range(first, end), Path(arguments.part[3]))
    seed = secrets.randbelow(10**9) if arguments.seed is None else arguments.seed
    say(f"seed {seed}")
    if arguments.only is not None:
        return _only(seed, arguments.only)
    start = time.monotonic()
    tally = Tally()
    for share in _shares(seed, arguments.count, arguments.jobs):
        tally.inputs += share["inputs"]
        tally.reached += share["reached"]
        tally.reasons += Counter({tuple(key): n for key, n in share["reasons"]})
        tally.findings = {**share["findings"], **tally.findings}
        tally.found += Counter(share["found"])
    for (status, reason), number in sorted(tally.reasons.items()):
        say(f"{number:9} {status} {reason}")
    for kind, finding in list(tally.findings.items())[:_SHOWN]:
        at = finding.split()[1].rstrip(",")
        say(
            f"\n{tally.found[kind]} times: {finding}\n  again: python -m fuzz --seed {seed} --only {at}"
        )
    say(
        f"\nseed {seed}: {tally.inputs} inputs in {time.monotonic() - start:.0f} s, {tally.share:.1%} reached a model, "
        f"{tally.found.total()} findings of {len(tally.findings)} kinds"
    )
    return 1 if tally.findings else 0


def say(*words: object) -> None:
    """A line on standard output, at once."""
    sys.stdout.write(f"{' '.join(map(str, words))}\n")
    sys.stdout.flush()


def _shares(seed: int, count: int, jobs: int) -> list[dict[str, Any]]:
    """Each process has its part of the numbers, in whole blocks."""
    size = -(-count // jobs // BLOCK) * BLOCK
    parts = [range(first, min(first + size, count)) for first in range(0, count, size)]
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for numbers in parts:
            told = Path(folder) / str(numbers.start)
            told.write_text(str(numbers.start))
            numbered = [str(seed), str(numbers.start), str(numbers.stop), str(told)]
            running.append(subprocess.Popen([sys.executable, "-m", "fuzz", "--part", *numbered]))
        return [
            _share(process.wait(), numbers, Path(folder) / str(numbers.start))
            for process, numbers in zip(running, parts, strict=True)
        ]


def _share(code: int, numbers: range, told: Path) -> dict[str, Any]:
    """What a process has found, or where it ended."""
    if code == 0:
        found: dict[str, Any] = json.loads(told.with_suffix(".json").read_text())
        return found
    at = int(told.read_text())
    what = f"input {at}, or one of the next {BLOCK}, ended the process with {code}"
    return {
        "inputs": at - numbers.start,
        "reached": 0,
        "reasons": [],
        "findings": {what: what},
        "found": {what: 1},
    }


def _part(seed: int, numbers: range, told: Path) -> int:
    faulthandler.enable()
    logging.disable(logging.WARNING)  # what challengers do wrong is theirs
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder, campaign(Path(folder)) as ground:
        for first in range(numbers.start, numbers.stop, BLOCK):
            told.write_text(str(first))
            for block in ground.run(seed, range(first, min(first + BLOCK, numbers.stop))):
                for tried in block:
                    tally.add(tried)
    share = {
        "inputs": tally.inputs,
        "reached": tally.reached,
        "reasons": list(tally.reasons.items()),
        "findings": tally.findings,
        "found": tally.found,
    }
    told.with_suffix(".json").write_text(json.dumps(share))
    return 0


def _only(seed: int, number: int) -> int:
    with tempfile.TemporaryDirectory() as folder, campaign(Path(folder)) as ground:
        for (tried,) in ground.run(seed, range(number, number + 1)):
            say(tried.fuzzed.name, tried.verdict)
            say(tried.sent.path, tried.sent.headers)
            say(tried.sent.body)
            say(*tried.defects)
            return 1 if tried.verdict.finding else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
