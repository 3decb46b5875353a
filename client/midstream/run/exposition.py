"""Prometheus' text format for all workers at once. The only door to prometheus-client on this side.

Every sample of a worker gets the label `worker`; the supervisor's own families stand beside them.
"""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def merged(
    bodies: Mapping[int, str],
    restarts: Mapping[int, int],
    rollouts: Mapping[str, int],
    stages_ms: Mapping[str, float],
) -> str:
    """Return the exposition of all workers and of the supervisor.

    bodies: each worker's own exposition; restarts: of each worker; rollouts: their number for each outcome;
    stages_ms: of the last rollout.
    """
    registry = CollectorRegistry()
    registry.register(_Families([*_workers(bodies), *_own(restarts, rollouts, stages_ms)]))
    return generate_latest(registry).decode()


class _Families(Collector):
    """Hands over families that are made already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _workers(bodies: Mapping[int, str]) -> Iterable[Metric]:
    families: dict[str, Metric] = {}
    for worker, body in sorted(bodies.items()):
        for family in text_string_to_metric_families(body):
            known = families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type)
            )
            known.samples += [
                Sample(one.name, {"worker": str(worker), **one.labels}, one.value, one.timestamp)
                for one in family.samples
            ]
    return families.values()


def _own(
    restarts: Mapping[int, int], rollouts: Mapping[str, int], stages_ms: Mapping[str, float]
) -> Iterator[Metric]:
    restarted = CounterMetricFamily(
        "midstream_worker_restarts", "Workers that ended and were started again", labels=["worker"]
    )
    for worker, count in sorted(restarts.items()):
        restarted.add_metric([str(worker)], count)
    yield restarted
    ended = CounterMetricFamily(
        "midstream_rollouts", "Changes of the revision, by how they ended", labels=["outcome"]
    )
    for outcome, count in sorted(rollouts.items()):
        ended.add_metric([outcome], count)
    yield ended
    stages = GaugeMetricFamily(
        "midstream_rollout_stage_seconds",
        "What each stage of the last rollout took",
        labels=["stage"],
    )
    for stage, ms in stages_ms.items():
        stages.add_metric([stage], ms / 1e3)
    yield stages
