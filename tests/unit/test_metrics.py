"""What is counted, in Prometheus' text format."""

from typing import TYPE_CHECKING, Any, cast

from prometheus_client.parser import text_string_to_metric_families

from midstream_engine.metrics import BUCKETS_NS, Counts, EngineCollector, Exposition

if TYPE_CHECKING:
    from midstream_engine.manager import Manager
    from midstream_engine.sessions import SessionPool


class Idle:
    """As much of a manager and a pool as the collector reads, before anything was wished for."""

    wish = None
    serving = None
    swaps = 3
    created = 7

    def __init__(self) -> None:
        self.failures = {"InvalidModel": 2}

    def __len__(self) -> int:
        return 1


def scrape(counts: Counts) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """All samples of the exposition, by name and labels, parsed by prometheus-client itself."""
    idle: Any = Idle()
    collector = EngineCollector(counts, cast("Manager", idle), cast("SessionPool", idle))
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(Exposition(collector).render())
        for sample in family.samples
    }


def labels(**given: str) -> frozenset[tuple[str, str]]:
    """Labels beside the pipeline's, which is not known yet."""
    return frozenset({"pipeline": "", **given}.items())


def test_requests_are_counted_by_code_and_rows_by_number() -> None:
    """A refused request has a code and no rows."""
    counts = Counts()
    counts.answered(3, 1_000_000)
    counts.answered(4, 2_000_000)
    counts.refused(400)
    counts.refused(503)
    counts.refused(503)
    found = scrape(counts)
    assert 2 == found["midstream_engine_requests_total", labels(code="200")]
    assert 1 == found["midstream_engine_requests_total", labels(code="400")]
    assert 2 == found["midstream_engine_requests_total", labels(code="503")]
    assert 7 == found["midstream_engine_rows_total", labels()]


def test_durations_fall_into_cumulated_buckets() -> None:
    """A bucket's bound belongs to it; what is longer than all is in +Inf only; the sum is in seconds."""
    counts = Counts()
    for ns in (1, BUCKETS_NS[0], BUCKETS_NS[0] + 1, BUCKETS_NS[-1] + 1):
        counts.answered(1, ns)
    found = scrape(counts)
    name = "midstream_engine_request_duration_seconds"
    assert 2 == found[f"{name}_bucket", labels(le="5e-05")]
    assert 3 == found[f"{name}_bucket", labels(le="0.0001")]
    assert 3 == found[f"{name}_bucket", labels(le="5.0")]
    assert 4 == found[f"{name}_bucket", labels(le="+Inf")]
    assert 4 == found[f"{name}_count", labels()]
    assert abs(found[f"{name}_sum", labels()] - 5.0001) < 1e-3


def test_steps_are_timed_by_name() -> None:
    """Runs and seconds for each step."""
    counts = Counts()
    counts.stepped("prepare", 1_500_000)
    counts.stepped("prepare", 500_000)
    found = scrape(counts)
    name = "midstream_engine_step_duration_seconds"
    assert 2 == found[f"{name}_count", labels(step="prepare")]
    assert abs(found[f"{name}_sum", labels(step="prepare")] - 0.002) < 1e-9


def test_the_engine_s_state_is_there_before_anything_serves() -> None:
    """Gauges and counters exist from the start, so that their absence means something."""
    found = scrape(Counts())
    assert 0 == found["midstream_engine_requests_total", labels(code="200")]
    assert 0 == found["midstream_engine_ready", frozenset()]
    assert 1 == found["midstream_engine_sessions", frozenset()]
    assert 7 == found["midstream_engine_sessions_created_total", frozenset()]
    assert 3 == found["midstream_engine_swaps_total", labels()]
    assert 2 == found["midstream_engine_refused_revisions_total", labels(reason="InvalidModel")]
