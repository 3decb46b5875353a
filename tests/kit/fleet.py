"""Engine pods as far as a rollout sees them, without processes: folders that arrive late, engines that load and swap.

For tests of the operator's decisions only; the engine's own behaviour is tested on real engines. What an engine does
here is what `midstream_engine.revisions.source` and `policy` say it does.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from midstream_api import names
from midstream_api.engineconfig import Assignment, Index, IndexEntry
from midstream_operator import rollout
from midstream_operator.observed import EngineReport, Failure, Pod, RevisionReport
from midstream_operator.rollout import Nudge, Plan, Situation

UID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def entry(letter: str) -> IndexEntry:
    """A revision by a letter: `a` is aaaaaaaaaaaaaaaa."""
    return IndexEntry(
        revision=letter * 16, version=letter * 36, document=f"{letter}.json", sha256=letter * 64
    )


@dataclass
class Engine:
    """One pod: what was told (annotation), what has arrived (folder), what it does."""

    name: str
    born: int
    annotation: Assignment | None = None
    nudge: str = ""
    folder: tuple[Index, Assignment | None] | None = None
    obeyed: tuple[int, tuple[str, ...], str] | None = None
    """Sequence, hold, serve."""
    serving: str | None = None
    states: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, tuple[str, bool]] = field(default_factory=dict)
    alive: bool = True
    mark: str | None = None
    """The revision that it died of."""


Outcome = Callable[[str, str], tuple[str, bool] | None]
"""(pod, revision) -> (reason, transient), or None when it loads; reason `Dies` ends the process."""


class Fleet:
    """Pods, the ConfigMap, and an operator that looks at them."""

    def __init__(self, desired: int, target: str, outcome: Outcome | None = None) -> None:
        self.outcome: Outcome = outcome or (lambda _pod, _revision: None)
        self.desired = desired
        self.target = entry(target)
        self.index: Index | None = None
        self.proven: str | None = None
        self.rejected: Failure | None = None
        self.engines: list[Engine] = []
        self.now = 1_000_000.0
        self.plan: Plan | None = None
        self.writes = 0
        self._born = itertools.count()
        self.scale(desired)

    # What happens to it

    def scale(self, desired: int) -> None:
        self.desired = desired
        while len(self.engines) > desired:
            self.engines.pop()
        while len(self.engines) < desired:
            born = next(self._born)
            self.engines.append(Engine(f"engine-{born}", born))

    def want(self, letter: str) -> None:
        self.target = entry(letter)
        self.rejected = None

    def sync(self, engine: Engine) -> None:
        """The kubelet projects what there is."""
        if self.index is not None:
            engine.folder = (self.index, engine.annotation)

    def kill(self, engine: Engine) -> None:
        """The process dies; the pod stays."""
        engine.alive = False

    def restart(self, engine: Engine) -> None:
        engine.alive = True
        engine.obeyed = engine.serving = None
        engine.states.clear()
        engine.reasons.clear()

    def replace_pod(self, engine: Engine) -> None:
        self.engines.remove(engine)
        self.scale(self.desired)

    def work(self, engine: Engine) -> None:
        """The engine reads its folder and does the next thing."""
        if not engine.alive or engine.folder is None:
            return
        self._read(engine, *engine.folder)
        if engine.obeyed is None:
            return
        _, hold, serve = engine.obeyed
        wanted = {*hold, serve}
        for gone in [name for name in engine.states if name not in wanted]:
            if engine.serving != gone:
                del engine.states[gone]
                engine.reasons.pop(gone, None)
        stable = engine.folder[0].stable.revision
        for revision in (serve, *hold):
            state = engine.states.get(revision)
            if state == "FAILED" and engine.reasons[revision][1]:
                state = None  # it tries again
            if state is None and revision != engine.serving:
                self._load(engine, revision, stable)
                break
        if engine.alive and engine.states.get(serve) == "READY":
            engine.serving = serve

    def _read(self, engine: Engine, index: Index, assignment: Assignment | None) -> None:
        stable = index.stable.revision
        known = {each.revision for each in index.entries()}
        if engine.obeyed is not None and index.sequence < engine.obeyed[0]:
            return
        if assignment is None:
            engine.obeyed = (index.sequence, (stable,), stable)
        elif assignment.sequence == index.sequence and set(assignment.hold) <= known:
            engine.obeyed = (index.sequence, tuple(assignment.hold), assignment.serve)
        elif engine.obeyed is None:
            engine.obeyed = (index.sequence, (stable,), stable)

    def _load(self, engine: Engine, revision: str, stable: str) -> None:
        said = self.outcome(engine.name, revision)
        if engine.mark == revision and revision != stable:
            said = ("CandidateKilledEngine", False)
        if said is None:
            engine.states[revision] = "READY"
            engine.reasons.pop(revision, None)
        elif said[0] == "Dies":
            engine.mark = revision
            self.kill(engine)
            engine.serving = None
        else:
            engine.states[revision] = "FAILED"
            engine.reasons[revision] = said

    # What the operator sees and does

    def pods(self) -> list[Pod]:
        return [self._pod(engine) for engine in self.engines]

    def _pod(self, engine: Engine) -> Pod:
        report = None
        if engine.alive and engine.folder is not None:
            sequence, hold, serve = engine.obeyed or (0, (), None)
            report = EngineReport(
                uid=UID,
                sequence=sequence,
                hold=hold,
                serve=serve,
                serving=engine.serving,
                serving_version=None,
                revisions={
                    name: RevisionReport(
                        name,
                        name,
                        state,
                        reason=engine.reasons[name][0] if name in engine.reasons else None,
                        message="it is so" if name in engine.reasons else None,
                        transient=engine.reasons.get(name, ("", False))[1],
                    )
                    for name, state in engine.states.items()
                },
            )
        return Pod(
            name=engine.name,
            uid=engine.name,
            ip="127.0.0.1",
            created=f"{engine.born:06}",
            running=engine.alive,
            ready=engine.alive and engine.serving is not None,
            deleting=False,
            restarts=0,
            image_id="",
            assignment=engine.annotation,
            annotations={names.NUDGE_ANNOTATION: engine.nudge},
            report=report,
        )

    def situation(self) -> Situation:
        return Situation(
            pipeline="house-price",
            uid=UID,
            target=self.target,
            index=self.index,
            proven=self.proven,
            pods=self.pods(),
            desired=self.desired,
            allow_schema_change=False,
            rejected=self.rejected,
            now=self.now,
        )

    def operate(self) -> Plan:
        """The operator looks once, and writes what it decides."""
        self.now += 0.05
        plan = rollout.decide(self.situation())
        if plan.index is not None:
            self.index = plan.index
            self.writes += 1
        self.proven = plan.proven
        for engine in self.engines:
            if engine.name in plan.assignments:
                said = plan.assignments[engine.name]
                nudge = Nudge.of(self._pod(engine))
                engine.nudge = nudge.next(self.now, same=engine.annotation == said)
                engine.annotation = said
                self.writes += 1
        failed = plan.failure
        if failed is not None and not failed.transient and failed.revision == self.target.revision:
            self.rejected = replace(failed)
        self.plan = plan
        return plan

    def settle(self, rounds: int = 200) -> None:
        """Let everything happen in turn until nothing changes any more."""
        for _ in range(rounds):
            before = self._look()
            self.operate()
            for engine in self.engines:
                if not engine.alive:
                    self.restart(engine)
                self.sync(engine)
                self.work(engine)
            if self._look() != before:
                continue
            after = self.plan.after if self.plan is not None else None
            if after is None or after == rollout.SLOW_POLL_SECONDS:
                return
            self.now += after  # engines keep the old revision for a while
        raise AssertionError(f"no rest after {rounds} rounds: {self.plan}")

    def _look(self) -> str:
        plan = replace(self.plan, after=None) if self.plan is not None else None
        return repr((self.index, self.engines, plan))

    def serving(self) -> set[str]:
        """The revisions that answer, by their letters."""
        return {engine.serving[0] for engine in self.engines if engine.serving is not None}
