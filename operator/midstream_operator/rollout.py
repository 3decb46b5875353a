"""How a revision reaches the engines: one pure function from what is seen to what to write next.

Prepare and activate are the one primitive: an assignment names the revisions that an engine holds ready and the one
it serves. A rollout is canary → all the rest prepare, each serves when it is ready → promote; every stage waits for the
engines' own reports. Whatever goes wrong, everybody goes back to the stable revision: for good when the reason is
permanent, and, when it heals by itself, while it heals; then all prepare before any serves.

Guarantees: no more than two revisions serve at once; pods that come meanwhile start with the stable one; the newest
target wins; asked twice, it wants the same. Nothing is remembered between two calls but what stands in the ConfigMap,
on the pods and in the last status.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from midstream_api import names
from midstream_api.engineconfig import Assignment, Index, IndexEntry
from midstream_api.status import Stage
from midstream_operator.observed import EngineReport, Failure, Pod, RevisionReport

NUDGE_SECONDS = 0.3
"""An engine that has not confirmed its assignment after so long is told again; after twice as long the next time, and
so on. The kubelet needs 0.1 to 0.2 s; now and then it projects the new ConfigMap with the old annotation, and would not
look again for a minute."""
NUDGE_LIMIT_SECONDS = 30.0
RETAIN_SECONDS = 10.0
"""For so long after a swap engines keep the revision before it in memory."""
_NUDGES_COUNTED = 10
"""Doubled more often the wait is beyond the limit, and in the end beyond every number."""
POLL_SECONDS = 0.03
"""Between two looks at the engines while they are expected to act."""
_POLL_SHARE = 0.05
"""Of the time that they have taken so far: who needs a minute to load is not asked thirty times a second."""
SLOW_POLL_SECONDS = 1.0
"""The same while they wait for something that heals by itself, or start."""


_LONGEST_REASON = 128
"""Characters; the contract's limit. An engine's image may be anybody's."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What is seen of one pipeline that is deployed."""

    pipeline: str
    uid: str
    target: IndexEntry
    """What is wanted everywhere."""
    index: Index | None
    """What the ConfigMap says now."""
    proven: str | None
    """The stable revision that has served somewhere, and is worth going back to."""
    pods: Sequence[Pod]
    """All engine pods, with the reports of those that answered."""
    desired: int
    """Replicas that are wanted."""
    allow_schema_change: bool
    rejected: Failure | None
    """The target has failed for good, and nobody has asked to try again."""
    now: float
    """Seconds since 1970."""
    asked_again: bool = False
    """The target had failed for good, and somebody has asked to try it again since."""
    known: Mapping[str, IndexEntry] = field(default_factory=dict)
    """Recorded revisions; needed only where there is no index."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write, in this order: the index, then the assignments."""

    stage: Stage
    index: Index | None = None
    """To be written and awaited first; None: it stays."""
    proven: str | None = None
    """To be noted beside the index: the stable revision, once it has served."""
    assignments: Mapping[str, Assignment] = field(default_factory=dict)
    """By pod: to be written as annotation."""
    canary: str | None = None
    failure: Failure | None = None
    """Why the target does not serve."""
    after: float | None = None
    """Seconds until it is worth looking again; None: when something changes."""


def decide(seen: Situation) -> Plan:
    """Return the next thing to do."""
    index = seen.index
    if index is None or index.uid != seen.uid:
        return Plan(Stage.STARTING, index=_first(seen), after=POLL_SECONDS)
    rollout = _Rollout(seen, index)
    ahead = _ahead(seen, index)
    if ahead is not None:
        renewed = index.model_copy(update={"sequence": ahead + 1})
        return Plan(Stage.STARTING, index=renewed, proven=rollout.proven, after=POLL_SECONDS)
    plan = rollout.plan()
    return plan if plan.index is not None else replace(plan, proven=rollout.proven)


def _first(seen: Situation) -> Index:
    """Begin, above every sequence that an engine may have seen: a ConfigMap may have been deleted by hand.

    What the engines serve is stable then, not what is wanted: that may be the revision that has failed.
    """
    own = [pod.report for pod in seen.pods if pod.report and pod.report.uid == seen.uid]
    known = [report.sequence for report in own]
    known += [pod.assignment.sequence for pod in seen.pods if pod.assignment]
    serving = [report.serving for report in own if report.serving in seen.known]
    stable = max(serving, key=serving.count) if serving else None
    return Index(
        pipeline=seen.pipeline,
        uid=seen.uid,
        sequence=max(known, default=0) + 1,
        stable=seen.known[stable] if stable is not None else seen.target,
    )


def _ahead(seen: Situation, index: Index) -> int | None:
    """Return the highest sequence that engines obey when they refuse the index for it.

    It has gone back, or was changed and kept its sequence: by hand, or by a backup that was restored.
    """
    own = [pod.report for pod in seen.pods if pod.report and pod.report.uid == seen.uid]
    refused = [
        report.sequence
        for report in own
        if report.sequence > index.sequence
        or (report.sequence == index.sequence and report.config_reason == "ConfigConflict")
    ]
    return max(refused, default=None)


class _Rollout:
    def __init__(self, seen: Situation, index: Index) -> None:
        self._seen = seen
        self._index = index
        self._stable = index.stable.revision
        self._target = seen.target.revision
        self._pods = sorted(
            (pod for pod in seen.pods if not pod.deleting), key=lambda pod: (pod.created, pod.name)
        )
        self._gating = [pod for pod in self._pods if pod.ready or pod.report is not None]
        """Those whose report is waited for. One that neither answers nor is ready starts with the stable revision."""
        served = any(_serving(pod) == self._stable for pod in self._pods)
        self.proven = self._stable if served or seen.proven == self._stable else None

    def plan(self) -> Plan:
        if self._target == self._stable and self._index.candidate is None:
            failure = self._stable_failure() if self._seen.asked_again else None
            if failure is not None and not failure.transient:
                # An engine forgets that a revision failed for good when it is told anew.
                return self._written(
                    stable=self._index.stable, candidate=None, stage=Stage.STARTING
                )
            return self._settled()
        if self._target == self._stable:
            return self._back(None)
        if self.proven is None:
            # Nothing has ever served, so there is nothing to protect.
            return self._written(stable=self._seen.target, candidate=None, stage=Stage.STARTING)
        if self._seen.rejected is not None:
            return self._back(self._seen.rejected)
        if self._index.candidate != self._seen.target:
            if any(_failed_for_good(pod, self._target) for pod in self._pods):
                return self._forgotten()
            return self._proposed()
        if self._seen.allow_schema_change and not self._index.allow_schema_change:
            # It was not allowed yet when the candidate was written, and may have been refused for it.
            return self._proposed()
        failure = self._permanent()
        return self._forward() if failure is None else self._back(failure)

    def _proposed(self) -> Plan:
        return self._written(
            stable=self._index.stable, candidate=self._seen.target, stage=Stage.CANARY
        )

    def _forgotten(self) -> Plan:
        """Have the engines forget how an earlier attempt at the target ended; they do when nobody wants it."""
        if self._index.candidate is not None:
            return self._written(stable=self._index.stable, candidate=None, stage=Stage.CANARY)
        plan = self._settled()
        return replace(
            plan, stage=Stage.CANARY, failure=None, after=self._patience(plan.assignments)
        )

    # Nothing to roll out

    def _settled(self) -> Plan:
        """Everybody on the stable revision; those that were told something else, or read an old folder, are told."""
        index = self._index
        wanted = Assignment(
            uid=index.uid, sequence=index.sequence, hold=[self._stable], serve=self._stable
        )
        stale = [
            pod
            for pod in self._pods
            if pod.assignment not in (None, wanted)
            or (pod.assignment is None and pod.report is not None and self._is_behind(pod.report))
        ]
        retains = {pod.name: left for pod in stale if (left := self._retains(pod)) > 0}
        told = {pod.name: wanted for pod in stale if pod.name not in retains}
        told |= self._nudged({pod.name: wanted for pod in self._pods if pod.assignment == wanted})
        serving = [pod for pod in self._pods if pod.ready and _serving(pod) == self._stable]
        failure = self._stable_failure()
        done = len(serving) >= self._seen.desired and not told
        broken = failure is not None and not failure.transient and not serving
        stage = Stage.DONE if done else Stage.FAILED if broken else Stage.STARTING
        moving = any(_serving(pod) not in (None, self._stable) for pod in self._gating)
        unheard = any(
            pod.assignment == wanted and pod.report is not None and not pod.report.obeys(wanted)
            for pod in self._pods
        )
        waits = POLL_SECONDS if told or moving or not self._pods else SLOW_POLL_SECONDS
        later = min(retains.values(), default=None)
        return Plan(
            stage,
            assignments=told,
            failure=None if done else failure,
            # One that serves what it should and has not heard that it is over still holds the other revision.
            after=later if done and not unheard else waits,
        )

    def _retains(self, pod: Pod) -> float:
        """Return for how many seconds a pod may keep the revision that it served before.

        To tell it would cost the next swap a second (the kubelet), and going back is instant meanwhile.
        """
        said = pod.assignment
        if said is None or said.serve != self._stable or _serving(pod) != self._stable:
            return 0.0
        return Nudge.of(pod).at + RETAIN_SECONDS - self._seen.now

    def _is_behind(self, report: EngineReport) -> bool:
        """A pod that was never told anything reads the folder only now and then."""
        return report.sequence < self._index.sequence or report.serving not in (None, self._stable)

    def _stable_failure(self) -> Failure | None:
        for pod in self._pods:
            report = _of(pod, self._stable)
            failed = report is not None and report.failed and _serving(pod) != self._stable
            if report is not None and failed and self._heard(pod):
                return _failure(pod, report)
        return None

    def _heard(self, pod: Pod) -> bool:
        """It obeys the index as it is now: what it says is not about an earlier attempt."""
        return pod.report is not None and pod.report.sequence == self._index.sequence

    # Back to the stable revision

    def _back(self, failure: Failure | None) -> Plan:
        if self._index.candidate is not None:
            plan = self._written(
                stable=self._index.stable, candidate=None, stage=Stage.ROLLING_BACK
            )
            return replace(plan, failure=failure)
        plan = self._settled()
        moving = plan.assignments or any(
            _serving(pod) not in (None, self._stable) for pod in self._gating
        )
        return replace(
            plan,
            stage=Stage.ROLLING_BACK if moving else Stage.FAILED,
            failure=failure,
            after=POLL_SECONDS if moving else plan.after,
        )

    def _permanent(self) -> Failure | None:
        for pod in self._pods:
            report = _of(pod, self._target)
            if report is not None and _failed_for_good(pod, self._target) and self._heard(pod):
                return _failure(pod, report)
        return None

    # Forward

    def _forward(self) -> Plan:
        canary = self._canary()
        if canary is None:
            return Plan(Stage.CANARY, after=SLOW_POLL_SECONDS)
        strays = [
            pod
            for pod in self._gating
            if pod is not canary and _serving(pod) not in (None, self._stable, self._target)
        ]
        if strays:
            # Of an earlier candidate: three revisions would serve at once.
            return self._assign(Stage.CANARY, canary, serve=(), hold=(), only=strays)
        if self._gating and all(_ready(pod, self._target) for pod in self._gating):
            return self._activate(canary)
        sick = self._transient()
        held_back = self._holds(canary) and not self._told_to_serve(canary)
        if held_back or (sick is not None and sick is not canary):
            # It heals by itself. Until then the old version serves everywhere, and who holds the new one keeps it.
            plan = self._assign(Stage.PREPARING, canary, serve=(), hold=self._gating)
        elif _serving(canary) == self._target:
            # In one assignment: an engine serves what it is told to as soon as it is ready, and the kubelet takes up
            # to a second for a second one (it looks at a pod once between two relists of its containers).
            plan = self._assign(Stage.SERVING, canary, serve=self._gating, hold=self._gating)
        else:
            plan = self._assign(Stage.CANARY, canary, serve=[canary], hold=[canary])
        if sick is None:
            return plan
        failure = _failure(sick, sick.report.revisions[self._target]) if sick.report else None
        return replace(plan, failure=failure, after=SLOW_POLL_SECONDS)

    def _activate(self, canary: Pod) -> Plan:
        if not all(_serving(pod) == self._target for pod in self._gating):
            return self._assign(Stage.SERVING, canary, serve=self._gating, hold=self._gating)
        plan = self._written(stable=self._seen.target, candidate=None, stage=Stage.PROMOTING)
        return replace(plan, canary=canary.name)

    def _transient(self) -> Pod | None:
        """Return a pod that cannot prepare the target for now; the canary only when it is the only one."""
        sick = [
            pod
            for pod in self._pods
            if (said := _of(pod, self._target)) and said.failed and said.transient
        ]
        return next((pod for pod in sick if not self._told_to_serve(pod)), next(iter(sick), None))

    def _canary(self) -> Pod | None:
        """Choose the pod that tries the target first; stay with it while it is away, for it may have died of it."""
        for pod in self._pods:
            if self._told_to_serve(pod):
                return pod
        holders = [pod for pod in self._pods if self._holds(pod)]
        if holders:
            return holders[0]
        ready = sorted(self._gating, key=lambda pod: not pod.ready)
        strays = [pod for pod in ready if _serving(pod) not in (None, self._stable)]
        return next(iter([*strays, *ready]), None)

    def _holds(self, pod: Pod) -> bool:
        return (
            pod.assignment is not None
            and pod.assignment.sequence == self._index.sequence
            and self._target in pod.assignment.hold
        )

    def _told_to_serve(self, pod: Pod) -> bool:
        return (
            self._holds(pod) and pod.assignment is not None and pod.assignment.serve == self._target
        )

    def _assign(
        self,
        stage: Stage,
        canary: Pod,
        *,
        serve: Sequence[Pod],
        hold: Sequence[Pod],
        only: Sequence[Pod] = (),
    ) -> Plan:
        """Tell pods what to hold and serve; the others stay with the stable revision, unasked where they can."""
        wanted = {}
        for pod in only or self._pods:
            held = [self._stable, *([self._target] if pod in hold else [])]
            said = Assignment(
                uid=self._index.uid,
                sequence=self._index.sequence,
                hold=held,
                serve=self._target if pod in serve else self._stable,
            )
            concerned = pod in hold or _serving(pod) not in (None, self._stable) or self._holds(pod)
            if concerned:
                wanted[pod.name] = said
        known = {pod.name: pod.assignment for pod in self._pods}
        told = {name: said for name, said in wanted.items() if known[name] != said}
        told |= self._nudged({name: said for name, said in wanted.items() if name not in told})
        return Plan(stage, assignments=told, canary=canary.name, after=self._patience(told))

    def _patience(self, told: Collection[str]) -> float:
        """Return the seconds to the next look: the longer they have been at it, the longer."""
        last = max((Nudge.of(pod).at for pod in self._pods), default=0.0)
        if told or not last:
            return POLL_SECONDS
        return min(SLOW_POLL_SECONDS, max(POLL_SECONDS, _POLL_SHARE * (self._seen.now - last)))

    def _nudged(self, wanted: Mapping[str, Assignment]) -> dict[str, Assignment]:
        """Return the assignments that were told and are not confirmed in time."""
        return {
            pod.name: wanted[pod.name]
            for pod in self._pods
            if pod.name in wanted
            and pod.report is not None
            and not pod.report.obeys(wanted[pod.name])
            and Nudge.of(pod).is_late(self._seen.now)
        }

    def _written(self, *, stable: IndexEntry, candidate: IndexEntry | None, stage: Stage) -> Plan:
        index = Index(
            pipeline=self._seen.pipeline,
            uid=self._seen.uid,
            sequence=self._index.sequence + 1,
            stable=stable,
            candidate=candidate,
            allow_schema_change=candidate is not None and self._seen.allow_schema_change,
        )
        # What follows from the new index is known at once, and saves a round.
        after = decide(replace(self._seen, index=index))
        if after.index is not None:
            return Plan(stage, index=index, proven=self.proven, after=POLL_SECONDS)
        return replace(after, index=index, stage=stage, after=POLL_SECONDS)


@dataclass(frozen=True, slots=True)
class Nudge:
    """When a pod was told its assignment last, and how often before; it stands beside the assignment."""

    at: float = 0.0
    """Seconds since 1970."""
    repeated: int = 0

    @classmethod
    def of(cls, pod: Pod) -> "Nudge":
        at, _, repeated = pod.annotations.get(names.NUDGE_ANNOTATION, "").partition("/")
        try:
            return cls(float(at), int(repeated))
        except ValueError:
            return cls()

    def is_late(self, now: float) -> bool:
        """Not confirmed by now, the pod is to be told again."""
        doubled = min(max(self.repeated, 0), _NUDGES_COUNTED)
        return now - self.at > min(NUDGE_SECONDS * 2.0**doubled, NUDGE_LIMIT_SECONDS)

    def next(self, now: float, *, same: bool) -> str:
        """Return what to write now; `same`: with the same assignment as before."""
        return f"{now:.3f}/{self.repeated + 1 if same else 0}"


def _serving(pod: Pod) -> str | None:
    return pod.report.serving if pod.report else None


def _ready(pod: Pod, revision: str) -> bool:
    return pod.report is not None and pod.report.ready(revision)


def _of(pod: Pod, revision: str) -> RevisionReport | None:
    return pod.report.revisions.get(revision) if pod.report else None


def _failed_for_good(pod: Pod, revision: str) -> bool:
    report = _of(pod, revision)
    return report is not None and report.failed and not report.transient


def _failure(pod: Pod, report: RevisionReport) -> Failure:
    message = f"engine {pod.name}: {report.message}"
    told = [_told_in(message, each) for each in report.models]
    missing = [
        f"step {each['step']!r}, model {each['name']!r}"
        for each, (step, model) in zip(report.models, told, strict=True)
        # Of several steps, those that the message is about; of none, all.
        if not (step and model) and (step or model or not any(map(any, told)))
    ]
    if missing:
        message = f"{message} ({'; '.join(missing)})"
    return Failure(
        revision=report.revision,
        reason=(report.reason or "Unknown")[:_LONGEST_REASON],
        message=message,
        transient=report.transient,
    )


def _told_in(message: str, model: Mapping[str, Any]) -> tuple[bool, bool]:
    """Tell whether a message names the step, and the model."""
    return f"step {str(model['step'])!r}" in message, f"model {str(model['name'])!r}" in message
