"""What a rollout and its report do when things come in an unlucky order, or somebody's hand was in between."""

import asyncio
import base64
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.fleet import Fleet, entry
from kit.situations import ID_A, ID_B, OWNER, UID, WELL, A, B, history, spec
from midstream_api import names, version
from midstream_api.engineconfig import Index
from midstream_api.pipeline import PipelineSpec
from midstream_api.status import PipelineStatus, RolloutStatus, Stage
from midstream_operator import configured, objects, rollout, timeline
from midstream_operator.cluster import DEPLOYMENT, PIPELINE, POD
from midstream_operator.events import Events
from midstream_operator.look import Look
from midstream_operator.metadata import Owner
from midstream_operator.metrics import Metrics
from midstream_operator.observed import Failure, Object
from midstream_operator.report import Reporter
from midstream_operator.resolve import Resolver, Unresolved, docker_config
from midstream_operator.rollout import Nudge, Plan, Situation
from midstream_operator.status import describe
from midstream_operator.store import Scope, Store
from midstream_operator.wanted import Attempts

VERIFY = Failure("b" * 16, "VerifyFailed", "golden row 0 differs", transient=False)


def _serves_a(replicas: int = 2) -> Fleet:
    fleet = Fleet(replicas, "a")
    fleet.settle()
    return fleet


def _round(fleet: Fleet) -> None:
    fleet.operate()
    for engine in fleet.engines:
        fleet.sync(engine)
        fleet.work(engine)


@pytest.mark.parametrize("between", ["", "a", "c"])
def test_a_failure_of_an_earlier_attempt_is_not_one_of_this(between: str) -> None:
    """A target that failed and is wanted again is tried again, though an engine still speaks of the last time."""
    fleet = _serves_a()
    fleet.outcome = lambda _, revision: ("VerifyFailed", False) if revision[0] == "b" else None
    fleet.want("b")
    while fleet.rejected is None:
        fleet.operate()
        if fleet.rejected is None:
            for engine in fleet.engines:
                fleet.sync(engine)
                fleet.work(engine)
    fleet.outcome = lambda _pod, _revision: None
    if between:
        fleet.want(between)
        fleet.operate()
    fleet.want("b")
    for _ in range(3):
        assert fleet.operate().stage is not Stage.FAILED
    fleet.settle()
    assert fleet.serving() == {"b"}


def test_a_change_of_what_is_allowed_reaches_a_candidate_under_way() -> None:
    """`allowSchemaChange` that comes while the candidate loads is in the folder before the candidate is judged."""
    fleet = _serves_a()
    fleet.want("b")
    _round(fleet)
    assert fleet.index is not None
    before = fleet.index
    plan = rollout.decide(replace(fleet.situation(), allow_schema_change=True))
    assert plan.index is not None
    assert plan.index.allow_schema_change
    assert (plan.index.candidate, plan.index.sequence) == (entry("b"), before.sequence + 1)


def test_what_an_engine_said_before_a_change_is_not_told_as_its_answer() -> None:
    """An engine that refused the schema, and has not heard yet that it is allowed now, makes nobody stalled."""
    fleet = _serves_a()
    fleet.want("b")
    fleet.operate()
    fleet.outcome = lambda _, revision: ("SchemaChanged", False) if revision[0] == "b" else None
    for engine in fleet.engines:
        fleet.sync(engine)
        fleet.work(engine)
    for _ in range(2):
        plan = rollout.decide(replace(fleet.situation(), allow_schema_change=True))
        assert (plan.stage, plan.failure) == (Stage.CANARY, None)
        fleet.index = plan.index or fleet.index
    assert fleet.index is not None
    assert fleet.index.allow_schema_change
    assert fleet.index.candidate == entry("b")


def test_what_serves_everywhere_has_not_failed() -> None:
    """A revision that failed for good and was mended from outside is done when every replica serves it."""
    fleet = _serves_a()
    plan = rollout.decide(replace(fleet.situation(), rejected=replace(VERIFY, revision="a" * 16)))
    assert (plan.stage, plan.failure) == (Stage.DONE, None)


def test_asking_again_reaches_engines_that_have_nothing_else() -> None:
    """A first revision that failed for good is loaded anew when somebody asks: the engines are told."""
    fleet = Fleet(2, "a", lambda _pod, _revision: ("SourceNotFound", False))
    for _ in range(10):
        _round(fleet)
    assert fleet.plan is not None
    assert fleet.plan.stage is Stage.FAILED
    assert fleet.index is not None
    plan = rollout.decide(replace(fleet.situation(), asked_again=True))
    assert plan.index is not None
    assert plan.index.sequence == fleet.index.sequence + 1
    assert plan.index.stable == entry("a")
    assert set(plan.assignments) == {"engine-0", "engine-1"}


def test_a_lost_config_map_does_not_promote_what_has_failed() -> None:
    """What the engines serve becomes stable again, not the target, which may be the one that failed."""
    fleet = _serves_a()
    fleet.want("b")
    fleet.index = None
    known = {"a" * 16: entry("a"), "b" * 16: entry("b")}
    plan = rollout.decide(replace(fleet.situation(), known=known, rejected=VERIFY))
    assert plan.index is not None
    assert plan.index.stable == entry("a")


@pytest.mark.parametrize("change", ["older", "same"])
def test_an_index_that_engines_refuse_is_written_again(change: str) -> None:
    """A ConfigMap that went back, or was changed in place, by hand gets a sequence that engines obey."""
    fleet = _serves_a()
    fleet.want("b")
    fleet.settle()
    assert fleet.index is not None
    sequence = fleet.index.sequence
    seen = fleet.situation()
    if change == "older":
        seen = replace(seen, index=fleet.index.model_copy(update={"sequence": 1}))
    else:
        reports = [pod.report for pod in seen.pods if pod.report is not None]
        told = [replace(each, config_reason="ConfigConflict") for each in reports]
        pods = [replace(pod, report=said) for pod, said in zip(seen.pods, told, strict=True)]
        seen = replace(seen, pods=pods)
    plan = rollout.decide(seen)
    assert plan.index is not None
    assert plan.index.sequence > sequence
    assert (plan.index.stable, plan.proven) == (entry("b"), "b" * 16)


def test_an_engine_that_does_not_listen_for_a_day_is_still_told() -> None:
    """How often a pod was told is counted without an end, and stays a number of seconds."""
    assert Nudge(at=0.0, repeated=100_000).is_late(31.0)
    assert not Nudge(at=0.0, repeated=100_000).is_late(29.0)


def test_engines_that_take_long_are_asked_less_often() -> None:
    """Thirty times a second is for a second or two; a load of a minute is looked at once a second."""
    fleet = _serves_a()
    fleet.want("b")
    fleet.operate()
    for engine in fleet.engines:
        fleet.sync(engine)
    fleet.outcome = lambda _pod, _revision: ("Dies", False)
    waits = []
    for seconds in (0.1, 10, 60):
        fleet.now += seconds
        for engine in fleet.engines:
            assert fleet.index is not None
            engine.obeyed = (fleet.index.sequence, ("a" * 16, "b" * 16), "b" * 16)
        waits.append(fleet.operate().after)
    assert waits[0] == rollout.POLL_SECONDS
    assert waits[0] < (waits[1] or 0) < (waits[2] or 0) <= rollout.SLOW_POLL_SECONDS


def test_an_outage_of_days_is_waited_for() -> None:
    """However often a source failed, the wait stays a number of seconds."""
    attempts = Attempts(failures=5000)
    assert attempts.failed("SourceUnreachable", "no answer", transient=True).transient


def test_a_long_reason_fits_in_the_status() -> None:
    """An engine may explain itself at length; the status holds as much as the contract allows."""
    long = replace(VERIFY, message="x" * 9000)
    status = timeline.advance(
        RolloutStatus(stage=Stage.CANARY, generation=1),
        Plan(Stage.ROLLING_BACK, failure=long),
        (),
        revision=ID_B,
        version=B.version,
        stable=ID_A,
        now=0.0,
    )
    written = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert RolloutStatus.read(written) == status


def test_a_long_wish_to_try_again_fits_in_the_status() -> None:
    """An annotation may hold anything; the status tells its beginning."""
    meta = {"name": "p", "namespace": "n", "uid": UID, "generation": 1}
    meta["annotations"] = {names.RETRY_ANNOTATION: "x" * 5000}
    look = Look.at({"metadata": meta}, now=0.0, seen=0.0)
    status = RolloutStatus(stage=Stage.CANARY, generation=1, retry=look.retry)
    assert status.retry == "x" * 253


def test_a_pinned_version_is_ready_whatever_becomes_of_the_steps() -> None:
    """The brake holds while the steps' source is away, and the condition `Pinned` says that it is."""
    down = Failure("", "SourceUnreachable", "no answer", transient=True)
    pinned = replace(WELL, spec=spec(version=A.version), history=history(A, B), steps_failure=down)
    found = {one.type: one for one in describe(pinned).conditions}
    assert found["Ready"].status == "True"
    assert "SourceUnreachable" in found["Pinned"].message


class _Board:
    """Takes what is written of a pipeline."""

    def __init__(self) -> None:
        self.status: Object = {}

    async def apply_status(self, obj: Object) -> Object:
        self.status = obj["status"]
        return obj

    async def create(self, obj: Object) -> Object:
        return obj

    async def merge(self, kind: Any, namespace: str, name: str, patch: Object) -> Object:  # noqa: ARG002
        return patch


def _told(plan: Plan, *, live_uid: str = UID, **given: Any) -> Object:
    """Tell of one look; return the status that was written."""

    async def run() -> Object:
        board: Any = _Board()
        store = Store(Scope(kind, None) for kind in (PIPELINE, POD, DEPLOYMENT))
        metadata = {"name": OWNER.name, "namespace": OWNER.namespace, "generation": 2}
        pipeline = {
            "apiVersion": names.API_VERSION,
            "kind": "Pipeline",
            "metadata": {**metadata, "uid": UID},
        }
        live = {**pipeline, "metadata": {**metadata, "uid": live_uid, "resourceVersion": "7"}}
        store.put(PIPELINE, live)
        look = Look(pipeline, OWNER, 2, None, PipelineStatus(), 1e9, 1e9)
        reporter = Reporter(board, store, Events(board), Metrics())
        index = Index(pipeline=OWNER.name, uid=UID, sequence=3, stable=configured.entry_of(A))
        await reporter.tell(
            look, spec=spec(), history=history(A, B), target=B, index=index, plan=plan, **given
        )
        status: Object = board.status
        return status

    return asyncio.run(run())


def test_a_failure_for_good_is_told_whatever_else_is_wrong() -> None:
    """A quota that refuses a Service does not hide that the candidate failed: it would be tried for ever."""
    refused = Failure("", "ApplyRefused", "Service: quota", transient=True)
    failed = replace(VERIFY, revision=ID_B)
    status = _told(Plan(Stage.ROLLING_BACK, failure=failed), problem=refused)
    assert (status["rollout"]["stage"], status["rollout"]["revision"]) == ("RollingBack", ID_B)
    assert status["rollout"]["reason"] == "VerifyFailed"
    ready = next(one for one in status["conditions"] if one["type"] == "Ready")
    assert ready["reason"] == "VerifyFailed"


def test_a_pipeline_that_was_made_again_is_not_told_about_the_last_one() -> None:
    """A look that began before the pipeline was deleted and made again writes nothing on the new one."""
    assert _told(Plan(Stage.DONE), live_uid="another") == {}
    assert _told(Plan(Stage.DONE)) != {}


def test_no_password_of_an_address_is_repeated() -> None:
    """An address of a kind that is not known may hold a password all the same."""
    step = {"name": "predict", "model": {"name": "rf", "source": {"uri": "s3://me:hunter2@b/k"}}}
    given = PipelineSpec.read({"steps": [step]})
    with pytest.raises(Unresolved) as caught:
        asyncio.run(Resolver(1 << 20).document("p", given, {}))
    assert "hunter2" not in str(caught.value)


def test_a_record_counts_for_more_than_a_config_map_that_was_edited() -> None:
    """A document changed by hand makes the ConfigMap worth nothing, and is never written again."""
    index = Index(pipeline=OWNER.name, uid=UID, sequence=3, stable=configured.entry_of(A))
    made = objects.config_map(
        Owner("house-price", "n", UID), index, {f"{ID_A}.json": version.dump(A)}
    )
    made["data"][f"{ID_A}.json"] += " "
    found = configured.read(made, history(A))
    assert found.index is None
    assert found.documents[f"{ID_A}.json"] == version.dump(A)


@pytest.mark.parametrize(
    "text", ['{"auths": ["a"]}', '{"auths": NaN}', '{"auths": {"a": {"auth": NaN}}}', "[" * 9999]
)
def test_a_secret_that_holds_no_logins_is_refused_in_words(text: str) -> None:
    """Whatever stands in a Secret, its pipeline says so."""
    secret = {"data": {".dockerconfigjson": base64.b64encode(text.encode()).decode()}}
    with pytest.raises(Unresolved) as caught:
        docker_config(secret, "registry", "step 'predict'")
    assert caught.value.reason == "SecretInvalid"


class _Clumsy(Fleet):
    """A fleet whose ConfigMap people lose and put back, and whose operator forgets."""

    def situation(self) -> Situation:
        known = {letter * 16: entry(letter) for letter in "abcd"}
        return replace(super().situation(), known=known)

    def happen(self, event: str, number: int) -> None:
        engine = self.engines[number % len(self.engines)]
        match event:
            case "operate":
                self.operate()
            case "sync":
                self.sync(engine)
            case "work":
                self.work(engine)
            case "kill":
                self.kill(engine)
            case "restart" if not engine.alive:
                self.restart(engine)
            case "replace" if len(self.engines) > 1:
                self.replace_pod(engine)
            case "want":
                self.want("abcd"[number % 4])
            case "retry":
                self.rejected = None
            case "lose":
                self.index, self.proven = None, None


EVENTS = ("operate", "operate", "sync", "sync", "work", "work", "kill", "restart", "replace")


@settings(max_examples=300, deadline=None)
@given(
    replicas=st.integers(1, 3),
    events=st.lists(
        st.tuples(st.sampled_from([*EVENTS, "want", "retry", "lose", "back"]), st.integers(0, 11)),
        max_size=60,
    ),
    last=st.sampled_from("abcd"),
)
def test_whatever_hands_do_the_end_is_right(
    replicas: int, events: list[tuple[str, int]], last: str
) -> None:
    """With `b` bad, and the ConfigMap lost or put back at any time: `b` never serves, and all else comes to its end."""
    fleet = _Clumsy(
        replicas, "a", lambda _, revision: ("VerifyFailed", False) if revision[0] == "b" else None
    )
    fleet.settle()
    backup = fleet.index
    for event, number in events:
        if event == "back":
            fleet.index = backup
        else:
            fleet.happen(event, number)
        assert "b" not in fleet.serving()
    fleet.want(last)
    fleet.settle()
    assert fleet.plan is not None
    if last == "b":
        assert fleet.plan.stage is Stage.FAILED
        assert "b" not in fleet.serving()
    else:
        assert fleet.serving() == {last}
        assert fleet.plan.stage is Stage.DONE
