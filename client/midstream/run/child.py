"""Child processes that have the priority the supervisor itself has given up.

A thread may lower its priority and needs privileges to raise it again, and what a thread starts inherits it. So
processes are started by a thread that was made before. Guarantee: a process that was started is either handed over or
has ended.
"""

import asyncio
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Child:
    """A process that was started. `wait` reaps it."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it has been waited for to its end."""
        return self._process.returncode is not None

    def kill(self) -> None:
        if not self.ended:
            self._process.kill()

    async def wait(self) -> int:
        """Wait for its end; returns the exit code, or minus the signal that ended it."""
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        descriptor = os.pidfd_open(self.pid)
        loop.add_reader(descriptor, over.set)
        try:
            await over.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        return self._process.wait()


class Starter:
    """Starts processes with the priority that its maker had when it was made."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "midstream-start")
        self._thread.submit(os.getpid).result()  # only now there is a thread

    async def start(self, command: Sequence[str], **options: Any) -> Child:
        """Start a process with options of `subprocess.Popen`. Raises OSError when it cannot be started."""

        def begin() -> "subprocess.Popen[bytes]":
            return subprocess.Popen(command, **options)

        job = asyncio.get_running_loop().run_in_executor(self._thread, begin)
        try:
            return Child(await asyncio.shield(job))
        except asyncio.CancelledError:
            child = Child(await job)
            child.kill()
            await child.wait()
            raise

    def close(self) -> None:
        """Start nothing more."""
        self._thread.shutdown(wait=True)
