"""What the engine tells the kernel's scheduler about its threads."""

import os
import threading
from pathlib import Path

from midstream_engine import scheduling


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
