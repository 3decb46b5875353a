"""The manager with real models: leases, memory, and what may go wrong around a load."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kit import models
from kit.folder import document, model
from kit.live import Live, live, play
from kit.story import id_of, scaled, story
from midstream_api.engineconfig import ResolvedModel
from midstream_engine import memory
from midstream_engine.errors import LoadError
from midstream_engine.revisions.manager import RETRY_SECONDS
from midstream_engine.revisions.marks import MARK_FILE
from midstream_engine.revisions.revision import State
from midstream_engine.steps.units import OnnxUnit

TOLD = ["loading", "loaded", "warmed", "ready", "serving"]


@story
async def test_old_revision_is_freed_only_after_its_last_lease_is_back(tmp_path: Path) -> None:
    """A request in flight keeps its session; new requests go to the new one; then the memory is free."""
    old, new = scaled(tmp_path, 1), scaled(tmp_path, 2)
    async with live(tmp_path) as engine:
        engine.wish(old)
        await engine.wait("serving", old)
        used = engine.revision(old)
        used.leases += 2
        engine.wish(new)
        await engine.wait("serving", new)
        assert id_of(new) == engine.serving
        assert (State.QUIESCING, 2) == (used.state, engine.pool.alive)
        used.release()
        assert 2 == engine.pool.alive
        used.release()
        await engine.wait("drained", old)
        await engine.wait("freed", old)
        assert (State.UNLOADED, 1) == (used.state, engine.pool.alive)
        assert [*TOLD, "drained", "freed"] == engine.names(old)
        assert TOLD == engine.names(new)


@story
async def test_a_to_b_and_back_to_a_while_a_drains(tmp_path: Path) -> None:
    """A is loaded anew beside the one that still drains, shares its session, and each is freed once."""
    a, b = scaled(tmp_path, 1), scaled(tmp_path, 2)
    async with live(tmp_path) as engine:
        engine.wish(a)
        await engine.wait("serving", a)
        first = engine.revision(a)
        first.leases += 1
        engine.wish(b)
        await engine.wait("serving", b)
        engine.wish(a)
        await engine.wait("serving", a)
        second = engine.revision(a)
        assert second is not first
        assert (State.QUIESCING, State.READY) == (first.state, second.state)
        await engine.wait("freed", b)
        assert (1, 2) == (engine.pool.alive, engine.pool.created)
        first.release()
        await engine.wait("freed", a)
        assert (1, State.READY) == (engine.pool.alive, second.state)
        assert second.loaded is not None
        (unit,) = second.loaded.units
        assert isinstance(unit, OnnxUnit)
        assert unit.session is not None


@story
async def test_a_failed_candidate_leaves_no_session_behind(tmp_path: Path) -> None:
    """Whatever stage refuses it, its memory is free although the failure is still reported."""
    serving = scaled(tmp_path, 1)
    good = model(models.scaled(tmp_path / "good.onnx", 7))
    runs_badly = model(models.fails_at_run(tmp_path / "run.onnx"))
    golden = {"inputs": [{"tensor": [0.0] * 18}], "outputs": [{"variable": [1.0]}]}
    bad = {
        "InvalidInputs": document(good.model_copy(update={"inputs": []})),
        "NamesDoNotConnect": document(good, good),
        "WarmupFailed": document(runs_badly),
        "VerifyFailed": scaled(tmp_path, 8, verify=golden),
        "SchemaChanged": document(
            model(models.linear(tmp_path / "other.onnx", output_name="price"))
        ),
    }
    async with live(tmp_path) as engine:
        engine.wish(serving)
        await engine.wait("serving", serving)
        for reason, candidate in bad.items():
            engine.wish(serving, candidate)
            await engine.wait("refused", candidate, reason=reason)
            assert (reason, 1, 1) == (reason, len(engine.pool), engine.pool.alive)
            assert State.FAILED is engine.revision(candidate).state
        assert id_of(serving) == engine.serving
        assert set(bad) == set(engine.manager.failures)
        assert not (engine.state / MARK_FILE).exists()


@story
async def test_an_unforeseen_error_fails_the_revision_and_not_the_engine(tmp_path: Path) -> None:
    """The reason is InternalError, the traceback is told, and the next wish is carried out."""
    stable, bad, good = (scaled(tmp_path, factor) for factor in (1, 2, 3))

    def fetch(wanted: ResolvedModel, cancelled: Callable[[], bool]) -> None:
        if wanted.name == "x2":
            raise ZeroDivisionError("nobody thought of it")
        engine.cached(wanted, cancelled)

    for policy in ("availability", "resource"):
        async with live(tmp_path / policy, policy, fetch) as engine:
            engine.wish(stable)
            await engine.wait("serving", stable)
            engine.wish(stable, bad)
            told = await engine.wait("refused", bad, reason="InternalError")
            assert "ZeroDivisionError: nobody thought of it" in told["message"]
            assert "test_manager.py" in told["traceback"]
            assert id_of(stable) == engine.serving
            engine.wish(stable, good)
            await engine.wait("serving", good)


@story
async def test_a_candidate_is_not_touched_without_a_mark(tmp_path: Path) -> None:
    """With a file in the state folder's place it is refused for now, and loaded when that is gone."""
    stable, candidate = scaled(tmp_path, 1), scaled(tmp_path, 2)
    async with live(tmp_path) as engine:
        engine.wish(stable)
        await engine.wait("serving", stable)
        engine.state.rmdir()
        engine.state.touch()
        engine.wish(stable, candidate)
        told = await engine.wait("refused", candidate, reason="StateUnwritable")
        assert str(engine.state) in told["message"]
        assert 1 == engine.pool.created
        assert engine.revision(candidate).report()["transient"]
        engine.state.unlink()
        await engine.wait("serving", candidate)


@story
async def test_a_mark_is_there_while_a_candidate_loads_and_not_for_stable(tmp_path: Path) -> None:
    """It names the candidate, and is gone when the candidate is ready."""
    stable, candidate = scaled(tmp_path, 1), scaled(tmp_path, 2)
    async with live(tmp_path) as engine:
        engine.wish(stable)
        await engine.wait("serving", stable)
        engine.wish(stable, candidate)
        await engine.wait("serving", candidate)
        assert [id_of(candidate)] == engine.marks.left
        assert not (engine.state / MARK_FILE).exists()


@story
async def test_an_engine_that_is_told_to_end_takes_its_mark_with_it(tmp_path: Path) -> None:
    """It ends while a candidate hangs in its warm-up, and that is not the candidate's doing."""
    stable = scaled(tmp_path, 1)
    candidate = document(model(models.hangs(tmp_path / "hangs.onnx")))
    async with live(tmp_path, warm_up_seconds=2.0) as engine:
        engine.wish(stable)
        await engine.wait("serving", stable)
        engine.wish(stable, candidate)
        await engine.wait("loaded", candidate)
        assert (engine.state / MARK_FILE).exists()
    assert not (engine.state / MARK_FILE).exists()


@story
async def test_an_end_does_not_wait_for_a_load_that_a_free_waits_for(tmp_path: Path) -> None:
    """A revision drains while another loads: its free stands behind the load, which is left behind."""
    old, new = scaled(tmp_path, 1), scaled(tmp_path, 2)
    hangs = document(model(models.hangs(tmp_path / "hangs.onnx")))
    async with live(tmp_path, warm_up_seconds=3.0) as engine:
        engine.wish(old)
        await engine.wait("serving", old)
        used = engine.revision(old)
        used.leases += 1
        engine.wish(new)
        await engine.wait("serving", new)
        engine.wish(new, hangs)
        await engine.wait("loaded", hangs)
        used.release()
        await engine.wait("drained", old)
    assert engine.pool.has(hangs.steps[0].main.sha256)
    assert not (engine.state / MARK_FILE).exists()


class SlowFetch:
    """A source that does not answer before it is let go, and looks at `cancelled` meanwhile."""

    def __init__(self, slow: str) -> None:
        self.slow = slow
        self.asked = threading.Event()
        self.answer = threading.Event()
        self.look = threading.Event()
        """Set when `cancelled` may be asked."""
        self.look.set()
        self.engine: Live | None = None

    def __call__(self, wanted: ResolvedModel, cancelled: Callable[[], bool]) -> None:
        """Fetch, slowly where it was asked for."""
        assert self.engine is not None
        if wanted.name == self.slow:
            self.asked.set()
            while not self.answer.wait(0.005):
                if self.look.is_set() and cancelled():
                    raise LoadError("FetchCancelled", "the caller gave up", transient=True)
        self.engine.cached(wanted, cancelled)


@pytest.mark.parametrize("policy", ["availability", "resource"])
def test_a_newer_wish_ends_the_fetch_of_an_older_one(tmp_path: Path, policy: str) -> None:
    """Nothing is refused: what nobody wants any more is dropped, and the newest wish is served."""
    a, slow, newest = (scaled(tmp_path, factor) for factor in (1, 2, 3))
    fetch = SlowFetch("x2")

    async def told() -> None:
        async with live(tmp_path, policy, fetch) as engine:
            fetch.engine = engine
            engine.wish(a)
            await engine.wait("serving", a)
            engine.wish(a, slow)
            await _soon(fetch.asked)
            engine.wish(a, newest)
            await engine.wait("dropped", slow)
            await engine.wait("serving", newest)
            assert {} == engine.manager.failures
            assert id_of(slow) not in engine.manager.revisions

    play(told)


@pytest.mark.parametrize("policy", ["availability", "resource"])
def test_a_wish_that_comes_back_during_its_fetch_is_carried_out(
    tmp_path: Path, policy: str
) -> None:
    """Dropped and wished for again before the fetch noticed, or just after: it serves in the end."""
    a, slow = scaled(tmp_path, 1), scaled(tmp_path, 2)
    fetch = SlowFetch("x2")

    async def told() -> None:
        async with live(tmp_path, policy, fetch) as engine:
            fetch.engine = engine
            engine.wish(a)
            await engine.wait("serving", a)
            engine.wish(a, slow)
            await _soon(fetch.asked)
            fetch.look.clear()
            engine.wish(a)
            fetch.asked.clear()
            engine.wish(a, slow)
            fetch.look.set()
            fetch.answer.set()
            await engine.wait("serving", slow)
            assert {} == engine.manager.failures

    play(told)


@story
async def test_a_cancelled_fetch_of_what_is_wanted_again_starts_over_at_once(
    tmp_path: Path,
) -> None:
    """It is no failure, and no retry time passes."""
    a, b = scaled(tmp_path, 1), scaled(tmp_path, 2)
    asked = []

    def fetch(wanted: ResolvedModel, cancelled: Callable[[], bool]) -> None:
        if wanted.name == "x2":
            asked.append(wanted)
            if len(asked) == 1:
                raise LoadError("FetchCancelled", "the caller gave up", transient=True)
        engine.cached(wanted, cancelled)

    async with live(tmp_path, "availability", fetch) as engine:
        engine.wish(a)
        await engine.wait("serving", a)
        engine.wish(a, b)
        await engine.wait("serving", b)
        assert ({}, 0) == (engine.manager.failures, engine.revision(b).attempts)


@story
async def test_what_does_not_fit_beside_a_draining_revision_is_tried_when_that_is_gone(
    tmp_path: Path,
) -> None:
    """The refusal says that it may heal, and it does as soon as there is room."""
    big = document(model(models.big_mlp(tmp_path / "big.onnx", 40)))
    small = scaled(tmp_path, 1)
    other = document(model(models.big_mlp(tmp_path / "other.onnx", 40, seed=1)))
    async with live(tmp_path) as engine:
        engine.wish(big)
        await engine.wait("serving", big)
        used = engine.revision(big)
        used.leases += 1
        engine.wish(small)
        await engine.wait("serving", small)
        need = int(40e6 * memory.NEW_FILE_FACTOR)
        engine.limit_memory(memory.resident() + need - 20_000_000)
        engine.wish(small, other)
        told = await engine.wait("refused", other, reason="ModelDoesNotFit")
        assert "the limit is" in told["message"]
        assert engine.revision(other).report()["transient"]
        used.release()
        await engine.wait("serving", other)


@story
async def test_resource_preserving_waits_for_the_last_lease_before_it_loads(tmp_path: Path) -> None:
    """While a request runs on the old revision nothing serves, and there is one session in memory."""
    old, new = scaled(tmp_path, 1), scaled(tmp_path, 2)
    async with live(tmp_path, "resource") as engine:
        engine.wish(old)
        await engine.wait("serving", old)
        used = engine.revision(old)
        used.leases += 1
        engine.wish(old, new)
        while used.state is not State.QUIESCING:
            await engine.manager.changed()
        assert engine.serving is None
        assert engine.manager.next_action() is None
        assert 1 == engine.pool.alive
        used.release()
        await engine.wait("serving", new)
        assert 1 == engine.pool.most


@story
async def test_resource_preserving_brings_stable_back_when_the_candidate_fails(
    tmp_path: Path,
) -> None:
    """Only the load itself shows the defect, and then the old revision is gone already."""
    stable = scaled(tmp_path, 1)
    bad = document(model(models.fails_at_run(tmp_path / "bad.onnx")))
    async with live(tmp_path, "resource") as engine:
        engine.wish(stable)
        await engine.wait("serving", stable)
        engine.wish(stable, bad)
        await engine.wait("freed", stable)
        await engine.wait("refused", bad, reason="WarmupFailed")
        await engine.wait("serving", stable)
        assert 1 == engine.pool.most


@story
async def test_at_most_one_unwanted_revision_is_in_memory_while_wishes_come(tmp_path: Path) -> None:
    """A candidate that was overtaken while it loaded goes before the next one is loaded."""
    stable, overtaken, newest = (scaled(tmp_path, factor) for factor in (1, 2, 3))
    async with live(tmp_path) as engine:
        engine.wish(stable)
        await engine.wait("serving", stable)
        engine.wish(stable, overtaken)
        await engine.wait("loaded", overtaken)
        engine.wish(stable, newest)
        await engine.wait("serving", newest)
        assert "serving" not in engine.names(overtaken)
        assert 2 == engine.pool.most


@story
async def test_a_candidate_held_ready_does_not_serve(tmp_path: Path) -> None:
    """Prepare and activate are two wishes; the second one costs no load."""
    stable, candidate = scaled(tmp_path, 1), scaled(tmp_path, 2)
    async with live(tmp_path) as engine:
        engine.wish(stable, candidate, serve=stable)
        await engine.wait("ready", candidate)
        assert id_of(stable) == engine.serving
        engine.wish(stable, candidate)
        await engine.wait("serving", candidate)
        engine.wish(stable, candidate, serve=stable)
        await engine.wait("serving", stable)
        assert 2 == engine.pool.created


@story
async def test_a_wish_for_what_serves_does_nothing(tmp_path: Path) -> None:
    """A higher sequence alone is no reason to load."""
    a = scaled(tmp_path, 1)
    async with live(tmp_path) as engine:
        engine.wish(a)
        await engine.wait("serving", a)
        before = list(engine.events)
        engine.wish(a)
        assert engine.manager.next_action() is None
        assert before == engine.events


@story
async def test_a_fixed_batch_model_is_verified_with_as_many_golden_rows(tmp_path: Path) -> None:
    """Its warm-up and its golden rows have the number of rows that it insists on."""
    row = {"tensor": [1.0] * 18}
    golden = {"inputs": [row] * 4, "outputs": [{"variable": [18.0]}] * 4}
    fixed = document(model(models.fixed_batch(tmp_path / "fixed.onnx", 4), verify=golden))
    async with live(tmp_path) as engine:
        engine.wish(fixed)
        await engine.wait("verified", fixed, rows=4)
        await engine.wait("serving", fixed)
        assert engine.revision(fixed).row_ns > 0


def test_retries_become_rarer() -> None:
    """Each wait is longer than the one before, and the last one is not longer than half a minute."""
    assert sorted(RETRY_SECONDS) == list(RETRY_SECONDS)
    assert RETRY_SECONDS[-1] <= 30


async def _soon(event: threading.Event) -> None:
    """Wait for something that happens in another thread."""
    assert await asyncio.to_thread(event.wait, 20)


@story
async def test_resource_preserving_fetches_again_before_it_unloads_again(tmp_path: Path) -> None:
    """A copy that vanished between fetching and loading costs one pause, not one for every retry."""
    stable, candidate = scaled(tmp_path, 1), scaled(tmp_path, 2)
    gone = threading.Event()

    def fetch(wanted: ResolvedModel, cancelled: Callable[[], bool]) -> None:
        engine.cached(wanted, cancelled)
        if wanted.name == "x2" and "freed" in engine.names(stable) and not gone.is_set():
            gone.set()
            sha256 = wanted.sha256
            (tmp_path / "cache" / "sha256" / sha256[:2] / sha256).unlink()

    async with live(tmp_path, "resource", fetch) as engine:
        engine.wish(stable)
        await engine.wait("serving", stable)
        engine.wish(stable, candidate)
        await engine.wait("refused", candidate, reason="NotCached")
        await engine.wait("serving", stable)
        await engine.wait("serving", candidate)
        assert 2 == engine.names(stable).count("freed")
        assert 1 == engine.pool.most
