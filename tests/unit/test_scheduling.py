"""What the engine tells the kernel's scheduler about its threads."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from midstream_engine import scheduling
from midstream_engine.scheduling import Metronome


def nice_in_a_thread() -> list[int]:
    found: list[int] = []

    def look() -> None:
        scheduling.yield_to_requests()
        found.append(os.getpriority(os.PRIO_PROCESS, 0))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return found


def test_a_loading_thread_yields_and_the_others_do_not() -> None:
    """The niceness is of the thread that asks for it, and stays below the kernel's worst."""
    before = os.getpriority(os.PRIO_PROCESS, 0)

    assert nice_in_a_thread() == [min(19, before + scheduling.LATER)]
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_short_turns_are_asked_for_and_leave_the_priority_alone() -> None:
    """Where the kernel takes it, the thread has a slice of 0.5 ms; everywhere the policy and niceness stay."""
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
        assert slices == ["500000"]


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
    """One thread, which wakes by itself from entering to leaving, and again the next time."""
    assert beating() == []

    for _ in range(2):
        with metronome:
            (thread,) = beating()
            wait_for_wakeups(thread, wakeups(thread) + 20)


@needs_timers
def test_the_metronome_beats_until_the_last_one_leaves(metronome: Metronome) -> None:
    """Fetching and loading overlap: the one that ends first leaves the metronome to the other."""
    with metronome:
        with metronome:
            pass
        (thread,) = beating()
        wait_for_wakeups(thread, wakeups(thread) + 20)


@needs_timers
def test_the_metronome_goes_on_after_more_beats_than_one_call_waits_for(
    metronome: Metronome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load takes as long as it takes; a call into the C library ends after a number of beats."""
    monkeypatch.setattr(scheduling, "_BEATS", 3)
    with metronome:
        (thread,) = beating()
        wait_for_wakeups(thread, wakeups(thread) + 20)


@needs_timers
def test_the_metronome_is_not_woken_while_nothing_loads(metronome: Metronome) -> None:
    """After leaving, its timer is off: nothing is left that could wake the thread."""
    with metronome:
        assert len(beating()) == 1
    timer = Path(f"/proc/self/fdinfo/{metronome.timer}").read_text()

    assert "it_interval: (0, 0)" in timer
    assert "it_value: (0, 0)" in timer


@pytest.mark.parametrize("loading", [False, True], ids=["idle", "while something loads"])
def test_a_closed_metronome_leaves_no_thread(loading: bool) -> None:
    """Closing ends the thread, whether it beats or waits; leaving and entering afterwards do nothing."""
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
    """Where the C library is not found, or has no such timers, loading goes on without it."""
    metronome = Metronome("libnothing-of-this-name.so")
    with metronome:
        assert beating() == []
    metronome.close()
