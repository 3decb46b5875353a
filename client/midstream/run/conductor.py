"""Carries the newest wish to all workers, one rollout at a time, by writing the config folder.

`rollout` decides, this acts: it owns what is stable, what is a candidate and the sequence. Guarantees: the newest wish
wins and ones between may be skipped; a refused candidate leaves the stable revision serving; the folder's sequence
grows with every change. It starts no process and reads no manifest.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from midstream import blame, changes, private
from midstream.manifest import Manifest
from midstream.resolve import Resolved
from midstream.run import folder, rollout
from midstream.run.chorus import Event
from midstream.run.console import Console, duration
from midstream.run.rollout import (
    Abort,
    Activate,
    Death,
    Forgive,
    Phase,
    Promote,
    Refusal,
    Rollout,
    Settled,
)
from midstream.run.wishes import Outcome, Unusable, Wish, renamed
from midstream.run.worker import Worker
from midstream_api.engineconfig import ResolvedModel

RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
"""Waits between attempts after a transient failure."""


@dataclass(slots=True)
class Record:
    """What `/status` tells of the last rollout."""

    state: str
    before: Resolved
    after: Resolved
    started: float
    """Seconds since the epoch."""
    stages: dict[str, float] = field(default_factory=dict)
    """Milliseconds."""
    refusal: Refusal | None = None
    loading: float | None = None
    """When the workers had begun to load, in seconds since the epoch."""

    def report(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "from": {"revision": self.before.revision, "version": self.before.version},
            "to": {"revision": self.after.revision, "version": self.after.version},
            "started": self.started,
            "stages": {name: round(ms, 3) for name, ms in self.stages.items()},
            "reason": self.refusal.reason if self.refusal else None,
            "message": self.refusal.message if self.refusal else None,
        }


@dataclass(slots=True)
class Attempt:
    """The rollout that is under way."""

    rollout: Rollout
    candidate: Resolved
    manifest: Manifest
    """Of the candidate."""
    seen: float
    """When the change was noticed, on the monotonic clock."""
    record: Record


class Conductor:
    """Used from the event loop's thread; `turn` is called whenever something may have changed."""

    def __init__(
        self,
        config: folder.ConfigFolder,
        uid: str,
        first: Resolved,
        console: Console,
        begin: Callable[[str], None],
        renew: Callable[[], None],
    ) -> None:
        """`begin` is told of a revision that is about to be rolled out, `renew` looks at the manifest again."""
        self.stable = first
        self.sequence = 1
        self.workers: Sequence[Worker] = ()
        self.record: Record | None = None
        self.outcomes = {"succeeded": 0, "refused": 0, "superseded": 0}
        self.accepted = True
        """Whether the manifest as it is now could be used."""
        self.problems: tuple[str, ...] = ()
        self._config = config
        self._uid = uid
        self._console = console
        self._begin = begin
        self._renew = renew
        self._attempt: Attempt | None = None
        self._wanted: Wish | None = None
        self._written = False
        self._forgiven: set[tuple[int, str]] = set()
        self._killers: dict[str, Refusal] = {}
        self._attempts = 0
        self._retry_at: float | None = None
        self._last_refusal: str | None = None

    @property
    def restless(self) -> bool:
        """Whether time alone may change something."""
        return not self._written or self._attempt is not None or self._retry_at is not None

    def publish(self) -> None:
        """Write the config folder as it is to be now, and let the workers look at it."""
        attempt = self._attempt
        returning = attempt is None or attempt.rollout.phase is Phase.RETURNING
        candidate = None if attempt is None or returning else attempt.candidate
        activating = attempt is not None and attempt.rollout.phase is Phase.ACTIVATING
        serve = candidate if candidate is not None and activating else self.stable
        content = folder.files(
            self._uid, self.sequence, self.stable, candidate, serve=serve.revision
        )
        private.close_for(each.document for each in (self.stable, candidate) if each is not None)
        try:
            self._config.write(content)
        except OSError as error:
            if self._written:
                text = f"cannot write {self._config.path}: {error.strerror}; trying again"
                self._console.say("config_unwritable", text)
            self._written = False
            return
        self._written = True
        for worker in self.workers:
            worker.poke()

    def changed(self) -> None:
        """Note that somebody changed the manifest or a model: what failed before may be tried at once."""
        self._attempts = 0
        self._retry_at = None
        self._last_refusal = None
        self._renew()

    def want(self, outcome: Outcome) -> None:
        """Take the newest wish, or why there is none."""
        if isinstance(outcome, Wish):
            outcome = renamed(outcome, self.stable.pipeline) or outcome
        self.accepted = isinstance(outcome, Wish)
        if isinstance(outcome, Unusable):
            self.problems = outcome.problems
            self._refused(outcome.refusal, outcome.problems)
            return
        self.problems = ()
        self._wanted = outcome

    def turn(self, now: float) -> None:
        """Do what is to be done now, in seconds of the monotonic clock."""
        if not self._written:
            self.publish()
        if self._attempt is not None:
            self._advance(self._attempt, now)
        attempt = self._attempt
        if self._wanted is not None and (
            attempt is None or attempt.rollout.phase is Phase.PREPARING
        ):
            wanted, self._wanted = self._wanted, None
            self._take(wanted, now)
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            self._renew()

    def died(self, death: Death, worker: Worker) -> None:
        """Judge a death; called before the worker is started again."""
        if not self._config.intact:
            self.publish()  # the next process would wait for it in vain
        attempt = self._attempt
        if attempt is None:
            return
        match rollout.after_death(attempt.rollout, death, self._forgiven):
            case Forgive():
                self._forgiven.add((death.worker, attempt.candidate.revision))
                worker.forgive()
            case Abort(refusal):
                self._abort(attempt, refusal, time.monotonic())

    def called_before(self, event: Event) -> str | None:
        """Return the name that a loaded file has had until now, when the candidate only gives it another."""
        if self._attempt is None or event.get("revision") != self._attempt.candidate.revision:
            return None
        before, after = self.stable.models, self._attempt.candidate.models
        said = event.get("step"), event.get("model")
        digest = next(
            (one.model.sha256 for one in after if (one.step, one.model.name) == said), None
        )
        old = [one.model.name for one in before if one.model.sha256 == digest]
        new = {one.model.name for one in after if one.model.sha256 == digest}
        return None if not old or new & set(old) else old[0]

    def heard(self, event: Event) -> None:
        """Take an event that all workers have said."""
        record = self.record
        if record is None:
            return
        if event["event"] == "loading" and event["revision"] == record.after.revision:
            record.loading = event["at"]
        if event.get("revision") != record.before.revision:
            return
        if event["event"] in {"drained", "freed"}:
            record.stages[event["event"]] = event["ms"]

    # What moves a rollout

    def _advance(self, attempt: Attempt, now: float) -> None:
        current = attempt.rollout
        reports = [
            rollout.report(worker.number, worker.status, self._uid) for worker in self.workers
        ]
        match rollout.next_move(current, reports, now):
            case Activate():
                attempt.record.stages["prepared"] = (now - current.since) * 1e3
                self._move(attempt, Phase.ACTIVATING, now)
            case Promote():
                attempt.record.stages["activated"] = (now - current.since) * 1e3
                self._promote(attempt, now)
            case Abort(refusal):
                self._abort(attempt, refusal, now)
            case Settled():
                self._attempt = None

    def _take(self, wanted: Wish, now: float) -> None:
        """Make a wish the current one; only between rollouts or while one prepares."""
        new, attempt = wanted.resolved, self._attempt
        if attempt is not None and new.revision == attempt.candidate.revision:
            return
        if attempt is not None:
            attempt.record.state = "Superseded"
            self.outcomes["superseded"] += 1
        if new.revision == self.stable.revision:
            if attempt is None and self._serves(new.revision):
                self._console.say("no_change", f"no change: {names(new)} keeps serving")
            elif attempt is None:
                text = f"no change, but not every worker serves {names(new)}: trying again"
                self._console.say("trying_again", text)
                self.sequence += 1
                self.publish()
            else:
                text = f"given up: {names(new)} is wanted again and keeps serving"
                self._console.say("superseded", text)
                self._move(attempt, Phase.RETURNING, now)
        elif new.revision in self._killers:
            if attempt is not None:
                self._move(attempt, Phase.RETURNING, now)
            self._refused(self._killers[new.revision])
        else:
            self._start(wanted, now)

    def _serves(self, revision: str) -> bool:
        """Whether every worker does; one that is starting will find out by itself."""
        known = (rollout.report(one.number, one.status, self._uid) for one in self.workers)
        return all(one.serving == revision for one in known if one.sequence >= 0)

    def _start(self, wanted: Wish, now: float) -> None:
        new = wanted.resolved
        self.record = Record("Preparing", self.stable, new, time.time())
        self.record.stages["resolved"] = wanted.resolve_ms
        self._begin(new.revision)
        self._forgiven = {(worker, one) for worker, one in self._forgiven if one != new.revision}
        first = Rollout(self.stable.revision, new.revision, self.sequence, Phase.PREPARING, now)
        self._attempt = Attempt(first, new, wanted.manifest, wanted.seen, self.record)
        self._move(self._attempt, Phase.PREPARING, now)

    def _move(self, attempt: Attempt, phase: Phase, now: float) -> None:
        self.sequence += 1
        attempt.rollout = replace(attempt.rollout, phase=phase, since=now, sequence=self.sequence)
        if phase is not Phase.RETURNING:
            attempt.record.state = phase.value
        self.publish()

    def _promote(self, attempt: Attempt, now: float) -> None:
        before, self.stable, record = self.stable, attempt.candidate, attempt.record
        self._attempt = None
        self._attempts = 0
        self.sequence += 1
        self.publish()
        took = (now - attempt.seen) * 1e3
        record.state = "Succeeded"
        record.stages |= {
            **self._engine_stages(self.stable.revision),
            **record.stages,
            "total": took,
        }
        self.outcomes["succeeded"] += 1
        self._console.say(
            "swapped",
            f"swapped to {self.stable.version} ({difference(before, self.stable)}) in {duration(took)}",
            version=self.stable.version,
            revision=self.stable.revision,
            before=before.version,
            ms=round(took, 3),
            loading=record.loading,
            stages=record.report()["stages"],
        )

    def _engine_stages(self, revision: str) -> dict[str, float]:
        """Return the longest time of each stage that an engine reports."""
        longest: dict[str, float] = {}
        for worker in self.workers:
            for one in worker.status["revisions"] if worker.status else []:
                if one["revision"] == revision:
                    for name, ms in one["stages"].items():
                        longest[name] = max(ms, longest.get(name, 0.0))
        return longest

    def _abort(self, attempt: Attempt, refusal: Refusal, now: float) -> None:
        if refusal.reason == "CandidateKilledEngine":
            self._killers[attempt.candidate.revision] = refusal
        message = blame.located(
            attempt.manifest, attempt.candidate, refusal.reason, refusal.message
        )
        refusal = replace(refusal, message=message)
        attempt.record.state = "Refused"
        attempt.record.refusal = refusal
        self.outcomes["refused"] += 1
        self._move(attempt, Phase.RETURNING, now)
        self._refused(refusal)

    def _refused(self, refusal: Refusal, problems: Sequence[str] = ()) -> None:
        if refusal.transient:
            wait = RETRY_SECONDS[min(self._attempts, len(RETRY_SECONDS) - 1)]
            self._attempts += 1
            self._retry_at = time.monotonic() + wait
        if str(refusal) == self._last_refusal:
            return  # the same as at the last attempt
        self._last_refusal = str(refusal)
        self._console.say(
            "refused",
            f"refused: {refusal}",
            reason=refusal.reason,
            transient=refusal.transient,
            version=self.stable.version,
        )
        for problem in problems[1:]:
            self._console.hint(f"         {problem}")
        again = "; trying again" if refusal.transient else ""
        self._console.hint(f"         {names(self.stable)} keeps serving{again}")


def names(resolved: Resolved) -> str:
    """Name the models of a revision."""
    return ", ".join(_model(one.model) for one in resolved.models)


def difference(before: Resolved, after: Resolved) -> str:
    """Say in a few words what a swap changes."""
    said = []
    names = [[step.name for step in one.document.steps] for one in (before, after)]
    if names[0] != names[1]:
        said.append(f"steps {', '.join(names[0])} → {', '.join(names[1])}")
    both = set(names[0]) & set(names[1])
    old, new = (
        {one.title: one.model for one in each.models if one.step in both}
        for each in (before, after)
    )
    said += [f"{title} is gone" for title in old if title not in new]
    for title, model in new.items():
        was = old.get(title)
        if was is None:
            said.append(f"{title}: {_model(model)} is new")
        elif (model.name, model.version) != (was.name, was.version):
            said.append(f"{_model(was)} → {_model(model)}")
        elif model.sha256 != was.sha256:
            said.append(f"{_model(model)}: new file")
    said += changes.between(
        *(
            one.document.model_dump(mode="json", by_alias=True, exclude_defaults=True)
            for one in (before, after)
        )
    ).sentences()
    return "; ".join(said) or "the same models"


def _model(model: ResolvedModel) -> str:
    return f"{model.name} {model.version}" if model.version else model.name
