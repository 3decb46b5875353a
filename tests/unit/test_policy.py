"""What to do next, as sentences, and what holds whatever happens."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from midstream_engine.revisions.policy import (
    POLICIES,
    Action,
    Goal,
    Load,
    Policy,
    Prepare,
    Serve,
    Snapshot,
    Unload,
    availability_preserving,
    resource_preserving,
)
from midstream_engine.revisions.revision import State

NEW = Snapshot(State.NEW)
PREPARED = Snapshot(State.NEW, prepared=True)
LOADING = Snapshot(State.LOADING)
READY = Snapshot(State.READY, prepared=True)
FAILED = Snapshot(State.FAILED)

STABLE = Goal(hold=("a",), serve="a", stable="a")
"""Only one revision is wanted."""
CANARY = Goal(hold=("a", "b"), serve="b", stable="a")
"""b is to serve, a to stay at hand."""
STANDBY = Goal(hold=("a", "b"), serve="a", stable="a")
"""b is to be ready, and not to serve yet."""
MOVED = Goal(hold=("b",), serve="b", stable="a")
"""b is to serve, a need not stay."""

Case = tuple[Mapping[str, Snapshot], Goal, str | None, Action | None]

AVAILABILITY: dict[str, Case] = {
    "at the start the revision to serve is loaded": ({"a": NEW}, STABLE, None, Load("a")),
    "what is ready and wanted serves": ({"a": READY}, STABLE, None, Serve("a")),
    "when all is as wished nothing is done": ({"a": READY}, STABLE, "a", None),
    "a candidate is loaded beside what serves": ({"a": READY, "b": NEW}, CANARY, "a", Load("b")),
    "a ready candidate is swapped in": ({"a": READY, "b": READY}, CANARY, "a", Serve("b")),
    "what is held stays after the swap": ({"a": READY, "b": READY}, CANARY, "b", None),
    "what is no longer held goes after the swap": (
        {"a": READY, "b": READY},
        MOVED,
        "b",
        Unload("a"),
    ),
    "what serves stays until its successor is ready": (
        {"a": READY, "b": NEW},
        MOVED,
        "a",
        Load("b"),
    ),
    "a failed candidate leaves what serves": ({"a": READY, "b": FAILED}, CANARY, "a", None),
    "a failed candidate leaves what serves, also unheld": (
        {"a": READY, "b": FAILED},
        MOVED,
        "a",
        None,
    ),
    "a standby is loaded after what serves": ({"a": NEW, "b": NEW}, STANDBY, None, Load("a")),
    "a standby does not serve": ({"a": READY, "b": READY}, STANDBY, "a", None),
    "a standby is loaded while another serves": ({"a": READY, "b": NEW}, STANDBY, "a", Load("b")),
    "with nothing serving a failed wish means stable": (
        {"a": NEW, "b": FAILED},
        CANARY,
        None,
        Load("a"),
    ),
    "stable serves when the wish failed at the start": (
        {"a": READY, "b": FAILED},
        MOVED,
        None,
        Serve("a"),
    ),
    "going back swaps at once when the old one is held": (
        {"a": READY, "b": READY},
        STANDBY,
        "b",
        Serve("a"),
    ),
    "a loaded revision that nobody wants goes before the next is loaded": (
        {"a": READY, "b": NEW, "c": READY},
        CANARY,
        "a",
        Unload("c"),
    ),
    "what is loading is waited for": ({"a": READY, "b": LOADING}, CANARY, "a", None),
    "when all has failed nothing can be done": ({"a": FAILED, "b": FAILED}, CANARY, None, None),
}

RESOURCE: dict[str, Case] = {
    "at the start the files come first": ({"a": NEW}, STABLE, None, Prepare("a")),
    "then the revision is loaded": ({"a": PREPARED}, STABLE, None, Load("a")),
    "then it serves": ({"a": READY}, STABLE, None, Serve("a")),
    "when all is as wished nothing is done": ({"a": READY}, STABLE, "a", None),
    "a candidate's files are fetched while the old one serves": (
        {"a": READY, "b": NEW},
        CANARY,
        "a",
        Prepare("b"),
    ),
    "the old one goes before the new one is loaded": (
        {"a": READY, "b": PREPARED},
        CANARY,
        "a",
        Unload("a"),
    ),
    "the new one is loaded into the free place": (
        {"a": NEW, "b": PREPARED},
        CANARY,
        None,
        Load("b"),
    ),
    "what is held but not served is only fetched": (
        {"a": NEW, "b": READY},
        CANARY,
        "b",
        Prepare("a"),
    ),
    "what is held and fetched is left at that": ({"a": PREPARED, "b": READY}, CANARY, "b", None),
    "a candidate that cannot be fetched leaves what serves": (
        {"a": READY, "b": FAILED},
        CANARY,
        "a",
        None,
    ),
    "a candidate that fails to load brings stable back": (
        {"a": NEW, "b": FAILED},
        CANARY,
        None,
        Prepare("a"),
    ),
    "stable that is back serves": ({"a": READY, "b": FAILED}, CANARY, None, Serve("a")),
    "stable that serves instead goes on serving": ({"a": READY, "b": FAILED}, CANARY, "a", None),
    "when all has failed nothing can be done": ({"a": FAILED, "b": FAILED}, CANARY, None, None),
}


@pytest.mark.parametrize("sentence", AVAILABILITY)
def test_availability_preserving(sentence: str) -> None:
    """Each row of the table is a behaviour."""
    revisions, goal, serving, wanted = AVAILABILITY[sentence]
    assert wanted == availability_preserving(revisions, goal, serving, False)


@pytest.mark.parametrize("sentence", RESOURCE)
def test_resource_preserving(sentence: str) -> None:
    """Each row of the table is a behaviour."""
    revisions, goal, serving, wanted = RESOURCE[sentence]
    assert wanted == resource_preserving(revisions, goal, serving, False)


def test_resource_preserving_waits_until_the_old_one_is_out_of_memory() -> None:
    """While requests still run on the old revision the new one is not loaded."""
    revisions = {"a": NEW, "b": PREPARED}
    assert resource_preserving(revisions, CANARY, None, True) is None


def test_availability_preserving_does_not_wait_for_memory() -> None:
    """A request that takes long on the old revision does not hold up the next one."""
    revisions = {"a": READY, "b": NEW}
    assert Load("b") == availability_preserving(revisions, CANARY, "a", True)


@dataclass
class World:
    """A manager without models: what it holds, and which revisions would load."""

    revisions: dict[str, Snapshot]
    goal: Goal
    serving: str | None
    loads: dict[str, bool]
    fetches: dict[str, bool]
    draining: int = 0
    """Instants until what was unloaded is freed."""
    loaded_at_most: int = 0
    lost: bool = False
    """Something served, and then nothing."""
    actions: list[Action] = field(default_factory=list)

    def run(self, policy: Policy) -> None:
        """Apply actions until there is none. Fails when that does not end."""
        for _ in range(50):
            action = policy(self.revisions, self.goal, self.serving, self.draining > 0)
            if action is not None:
                self._apply(action)
            elif self.draining == 0:
                return
            else:
                self.draining -= 1
            loaded = sum(each.state is State.READY for each in self.revisions.values())
            self.loaded_at_most = max(self.loaded_at_most, loaded + (self.draining > 0))
        raise AssertionError(f"no end: {self.actions}")

    def _apply(self, action: Action) -> None:
        self.actions.append(action)
        name = action.revision
        match action:
            case Prepare():
                ready = replace(self.revisions[name], prepared=True)
                self.revisions[name] = ready if self.fetches[name] else FAILED
            case Load():
                assert self.revisions[name].state is State.NEW
                good = self.fetches[name] and self.loads[name]
                self.revisions[name] = READY if good else FAILED
            case Serve():
                assert self.revisions[name].state is State.READY
                self.serving = name
            case Unload():
                assert self.revisions[name].state is State.READY
                del self.revisions[name]
                if name in (*self.goal.hold, self.goal.stable):
                    self.revisions[name] = NEW
                if self.serving == name:
                    self.serving, self.lost = None, True
                self.draining = 2


# A busy machine is no reason to fail.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NAMES = ("a", "b", "c")
booleans = st.fixed_dictionaries(dict.fromkeys(NAMES, st.booleans()))


@st.composite
def worlds(draw: st.DrawFn, ready_at_most: int) -> World:
    """Any wish, and any state that an earlier wish may have left behind."""
    stable = draw(st.sampled_from(NAMES))
    hold = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True))
    goal = Goal(hold=tuple(hold), serve=draw(st.sampled_from(hold)), stable=stable)
    ready = draw(st.lists(st.sampled_from(NAMES), max_size=ready_at_most, unique=True))
    revisions: dict[str, Snapshot] = {}
    for name in draw(st.permutations(NAMES)):
        if name in ready:
            revisions[name] = READY
        elif name in (*hold, stable):
            revisions[name] = draw(st.sampled_from([NEW, PREPARED, FAILED]))
    serving = draw(st.sampled_from([*ready, None]))
    return World(revisions, goal, serving, draw(booleans), draw(booleans))


@unhurried
@given(
    st.one_of(worlds(ready_at_most=1), worlds(ready_at_most=3)), st.sampled_from(sorted(POLICIES))
)
def test_every_wish_comes_to_rest(world: World, policy: str) -> None:
    """Applying actions ends; then what was wished serves, or nothing only if stable cannot be loaded either."""
    failed = {name for name, each in world.revisions.items() if each.state is State.FAILED}
    world.run(POLICIES[policy])
    good = {name for name in NAMES if world.fetches[name] and world.loads[name]} - failed
    if world.goal.serve in good:
        assert world.serving == world.goal.serve
    elif world.serving is None:
        assert world.goal.stable not in good


@unhurried
@given(worlds(ready_at_most=3))
def test_availability_preserving_always_serves_once_something_served(world: World) -> None:
    """There is no instant without a serving revision after the first."""
    world.run(availability_preserving)
    assert not world.lost


@unhurried
@given(worlds(ready_at_most=1))
def test_resource_preserving_never_has_two_revisions_in_memory(world: World) -> None:
    """Neither two loaded ones, nor one loaded and one that is still being freed."""
    world.run(resource_preserving)
    assert world.loaded_at_most <= 1
