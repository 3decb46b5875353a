"""One model's workers: calls are handed to them, and those that end are replaced.

A worker that ends costs the request in it. The next one starts after 0.1 s, and after each further end that no good
call came between, twice as long after, up to 30 s. State changes on the event loop only.
"""

import asyncio
import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import CancelledError, Executor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from midstream_engine.errors import LoadError, Overloaded, SidekickFailed, SidekickTimedOut
from midstream_engine.events import Emit
from midstream_engine.sidekicks import wire
from midstream_engine.sidekicks.handle import Starter
from midstream_engine.sidekicks.launch import Limits
from midstream_engine.sidekicks.process import Frame, Worker, WorkerEnded, WorkerTimedOut
from midstream_engine.sidekicks.wire import Array, FrameError, Parts

FIRST_DELAY = 0.1
LONGEST_DELAY = 30.0
PATIENCE = 1.0
"""A restart that is further away than this is not waited for."""

MAX_REQUEST_BYTES = 256 << 20
_MANY_BYTES = 256 << 10
"""Text of more than this is packed and unpacked in a thread."""

_STOPPING = "the engine is stopping"

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class SidekickSettings:
    host: Path | None = None
    """The Unix socket of the container that runs workers; None: they are children of the engine."""
    limits: Limits = field(default_factory=Limits)
    """Of one worker."""
    start_seconds: float = 60.0
    """The longest that a worker may take to start and to import the code."""
    workers: int = 2
    """Of one model, at most."""
    prestart: int = 1
    """Of one model, kept running."""
    queued: int = 64
    """Calls of one model that may wait for a worker."""
    max_answer: int = wire.MAX_BYTES
    """Bytes of one answer."""
    folder: Path | None = None
    """Where workers have their folders; None: the system's place for temporary files."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What all sidekicks of an engine have in common."""

    settings: SidekickSettings
    starter: Starter
    packing: Executor
    emit: Emit
    changed: Callable[[], None]
    loop: asyncio.AbstractEventLoop
    thread: int
    """The event loop's."""
    living: set[Worker] = field(default_factory=set)
    """Workers whose process may still run."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at each end of a process."""

    def blocking(self, call: Coroutine[Any, Any, Answer]) -> Answer:
        """Run it on the event loop, and wait for it in another thread."""
        if threading.get_ident() == self.thread:
            call.close()
            raise RuntimeError("this would block the event loop that it waits for")
        try:
            return asyncio.run_coroutine_threadsafe(call, self.loop).result()
        except CancelledError:
            raise SidekickFailed(_STOPPING) from None


@dataclass(slots=True, eq=False)
class _Slot:
    """The place of one worker."""

    number: int
    worker: Worker | None = None
    """None: it waits for its time."""
    status: str = "Starting"
    starts: int = 0
    reason: str | None = None
    """Why the last worker here ended."""


class Sidekick:
    """The workers of one model's code. Made by `Sidekicks.acquire`."""

    def __init__(self, shared: Shared, model: str, code: bytes, sha256: str) -> None:
        self.model = model
        self.sha256 = sha256
        self.users = 0
        self.entry = ""
        """Which function the code has: `process` or `wallaroo_json`."""
        self._shared = shared
        self._settings = shared.settings
        self._loop = shared.loop
        self._code = np.frombuffer(code, np.uint8)
        self._numbers = itertools.count(1)
        self._slots: list[_Slot] = []
        self._idle: list[Worker] = []
        self._waiting: deque[asyncio.Future[Worker]] = deque()
        self._starting: set[asyncio.Task[None]] = set()
        self._failures = 0
        self._not_before = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._last_end = ""
        self._over: str | None = None
        self._opening = self._loop.create_task(self._open(), name="sidekick-opening")
        # Whoever wants to know asks for it; when everybody has gone it is not an error that nobody saw.
        self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())

    # Calls

    async def call(
        self, inputs: Mapping[str, Array], rows: int, seconds: float
    ) -> dict[str, Array]:
        """The outputs for these inputs; arrays have `rows` rows on both sides.

        inputs: in the order of the fields in the first row, which `wallaroo_json` sees. seconds: the longest it may
        take, waiting for a worker included. Outputs are what the code gave: whether they have the wanted names and
        types is the caller's question. Raises SidekickFailed, SidekickTimedOut and Overloaded.
        """
        deadline = self._loop.time() + seconds
        number = next(self._numbers)
        header = {"op": "call", "id": number, "rows": rows, "limit": self._settings.max_answer}
        try:
            parts = await self._packed(header, inputs)
        except FrameError as error:
            raise self._failed(f"its inputs cannot be sent: {error}") from error
        worker = await self._take(deadline, seconds)
        try:
            frame = await worker.begin(number, parts, max(0.001, deadline - self._loop.time()))
            if frame.header["op"] != "answer":
                raise self._failed(str(frame.header.get("message")))
            return _checked(await self._unpacked(frame), rows)
        except WorkerTimedOut as error:
            raise SidekickTimedOut(
                f"model {self.model!r} did not answer within {seconds:g} s"
            ) from error
        except (WorkerEnded, FrameError) as error:
            raise self._failed(str(error)) from error

    def call_blocking(
        self, inputs: Mapping[str, Array], rows: int, seconds: float
    ) -> dict[str, Array]:
        """The same, from another thread than the event loop's."""
        return self._shared.blocking(self.call(inputs, rows, seconds))

    def _failed(self, what: str) -> SidekickFailed:
        return SidekickFailed(self._said(what))

    async def _packed(self, header: dict[str, Any], inputs: Mapping[str, Array]) -> Parts:
        objects = sum(array.size for array in inputs.values() if array.dtype == object)
        if objects * 8 < _MANY_BYTES:
            return wire.encode(header, inputs, MAX_REQUEST_BYTES)
        return await self._loop.run_in_executor(
            self._shared.packing, wire.encode, header, inputs, MAX_REQUEST_BYTES
        )

    async def _unpacked(self, frame: Frame) -> dict[str, Array]:
        arguments = (frame.header, frame.data, frame.start)
        if "bytes" not in str(frame.header.get("arrays")) or len(frame.data) < _MANY_BYTES:
            return wire.arrays_of(*arguments)
        return await self._loop.run_in_executor(self._shared.packing, wire.arrays_of, *arguments)

    async def _take(self, deadline: float, seconds: float) -> Worker:
        """A worker that is this caller's until its call is over."""
        if self._over is not None:
            raise self._failed(self._over)
        if self._idle:
            return self._idle.pop()
        if hopeless := self._hopeless():
            raise self._failed(hopeless)
        if len(self._waiting) >= self._settings.queued:
            raise Overloaded(
                f"model {self.model!r}: {len(self._waiting)} requests wait for a worker already"
            )
        turn: asyncio.Future[Worker] = self._loop.create_future()
        self._waiting.append(turn)
        self._grow()
        try:
            async with asyncio.timeout_at(deadline):
                return await turn
        except BaseException as error:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif turn.done() and not turn.cancelled() and turn.exception() is None:
                self._free(turn.result())  # it came in the moment that the caller went
            if isinstance(error, TimeoutError):
                raise SidekickTimedOut(
                    f"model {self.model!r}: no worker was free within {seconds:g} s"
                ) from None
            raise

    # Workers

    async def opened(self) -> None:
        """Wait until the first worker has imported the code. Raises LoadError."""
        await asyncio.shield(self._opening)

    def end(self, why: str = "it is not used any more") -> None:
        """Kill all workers. Calls that are under way or waiting fail with `why`."""
        self._over = why
        if self._timer is not None:
            self._timer.cancel()
        for slot in self._slots:
            if slot.worker is not None:
                slot.worker.kill(why)
        self._refuse_waiting(why)

    async def close(self) -> None:
        """End, and wait until starts that were under way have been given up."""
        self.end(_STOPPING)
        await asyncio.gather(self._opening, *self._starting, return_exceptions=True)

    def report(self) -> list[dict[str, Any]]:
        return [
            {
                "name": f"sidekick-{self.model}-{slot.number}",
                "model": self.model,
                "sha256": self.sha256,
                "pid": slot.worker.pid if slot.worker else None,
                "status": slot.status,
                "restarts": max(0, slot.starts - 1),
                "reason": slot.reason,
            }
            for slot in self._slots
        ]

    async def _open(self) -> None:
        await self._start(self._place())
        self._grow()

    def _place(self, slot: _Slot | None = None) -> _Slot:
        """A slot, this one or a new one, with a worker that is to be started."""
        if slot is None:
            slot = _Slot(len(self._slots) + 1)
            self._slots.append(slot)
        slot.worker = Worker(self._settings.max_answer, self._free, self._lost)
        slot.status = "Starting"
        slot.starts += 1
        self._shared.changed()
        return slot

    async def _start(self, slot: _Slot) -> None:
        """Raises LoadError; then the slot is without a worker, or soon will be."""
        worker = slot.worker
        assert worker is not None
        load = {"op": "load", "id": 0, "name": self.model}
        seconds = self._settings.start_seconds
        try:
            await worker.start(self._shared.starter, partial(self._printed, worker))
            self._shared.living.add(worker)
            if self._over is not None:
                worker.kill(self._over)
            parts = wire.encode(load, {"code": self._code}, wire.ANY_SIZE)
            frame = await worker.begin(0, parts, seconds)
        except OSError as error:
            what = f"a worker cannot be started: {error}"
            self._lost(worker, what)
            raise LoadError("SidekickUnavailable", self._said(what), transient=True) from error
        except WorkerEnded as error:
            what = f"when it was imported, {error}"
            raise LoadError("SidekickCrashed", self._said(what)) from error
        except WorkerTimedOut as error:
            what = f"it was not imported within {seconds:g} s"
            raise LoadError("SidekickTimedOut", self._said(what)) from error
        if frame.header["op"] != "ready":
            reason = "SidekickCrashed" if frame.header.get("retire") else "InvalidCode"
            raise LoadError(reason, self._said(str(frame.header.get("message"))))
        self.entry = str(frame.header.get("entry"))

    def _start_later(self, slot: _Slot) -> None:
        async def start() -> None:
            with contextlib.suppress(LoadError):  # what happened is in the slot, by way of `_lost`
                await self._start(slot)

        task = self._loop.create_task(start(), name="sidekick-start")
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    def _free(self, worker: Worker) -> None:
        """A worker has imported the code, or is done with a call."""
        slot = self._slot_of(worker)
        if slot.status == "Starting":
            slot.status = "Running"
            self._shared.emit("sidekick_started", model=self.model, pid=worker.pid)
            self._shared.changed()
        else:
            self._failures = 0
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(worker)
                return
        self._idle.append(worker)

    def _lost(self, worker: Worker, cause: str) -> None:
        """A worker has ended."""
        self._shared.living.discard(worker)
        self._shared.ended.set()
        slot = self._slot_of(worker)
        slot.worker = None
        slot.reason = cause
        slot.status = "Error" if slot.status == "Starting" else "BackOff"
        if worker in self._idle:
            self._idle.remove(worker)
        if self._over is not None:
            return
        self._shared.emit("sidekick_ended", model=self.model, pid=worker.pid, reason=cause)
        self._last_end = cause
        delay = min(FIRST_DELAY * 2**self._failures, LONGEST_DELAY)
        self._failures += 1
        self._not_before = self._loop.time() + delay
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._not_before, self._grow)
        if hopeless := self._hopeless():
            self._refuse_waiting(hopeless)
        self._shared.changed()

    def _grow(self) -> None:
        """Start what is missing: workers that are kept running, and one for each caller that waits."""
        if self._over is not None or self._loop.time() < self._not_before:
            return
        live = [slot for slot in self._slots if slot.worker is not None]
        starting = [slot for slot in live if slot.status == "Starting"]
        missing = max(self._settings.prestart - len(live), len(self._waiting) - len(starting))
        for _ in range(min(missing, self._settings.workers - len(live))):
            free = next((slot for slot in self._slots if slot.worker is None), None)
            self._start_later(self._place(free))

    def _hopeless(self) -> str | None:
        """Why no worker can be waited for; None when one can."""
        if any(slot.worker is not None for slot in self._slots):
            return None
        delay = self._not_before - self._loop.time()
        if delay <= PATIENCE:
            return None
        return (
            f"it has ended {self._failures} times in a row and is started again in {delay:.1f} s; "
            f"the last time, {self._last_end}"
        )

    def _refuse_waiting(self, why: str) -> None:
        for turn in self._waiting:
            if not turn.done():
                turn.set_exception(self._failed(why))
        self._waiting.clear()

    def _slot_of(self, worker: Worker) -> _Slot:
        return next(slot for slot in self._slots if slot.worker is worker)

    def _printed(self, worker: Worker, line: str) -> None:
        self._shared.emit("sidekick_output", model=self.model, pid=worker.pid, line=line)

    def _said(self, what: str) -> str:
        return f"model {self.model!r}: {what}"


def _checked(outputs: dict[str, Array], rows: int) -> dict[str, Array]:
    """The worker has looked already, but what came over a socket is looked at again."""
    for name, array in outputs.items():
        if not array.shape or array.shape[0] != rows:
            raise FrameError(f"output {name!r} has the shape {list(array.shape)} for {rows} rows")
    return outputs
