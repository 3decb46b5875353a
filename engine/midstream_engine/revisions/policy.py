"""What to do next: pure functions from what is there and what is wished to at most one action.

Stateless, so they can be asked again at any time and after any failure. Two policies: *availability-preserving* loads
beside what serves; *resource-preserving* unloads first, for engines that cannot hold two revisions: requests wait, none
fail.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from midstream_engine.revisions.revision import State


@dataclass(frozen=True, slots=True)
class Prepare:
    """Fetch and verify the files, load nothing."""

    revision: str


@dataclass(frozen=True, slots=True)
class Load:
    revision: str


@dataclass(frozen=True, slots=True)
class Serve:
    revision: str


@dataclass(frozen=True, slots=True)
class Unload:
    revision: str


Action = Prepare | Load | Serve | Unload


@dataclass(frozen=True, slots=True)
class Snapshot:
    state: State
    prepared: bool = False


@dataclass(frozen=True, slots=True)
class Goal:
    """What the config folder asks of this engine."""

    hold: tuple[str, ...]
    serve: str
    stable: str


Policy = Callable[[Mapping[str, Snapshot], Goal, str | None, bool], Action | None]
"""policy(revisions, goal, serving, freeing): the next action. freeing: an unloaded revision is still in memory."""


def availability_preserving(
    revisions: Mapping[str, Snapshot],
    goal: Goal,
    serving: str | None,
    freeing: bool,  # noqa: ARG001 - loading need not wait for it
) -> Action | None:
    """Never unload what serves before its successor is ready."""
    target = _target(revisions, goal, serving)
    if _is(revisions, target, State.READY) and serving != target:
        return Serve(target)
    # What nobody wants any more goes first, so that its memory is there for what comes.
    for revision, snapshot in revisions.items():
        if snapshot.state is State.READY and revision not in goal.hold and revision != serving:
            return Unload(revision)
    for revision in (target, *goal.hold):
        if _is(revisions, revision, State.NEW):
            return Load(revision)
    return None


def resource_preserving(
    revisions: Mapping[str, Snapshot], goal: Goal, serving: str | None, freeing: bool
) -> Action | None:
    """Never hold two revisions: what is to be served next is only fetched and verified until its turn comes."""
    target = _target(revisions, goal, serving)
    if _is(revisions, target, State.READY):
        return Serve(target) if serving != target else _prepare(revisions, goal)
    if _is(revisions, target, State.NEW):
        if not revisions[target].prepared:
            return Prepare(target)
        for revision, snapshot in revisions.items():
            if snapshot.state is State.READY:
                return Unload(revision)
        return None if freeing else Load(target)
    return _prepare(revisions, goal)


def _prepare(revisions: Mapping[str, Snapshot], goal: Goal) -> Action | None:
    for revision in goal.hold:
        if _is(revisions, revision, State.NEW) and not revisions[revision].prepared:
            return Prepare(revision)
    return None


def _target(revisions: Mapping[str, Snapshot], goal: Goal, serving: str | None) -> str:
    """What to serve: the wish, or, while nothing serves and the wish has failed, the stable revision."""
    if serving is None and _is(revisions, goal.serve, State.FAILED):
        return goal.stable
    return goal.serve


def _is(revisions: Mapping[str, Snapshot], revision: str, state: State) -> bool:
    snapshot = revisions.get(revision)
    return snapshot is not None and snapshot.state is state


POLICIES: dict[str, Policy] = {
    "availability": availability_preserving,
    "resource": resource_preserving,
}
