"""Workers of a model: shared, counted, started when they are needed, replaced with back-off, ended when nobody does."""

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kit import sidekicks as kit
from midstream_engine.errors import LoadError, Overloaded, SidekickFailed, SidekickTimedOut
from midstream_engine.sidekicks.settings import SidekickSettings
from midstream_engine.sidekicks.sidekick import Sidekick

CODE = """
    import os
    import numpy as np
    def process(inputs):
        what = inputs["x"][0]
        if what == "crash":
            os._exit(1)
        if what.startswith("/"):
            open(what + ".in", "w").close()
            open(what + ".out").close()
        return {"pid": np.array([os.getpid()])}
"""
"""A path makes it say that it is in, and wait until it is let out."""


class Door:
    """Holds a call of `CODE`: what it says and hears are named pipes."""

    def __init__(self, path: Path) -> None:
        self.inputs = kit.column(str(path))
        self._in, self._out = path.with_suffix(".in"), path.with_suffix(".out")
        os.mkfifo(self._in)
        os.mkfifo(self._out)

    def wait(self) -> None:
        """Until the code is in."""
        self._in.open("rb").close()

    def open(self) -> None:
        """Let the code out."""
        self._out.open("wb").close()


@contextmanager
def workers(**settings: Any) -> Iterator[tuple[kit.Ground, Sidekick]]:
    with kit.ground(SidekickSettings(**settings)) as ground, ground.use(CODE) as sidekick:
        yield ground, sidekick


def pid_of(sidekick: Sidekick) -> int:
    pid: int = kit.ask(sidekick, kit.column("well"))["pid"][0]
    return pid


def test_equal_code_shares_one_sidekick() -> None:
    """The second use starts nothing, and the worker lives until the last one is given back."""
    with kit.ground() as ground:
        first, second = ground.acquire(CODE, "one"), ground.acquire(CODE, "two")
        pid = pid_of(first)
        ground.sidekicks.release(first)
        assert pid == pid_of(second)
        ground.sidekicks.release(second)
        assert kit.gone(pid)
        assert [] == ground.sidekicks.report()


def test_models_of_equal_code_have_names_of_their_own() -> None:
    """Errors, files of tracebacks and the report name the models that use it, not the one that started it."""
    with kit.ground() as ground:
        first = ground.acquire("def process(inputs):\n    raise ValueError('no')\n", "one")
        with ground.use("def process(inputs):\n    raise ValueError('no')\n", "two") as second:
            named = [(line["name"], line["model"]) for line in ground.sidekicks.report()]
            assert [("sidekick-one-1", "one"), ("sidekick-two-1", "two")] == named
            for sidekick, name in ((first, "one"), (second, "two")):
                with pytest.raises(SidekickFailed) as failed:
                    kit.ask(sidekick, kit.column(1))
                message = failed.value.message
                assert message.startswith(f"model '{name}': process raised ValueError: no\n")
                assert f'File "{name}/model.py", line 2' in message
            ground.sidekicks.release(first)
            with pytest.raises(SidekickFailed):
                kit.ask(second, kit.column(1))
            assert ["two"] == [line["model"] for line in ground.sidekicks.report()]
            os.kill(ground.sidekicks.report()[0]["pid"], 9)
            ground.wait("sidekick_ended", model="two")


def test_uses_from_many_threads_are_counted_right() -> None:
    """One worker is started however many ask for it at once, and none is left in the end."""
    with kit.ground() as ground:
        barrier = threading.Barrier(4)
        used: list[Sidekick] = []

        def use() -> None:
            barrier.wait()
            used.extend(ground.acquire(CODE) for _ in range(10))

        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 1 == len({pid_of(each) for each in used})
        assert 1 == len(ground.sidekicks.report())
        pid = pid_of(used[0])
        for sidekick in used:
            ground.sidekicks.release(sidekick)
        assert kit.gone(pid)


def test_code_that_is_refused_is_not_kept() -> None:
    """Whoever asks at the same time is told as well, and the next one tries again."""
    with kit.ground() as ground:
        errors: list[LoadError] = []

        def use() -> None:
            with pytest.raises(LoadError) as refused:
                ground.acquire("import time; time.sleep(0.2); 1 / 0")
            errors.append(refused.value)

        threads = [threading.Thread(target=use) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ["InvalidCode"] * 3 == [error.reason for error in errors]
        assert 0 == len(ground.sidekicks)


def test_the_report_says_what_each_worker_is() -> None:
    """Name, model, digest, process, status, restarts and reason."""
    with workers() as (ground, sidekick):
        pid = pid_of(sidekick)
        line = {"name": "sidekick-pre-1", "model": "pre", "sha256": sidekick.sha256, "pid": pid}
        assert [line | {"status": "Running", "restarts": 0, "reason": None}] == (
            ground.sidekicks.report()
        )
        with pytest.raises(SidekickFailed):
            kit.ask(sidekick, kit.column("crash"))
        pid = pid_of(sidekick)
        why = "its process ended with exit code 1"
        assert [line | {"pid": pid, "status": "Running", "restarts": 1, "reason": why}] == (
            ground.sidekicks.report()
        )


def test_a_second_worker_starts_when_somebody_waits(tmp_path: Path) -> None:
    """And no third one: the next caller waits for the first that is free."""
    with workers(workers=2) as (ground, sidekick):
        doors = [Door(tmp_path / str(n)) for n in range(3)]
        calls = []
        for door in doors[:2]:
            calls.append(ground.start(sidekick.call(door.inputs, 1, kit.WAIT_SECONDS)))
            door.wait()
        assert ["Running", "Running"] == [line["status"] for line in ground.sidekicks.report()]
        calls.append(ground.start(sidekick.call(doors[2].inputs, 1, kit.WAIT_SECONDS)))
        doors[0].open()
        doors[2].wait()
        for door in doors[1:]:
            door.open()
        pids = [call.result(kit.WAIT_SECONDS)["pid"][0] for call in calls]
        assert pids[0] == pids[2] != pids[1]
        assert 2 == len(ground.sidekicks.report())


def test_a_worker_that_is_not_needed_any_more_is_ended(tmp_path: Path) -> None:
    """But for those that are kept running."""
    with workers(workers=2, idle_seconds=0.05) as (ground, sidekick):
        doors = [Door(tmp_path / str(n)) for n in range(2)]
        calls = []
        for door in doors:
            calls.append(ground.start(sidekick.call(door.inputs, 1, kit.WAIT_SECONDS)))
            door.wait()
        for door in doors:
            door.open()
        pids = {call.result(kit.WAIT_SECONDS)["pid"][0] for call in calls}
        ended = ground.wait("sidekick_ended", reason="it was not needed any more")
        (line,) = ground.sidekicks.report()
        assert pids == {line["pid"], ended["pid"]}
        assert line["pid"] == pid_of(sidekick)


def test_callers_beyond_the_queue_are_turned_away(tmp_path: Path) -> None:
    """At once; those that wait are answered."""
    with workers(workers=1, queued=2) as (ground, sidekick):
        door = Door(tmp_path / "door")
        held = ground.start(sidekick.call(door.inputs, 1, kit.WAIT_SECONDS))
        door.wait()
        waiting = [
            ground.start(sidekick.call(kit.column("well"), 1, kit.WAIT_SECONDS)) for _ in range(2)
        ]
        with pytest.raises(Overloaded, match="model 'pre': 2 requests wait"):
            kit.ask(sidekick, kit.column("well"))
        door.open()
        assert 1 == len({call.result(kit.WAIT_SECONDS)["pid"][0] for call in [held, *waiting]})


def test_a_caller_that_waits_too_long_costs_no_worker(tmp_path: Path) -> None:
    """It leaves the queue; the worker has done nothing wrong."""
    with workers(workers=1) as (ground, sidekick):
        door = Door(tmp_path / "door")
        held = ground.start(sidekick.call(door.inputs, 1, kit.WAIT_SECONDS))
        door.wait()
        with pytest.raises(SidekickTimedOut, match=r"no worker was free within 0\.05 s"):
            kit.ask(sidekick, kit.column("well"), 0.05)
        door.open()
        pid = held.result(kit.WAIT_SECONDS)["pid"][0]
        assert pid == pid_of(sidekick)
        assert 0 == ground.sidekicks.report()[0]["restarts"]


def test_a_caller_that_has_waited_leaves_without_killing_the_worker(tmp_path: Path) -> None:
    """Its time was short, not the worker's: that has its full time from when it began."""
    with workers(workers=1) as (ground, sidekick):
        doors = [Door(tmp_path / str(n)) for n in range(2)]
        held = ground.start(sidekick.call(doors[0].inputs, 1, kit.WAIT_SECONDS))
        doors[0].wait()

        async def impatient() -> None:
            # Half of its time goes by in the queue, the rest in the worker.
            asyncio.get_running_loop().call_later(0.5, doors[0].open)
            await sidekick.call(doors[1].inputs, 1, 1.0)

        late = ground.start(impatient())
        doors[1].wait()
        assert isinstance(late.exception(kit.WAIT_SECONDS), SidekickTimedOut)
        doors[1].open()
        pid = held.result(kit.WAIT_SECONDS)["pid"][0]
        assert pid == pid_of(sidekick)


@pytest.mark.parametrize("crashes", [False, True])
def test_a_caller_that_vanishes_leaves_the_connection_in_step(
    tmp_path: Path, *, crashes: bool
) -> None:
    """Its answer is waited for and dropped; the next caller gets its own."""
    with workers(workers=1) as (ground, sidekick):
        door = Door(tmp_path / "door")
        vanished = ground.start(sidekick.call(door.inputs, 1, kit.WAIT_SECONDS))
        door.wait()
        pid = ground.sidekicks.report()[0]["pid"]
        waiting = ground.start(sidekick.call(kit.column("well"), 1, kit.WAIT_SECONDS))
        assert vanished.cancel()
        if crashes:
            os.kill(pid, 9)
        else:
            door.open()
        assert crashes == (pid != waiting.result(kit.WAIT_SECONDS)["pid"][0])


def test_callers_that_vanish_from_the_queue_leave_no_trace(tmp_path: Path) -> None:
    """Their places are free at once."""
    with workers(workers=1, queued=1) as (ground, sidekick):
        door = Door(tmp_path / "door")
        held = ground.start(sidekick.call(door.inputs, 1, kit.WAIT_SECONDS))
        door.wait()

        async def come_and_go() -> None:
            for _ in range(5):
                task = asyncio.ensure_future(sidekick.call(kit.column("well"), 1, kit.WAIT_SECONDS))
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        ground.run(come_and_go())
        waiting = ground.start(sidekick.call(kit.column("well"), 1, kit.WAIT_SECONDS))
        door.open()
        pid = held.result(kit.WAIT_SECONDS)["pid"][0]
        assert pid == waiting.result(kit.WAIT_SECONDS)["pid"][0]


def test_code_that_crashes_again_and_again_is_restarted_ever_later() -> None:
    """Until it is not waited for: then callers are told at once when it starts again, and why it ended."""
    with workers(workers=1) as (ground, sidekick):
        for _ in range(5):
            with pytest.raises(SidekickFailed, match="exit code 1"):
                kit.ask(sidekick, kit.column("crash"))
        (line,) = ground.sidekicks.report()
        assert ("BackOff", None) == (line["status"], line["pid"])
        with pytest.raises(
            SidekickFailed, match="ended 5 times in a row and is started again in 1"
        ):
            kit.ask(sidekick, kit.column("well"))
        ground.forget()
        ground.wait("sidekick_started")
        pid_of(sidekick)
        # A good answer, and all is forgotten.
        with pytest.raises(SidekickFailed, match="exit code 1"):
            kit.ask(sidekick, kit.column("crash"))
        pid_of(sidekick)


def test_those_who_wait_are_told_when_it_has_become_hopeless(tmp_path: Path) -> None:
    """They do not wait until their own time is over."""
    with workers(workers=1) as (ground, sidekick):
        for _ in range(4):
            with pytest.raises(SidekickFailed, match="exit code 1"):
                kit.ask(sidekick, kit.column("crash"))
        door = Door(tmp_path / "door")
        held = ground.start(sidekick.call(door.inputs, 1, kit.WAIT_SECONDS))
        door.wait()
        waiting = ground.start(sidekick.call(kit.column("well"), 1, 1000.0))
        os.kill(ground.sidekicks.report()[0]["pid"], 9)
        assert "SIGKILL" in str(held.exception(kit.WAIT_SECONDS))
        assert "5 times in a row" in str(waiting.exception(kit.WAIT_SECONDS))


def test_the_last_release_ends_what_is_under_way(tmp_path: Path) -> None:
    """Calls fail with a sentence, and nothing is waited for."""
    with kit.ground(SidekickSettings(workers=1)) as ground:
        sidekick = ground.acquire(CODE)
        door = Door(tmp_path / "door")
        calls = [ground.start(sidekick.call(door.inputs, 1, kit.WAIT_SECONDS)) for _ in range(2)]
        door.wait()
        pid = ground.sidekicks.report()[0]["pid"]
        ground.sidekicks.release(sidekick)
        for call in calls:
            with pytest.raises(SidekickFailed, match="it is not used any more"):
                call.result(kit.WAIT_SECONDS)
        assert kit.gone(pid)
        with pytest.raises(SidekickFailed, match="it is not used any more"):
            kit.ask(sidekick, kit.column("well"))


def test_the_end_of_the_engine_ends_starts_and_calls(tmp_path: Path) -> None:
    """Whoever waits is told; afterwards nothing is started and no process is left."""
    door = Door(tmp_path / "door")
    slow = f"open({str(tmp_path / 'door.in')!r}, 'w').close()\nwhile True: pass"
    with kit.ground() as ground:
        running = ground.acquire(CODE, "running")
        pid = pid_of(running)
        errors: list[LoadError] = []

        def load() -> None:
            with pytest.raises(LoadError) as refused:
                ground.acquire(slow, "starting")
            errors.append(refused.value)

        thread = threading.Thread(target=load)
        thread.start()
        door.wait()
        ground.run(ground.sidekicks.close())
        thread.join()
        assert "the engine is stopping" in errors[0].message
        with pytest.raises(SidekickFailed, match="the engine is stopping"):
            kit.ask(running, kit.column("well"))
        with pytest.raises(LoadError, match="the engine is stopping"):
            ground.acquire(CODE)
        assert kit.gone(pid)
        ground.sidekicks.release(running)


def test_blocking_calls_are_refused_on_the_event_loop() -> None:
    """They would wait for themselves."""
    with workers() as (ground, sidekick):

        async def block() -> None:
            sidekick.call_blocking(kit.column("well"), 1, 1.0)

        with pytest.raises(RuntimeError, match="would block the event loop"):
            ground.run(block())
