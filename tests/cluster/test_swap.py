"""A step's model is changed under load: in the same pods, with nothing lost and nothing mixed.

`python -m benchmarks.cluster` is the long form, with the times.
"""

import itertools
from datetime import datetime

import pytest

from kit import wire
from kit.cluster.shelf import Model, Shelf, pipeline, version
from kit.cluster.spaces import Space
from kit.cluster.watched import watched

SWAPS = 8
STAGES = (
    *("seen", "fetched", "verified", "loaded", "warmed"),
    *("canary", "prepared", "serving", "promoted"),
)


@pytest.fixture(scope="session")
def chains(shelf: Shelf) -> dict[str, list[list[Model]]]:
    models = [shelf.example(name) for name in ("rf", "gbr", "xgb")]
    prepares = [shelf.example(name) for name in ("prepare-a", "prepare-b")]
    return {
        "one step": [[model] for model in models],
        "two steps": [list(pair) for pair in itertools.product(prepares, models)],
    }


@pytest.mark.parametrize("kind", ["one step", "two steps"])
def test_models_are_swapped_in_the_same_pods_without_losing_a_request(
    space: Space, chains: dict[str, list[list[Model]]], kind: str, requests: list[wire.Request]
) -> None:
    """With 3 replicas: the same pods, 0 failed, 0 mixed, and nothing of the old version once the new one is Ready."""
    turns = chains[kind]
    space.apply(pipeline(*turns[0], deployment={"replicas": 3}))
    space.until_ready(version(*turns[0]))
    engines, balancers = space.identities(), space.identities("engine-lb")
    template = space.template()
    with watched(space, turns, requests) as load:
        for chain in itertools.islice(itertools.cycle([*turns[1:], turns[0]]), SWAPS):
            load.changing()
            space.apply(pipeline(*chain, deployment={"replicas": 3}))
            space.until_ready(version(*chain))
            load.promised(version(*chain))
        verdict = load.stop()

    assert verdict.clean == (0, 0, 0), str(verdict)
    assert len(verdict.report.versions) >= min(len(turns), SWAPS), "a version never answered"
    assert len(engines) == 3
    assert (space.identities(), space.identities("engine-lb")) == (engines, balancers)
    assert space.template() == template


def test_the_status_times_every_stage_of_a_swap(space: Space, rf: Model, gbr: Model) -> None:
    """`status.rollout` says when each stage was reached, in the order of the stages."""
    space.apply(pipeline(rf, deployment={"replicas": 2}))
    space.until_ready()
    space.apply(pipeline(gbr, deployment={"replicas": 2}))

    seen = space.until_ready(version(gbr))

    rollout = seen["status"]["rollout"]
    assert rollout["stage"] == "Done"
    assert rollout["version"] == version(gbr)
    assert rollout["generation"] == seen["metadata"]["generation"]
    times = [datetime.fromisoformat(rollout["stages"][stage]) for stage in STAGES]
    assert times == sorted(times)


def test_only_one_step_of_two_is_loaded_anew(space: Space, shelf: Shelf, rf: Model) -> None:
    """Replacing the first step keeps the session of the second in every engine."""
    one, other = shelf.example("prepare-a"), shelf.example("prepare-b")
    space.apply(pipeline(one, rf))
    space.until_ready(version(one, rf))
    ips = [pod["status"]["podIP"] for pod in space.pods()]

    def created() -> list[float]:
        replies = space.load_pod.ask(ips, 8081, "/metrics")
        name = "midstream_engine_sessions_created_total "
        return [
            float(line.removeprefix(name))
            for reply in replies
            for line in reply.text.splitlines()
            if line.startswith(name)
        ]

    before = created()
    space.apply(pipeline(other, rf))
    space.until_ready(version(other, rf))

    assert created() == [count + 1 for count in before]
    assert before == [2.0]
