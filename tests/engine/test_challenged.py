"""Challengers of a request as the engine runs them: real models, in one thread for each challenger."""

import asyncio
import threading
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np
import pytest

from kit import models
from kit.challengers import Bench, Held, column, story
from kit.pipelines import onnx, revision
from midstream_engine.challenged import Challenged, Room
from midstream_engine.counts import Counts
from midstream_engine.revisions.revision import Revision
from midstream_engine.sessions import Arrays, Session
from midstream_engine.steps.connect import assemble, place_of
from midstream_engine.steps.kinds import ShadowStep
from midstream_engine.steps.units import bind_onnx

ROW = {"tensor": np.ones((1, 18), np.float32)}
CHAMPION = {"variable": np.array([[18]], np.float32)}


class Answers(dict[str, Arrays | None]):
    """Outputs by challenger, which can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._come = asyncio.Event()

    def __setitem__(self, challenger: str, outputs: Arrays | None) -> None:
        super().__setitem__(challenger, outputs)
        self._come.set()

    async def first(self) -> Arrays | None:
        """What the first challenger gave."""
        await self._come.wait()
        return next(iter(self.values()))


def watched(rival: Path, **fields: Any) -> ShadowStep:
    """A step whose challenger is `rival`, and its champion too, which need not answer here."""
    shadow = {
        "champion": {"name": "current", "model": onnx(rival, **fields)},
        "challengers": [{"name": "rival", "model": onnx(rival, **fields)}],
        "timeoutSeconds": 1,
    }
    (resolved,) = revision({"steps": [{"name": "predict", "shadow": shadow}]}).steps
    step = assemble(
        resolved,
        lambda name, placed: bind_onnx(
            place_of(name, placed.variant),
            placed.variant,
            placed.model,
            Session(Path(urlsplit(placed.model.uri or "").path), placed.model.sha256),
        ),
    )
    assert isinstance(step, ShadowStep)
    return step


def asked_of(bench: Bench, *, queued: bool = False, buffered: int = 0) -> Challenged:
    """The challengers of a request, in an engine that keeps 100 bytes of bodies."""
    counts = Counts()
    counts.queued, counts.buffered = int(queued), buffered
    room = Room(counts, 100, queued)
    return Challenged(bench.runner, cast("Revision", bench.lease), room)


def handed_over(bench: Bench, step: ShadowStep, fields: Arrays) -> Answers:
    """What challengers will give."""
    challenged = asked_of(bench)
    challenged.offer(step, fields, 1, CHAMPION)
    assert 1 == challenged.offered
    found = Answers()
    challenged.hand_over(found)
    return found


@story
async def test_a_challenger_has_one_thread_for_all_its_runs(tmp_path: Path) -> None:
    """Each run is stopped from the event loop, so none needs a thread of its own."""
    bench = Bench()
    step = watched(models.scaled(tmp_path / "rival.onnx", 2))
    before = set(threading.enumerate())
    seen: set[threading.Thread] = set()
    for _ in range(20):
        outputs = await handed_over(bench, step, ROW).first()
        assert outputs is not None
        assert [[36.0]] == outputs["variable"].tolist()
        seen |= {each for each in threading.enumerate() if each not in before}
    assert ["midstream-shadow"] == [each.name for each in seen]
    assert ({"answered": 20}, True) == (bench.outcomes(), bench.is_clean())
    await bench.runner.close()


@pytest.mark.parametrize("single", [False, True])
def test_a_model_that_hangs_is_stopped_when_its_time_is_over(tmp_path: Path, single: bool) -> None:
    """Also one that runs once for each row; the same thread takes the next job."""

    @story
    async def told() -> None:
        bench = Bench()
        fields = {"batch": "Single"} if single else {}
        step = watched(models.hangs(tmp_path / "hangs.onnx"), **fields)
        # One row of a model that runs row by row is as it stands.
        rows = {"tensor": ROW["tensor"][np.newaxis]} if single else ROW
        assert await handed_over(bench, step, rows).first() is None
        (thread,) = (each for each in threading.enumerate() if each.name == "midstream-shadow")
        assert ({"timed_out": 1}, True) == (bench.outcomes(), bench.is_clean())
        bench.offer(lambda _: column(2), challenger="rival")
        await bench.ended(1)
        assert [thread] == [e for e in threading.enumerate() if e.name == "midstream-shadow"]
        await bench.runner.close()

    told()


@story
async def test_what_would_be_dropped_is_not_made(tmp_path: Path) -> None:
    """The drop is counted once, and whoever keeps the outputs hears that there are none."""
    bench = Bench(max_jobs=1)
    step = watched(models.scaled(tmp_path / "rival.onnx", 2))
    held = Held(column(1))
    bench.offer(held)
    assert {"rival": None} == handed_over(bench, step, ROW)
    assert ({"dropped": 1}, 1) == (bench.outcomes(), bench.lease.taken)
    held.let_go()
    await bench.ended(1)
    await bench.runner.close()


@story
async def test_whoever_waits_for_challengers_takes_no_place(tmp_path: Path) -> None:
    """While a request waits for them it is none that needs a thread; afterwards it is again."""
    bench = Bench()
    step = watched(models.scaled(tmp_path / "rival.onnx", 2))
    challenged = asked_of(bench, queued=True)
    counts = challenged.room.counts
    asked = challenged.ask(step, ROW, 1)
    assert 1 == counts.queued
    waits = asyncio.ensure_future(asked.answers(CHAMPION))
    await asyncio.sleep(0)
    assert 0 == counts.queued
    assert (await waits)["rival"] is not None
    assert 1 == counts.queued
    await bench.runner.close()
    assert bench.is_clean()


@story
async def test_no_challenger_is_waited_for_when_many_bodies_are_kept(tmp_path: Path) -> None:
    """From half of the room for bodies on they are dropped, and the champion answers at once."""
    bench = Bench()
    step = watched(models.scaled(tmp_path / "rival.onnx", 2))
    asked = asked_of(bench, buffered=51).ask(step, ROW, 1)
    assert {"rival": None} == await asked.answers(CHAMPION)
    assert {"dropped": 1} == bench.outcomes()
    assert bench.is_clean()
    await bench.runner.close()
