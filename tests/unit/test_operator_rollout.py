"""What a rollout decides, whatever order things happen in."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.fleet import Fleet, Outcome, entry
from midstream_api.status import Stage


def _fleet(replicas: int, outcome: Outcome | None = None) -> Fleet:
    """A pipeline that serves `a` everywhere."""
    fleet = Fleet(replicas, "a", outcome)
    fleet.settle()
    assert fleet.serving() == {"a"}
    assert fleet.plan is not None
    assert fleet.plan.stage is Stage.DONE
    return fleet


def _stages(fleet: Fleet) -> list[Stage]:
    """Let everything happen in turn, and return the stages in their order."""
    seen: list[Stage] = []
    for _ in range(60):
        stage = fleet.operate().stage
        if seen[-1:] != [stage]:
            seen.append(stage)
        for engine in fleet.engines:
            if not engine.alive:
                fleet.restart(engine)
            fleet.sync(engine)
            fleet.work(engine)
    return seen


def test_first_revision_is_stable_at_once() -> None:
    """There is nothing to protect: no candidate, no assignment, pods start with it."""
    fleet = _fleet(3)
    assert fleet.index is not None
    assert (fleet.index.stable, fleet.index.candidate) == (entry("a"), None)
    assert [engine.annotation for engine in fleet.engines] == [None, None, None]


def test_nothing_is_written_when_nothing_is_to_do() -> None:
    """A settled pipeline is left alone."""
    fleet = _fleet(3)
    before = fleet.writes
    for _ in range(5):
        assert fleet.operate().after is None
    assert fleet.writes == before


def test_a_swap_goes_by_canary_serve_promote() -> None:
    """Every stage comes, in this order, and everybody serves the target in the end."""
    fleet = _fleet(3)
    fleet.want("b")
    stages = _stages(fleet)
    assert stages == [Stage.CANARY, Stage.SERVING, Stage.PROMOTING, Stage.DONE]
    assert fleet.serving() == {"b"}
    assert fleet.index is not None
    assert (fleet.index.stable, fleet.index.candidate) == (entry("b"), None)


def test_only_one_pod_tries_the_target_first() -> None:
    """Until the canary serves, no other pod hears of the target."""
    fleet = _fleet(3)
    fleet.want("b")
    for _ in range(3):
        fleet.operate()
    told = [e for e in fleet.engines if e.annotation and "b" * 16 in e.annotation.hold]
    assert [e.name for e in told] == ["engine-0"]


def test_each_pod_is_told_once_before_it_serves() -> None:
    """A second assignment would take the kubelet up to a second: one names what to hold and what to serve."""
    fleet = _fleet(3)
    fleet.want("b")
    told: dict[str, int] = {}
    while fleet.serving() != {"b"}:
        for name in fleet.operate().assignments:
            told[name] = told.get(name, 0) + 1
        for engine in fleet.engines:
            fleet.sync(engine)
            fleet.work(engine)
    assert told == {"engine-0": 1, "engine-1": 1, "engine-2": 1}


def test_the_old_revision_is_kept_for_a_while() -> None:
    """Telling pods at once that it is over would cost the next swap a second; ten seconds later they are told."""
    fleet = _fleet(3)
    fleet.want("b")
    _stages(fleet)
    assert fleet.plan is not None
    assert fleet.plan.stage is Stage.DONE
    assert fleet.plan.after is not None
    assert all("a" * 16 in engine.states for engine in fleet.engines)
    fleet.now += fleet.plan.after
    fleet.operate()
    for engine in fleet.engines:
        fleet.sync(engine)
        fleet.work(engine)
    assert [sorted(engine.states) for engine in fleet.engines] == [["b" * 16]] * 3
    assert fleet.operate().after is None


def test_nothing_is_promoted_before_everybody_serves() -> None:
    """While one pod has not loaded the target, new pods start with the old revision."""
    fleet = _fleet(3)
    fleet.want("b")
    for _ in range(20):
        fleet.operate()
        for engine in fleet.engines[:2]:
            fleet.sync(engine)
            fleet.work(engine)
    assert [engine.serving for engine in fleet.engines] == ["b" * 16, "b" * 16, "a" * 16]
    assert fleet.index is not None
    assert fleet.index.stable == entry("a")
    fleet.settle()
    assert fleet.serving() == {"b"}


def test_a_bad_target_ends_where_it_began() -> None:
    """A permanent failure on the canary: everybody goes back, the reason is told, nothing is tried again."""
    fleet = _fleet(3, lambda _, revision: ("VerifyFailed", False) if revision[0] == "b" else None)
    fleet.want("b")
    fleet.settle()
    assert fleet.serving() == {"a"}
    assert fleet.plan is not None
    assert fleet.plan.stage is Stage.FAILED
    assert fleet.plan.failure is not None
    assert fleet.plan.failure.reason == "VerifyFailed"
    assert "engine-0" in fleet.plan.failure.message
    before = fleet.writes
    for _ in range(5):
        fleet.operate()
    assert fleet.writes == before
    fleet.want("c")
    fleet.settle()
    assert fleet.serving() == {"c"}


def test_a_target_that_kills_takes_one_pod_once() -> None:
    """Only the canary dies of it, once, and comes back with the stable revision."""
    deaths: list[str] = []

    def outcome(pod: str, revision: str) -> tuple[str, bool] | None:
        if revision[0] != "b":
            return None
        deaths.append(pod)
        return ("Dies", False)

    fleet = _fleet(3, outcome)
    fleet.want("b")
    fleet.settle()
    assert fleet.serving() == {"a"}
    assert fleet.plan is not None
    assert fleet.plan.failure is not None
    assert fleet.plan.failure.reason == "CandidateKilledEngine"
    killed = [engine for engine in fleet.engines if engine.mark]
    assert [engine.name for engine in killed] == ["engine-0"]
    assert set(deaths) == {"engine-0"}


def test_one_pod_that_cannot_for_now_holds_everybody_back() -> None:
    """A transient failure on one pod: the old version serves everywhere, and the rollout goes on when it heals."""
    full = {"engine-2"}
    fleet = _fleet(
        3, lambda pod, revision: ("NoSpace", True) if pod in full and revision[0] == "b" else None
    )
    fleet.want("b")
    for _ in range(40):
        fleet.operate()
        for engine in fleet.engines:
            fleet.sync(engine)
            fleet.work(engine)
    assert fleet.serving() == {"a"}
    assert fleet.plan is not None
    assert fleet.plan.failure is not None
    assert (fleet.plan.failure.reason, fleet.plan.failure.transient) == ("NoSpace", True)
    before = fleet.writes
    for _ in range(5):
        fleet.operate()
    assert fleet.writes == before, "waiting writes nothing"
    full.clear()
    fleet.settle()
    assert fleet.serving() == {"b"}


def test_a_broken_first_revision_is_replaced_at_once() -> None:
    """What has never served is not worth going back to."""
    fleet = Fleet(
        2, "b", lambda _, revision: ("InvalidModel", False) if revision[0] == "b" else None
    )
    for _ in range(10):
        fleet.operate()
        for engine in fleet.engines:
            fleet.sync(engine)
            fleet.work(engine)
    assert fleet.plan is not None
    assert fleet.plan.stage is Stage.FAILED
    fleet.want("a")
    fleet.settle()
    assert fleet.serving() == {"a"}


def test_a_pod_that_has_not_heard_is_told_again() -> None:
    """An assignment that is not confirmed is patched anew, at growing intervals, not all the time."""
    fleet = _fleet(1)
    fleet.want("b")
    fleet.operate()
    begun, told = fleet.now, []
    while fleet.now < begun + 60:
        before = fleet.engines[0].nudge
        fleet.operate()
        if fleet.engines[0].nudge != before:
            told.append(fleet.now - begun)
    assert told[0] < 0.5
    assert [round(later - earlier, 1) for earlier, later in pairwise(told)] == pytest.approx(
        [0.6, 1.2, 2.4, 4.8, 9.6, 19.2], abs=0.11
    )


def test_the_sequence_goes_on_when_the_config_map_is_lost() -> None:
    """Engines ignore a lower sequence, so a new ConfigMap begins above what they have seen."""
    fleet = _fleet(2)
    fleet.want("b")
    fleet.settle()
    assert fleet.index is not None
    last = fleet.index.sequence
    fleet.index = None
    begun = fleet.operate().index
    assert begun is not None
    assert begun.sequence > last
    fleet.settle()
    assert fleet.serving() == {"b"}


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "operate",
                "operate",
                "sync",
                "sync",
                "work",
                "work",
                "kill",
                "restart",
                "replace",
                "want",
                "scale",
            ]
        ),
        st.integers(0, 11),
    ),
    max_size=80,
)


@settings(max_examples=300, deadline=None)
@given(replicas=st.integers(1, 4), events=EVENTS)
def test_the_newest_target_serves_in_the_end(replicas: int, events: list[tuple[str, int]]) -> None:
    """Whatever happens in whatever order: never three revisions, and the newest wish wins."""
    fleet = _fleet(replicas)
    for event, number in events:
        engine = fleet.engines[number % len(fleet.engines)]
        match event:
            case "operate":
                fleet.operate()
            case "sync":
                fleet.sync(engine)
            case "work":
                fleet.work(engine)
            case "kill":
                fleet.kill(engine)
            case "restart" if not engine.alive:
                fleet.restart(engine)
            case "replace":
                fleet.replace_pod(engine)
            case "want":
                fleet.want("abcd"[number % 4])
            case "scale":
                fleet.scale(number % 4 + 1)
        alive = {each.serving for each in fleet.engines if each.alive and each.serving}
        assert len(alive) <= 2
    fleet.settle()
    assert fleet.serving() == {fleet.target.revision[0]}
    assert fleet.plan is not None
    assert fleet.plan.stage is Stage.DONE


@settings(max_examples=200, deadline=None)
@given(replicas=st.integers(1, 4), events=EVENTS, dies=st.booleans())
def test_a_bad_target_never_takes_the_old_one_with_it(
    replicas: int, events: list[tuple[str, int]], dies: bool
) -> None:
    """Whatever happens meanwhile: `b` never serves, and `a` does in the end."""
    bad = ("Dies", False) if dies else ("WarmupFailed", False)
    fleet = _fleet(replicas, lambda _, revision: bad if revision[0] == "b" else None)
    fleet.want("b")
    for event, number in events:
        engine = fleet.engines[number % len(fleet.engines)]
        match event:
            case "operate":
                fleet.operate()
            case "sync":
                fleet.sync(engine)
            case "work":
                fleet.work(engine)
            case "restart" if not engine.alive:
                fleet.restart(engine)
        assert "b" not in fleet.serving()
    fleet.settle()
    assert fleet.serving() == {"a"}
