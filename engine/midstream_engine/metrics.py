"""Counts and times, and their exposition. The only door to prometheus-client.

The hot path adds to plain integers and lists; families are made when somebody asks. Everything is on an injected
registry.
"""

from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from midstream_engine.batch import Checks, Choice
from midstream_engine.comparison import Outcome, ShadowCounts

if TYPE_CHECKING:
    from midstream_engine.manager import Manager
    from midstream_engine.sessions import SessionPool

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

BUCKETS_NS = tuple(
    int(ms * 1e6) for ms in (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 5000)
)


class Counts:
    """What the data plane counts: plain numbers, changed on the event loop's thread only."""

    __slots__ = (
        "buckets",
        "buffered",
        "codes",
        "failed_checks",
        "queued",
        "rows",
        "shadows",
        "step_ns",
        "step_runs",
        "total_ns",
        "variant_rows",
        "waiting",
    )

    def __init__(self) -> None:
        self.codes: dict[int, int] = {200: 0}
        self.buckets = [0] * (len(BUCKETS_NS) + 1)
        self.total_ns = 0
        self.rows = 0
        self.step_ns: dict[str, int] = {}
        self.step_runs: dict[str, int] = {}
        self.variant_rows: dict[tuple[str, str], int] = {}
        """Rows by step and variant of a split."""
        self.failed_checks: dict[str, int] = {}
        """Rows by validation that did not hold."""
        self.shadows = ShadowCounts()
        self.buffered = 0
        """Bytes of request bodies that are arriving, or wait for a thread or for something that serves."""
        self.queued = 0
        """Large batches that wait for a thread or are in one."""
        self.waiting = 0
        """Requests that wait until something serves."""

    def answered(self, rows: int, total_ns: int) -> None:
        self.codes[200] += 1
        self.rows += rows
        self.total_ns += total_ns
        self.buckets[bisect_left(BUCKETS_NS, total_ns)] += 1

    def stepped(self, step: str, ns: int) -> None:
        self.step_ns[step] = self.step_ns.get(step, 0) + ns
        self.step_runs[step] = self.step_runs.get(step, 0) + 1

    def chosen(self, choice: Choice) -> None:
        counts = self.variant_rows
        if choice.only is not None:
            key = (choice.step, choice.variants[choice.only].name)
            counts[key] = counts.get(key, 0) + 1
            return
        rows = np.bincount(choice.picked, minlength=len(choice.variants)).tolist()
        for variant, number in zip(choice.variants, rows, strict=True):
            key = (choice.step, variant.name)
            counts[key] = counts.get(key, 0) + number

    def checked(self, checks: Checks) -> None:
        if 1 not in checks.failed.tobytes():
            return
        for name, number in zip(checks.names, checks.failed.sum(axis=1).tolist(), strict=True):
            self.failed_checks[name] = self.failed_checks.get(name, 0) + number

    def refused(self, code: int) -> None:
        self.codes[code] = self.codes.get(code, 0) + 1


class EngineCollector(Collector):
    def __init__(self, counts: Counts, manager: "Manager", pool: "SessionPool") -> None:
        self._counts = counts
        self._manager = manager
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        counts, manager = self._counts, self._manager
        pipeline = manager.wish.pipeline if manager.wish else ""
        requests = CounterMetricFamily(
            "midstream_engine_requests",
            "Inference requests by status code",
            labels=["pipeline", "code"],
        )
        for code, number in sorted(counts.codes.items()):
            requests.add_metric([pipeline, str(code)], number)
        yield requests
        yield _counter("rows", "Rows answered", pipeline, counts.rows)
        duration = HistogramMetricFamily(
            "midstream_engine_request_duration_seconds",
            "From the whole request read to the answer written, for requests answered with 200",
            labels=["pipeline"],
        )
        cumulated, buckets = 0, []
        for bound, number in zip((*BUCKETS_NS, None), counts.buckets, strict=True):
            cumulated += number
            buckets.append(("+Inf" if bound is None else str(bound / 1e9), cumulated))
        duration.add_metric([pipeline], buckets, counts.total_ns / 1e9)
        yield duration
        steps = SummaryMetricFamily(
            "midstream_engine_step_duration_seconds", "Time in a step", labels=["pipeline", "step"]
        )
        for step, ns in counts.step_ns.items():
            steps.add_metric([pipeline, step], counts.step_runs[step], ns / 1e9)
        yield steps
        yield from self._of_variants(pipeline)
        yield from self._of_challengers(pipeline)
        yield _gauge(
            "queued_batches", "Requests in or waiting for a thread or a sidekick", counts.queued
        )
        yield _gauge("buffered_bytes", "Request bodies arriving or waiting", counts.buffered)
        yield _gauge("waiting_requests", "Requests waiting until something serves", counts.waiting)
        yield _gauge("sessions", "Model sessions in memory", len(self._pool))
        yield CounterMetricFamily(
            "midstream_engine_sessions_created", "Model sessions created", value=self._pool.created
        )
        yield _counter("swaps", "Swaps of the serving revision", pipeline, manager.swaps)
        failures = CounterMetricFamily(
            "midstream_engine_refused_revisions",
            "Revisions refused by reason",
            labels=["pipeline", "reason"],
        )
        for reason, number in manager.failures.items():
            failures.add_metric([pipeline, reason], number)
        yield failures
        yield _gauge("ready", "1 when a revision serves", int(manager.serving is not None))
        stages = GaugeMetricFamily(
            "midstream_engine_stage_seconds",
            "Time of each stage of the serving revision's life",
            labels=["pipeline", "stage"],
        )
        for stage, ms in (manager.serving.stages if manager.serving else {}).items():
            stages.add_metric([pipeline, stage], ms / 1e3)
        yield stages

    def _of_variants(self, pipeline: str) -> Iterator[Metric]:
        rows = CounterMetricFamily(
            "midstream_engine_variant_rows",
            "Rows answered by each variant of a split",
            labels=["pipeline", "step", "variant"],
        )
        for (step, variant), number in self._counts.variant_rows.items():
            rows.add_metric([pipeline, step, variant], number)
        yield rows
        failed = CounterMetricFamily(
            "midstream_engine_failed_validations",
            "Rows for which a validation did not hold",
            labels=["pipeline", "validation"],
        )
        for name, number in self._counts.failed_checks.items():
            failed.add_metric([pipeline, name], number)
        yield failed

    def _of_challengers(self, pipeline: str) -> Iterator[Metric]:
        labels = ["pipeline", "step", "challenger"]
        outcomes = CounterMetricFamily(
            "midstream_engine_shadow_batches",
            "Batches for challengers by what became of them",
            labels=[*labels, "outcome"],
        )
        runs = SummaryMetricFamily(
            "midstream_engine_shadow_duration_seconds",
            "Runs of challengers that answered, without the time in the queue",
            labels=labels,
        )
        compared = CounterMetricFamily(
            "midstream_engine_shadow_compared_rows",
            "Rows of a variable that champion and challenger both gave",
            labels=[*labels, "variable"],
        )
        unequal = CounterMetricFamily(
            "midstream_engine_shadow_unequal_rows",
            "Those that are not equal bit by bit",
            labels=[*labels, "variable"],
        )
        difference = SummaryMetricFamily(
            "midstream_engine_shadow_absolute_difference",
            "Absolute differences of the numbers of a variable",
            labels=[*labels, "variable"],
        )
        for (step, challenger), tally in self._counts.shadows.tallies.items():
            who = [pipeline, step, challenger]
            for outcome, number in tally.outcomes.items():
                outcomes.add_metric([*who, outcome.value], number)
            runs.add_metric(who, tally.outcomes[Outcome.ANSWERED], tally.run_ns / 1e9)
            for name, variable in tally.variables.items():
                compared.add_metric([*who, name], variable.rows)
                unequal.add_metric([*who, name], variable.unequal)
                difference.add_metric([*who, name], variable.values, variable.absolute)
        yield from (outcomes, runs, compared, unequal, difference)


def _counter(name: str, text: str, pipeline: str, value: float) -> Metric:
    family = CounterMetricFamily(f"midstream_engine_{name}", text, labels=["pipeline"])
    family.add_metric([pipeline], value)
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"midstream_engine_{name}", text, value=value)


class Exposition:
    """Renders the registry in Prometheus' text format."""

    def __init__(self, collector: Collector) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(collector)

    def render(self) -> str:
        return generate_latest(self._registry).decode()
