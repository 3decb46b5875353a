"""What is counted, in Prometheus' text format."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from midstream_engine.batch import Batch, Checks, Choice, VariantRef
from midstream_engine.counts import BUCKETS_NS, MAX_SERIES, Counts
from midstream_engine.errors import BadInput, Overloaded, SidekickFailed, StepFailed
from midstream_engine.metrics import EngineCollector, Exposition
from midstream_engine.steps.kinds import Run

if TYPE_CHECKING:
    from midstream_engine.revisions.manager import Manager
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

    def report(self) -> list[dict[str, Any]]:
        """Three workers of one Python model."""
        said = (("Running", 2), ("Running", 0), ("BackOff", 5))
        return [
            {"model": "post", "status": status, "restarts": restarts} for status, restarts in said
        ]


def scrape(counts: Counts) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """All samples of the exposition, by name and labels, parsed by prometheus-client itself."""
    idle: Any = Idle()
    collector = EngineCollector(counts, cast("Manager", idle), cast("SessionPool", idle), idle)
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


REFS = (VariantRef("a", "rf", None, "1"), VariantRef("b", "xgb", None, "2"))


def choice(*picked: int, only: int | None = None) -> Choice:
    """Of the step `predict`."""
    return Choice("predict", REFS, np.array(picked), only)


def test_variants_are_timed_where_one_answered_alone() -> None:
    """Rows are counted of every batch; of one that several answered only the step's time is known."""
    counts = Counts()
    for chosen, ms in ((choice(1, only=1), 2), (choice(1, 1, 1), 4), (choice(0, 1, 0), 100)):
        counts.stepped("predict", ms * 1_000_000)
        counts.chosen(chosen)
    found = scrape(counts)
    rows, time = "midstream_engine_variant_rows_total", "midstream_engine_variant_duration_seconds"
    a, b = (labels(step="predict", variant=name) for name in "ab")
    assert (2, 5) == (found[rows, a], found[rows, b])
    assert (0, 2) == (found[f"{time}_count", a], found[f"{time}_count", b])
    assert found[f"{time}_sum", a] == 0
    assert abs(found[f"{time}_sum", b] - 0.006) < 1e-9
    assert 3 == found["midstream_engine_step_duration_seconds_count", labels(step="predict")]


class Named:
    """As much of a step as is counted."""

    def __init__(self, name: str) -> None:
        self.name = name


@pytest.mark.parametrize(
    ("elapsed", "choices", "step", "variant"),
    [
        ([], [], "prepare", ""),
        ([1], [choice(0, only=0)], "predict", "a"),
        ([1], [choice(1, 1)], "predict", "b"),
        ([1], [choice(0, 1)], "predict", ""),
        ([1, 1], [choice(0, 0)], "finish", ""),
        ([1, 1, 1], [choice(0, 0)], "finish", ""),
    ],
)
def test_failures_are_counted_at_the_step_that_did_not_end(
    elapsed: list[int], choices: list[Choice], step: str, variant: str
) -> None:
    """With the variant where all rows fell to one; at the last step when the answer cannot be written."""
    steps: Any = [Named(name) for name in ("prepare", "predict", "finish")]
    batch = Batch({}, 2)
    run = Run(batch, choices=choices, elapsed=elapsed)
    counts = Counts()
    for error in (StepFailed("x"), StepFailed("x", reason="StepTimedOut"), SidekickFailed("x")):
        counts.failed(steps, run, error)
    counts.failed(steps, run, StepFailed("x"))
    counts.failed(steps, run, BadInput("a caller's"))
    counts.failed(steps, run, Overloaded("no room"))
    found = scrape(counts)
    name = "midstream_engine_step_failures_total"
    told = {
        reason: found[name, labels(step=step, variant=variant, reason=reason)]
        for reason in ("StepFailed", "StepTimedOut", "SidekickFailed")
    }
    assert told == {"StepFailed": 2, "StepTimedOut": 1, "SidekickFailed": 1}
    assert sum(metric == name for metric, _ in found) == 3


def test_python_workers_are_counted_by_state() -> None:
    """And how often they were started anew."""
    found = scrape(Counts())
    name = "midstream_engine_python_workers"
    assert 2 == found[name, labels(model="post", status="Running")]
    assert 1 == found[name, labels(model="post", status="BackOff")]
    assert 7 == found["midstream_engine_python_worker_restarts", labels(model="post")]


def test_names_that_swaps_bring_do_not_pile_up() -> None:
    """The oldest go; what is used comes back."""
    counts = Counts()
    for number in range(2 * MAX_SERIES):
        refs = (VariantRef(f"v{number}", "rf", None, "1"),)
        counts.stepped(f"s{number}", 1)
        counts.chosen(Choice(f"s{number}", refs, np.zeros(1, np.intp), 0))
        checks = Checks((f"c{number}",), ({},), np.ones((1, 1), np.bool_))
        counts.checked(checks)
        run = Run(Batch({}, 1))
        counts.failed([cast("Any", Named(f"s{number}"))], run, StepFailed("x"))
    kept: list[dict[Any, Any]] = [
        counts.steps,
        counts.variants,
        counts.failed_checks,
        counts.failures,
    ]
    assert [len(each) for each in kept] == [MAX_SERIES] * 4
    counts.stepped("s0", 1)
    assert counts.steps["s0"][0] == 1


def test_metrics_that_pages_name_exist() -> None:
    """In all of the documentation; a reader can paste what it shows into a query."""
    idle: Any = Idle()
    collector = EngineCollector(Counts(), idle, idle, idle)
    families = {family.name: family.type for family in collector.collect()}
    suffixes = {"counter": "_total", "summary": "(?:_sum|_count)?", "gauge": ""}
    known = [f"{name}{suffixes.get(kind, '.*')}" for name, kind in families.items()]
    for page in sorted((Path(__file__).parents[2] / "docs").rglob("*.md")):
        for name in re.findall(r"\bmidstream_engine_\w+\b", page.read_text(encoding="utf-8")):
            assert any(re.fullmatch(each, name) for each in known), (page.name, name)
