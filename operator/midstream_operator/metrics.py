"""What the operator counts, for Prometheus: the only module of the operator that knows `prometheus_client`."""

from collections.abc import Callable
from datetime import datetime

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from midstream_api.status import RolloutStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SWAP = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 10, 20, 60, 300)
_CALL = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LOOK = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 600)


class Metrics:
    """Counts on a registry of its own, so that a process may have several."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        # They double the page, and nobody reads them.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._gauges: dict[str, Gauge] = {}
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._reconciles = Counter(
            "midstream_reconcile",
            "Looks at a pipeline, by how they ended",
            ["result"],
            registry=registry,
        )
        self._reconcile_seconds = Histogram(
            "midstream_reconcile_seconds",
            "Time of one look at a pipeline",
            registry=registry,
            buckets=_LOOK,
        )
        self._retries = Counter(
            "midstream_reconcile_retries",
            "Looks at a pipeline that will be repeated because they failed",
            registry=registry,
        )
        self._calls = Counter(
            "midstream_api_requests",
            "Calls to the API server, by HTTP status; 0: no answer",
            ["verb", "code"],
            registry=registry,
        )
        self._call_seconds = Histogram(
            "midstream_api_request_seconds",
            "Time to the answer of a call to the API server",
            ["verb"],
            registry=registry,
            buckets=_CALL,
        )
        self._stages = Histogram(
            "midstream_swap_stage_seconds",
            "Time from when the operator saw a change to each stage of the swap",
            ["stage"],
            registry=registry,
            buckets=_SWAP,
        )
        self._rollouts = Counter(
            "midstream_rollouts",
            "Changes of what serves, by how they ended",
            ["result"],
            registry=registry,
        )
        self._found = Counter(
            "midstream_sweep_found",
            "Changes of pipelines that a list found before the watch told of them",
            registry=registry,
        )
        self._events = Counter(
            "midstream_events",
            "Kubernetes Events, by whether they were posted",
            ["result"],
            registry=registry,
        )

    def reconciled(self, result: str, seconds: float) -> None:
        """One look at a pipeline is over."""
        self._reconciles.labels(result).inc()
        self._reconcile_seconds.observe(seconds)
        if result == "failed":
            self._retries.inc()

    def called(self, verb: str, status: int, seconds: float) -> None:
        """One call to the API server is over; a watch: it was opened."""
        self._calls.labels(verb, str(status)).inc()
        self._call_seconds.labels(verb).observe(seconds)

    def found(self, changes: int) -> None:
        """A list of all pipelines found so many changes that nobody had told of."""
        self._found.inc(changes)

    def event(self, result: str) -> None:
        """An Event was `posted`, `repeated`, `limited` or `lost`."""
        self._events.labels(result).inc()

    def swapped(self, rollout: RolloutStatus) -> None:
        """Count a rollout that has ended in success, and the time of each of its stages."""
        self._rollouts.labels("done").inc()
        times = rollout.stages.model_dump(exclude_none=True)
        seen = times.pop("seen", None)
        for stage, reached in times.items() if seen else ():
            took = datetime.fromisoformat(reached) - datetime.fromisoformat(seen)
            self._stages.labels(stage).observe(max(0.0, took.total_seconds()))

    def rolled_back(self, reason: str) -> None:
        """Count a rollout that has failed."""
        self._rollouts.labels(reason).inc()

    def gauge(self, name: str, text: str, read: Callable[[], float], **labels: str) -> None:
        """Show what `read` returns whenever somebody looks."""
        gauge = self._gauges.get(name)
        if gauge is None:
            gauge = Gauge(f"midstream_{name}", text, list(labels), registry=self._registry)
            self._gauges[name] = gauge
        (gauge.labels(**labels) if labels else gauge).set_function(read)

    def expose(self) -> bytes:
        """Return all numbers in Prometheus' text format."""
        return generate_latest(self._registry)
