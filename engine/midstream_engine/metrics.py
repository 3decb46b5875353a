"""The exposition of counts and times. The only door to prometheus-client.

Families are made when somebody asks. Everything is on an injected registry.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from midstream_engine.counts import BUCKETS_NS, Counts
from midstream_engine.shadow.comparison import Outcome

if TYPE_CHECKING:
    from midstream_engine.revisions.manager import Manager
    from midstream_engine.sessions import SessionPool

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Crews(Protocol):
    """Who runs Python models."""

    def report(self) -> list[dict[str, Any]]:
        """One entry for each worker: at least model, status, restarts."""


class EngineCollector(Collector):
    def __init__(
        self, counts: Counts, manager: "Manager", pool: "SessionPool", crews: Crews
    ) -> None:
        self._counts = counts
        self._manager = manager
        self._pool = pool
        self._crews = crews

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
        for step, (runs, ns, _) in counts.steps.items():
            steps.add_metric([pipeline, step], runs, ns / 1e9)
        yield steps
        yield from self._of_steps(pipeline)
        yield from self._of_challengers(pipeline)
        yield from self._of_crews(pipeline)
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

    def _of_steps(self, pipeline: str) -> Iterator[Metric]:
        failures = CounterMetricFamily(
            "midstream_engine_step_failures",
            "Requests that a step failed on",
            labels=["pipeline", "step", "variant", "reason"],
        )
        for of, number in self._counts.failures.items():
            failures.add_metric([pipeline, *of], number)
        yield failures
        rows = CounterMetricFamily(
            "midstream_engine_variant_rows",
            "Rows answered by each variant of a split",
            labels=["pipeline", "step", "variant"],
        )
        runs = SummaryMetricFamily(
            "midstream_engine_variant_duration_seconds",
            "Time in the step of batches that one variant of it answered alone",
            labels=["pipeline", "step", "variant"],
        )
        for who, (single, several, batches, ns) in self._counts.variants.items():
            rows.add_metric([pipeline, *who], single + several)
            runs.add_metric([pipeline, *who], single + batches, ns / 1e9)
        yield from (rows, runs)
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

    def _of_crews(self, pipeline: str) -> Iterator[Metric]:
        workers = GaugeMetricFamily(
            "midstream_engine_python_workers",
            "Processes of Python models by state",
            labels=["pipeline", "model", "status"],
        )
        restarts = GaugeMetricFamily(
            "midstream_engine_python_worker_restarts",
            "How often those that there are were started anew",
            labels=["pipeline", "model"],
        )
        states: dict[tuple[str, str], int] = {}
        again: dict[str, int] = {}
        for worker in self._crews.report():
            model, status = worker["model"], worker["status"]
            states[model, status] = states.get((model, status), 0) + 1
            again[model] = again.get(model, 0) + worker["restarts"]
        for who, number in states.items():
            workers.add_metric([pipeline, *who], number)
        for model, number in again.items():
            restarts.add_metric([pipeline, model], number)
        yield from (workers, restarts)


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
