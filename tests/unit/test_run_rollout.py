"""How all workers move from one revision to the next: tables of what they say and what follows."""

from collections.abc import Sequence
from typing import Any

import pytest

from midstream.run.rollout import (
    CONFIG_SECONDS,
    PREPARE_SECONDS,
    RETURN_SECONDS,
    Abort,
    Activate,
    Death,
    Forgive,
    Move,
    Phase,
    Promote,
    Refusal,
    Report,
    RevisionReport,
    Rollout,
    Settled,
    Wait,
    after_death,
    next_move,
    report,
)

OLD, NEW = "0" * 16, "1" * 16
REFUSAL = Refusal("InvalidModel", "not an ONNX file")
PREPARED = RevisionReport(prepared=True, refusal=None)
LOADING = RevisionReport(prepared=False, refusal=None)
FAILED = RevisionReport(prepared=False, refusal=REFUSAL)


def rollout(phase: Phase) -> Rollout:
    """A rollout whose phase began at second 0, with the config folder at sequence 5."""
    return Rollout(OLD, NEW, sequence=5, phase=phase, since=0.0)


def says(
    candidate: RevisionReport | None = None,
    *,
    serving: str = OLD,
    sequence: int = 5,
    config: Refusal | None = None,
) -> Report:
    """What a worker reports."""
    revisions = {NEW: candidate} if candidate is not None else {}
    return Report(0, sequence, serving, config, revisions)


TABLE: dict[str, tuple[Phase, Sequence[Report], float, Move]] = {
    "a worker that still loads is waited for": (
        Phase.PREPARING,
        [says(PREPARED), says(LOADING)],
        1,
        Wait(),
    ),
    "a worker that has not seen the new config yet is waited for": (
        Phase.PREPARING,
        [says(PREPARED), says(PREPARED, sequence=4)],
        1,
        Wait(),
    ),
    "a worker that is starting is waited for": (
        Phase.PREPARING,
        [says(PREPARED), Report(1)],
        1,
        Wait(),
    ),
    "when all have prepared the candidate, it is activated": (
        Phase.PREPARING,
        [says(PREPARED), says(PREPARED)],
        1,
        Activate(),
    ),
    "one refusal is enough to abort": (
        Phase.PREPARING,
        [says(LOADING), says(FAILED)],
        1,
        Abort(REFUSAL),
    ),
    "a refusal of an earlier attempt does not count": (
        Phase.PREPARING,
        [says(FAILED, sequence=4)],
        1,
        Wait(),
    ),
    "a worker that cannot read the config folder for a moment is waited for": (
        Phase.PREPARING,
        [says(sequence=4, config=REFUSAL)],
        CONFIG_SECONDS - 1,
        Wait(),
    ),
    "a worker that goes on refusing the config folder aborts": (
        Phase.PREPARING,
        [says(sequence=4, config=REFUSAL)],
        CONFIG_SECONDS + 1,
        Abort(REFUSAL),
    ),
    "a candidate that takes too long is refused, naming the worker": (
        Phase.PREPARING,
        [says(PREPARED), Report(1)],
        PREPARE_SECONDS + 1,
        Abort(Refusal("DeadlineExceeded", "not prepared by worker 1 within 300 s")),
    ),
    "a candidate that is not served by all yet is not promoted": (
        Phase.ACTIVATING,
        [says(PREPARED, serving=NEW), says(PREPARED, serving=OLD)],
        1,
        Wait(),
    ),
    "when all serve the candidate, it is promoted": (
        Phase.ACTIVATING,
        [says(PREPARED, serving=NEW), says(PREPARED, serving=NEW)],
        1,
        Promote(),
    ),
    "a candidate that fails when it is activated aborts": (
        Phase.ACTIVATING,
        [says(FAILED, serving=OLD)],
        1,
        Abort(REFUSAL),
    ),
    "an activation that takes too long is refused": (
        Phase.ACTIVATING,
        [says(PREPARED, serving=OLD)],
        PREPARE_SECONDS + 1,
        Abort(Refusal("DeadlineExceeded", "not activated by worker 0 within 300 s")),
    ),
    "the return to stable is over when all serve it again": (
        Phase.RETURNING,
        [says(serving=OLD)],
        1,
        Settled(),
    ),
    "the return to stable is waited for": (
        Phase.RETURNING,
        [says(serving=OLD), says(serving=OLD, sequence=4)],
        1,
        Wait(),
    ),
    "a worker that does not come back does not block the next rollout for ever": (
        Phase.RETURNING,
        [says(serving=OLD), Report(1)],
        RETURN_SECONDS + 1,
        Settled(),
    ),
}


@pytest.mark.parametrize(("phase", "reports", "now", "expected"), TABLE.values(), ids=TABLE)
def test_next_move(phase: Phase, reports: Sequence[Report], now: float, expected: Move) -> None:
    """Each situation has exactly one next move."""
    assert next_move(rollout(phase), reports, now) == expected


def test_nothing_is_activated_unless_every_worker_has_prepared_it() -> None:
    """Whatever two workers say, activation needs both to be prepared, promotion both to serve."""
    every = [
        says(candidate, serving=serving, sequence=sequence)
        for candidate in (None, LOADING, PREPARED, FAILED)
        for serving in (OLD, NEW)
        for sequence in (4, 5)
    ]
    for one in every:
        for other in every:
            both = [one, other]
            if next_move(rollout(Phase.PREPARING), both, 1) == Activate():
                assert all(each.revisions[NEW].prepared and each.sequence == 5 for each in both)
            if next_move(rollout(Phase.ACTIVATING), both, 1) == Promote():
                assert all(each.serving == NEW and each.sequence == 5 for each in both)


def status(**fields: Any) -> dict[str, Any]:
    """A worker's status document."""
    return {
        "uid": "u",
        "sequence": 5,
        "serving": {"revision": OLD, "version": "v"},
        "config": {"accepted": True, "reason": None, "message": None},
        "revisions": [],
        **fields,
    }


def revision(state: str, *, prepared: bool = False, reason: str | None = None) -> dict[str, Any]:
    """One revision of a status document."""
    return {
        "revision": NEW,
        "state": state,
        "prepared": prepared,
        "reason": reason,
        "message": "why" if reason else None,
        "transient": False,
    }


def test_a_report_is_read_from_a_status_document() -> None:
    """Sequence, serving revision and each revision's state are taken over."""
    found = report(3, status(revisions=[revision("LOADING")]), "u")

    assert found == Report(3, 5, OLD, None, {NEW: LOADING})


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (revision("READY"), PREPARED),
        (revision("NEW", prepared=True), PREPARED),
        (revision("NEW"), LOADING),
        (
            revision("FAILED", prepared=True, reason="WarmupFailed"),
            RevisionReport(prepared=False, refusal=Refusal("WarmupFailed", "why")),
        ),
    ],
)
def test_prepared_means_loaded_or_fetched_and_not_failed(
    document: dict[str, Any], expected: RevisionReport
) -> None:
    """READY is prepared; so is fetched-and-verified under the resource policy; FAILED never is."""
    assert report(0, status(revisions=[document]), "u").revisions == {NEW: expected}


def test_a_status_of_another_pipeline_object_says_nothing() -> None:
    """Before a worker has read the folder of this run, nothing it serves counts."""
    assert report(0, status(uid=None), "u") == Report(0)
    assert report(0, None, "u") == Report(0)


def test_a_refused_config_is_reported() -> None:
    """Why a worker does not obey the config folder is part of its report."""
    config = {"accepted": False, "reason": "ConfigInvalid", "message": "why"}

    assert report(0, status(config=config), "u").config == Refusal("ConfigInvalid", "why")


def death(**fields: Any) -> Death:
    return Death(worker=0, pid=7, **fields)


DEATHS: dict[str, tuple[Phase | None, Death, set[tuple[int, str]], type[Move | Forgive]]] = {
    "without a rollout a death means nothing": (
        None,
        death(signal="SIGSEGV", served=OLD),
        set(),
        Wait,
    ),
    "a crash while loading the candidate aborts": (
        Phase.PREPARING,
        death(signal="SIGSEGV", mark=NEW, served=OLD),
        set(),
        Abort,
    ),
    "an exit while loading the candidate aborts": (
        Phase.PREPARING,
        death(code=1, mark=NEW, served=OLD),
        set(),
        Abort,
    ),
    "a crash without a mark is not the candidate's": (
        Phase.PREPARING,
        death(signal="SIGSEGV", served=OLD),
        set(),
        Wait,
    ),
    "a mark of another revision is not the candidate's": (
        Phase.PREPARING,
        death(signal="SIGSEGV", mark=OLD, served=OLD),
        set(),
        Wait,
    ),
    "killed from outside while loading: one more attempt": (
        Phase.PREPARING,
        death(signal="SIGKILL", mark=NEW, served=OLD),
        set(),
        Forgive,
    ),
    "killed from outside while loading for the second time: aborts": (
        Phase.PREPARING,
        death(signal="SIGKILL", mark=NEW, served=OLD),
        {(0, NEW)},
        Abort,
    ),
    "another worker's second chance is its own": (
        Phase.PREPARING,
        death(signal="SIGKILL", mark=NEW, served=OLD),
        {(1, NEW)},
        Forgive,
    ),
    "killed from outside without a mark: nothing is lost": (
        Phase.ACTIVATING,
        death(signal="SIGKILL", served=NEW),
        set(),
        Wait,
    ),
    "a candidate that crashes once it serves aborts": (
        Phase.ACTIVATING,
        death(signal="SIGABRT", served=NEW),
        set(),
        Abort,
    ),
    "a crash of a worker that still served the old one does not": (
        Phase.ACTIVATING,
        death(signal="SIGABRT", served=OLD),
        set(),
        Wait,
    ),
    "a process that could not be started does not": (
        Phase.PREPARING,
        Death(0, error="no memory"),
        set(),
        Wait,
    ),
    "while everyone returns to stable nothing more is decided": (
        Phase.RETURNING,
        death(signal="SIGSEGV", mark=NEW),
        set(),
        Wait,
    ),
}


@pytest.mark.parametrize(("phase", "died", "forgiven", "expected"), DEATHS.values(), ids=DEATHS)
def test_after_death(
    phase: Phase | None, died: Death, forgiven: set[tuple[int, str]], expected: type
) -> None:
    """Whether a candidate killed its worker is judged from how the worker died."""
    current = rollout(phase) if phase is not None else None

    assert isinstance(after_death(current, died, forgiven), expected)


def test_an_abort_after_a_death_names_the_signal() -> None:
    """The refusal says which worker died, how, and that it is not tried again."""
    move = after_death(rollout(Phase.PREPARING), death(signal="SIGSEGV", mark=NEW), ())

    assert move == Abort(
        Refusal(
            "CandidateKilledEngine",
            "worker 0 was killed by SIGSEGV while it loaded this revision; "
            "it is not tried again until the pipeline changes",
        )
    )
