"""Processes that do not inherit the priority of who asks for them."""

import asyncio
import contextlib
import os
import signal
import sys
import threading

import pytest

from midstream.run.child import Starter
from midstream_engine import scheduling

NICENESS = "import os, sys; sys.exit(os.getpriority(os.PRIO_PROCESS, 0))"
FOREVER = "import signal; signal.pause()"


def test_a_process_has_the_priority_that_its_starter_was_made_with() -> None:
    """Workers keep theirs though the supervisor has lowered its own."""
    found: list[int] = []

    async def start(starter: Starter) -> int:
        child = await starter.start([sys.executable, "-c", NICENESS])
        return await child.wait()

    def supervise() -> None:
        with contextlib.closing(Starter()) as starter:
            scheduling.yield_to_requests(scheduling.LAST)
            found.append(asyncio.run(start(starter)))

    before = os.getpriority(os.PRIO_PROCESS, 0)
    thread = threading.Thread(target=supervise)  # which keeps the lowered priority for itself
    thread.start()
    thread.join()
    assert found == [before]


def test_the_end_of_a_killed_process_names_its_signal() -> None:
    """`wait` returns minus the signal, and a second kill does nothing."""

    async def run() -> None:
        with contextlib.closing(Starter()) as starter:
            child = await starter.start([sys.executable, "-c", FOREVER])
            assert not child.ended
            child.kill()
            assert await child.wait() == -signal.SIGKILL
            assert child.ended
            child.kill()

    asyncio.run(run())


def test_a_command_that_is_not_there_is_an_error_of_the_system() -> None:
    """Whoever asked is told as by the system."""

    async def run() -> None:
        with contextlib.closing(Starter()) as starter, pytest.raises(FileNotFoundError):
            await starter.start(["/nonexistent/program"])

    asyncio.run(run())
