"""What the engine tells the kernel's scheduler about its threads."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from midstream_engine import scheduling
from midstream_engine.scheduling import Metronome


def yielding_in_a_thread() -> tuple[int, int]:
    """Niceness and policy of a thread that yields."""
    found: list[tuple[int, int]] = []

    def look() -> None:
        scheduling.yield_to_requests()
        found.append((os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return found[0]


def test_a_loading_thread_yields_and_the_others_do_not() -> None:
    """Niceness and policy are of the thread that asks for it, and the niceness is at most the kernel's worst."""
    before = os.getpriority(os.PRIO_PROCESS, 0)

    nice, policy = yielding_in_a_thread()

    assert nice == min(19, before + scheduling.LATER)
    assert policy == os.SCHED_BATCH
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_short_turns_are_asked_for_and_leave_the_priority_alone() -> None:
    """Where the kernel takes it, the thread has a slice of 0.1 ms; everywhere the policy and niceness stay."""
    found: list[tuple[bool, int, int, str]] = []

    def look() -> None:
        taken = scheduling.answer_at_once()
        own = Path(f"/proc/self/task/{threading.get_native_id()}/sched")
        text = own.read_text() if own.exists() else ""
        found.append((taken, os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0), text))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    (taken, policy, nice, text) = found[0]

    assert policy == os.SCHED_OTHER
    assert nice == os.getpriority(os.PRIO_PROCESS, 0)
    slices = [line.split(":")[1].strip() for line in text.splitlines() if "se.slice" in line]
    if taken and slices:
        assert slices == ["100000"]


@pytest.fixture
def metronome() -> Iterator[Metronome]:
    made = Metronome()
    yield made
    made.close()


def beating() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "midstream-metronome"]


def descriptors() -> int:
    """Open files of this process, where the system tells."""
    folder = Path("/proc/self/fd")
    return sum(1 for _ in folder.iterdir()) if folder.exists() else 0


def wakeups(thread: threading.Thread) -> int:
    """How often the kernel has put a thread to sleep so far."""
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


def wait_for_wakeups(thread: threading.Thread, count: int) -> None:
    while wakeups(thread) < count:
        pass


needs_timers = pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="timers that can be read are Linux's"
)


@needs_timers
def test_the_metronome_wakes_again_and_again_while_something_loads(metronome: Metronome) -> None:
    """Its threads wake by themselves from entering to leaving, and again the next time."""
    assert beating() == []

    for _ in range(2):
        with metronome:
            for thread in beating():
                wait_for_wakeups(thread, wakeups(thread) + 20)

    assert len(beating()) == 2


@needs_timers
def test_the_metronome_beats_until_the_last_one_leaves(
    metronome: Metronome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetching and loading overlap: the one that ends first leaves the metronome to the other."""
    monkeypatch.setattr(scheduling, "_ROUND", 3)
    monkeypatch.setattr(scheduling, "_AFTER_SECONDS", 0.0)
    with metronome:
        with metronome:
            pass
        for thread in beating():
            wait_for_wakeups(thread, wakeups(thread) + 20)


@needs_timers
def test_the_metronome_is_not_woken_while_nothing_loads(
    metronome: Metronome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some time after leaving, its timers are off: nothing is left that could wake its threads."""
    monkeypatch.setattr(scheduling, "_ROUND", 3)
    with metronome:
        assert len(metronome.timers) == 2

    for timer in metronome.timers:
        state = Path(f"/proc/self/fdinfo/{timer.descriptor}")
        while "it_interval: (0, 0)" not in state.read_text():
            pass
        assert "it_value: (0, 0)" in state.read_text()


@needs_timers
def test_the_metronome_beats_again_after_it_has_stopped(
    metronome: Metronome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next load finds it as the first one did."""
    monkeypatch.setattr(scheduling, "_ROUND", 3)
    monkeypatch.setattr(scheduling, "_AFTER_SECONDS", 0.0)
    with metronome:
        pass
    for timer in metronome.timers:
        state = Path(f"/proc/self/fdinfo/{timer.descriptor}")
        while "it_interval: (0, 0)" not in state.read_text():
            pass

    with metronome:
        for thread in beating():
            wait_for_wakeups(thread, wakeups(thread) + 20)


@pytest.mark.parametrize("loading", [False, True], ids=["idle", "while something loads"])
def test_a_closed_metronome_leaves_no_thread(loading: bool) -> None:
    """Closing ends the threads, whether they beat or wait; leaving and entering afterwards do nothing."""
    before = descriptors()
    metronome = Metronome()
    with metronome:
        if loading:
            metronome.close()
            assert beating() == []
    metronome.close()
    with metronome:
        assert beating() == []
    metronome.close()

    assert descriptors() == before


def test_an_unused_metronome_has_no_thread(metronome: Metronome) -> None:
    """A process that never loads pays nothing, and closing it is fine."""
    metronome.close()

    assert beating() == []


def test_the_metronome_does_nothing_without_the_library() -> None:
    """Where the C library is not found, loading goes on without it."""
    metronome = Metronome("libnothing-of-this-name.so")
    with metronome:
        assert beating() == []
    metronome.close()
