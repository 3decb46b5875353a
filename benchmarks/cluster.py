"""`python -m benchmarks.cluster`: how long a swap takes on a real cluster, from `kubectl apply` to the last replica.

Beside it, on the same Deployment, a plain rolling restart: what changing a model costs where it means new pods. Both
run under the same load from a pod, and every answer is checked.

Needs what the cluster tests need (`tests/cluster/conftest.py`), and a machine with nothing else to do.
"""

import argparse
import itertools
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from benchmarks import machine
from benchmarks.report import Verdict, table
from kit import wire
from kit.cluster import install, kubectl, spaces
from kit.cluster.kubectl import Object
from kit.cluster.pods import PATH, LoadPod
from kit.cluster.shelf import NAME, Model, Shelf, pipeline, version
from kit.cluster.spaces import Space, condition, is_current
from kit.cluster.watched import Verdict as Answers
from kit.cluster.watched import watched
from kit.swapping import distinct_rows
from midstream_api import __version__

STAGES = (
    *("seen", "fetched", "verified", "loaded", "warmed"),
    *("canary", "prepared", "serving", "promoted"),
)
MEDIAN_SECONDS, WORST_SECONDS = 1.5, 4.0


class Swap(NamedTuple):
    """One swap; seconds since `kubectl apply` was started."""

    applied: float
    """kubectl had its answer."""
    stages: dict[str, float]
    """As `status.rollout.stages` has them."""
    ready: float
    """The object was seen to be Ready."""


class Measured(NamedTuple):
    swaps: list[Swap]
    restarts: list[float]
    swapping: Answers
    restarting: Answers


def main(arguments: Sequence[str] | None = None) -> int:
    """0: every verdict holds. 1: one does not. 2: something is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--restarts", type=int, default=3, help="plain rolling restarts")
    parser.add_argument("--rate", type=float, default=150, help="requests a second meanwhile")
    options = parser.parse_args(arguments)
    registry = os.environ.get("MIDSTREAM_TEST_REGISTRY")
    for missing, what in (
        ("KUBECONFIG" not in os.environ, "KUBECONFIG: a cluster"),
        (not registry, "MIDSTREAM_TEST_REGISTRY: host:port of a registry that pods reach, too"),
        (shutil.which("helm") is None, "helm on the PATH"),
    ):
        if missing:
            print(f"cannot measure without {what}", file=sys.stderr)
            return 2
    before = machine.Usage.now()
    with tempfile.TemporaryDirectory() as folder:
        shelf = Shelf(str(registry), Path(folder))
        models = [shelf.example(name) for name in ("rf", "gbr", "xgb")]
        install.install()
        with _place() as space:
            measured = _measure(
                space,
                models,
                swaps=options.swaps,
                replicas=options.replicas,
                restarts=options.restarts,
                rate=options.rate,
            )
    _report(measured, options.replicas)
    print(f"\n{machine.Usage.now().since(before)}\n")
    verdicts = list(_verdicts(measured))
    for verdict in verdicts:
        print(verdict)
    return 0 if all(verdict.holds for verdict in verdicts) else 1


@contextmanager
def _place() -> Iterator[Space]:
    with spaces.namespace(f"load-{os.getpid()}") as name, spaces.space(LoadPod(name)) as space:
        yield space


def _measure(
    space: Space, models: Sequence[Model], *, swaps: int, replicas: int, restarts: int, rate: float
) -> Measured:
    rows = distinct_rows()
    requests = [*(wire.records(PATH, [row]) for row in rows), wire.records(PATH, rows)]
    for model in (*models[1:], models[0]):  # every engine has every model's file from here on
        space.apply(_manifest(model, replicas))
        space.until_ready(version(model))
    chains = [[model] for model in models]
    turns = itertools.cycle([*models[1:], models[0]])
    with watched(space, chains, requests, rate=rate) as load:
        timed = []
        for model in itertools.islice(turns, swaps):
            load.changing()
            timed.append(_swap(space, _manifest(model, replicas), version(model)))
            load.promised(version(model))
        swapping = load.stop()
    serving = chains[swaps % len(chains)]
    with watched(space, [serving], requests, rate=rate) as load:
        restarted = [_restart(space) for _ in range(restarts)]
        restarting = load.stop()
    return Measured(timed, restarted, swapping, restarting)


def _manifest(model: Model, replicas: int) -> Object:
    return pipeline(model, deployment={"replicas": replicas})


def _swap(space: Space, manifest: Object, wanted: str) -> Swap:
    with kubectl.watching("pipelines", space.name) as watch:
        known = watch.until(lambda _: True, "the object as it is")["metadata"]["generation"]
        began = time.time()
        space.apply(manifest)
        applied = time.time() - began
        seen = watch.until(
            lambda seen: (
                is_current(seen, known + 1)
                and condition(seen, "Ready").get("status") == "True"
                and seen["status"].get("version") == wanted
            ),
            "the swap",
        )
        ready = time.time() - began
    stages = seen["status"]["rollout"]["stages"]
    return Swap(
        applied,
        {
            stage: datetime.fromisoformat(stages[stage]).timestamp() - began
            for stage in STAGES
            if stage in stages
        },
        ready,
    )


def _restart(space: Space) -> float:
    began = time.time()
    space.do("rollout", "restart", f"deployment/{NAME}-engine")
    space.do("rollout", "status", f"deployment/{NAME}-engine", "--timeout=120s")
    return time.time() - began


def _report(measured: Measured, replicas: int) -> None:
    this = machine.Machine.this()
    print(f"Midstream {__version__}; {replicas} engines; {this.cpu}, {this.cores} cores\n")
    rows = [("kubectl apply answered", [swap.applied for swap in measured.swaps])]
    rows += [
        (stage, [swap.stages[stage] for swap in measured.swaps if stage in swap.stages])
        for stage in STAGES
    ]
    rows += [
        ("Ready seen by kubectl", [swap.ready for swap in measured.swaps]),
        ("plain rolling restart", measured.restarts),
    ]
    print(
        table(
            ["seconds from the start of `kubectl apply`", "median", "worst", "of"],
            [
                [what, f"{statistics.median(times):.3f}", f"{max(times):.3f}", str(len(times))]
                for what, times in rows
                if times
            ],
        )
    )
    print(f"\nwhile swapping: {measured.swapping}")
    print(f"while restarting: {measured.restarting}")


def _verdicts(measured: Measured) -> Iterator[Verdict]:
    serving = [swap.stages["serving"] for swap in measured.swaps]
    yield Verdict("median swap, s", statistics.median(serving), "<=", MEDIAN_SECONDS)
    yield Verdict("slowest swap, s", max(serving), "<=", WORST_SECONDS)
    failed, mixed, stale = measured.swapping.clean
    yield Verdict("failed requests while swapping", failed, "<=", 0)
    yield Verdict("mixed answers while swapping", mixed, "<=", 0)
    yield Verdict("stale answers while swapping", stale, "<=", 0)


if __name__ == "__main__":
    sys.exit(main())
