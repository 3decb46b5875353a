"""Every line of the table of outcomes in `docs/python-models.md`: what a fault of the code costs, and what it does not.

Each fault meets a request that another request follows, with the workers as children of the engine and with those of a
host in a process of its own.
"""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kit import sidekicks as kit
from kit.sidekick_faults import FAULTY, OUTCOMES
from midstream_engine.errors import SidekickFailed, SidekickTimedOut
from midstream_engine.sidekicks.launch import Limits
from midstream_engine.sidekicks.settings import SidekickSettings

SECONDS = 1.0
"""What a request with a fault may take: long enough for those that are not to run into it."""


@pytest.fixture(scope="module", params=["child", "host"])
def ground(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[kit.Ground]:
    settings = SidekickSettings(limits=Limits(memory=384 << 20), workers=1)
    if request.param == "child":
        with kit.ground(settings) as made:
            yield made
    else:
        with (
            kit.host(tmp_path_factory.mktemp("host")) as host,
            kit.ground(replace(settings, host=host.path)) as made,
        ):
            yield made


@pytest.mark.parametrize("fault", OUTCOMES)
def test_a_fault_costs_its_request_and_nothing_else(ground: kit.Ground, fault: str) -> None:
    """The request is told why; the next one, and other models, are answered."""
    outcome = OUTCOMES[fault]
    seconds = SECONDS if outcome.error is SidekickTimedOut else kit.WAIT_SECONDS
    with (
        ground.use("def process(inputs): return {'y': inputs['x']}", "other") as other,
        ground.use(FAULTY, "faulty") as sidekick,
    ):
        before = kit.ask(sidekick, kit.column("well"))["pid"]
        with pytest.raises(outcome.error) as failed:
            kit.ask(sidekick, kit.column(outcome.does), seconds)
        message = failed.value.message
        assert message.startswith("model 'faulty': ")
        assert outcome.says in message
        assert len(message) < 4000
        after = kit.ask(sidekick, kit.column("well"))["pid"]
        assert outcome.replaced == (after != before)
        assert {"y": [1.0]} == kit.ask(other)
        report = ground.sidekicks.report()
        assert [0] == [line["restarts"] for line in report if line["model"] == "other"]


def test_a_fork_that_returns_answers_once(ground: kit.Ground) -> None:
    """Only the worker itself may answer; the connection stays in step."""
    with ground.use(FAULTY, "faulty") as sidekick:
        for _ in range(3):
            assert [1.0] == kit.ask(sidekick, kit.column("fork_and_return()"))["y"]
        assert [1.0] == kit.ask(sidekick, kit.column("well"))["y"]


def test_children_that_are_left_behind_are_killed(ground: kit.Ground) -> None:
    """With the worker, however it ends: by itself, because it takes too long, or because nobody needs it."""
    code = """
        import os, time
        def process(inputs):
            child = os.fork()
            if child == 0:
                time.sleep(1000)
            print("child", child)
            if inputs["x"][0] == 1:
                os._exit(1)
            if inputs["x"][0] == 2:
                time.sleep(1000)
            return inputs
    """

    def child() -> int:
        line: str = ground.wait("sidekick_output", model="parent")["line"]
        ground.forget()
        return int(line.removeprefix("child "))

    with ground.use(code, "parent") as sidekick:
        ground.forget()
        for x, error in ((1.0, SidekickFailed), (2.0, SidekickTimedOut)):
            with pytest.raises(error):
                kit.ask(sidekick, kit.column(x), SECONDS)
            assert kit.gone(child())
        assert {"x": [3.0]} == kit.ask(sidekick, kit.column(3.0))
    assert kit.gone(child())


def test_children_in_sessions_of_their_own_are_killed(ground: kit.Ground) -> None:
    """Also those whose parents have gone, that begin with an empty environment, or that have children themselves.

    Those of another worker go on as long as that lives.
    """
    code = """
        import os, subprocess, sys, time

        SLEEPS = [sys.executable, "-c", "import time; time.sleep(1000)"]
        # Each tells in one write: two that print at once would mix.
        PIDS = "b'%d %d\\n' % (os.getpid(), os.fork())"
        FORKS = [sys.executable, "-c", f"import os, time; os.write(1, {PIDS}); time.sleep(1000)"]

        def twice_removed():
            ours, theirs = os.pipe()
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.write(theirs, b"%d" % os.getpid())
                    time.sleep(1000)
                os._exit(0)
            os.wait()
            return int(os.read(ours, 20))

        def process(inputs):
            apart = {"start_new_session": True, "stdout": subprocess.PIPE}
            alone = subprocess.Popen(SLEEPS, env={}, **apart)
            group = subprocess.Popen(FORKS, **apart)
            said = group.stdout.readline() + group.stdout.readline()
            pids = {alone.pid, twice_removed(), *map(int, said.split())} - {0}
            return {"pid": [list(pids)]}
    """
    with ground.use(f"{code}    # another model", "other") as other:
        (theirs,) = kit.ask(other)["pid"]
        with ground.use(code, "parent") as sidekick:
            (children,) = kit.ask(sidekick)["pid"]
        assert all(map(kit.gone, children))
        assert all(kit.runs(pid) for pid in theirs)
        (line,) = (each for each in ground.sidekicks.report() if each["model"] == "other")
        os.kill(line["pid"], signal.SIGSEGV)
        assert all(map(kit.gone, theirs))


def test_a_worker_that_kills_the_others_costs_their_requests_only(ground: kit.Ground) -> None:
    """All workers have one parent; those that are killed are replaced."""
    code = """
        import os, signal
        from pathlib import Path
        def process(inputs):
            me, parent = os.getpid(), os.getppid()
            killed = 0
            for stat in Path("/proc").glob("[0-9]*/stat"):
                try:
                    pid, ppid = int(stat.parent.name), int(stat.read_text().rpartition(")")[2].split()[1])
                    # The tester's own helpers are children of this parent, too.
                    worker = b"sidekicks" in stat.with_name("cmdline").read_bytes()
                    if ppid == parent and pid != me and worker:
                        os.kill(pid, signal.SIGKILL)
                        killed += 1
                except OSError:
                    pass
            return {"killed": [killed]}
    """
    with ground.use(FAULTY, "victim") as victim, ground.use(code, "killer") as killer:
        ground.forget()
        assert [1] == kit.ask(killer)["killed"]
        assert "signal SIGKILL" in ground.wait("sidekick_ended", model="victim")["reason"]
        ground.wait("sidekick_started", model="victim")
        assert [1.0] == kit.ask(victim, kit.column("well"))["y"]


def test_an_idle_worker_that_is_killed_is_replaced_before_it_is_missed(ground: kit.Ground) -> None:
    """No request was in it, so none fails."""
    with ground.use(FAULTY, "faulty") as sidekick:
        ground.forget()
        (line,) = ground.sidekicks.report()
        os.kill(line["pid"], signal.SIGKILL)
        assert "from outside" in ground.wait("sidekick_ended")["reason"]
        assert [line["pid"]] != kit.ask(sidekick, kit.column("well"))["pid"]


def test_what_was_printed_before_a_crash_is_told(ground: kit.Ground) -> None:
    """The last lines, also those that C code wrote."""
    with ground.use(FAULTY, "faulty") as sidekick:
        with pytest.raises(SidekickFailed) as failed:
            kit.ask(sidekick, kit.column("(print('one'), os.write(2, b'two'), os._exit(1))"))
        assert failed.value.message.endswith("it had printed\none\ntwo")


def test_prints_reach_the_log_bounded(ground: kit.Ground) -> None:
    """Each line once, cut to a length; beyond 50 in a second they are counted."""
    with ground.use(FAULTY, "faulty") as sidekick:
        ground.forget()
        many = "[print('line', n, 'x' * 1000) for n in range(500)] and os._exit(1)"
        with pytest.raises(SidekickFailed):
            kit.ask(sidekick, kit.column(many))
        ground.wait("sidekick_ended")
        lines = [e["line"] for e in ground.events if e["event"] == "sidekick_output"]
        assert lines[0].startswith("line 0 ")
        assert max(map(len, lines)) <= 500
        assert len(lines) < 500
        assert lines[-1].endswith("more lines)")


def test_many_prints_do_not_stop_an_answer(ground: kit.Ground) -> None:
    """What nobody can read is thrown away, not waited for."""
    with ground.use(FAULTY, "faulty") as sidekick:
        many = "[print('x' * 1000) for _ in range(3000)] and {'y': [7]}"
        assert {"y": [7]} == kit.ask(sidekick, kit.column(many))


def test_other_requests_are_answered_while_one_hangs(tmp_path: Path) -> None:
    """A second worker starts for them; the one that hangs is killed when its time is over."""
    door = tmp_path / "door"
    os.mkfifo(door)
    with (
        kit.ground(SidekickSettings(workers=2)) as ground,
        ground.use(FAULTY, "faulty") as sidekick,
    ):
        inputs = kit.column(f"open({str(door)!r}).read()")
        hanging = ground.start(sidekick.call(inputs, 1, 3.0))
        with door.open("w"):  # the code has opened it, too
            for _ in range(20):
                assert [1.0] == kit.ask(sidekick, kit.column("well"))["y"]
            assert isinstance(hanging.exception(kit.WAIT_SECONDS), SidekickTimedOut)
        assert "did not answer" in ground.wait("sidekick_ended")["reason"]
