"""The workers of one model: started, handed to callers one by one, and replaced when they end.

A worker that ends costs the request in it. The next one starts after 0.1 s, and after each further end that no answer
came between, twice as long after, up to 30 s. Guarantees: callers get workers in the order they came; a worker that is
not needed is not started, but for those that are kept running; nothing here waits for users' code.
"""

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from midstream_engine.errors import LoadError, Overloaded, SidekickFailed, SidekickTimedOut
from midstream_engine.events import Emit
from midstream_engine.sidekicks import wire
from midstream_engine.sidekicks.handle import Starter
from midstream_engine.sidekicks.process import Worker, WorkerEnded, WorkerTimedOut
from midstream_engine.sidekicks.settings import SidekickSettings

FIRST_DELAY = 0.1
LONGEST_DELAY = 30.0
PATIENCE = 1.0
"""A restart that is further away than this is not waited for."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What the crews of an engine have in common."""

    settings: SidekickSettings
    starter: Starter
    emit: Emit
    changed: Callable[[], None]
    living: set[Worker] = field(default_factory=set)
    """Workers whose process may still run."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at each end of a process."""


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


class Crew:
    """Starts its first worker at once; `opened` tells what became of it."""

    def __init__(self, shared: Shared, model: str, code: bytes, sha256: str) -> None:
        self.entry = ""
        """Which function the code has."""
        self._shared = shared
        self._settings = shared.settings
        self._told = self._model = model
        """The name that its workers know, and that of a model which uses them now, the last to come."""
        self._names: list[str] = []
        """Of the models that use the workers, one for each use."""
        self.numbers = itertools.count(1)
        """Of calls."""
        self._sha256 = sha256
        self._code = np.frombuffer(code, np.uint8)
        self._loop = asyncio.get_running_loop()
        self._slots: list[_Slot] = []
        self._idle: list[Worker] = []
        self._waiting: deque[asyncio.Future[Worker]] = deque()
        self._starting: set[asyncio.Task[None]] = set()
        self._failures = 0
        self._not_before = 0.0
        self._last_end = ""
        self._growing: asyncio.TimerHandle | None = None
        self._shrinking: asyncio.TimerHandle | None = None
        self._unneeded = 0
        """Workers that were idle all the time since somebody last looked."""
        self._excused: tuple[Worker, asyncio.Event] | None = None
        """The worker that is called with made-up inputs, and whether that call is over."""
        self.excused = 0
        """How often a worker was."""
        self.attempts: dict[tuple[Any, ...], dict[str, wire.Array] | str] = {}
        """What came of made-up inputs, by their names, types and shapes: outputs, or what was raised."""
        self._over: str | None = None
        self._opening = self._loop.create_task(self._open(), name="sidekick-opening")
        # Whoever wants to know asks for it; when everybody has gone it is not an error that nobody saw.
        self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def opened(self) -> None:
        """Wait until the first worker has imported the code. Raises LoadError, which leaves naming to the caller."""
        await asyncio.shield(self._opening)

    def join(self, name: str) -> None:
        """Be used by a model of this name, until `leave`; several may have the same name."""
        self._names.append(name)
        self._model = name
        self._shared.changed()

    def leave(self, name: str) -> bool:
        """Be used once less under this name; whether somebody is left."""
        self._names.remove(name)
        if self._names:
            self._model = self._names[-1]
        self._shared.changed()
        return bool(self._names)

    async def take(self, deadline: float, seconds: float) -> Worker:
        """A worker that is this caller's until the call that it begins is over.

        deadline: on the loop's clock. Raises SidekickFailed, SidekickTimedOut and Overloaded, which leave naming to the
        caller.
        """
        while True:
            worker = await self._next(deadline, seconds)
            if not worker.ended:
                return worker

    def excuse(self, worker: Worker) -> None:
        """Count it as no failure when this worker ends in the call that begins now. One worker at a time."""
        self._excused = worker, asyncio.Event()
        self.excused += 1

    async def recovered(self) -> None:
        """Wait until the excused call is over, and a worker is there that has imported the code."""
        if self._excused is None:
            return
        _, over = self._excused
        seconds = self._settings.start_seconds
        with contextlib.suppress(SidekickFailed, SidekickTimedOut, Overloaded, TimeoutError):
            async with asyncio.timeout(seconds):
                await over.wait()
            self._hand_on(await self.take(self._loop.time() + seconds, seconds))

    def end(self, why: str = "it is not used any more") -> None:
        """Kill all workers. Calls that are under way or waiting fail with `why`."""
        self._over = why
        for timer in (self._growing, self._shrinking):
            if timer is not None:
                timer.cancel()
        for slot in self._slots:
            if slot.worker is not None:
                slot.worker.kill(why)
        self._refuse_waiting(why)

    async def close(self, why: str) -> None:
        """End, and wait until starts that were under way have been given up."""
        self.end(why)
        await asyncio.gather(self._opening, *self._starting, return_exceptions=True)

    def report(self) -> list[dict[str, Any]]:
        """One entry for each model that uses the workers, by name, and each worker."""
        return [
            {
                "name": f"sidekick-{name}-{slot.number}",
                "model": name,
                "sha256": self._sha256,
                "pid": slot.worker.pid if slot.worker else None,
                "status": slot.status,
                "restarts": max(0, slot.starts - 1),
                "reason": slot.reason,
            }
            for name in dict.fromkeys(self._names)
            for slot in self._slots
        ]

    def renamed(self, message: str, name: str) -> str:
        """A message of a worker with its traceback's files as those of the model `name`."""
        return message.replace(f'File "{self._told}/', f'File "{name}/')

    # Callers and workers are brought together

    async def _next(self, deadline: float, seconds: float) -> Worker:
        if self._over is not None:
            raise SidekickFailed(self._over)
        if self._idle:
            worker = self._idle.pop()
            self._unneeded = min(self._unneeded, len(self._idle))
            return worker
        if hopeless := self._hopeless():
            raise SidekickFailed(hopeless)
        if len(self._waiting) >= self._settings.queued:
            waiting = len(self._waiting)
            raise Overloaded(f"{waiting} requests wait for a worker already")
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
                self._hand_on(turn.result())  # it came in the moment that the caller went
            if isinstance(error, TimeoutError):
                raise SidekickTimedOut(f"no worker was free within {seconds:g} s") from None
            raise

    def _free(self, worker: Worker) -> None:
        """A worker has imported the code, or is done with a call."""
        self._is_excused(worker)
        slot = self._slot_of(worker)
        if slot.status == "Starting":
            slot.status = "Running"
            self._shared.emit("sidekick_started", model=self._model, pid=worker.pid)
            self._shared.changed()
        else:
            self._failures = 0
        self._hand_on(worker)

    def _hand_on(self, worker: Worker) -> None:
        if worker.ended:
            return
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(worker)
                return
        self._idle.append(worker)

    def _refuse_waiting(self, why: str) -> None:
        for turn in self._waiting:
            if not turn.done():
                turn.set_exception(SidekickFailed(why))
        self._waiting.clear()

    # Workers come

    async def _open(self) -> None:
        await self._start(self._place())
        self._grow()

    def _place(self, slot: _Slot | None = None) -> _Slot:
        """A slot, this one or a new one, with a worker that is to be started."""
        if slot is None:
            taken = {slot.number for slot in self._slots}
            slot = _Slot(next(n for n in range(1, len(taken) + 2) if n not in taken))
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
        load = {"op": "load", "id": 0, "name": self._told}
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
            raise LoadError("SidekickUnavailable", what, transient=True) from error
        except WorkerEnded as error:
            what = f"when it was imported, {error}"
            raise LoadError("SidekickCrashed", what) from error
        except WorkerTimedOut as error:
            what = f"it was not imported within {seconds:g} s"
            raise LoadError("SidekickTimedOut", what) from error
        if frame.header["op"] != "ready":
            if frame.header.get("transient"):
                raise LoadError("SidekickUnavailable", frame.message, transient=True)
            reason = "SidekickCrashed" if frame.header.get("retire") else "InvalidCode"
            raise LoadError(reason, frame.message)
        self.entry = str(frame.header.get("entry"))

    def _start_later(self, slot: _Slot) -> None:
        async def start() -> None:
            with contextlib.suppress(LoadError):  # what happened is in the slot, by way of `_lost`
                await self._start(slot)

        task = self._loop.create_task(start(), name="sidekick-start")
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

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
        if self._shrinking is None and len(self._slots) > self._settings.prestart:
            self._look_later()

    def _wake(self) -> None:
        # A timer may fire a little before its time, and is not asked twice.
        self._not_before = 0.0
        self._grow()

    # Workers go

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
        excused = self._is_excused(worker)
        if self._over is not None:
            return
        self._shared.emit("sidekick_ended", model=self._model, pid=worker.pid, reason=cause)
        if excused:
            self._grow()
            self._shared.changed()
            return
        self._last_end = cause
        delay = min(FIRST_DELAY * 2**self._failures, LONGEST_DELAY)
        self._failures += 1
        self._not_before = self._loop.time() + delay
        if self._growing is not None:
            self._growing.cancel()
        self._growing = self._loop.call_at(self._not_before, self._wake)
        if hopeless := self._hopeless():
            self._refuse_waiting(hopeless)
        self._shared.changed()

    def _is_excused(self, worker: Worker) -> bool:
        """Whether it was until now; the call that it was excused for is over."""
        if self._excused is None or self._excused[0] is not worker:
            return False
        self._excused[1].set()
        self._excused = None
        return True

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

    def _look_later(self) -> None:
        self._unneeded = len(self._idle)
        self._shrinking = self._loop.call_later(self._settings.idle_seconds, self._shrink)

    def _shrink(self) -> None:
        """End the workers beyond those kept running that nobody has needed since the last look."""
        self._shrinking = None
        live = sum(slot.worker is not None for slot in self._slots)
        for _ in range(min(self._unneeded, live - self._settings.prestart)):
            self._retire(self._idle.pop(0))
        if len(self._slots) > self._settings.prestart:
            self._look_later()
        self._shared.changed()

    def _retire(self, worker: Worker) -> None:
        slot = self._slot_of(worker)
        self._slots.remove(slot)
        worker.retire(self._retired)

    def _retired(self, worker: Worker, cause: str) -> None:
        self._shared.living.discard(worker)
        self._shared.ended.set()
        self._shared.emit("sidekick_ended", model=self._model, pid=worker.pid, reason=cause)

    def _slot_of(self, worker: Worker) -> _Slot:
        return next(slot for slot in self._slots if slot.worker is worker)

    def _printed(self, worker: Worker, line: str) -> None:
        self._shared.emit("sidekick_output", model=self._model, pid=worker.pid, line=line)
