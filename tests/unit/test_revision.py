"""A revision's states and leases."""

import hashlib
import itertools

import pytest

from kit.folder import document
from midstream_api.engineconfig import ResolvedModel
from midstream_engine.errors import LoadError, contained
from midstream_engine.revisions.revision import IllegalMoveError, Revision, State

S = State
LEGAL = {
    (S.NEW, S.LOADING): "it is its turn",
    (S.NEW, S.FAILED): "its files cannot be had",
    (S.NEW, S.UNLOADED): "nobody wants it any more",
    (S.LOADING, S.READY): "it may serve",
    (S.LOADING, S.FAILED): "it may not serve",
    (S.LOADING, S.NEW): "its fetch was cancelled, and then it was wanted again",
    (S.LOADING, S.UNLOADED): "nobody wants it any more",
    (S.READY, S.QUIESCING): "it takes no more requests",
    (S.QUIESCING, S.UNLOADED): "the last request is done and the memory is free",
    (S.FAILED, S.NEW): "it may work now",
    (S.FAILED, S.UNLOADED): "nobody wants it any more",
}


def revision(state: State = State.NEW) -> Revision:
    """A revision that names a model which is nowhere."""
    sha256 = hashlib.sha256(b"model").hexdigest()
    model = ResolvedModel(name="rf", uri="file:///nowhere.onnx", sha256=sha256, size=5)
    return Revision("0123456789abcdef", document(model), state)


@pytest.mark.parametrize(("before", "after"), LEGAL)
def test_a_move_in_the_table_is_made(before: State, after: State) -> None:
    """Each legal move has a reason, and ends in its state."""
    moved = revision(before)
    moved.move(after)
    assert moved.state is after


@pytest.mark.parametrize(
    ("before", "after"), [move for move in itertools.product(State, State) if move not in LEGAL]
)
def test_any_other_move_is_a_defect(before: State, after: State) -> None:
    """The error names the revision and both states, and nothing has changed."""
    unmoved = revision(before)
    with pytest.raises(IllegalMoveError, match=f"0123456789abcdef: {before} → {after}"):
        unmoved.move(after)
    assert unmoved.state is before


def test_the_last_lease_of_a_quiescing_revision_drains_it() -> None:
    """Not the first of two, and not a lease of a revision that still serves."""
    used = revision(State.READY)
    used.leases = 3
    used.release()
    used.move(State.QUIESCING)
    used.release()
    assert not used.drained.is_set()
    used.release()
    assert used.drained.is_set()


def test_a_lease_given_back_while_ready_drains_nothing() -> None:
    """A revision without requests is not a revision that may be freed."""
    used = revision(State.READY)
    used.leases = 1
    used.release()
    assert not used.drained.is_set()


def test_a_failure_is_reported_with_reason_and_message() -> None:
    """The report names what failed, whether it may heal, and which models were meant."""
    failed = revision(State.LOADING)
    failed.fail(LoadError("WarmupFailed", "warm-up failed: no", transient=False))
    report = failed.report()
    assert ("FAILED", "WarmupFailed") == (report["state"], report["reason"])
    assert "warm-up failed: no" == report["message"]
    assert report["transient"] is False
    assert ["rf"] == [model["name"] for model in report["models"]]


def test_a_failure_keeps_nothing_alive() -> None:
    """What is kept of an error has no traceback and no cause: their frames hold on to sessions."""

    def refuse() -> None:
        try:
            int("inner")
        except ValueError as error:
            raise LoadError("InvalidModel", "outer") from error

    failed = revision(State.LOADING)
    with pytest.raises(LoadError) as caught:
        refuse()
    failed.fail(caught.value)
    assert failed.error is not None
    assert failed.error.__traceback__ is None
    assert failed.error.__cause__ is None
    assert failed.error.__context__ is None


def test_an_unforeseen_error_becomes_an_internal_error_with_its_trace() -> None:
    """The message has kind and text, the trace says where; it is not tried again by itself."""
    with pytest.raises(ZeroDivisionError) as caught:
        divmod(1, 0)
    made = contained(caught.value)
    assert "InternalError" == made.reason
    assert "ZeroDivisionError: " in made.message
    assert made.trace is not None
    assert "test_revision.py" in made.trace
    assert not made.transient


def test_out_of_memory_may_heal() -> None:
    """Python's MemoryError is the model that does not fit, for now."""
    made = contained(MemoryError())
    assert ("ModelDoesNotFit", True) == (made.reason, made.transient)
