"""What all workers together answer, and how their metrics become one exposition."""

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from midstream.run import exposition, fleet
from midstream.run.fleet import Member

OLD = {"revision": "0" * 16, "version": "old-uuid"}
NEW = {"revision": "1" * 16, "version": "new-uuid"}


def member(worker: int, serving: dict[str, str] | None, **fields: Any) -> Member:
    """A worker that serves a revision of one model."""
    model = {"step": "predict", "name": "rf", "version": None, "sha256": "ab"}
    status = {
        "ready": serving is not None,
        "serving": serving,
        "revisions": [
            {"revision": one["revision"], "reason": None, "message": None, "models": [model]}
            for one in ([serving] if serving else [])
        ],
        **fields,
    }
    return Member(worker, 100 + worker, 0, status)


def starting(worker: int) -> Member:
    return Member(worker, None, 1, None)


def test_a_version_serves_when_the_last_worker_has_switched() -> None:
    """While workers differ, no version is said to serve."""
    assert fleet.serving([member(0, OLD), member(1, OLD)]) == OLD
    assert fleet.serving([member(0, NEW), member(1, OLD)]) is None
    assert fleet.serving([member(0, NEW), starting(1)]) is None
    assert fleet.serving([member(0, NEW), member(1, NEW)]) == NEW


def test_the_status_has_every_worker() -> None:
    """The document says what all have in common, and each worker's own status beside its process."""
    found = fleet.status(
        [member(0, NEW), starting(1)],
        "house-price",
        7,
        {"state": "Activating"},
        {"accepted": True},
        {"revision": "0" * 16, "steps": []},
    )

    assert (found["pipeline"], found["sequence"]) == ("house-price", 7)
    assert (found["version"], found["revision"], found["ready"]) == (None, None, False)
    assert found["content"] == {"revision": "0" * 16, "steps": []}
    assert found["rollout"] == {"state": "Activating"}
    assert [(one["worker"], one["pid"], one["restarts"]) for one in found["workers"]] == [
        (0, 100, 0),
        (1, None, 1),
    ]
    assert found["workers"][0]["serving"] == NEW
    assert found["workers"][1]["serving"] is None


def test_readiness_names_the_worker_that_is_not_ready() -> None:
    """Each reason says which worker cannot answer, and why."""
    failed = [{"revision": "0" * 16, "reason": "NoSpace", "message": "disk full", "models": []}]

    found = fleet.reasons(
        [member(0, OLD), starting(1), member(2, None), member(3, None, revisions=failed)]
    )

    assert found == [
        "worker 1 is starting",
        "worker 2 is still loading",
        "worker 3: NoSpace: disk full",
    ]
    assert fleet.reasons([member(0, OLD)]) == []
    assert fleet.reasons([member(0, OLD)], stopping=True) != []


def test_pipelines_and_models_are_those_that_all_serve() -> None:
    """Lists speak of what every worker serves; while they differ, the pipeline has no version."""
    members = [member(0, OLD), member(1, OLD)]

    assert fleet.pipelines(members, "house-price") == [
        {"id": "house-price", "version": "old-uuid", "status": "Running"}
    ]
    assert fleet.models(members) == [
        {"sha": "ab", "name": "rf", "version": None, "status": "Running"}
    ]
    assert fleet.pipelines([starting(0)], "house-price") == [
        {"id": "house-price", "version": None, "status": "Error"}
    ]
    assert fleet.models([starting(0)]) == []


BODY = """\
# HELP midstream_requests_total Requests
# TYPE midstream_requests_total counter
midstream_requests_total{code="200"} %d
# HELP midstream_seconds Time
# TYPE midstream_seconds histogram
midstream_seconds_bucket{le="1.0"} 2
midstream_seconds_bucket{le="+Inf"} 3
midstream_seconds_count 3
midstream_seconds_sum 4.5
"""


def test_metrics_of_all_workers_are_one_exposition() -> None:
    """Every sample keeps its labels and gets the worker's; each family stands once; our own stand beside them."""
    text = exposition.merged(
        {1: BODY % 11, 0: BODY % 10}, {0: 0, 1: 2}, {"succeeded": 3}, {"total": 50.0}
    )

    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["midstream_requests_total", ("code", "200"), ("worker", "0")] == 10
    assert samples["midstream_requests_total", ("code", "200"), ("worker", "1")] == 11
    assert samples["midstream_seconds_bucket", ("le", "+Inf"), ("worker", "1")] == 3
    assert samples["midstream_seconds_sum", ("worker", "0")] == 4.5
    assert samples["midstream_worker_restarts_total", ("worker", "1")] == 2
    assert samples["midstream_rollouts_total", ("outcome", "succeeded")] == 3
    assert samples["midstream_rollout_stage_seconds", ("stage", "total")] == 0.05
    assert text.count("# TYPE midstream_requests_total counter") == 1


def test_metrics_without_any_worker() -> None:
    """When no worker answers, the supervisor's own numbers still do."""
    assert 'midstream_worker_restarts_total{worker="0"} 4.0' in exposition.merged(
        {}, {0: 4}, {}, {}
    )
