"""Real sidekicks for tests: an event loop in a thread, as an engine has it, and a host process where one is wanted."""

import asyncio
import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any, TypeVar

import numpy as np
import uvloop

from midstream_engine.sidekicks.pool import Sidekicks
from midstream_engine.sidekicks.settings import SidekickSettings
from midstream_engine.sidekicks.sidekick import Sidekick
from midstream_engine.sidekicks.wire import Array

WAIT_SECONDS = 30.0
"""The longest a test waits for an event before it fails."""

Answer = TypeVar("Answer")


class Ground:
    """Sidekicks on a loop of their own; tests are the other thread, like the one that loads revisions."""

    def __init__(self, settings: SidekickSettings) -> None:
        self.events: list[dict[str, Any]] = []
        self._happened = threading.Condition()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.sidekicks = self.run(self._make(settings))

    def run(self, call: Coroutine[Any, Any, Answer]) -> Answer:
        return self.start(call).result(WAIT_SECONDS)

    def start(self, call: Coroutine[Any, Any, Answer]) -> "Future[Answer]":
        """Run it on the loop without waiting."""
        return asyncio.run_coroutine_threadsafe(call, self._loop)

    def acquire(self, code: str | bytes, name: str = "pre") -> Sidekick:
        content = dedent(code).encode() if isinstance(code, str) else code
        return self.sidekicks.acquire(name, content, hashlib.sha256(content).hexdigest())

    @contextmanager
    def use(self, code: str | bytes, name: str = "pre") -> Iterator[Sidekick]:
        """Acquired, and released in the end."""
        sidekick = self.acquire(code, name)
        try:
            yield sidekick
        finally:
            self.sidekicks.release(sidekick)

    def wait(self, event: str, **fields: Any) -> dict[str, Any]:
        """The first event of this name with these fields, also one that has happened already."""

        def found() -> dict[str, Any] | None:
            wanted = {"event": event, **fields}
            return next((e for e in self.events if wanted.items() <= e.items()), None)

        with self._happened:
            if not self._happened.wait_for(lambda: found() is not None, WAIT_SECONDS):
                raise AssertionError(f"no event {event} {fields}; seen: {self.events}")
            return found() or {}

    def forget(self) -> None:
        with self._happened:
            self.events.clear()

    def close(self) -> None:
        try:
            self.run(self.sidekicks.close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _make(self, settings: SidekickSettings) -> Sidekicks:
        return Sidekicks(settings, emit=self._emit)

    def _emit(self, event: str, **fields: Any) -> None:
        with self._happened:
            self.events.append({"event": event, **fields})
            self._happened.notify_all()


@contextmanager
def ground(settings: SidekickSettings | None = None) -> Iterator[Ground]:
    made = Ground(settings or SidekickSettings())
    try:
        yield made
    finally:
        made.close()


class Host:
    """A real host process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.process = subprocess.Popen(
            [sys.executable, "-m", "midstream_engine.sidekicks.host", "--socket", str(path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        event = json.loads(self.process.stdout.readline())
        assert event["event"] == "host_listening"

    def stop(self) -> int:
        self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        assert self.process.stdout is not None
        code = self.process.wait(WAIT_SECONDS)
        self.process.stdout.close()
        return code


@contextmanager
def host(folder: Path) -> Iterator[Host]:
    started = Host(folder / "host.sock")
    try:
        yield started
    finally:
        if started.process.returncode is None:
            started.stop()


def column(*values: Any) -> dict[str, Array]:
    """One field `x`."""
    objects = any(isinstance(value, str) for value in values)
    return {"x": np.array(values, dtype=object if objects else None)}


def ask(
    sidekick: Sidekick, inputs: Mapping[str, Array] | None = None, seconds: float = WAIT_SECONDS
) -> dict[str, Any]:
    """The answer as plain lists."""
    inputs = column(1.0) if inputs is None else inputs
    rows = len(next(iter(inputs.values())))
    answer = sidekick.call_blocking(inputs, rows, seconds)
    return {name: array.tolist() for name, array in answer.items()}


def becomes(what: Callable[[], bool]) -> bool:
    """Whether it is so within the time that tests wait. For what tells nobody when it happens."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def gone(pid: int) -> bool:
    """Whether the process ends; it is nobody's child here."""
    return becomes(lambda: not runs(pid))


def runs(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
