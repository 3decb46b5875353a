"""A Python model that can be called: packs inputs, has a worker run the code, and unpacks what it gave."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import CancelledError, Executor
from dataclasses import dataclass
from typing import Any, TypeVar

from midstream_engine.errors import RequestError, SidekickFailed, SidekickTimedOut
from midstream_engine.sidekicks import wire
from midstream_engine.sidekicks.crew import Crew
from midstream_engine.sidekicks.process import Frame, Worker, WorkerEnded, WorkerTimedOut
from midstream_engine.sidekicks.wire import Array, FrameError, Parts

MAX_REQUEST_BYTES = 256 << 20
_MANY = 32 << 10
"""Texts; more are packed and unpacked in a thread."""
_MANY_BYTES = 256 << 10
"""Of an answer with text; the same."""

_MOST_ATTEMPTS = 16

Answer = TypeVar("Answer")


class SidekickMisfit(SidekickFailed):
    """It answered, but with what can be no model's answer. No request is told so: see `Sidekick.attempt_blocking`."""


@dataclass(frozen=True, slots=True)
class Threads:
    """The event loop, its thread, and the one that packs what is large."""

    loop: asyncio.AbstractEventLoop
    ident: int
    packing: Executor

    def blocking(self, call: Coroutine[Any, Any, Answer]) -> Answer:
        """Run it on the event loop, and wait for it in another thread."""
        if threading.get_ident() == self.ident:
            call.close()
            raise RuntimeError("this would block the event loop that it waits for")
        try:
            return asyncio.run_coroutine_threadsafe(call, self.loop).result()
        except CancelledError:
            raise SidekickFailed("the engine is stopping") from None


class Sidekick:
    """One model's code, ready to be called; models of equal code share a crew. Made and ended by `Sidekicks`."""

    def __init__(
        self, name: str, crew: Crew, threads: Threads, sha256: str, max_answer: int
    ) -> None:
        self.name = name
        """The model's."""
        self.sha256 = sha256
        self.crew = crew
        self._threads = threads
        self._max_answer = max_answer

    @property
    def entry(self) -> str:
        """Which function the code has: `process` or `wallaroo_json`."""
        return self.crew.entry

    async def call(
        self, inputs: Mapping[str, Array], rows: int, seconds: float
    ) -> dict[str, Array]:
        """The outputs for these inputs; arrays have `rows` rows on both sides.

        inputs: in the order of the fields in the first row, which `wallaroo_json` sees. seconds: the longest it may
        take, waiting for a worker included. Outputs are what the code gave: whether they have the wanted names and
        types is the caller's question. Raises SidekickFailed, SidekickTimedOut and Overloaded.
        """
        return await self._call(inputs, rows, seconds, attempt=False)

    async def _call(
        self, inputs: Mapping[str, Array], rows: int, seconds: float, *, attempt: bool
    ) -> dict[str, Array]:
        loop, crew = self._threads.loop, self.crew
        deadline = loop.time() + seconds
        number = next(crew.numbers)
        header = {"op": "call", "id": number, "rows": rows, "limit": self._max_answer}
        try:
            parts = await self._packed(header, inputs)
            worker = await self._turn(deadline, seconds)
            if attempt:
                crew.excuse(worker)
            # A worker has its full time, also for a caller that has waited for it and leaves earlier: one that is
            # merely in demand must not be killed.
            answer = worker.begin(number, parts, seconds)
            async with asyncio.timeout_at(deadline):
                frame = await answer
            if frame.header["op"] != "answer":
                misfit = attempt and frame.header.get("misfit") is True
                kind = SidekickMisfit if misfit else SidekickFailed
                raise kind(self._said(crew.renamed(frame.message, self.name)))
            return _checked(await self._unpacked(frame), rows)
        except (WorkerTimedOut, TimeoutError) as error:
            what = self._said(f"it did not answer within {seconds:g} s")
            raise SidekickTimedOut(what) from error
        except (WorkerEnded, FrameError) as error:
            raise SidekickFailed(self._said(str(error))) from error

    async def _turn(self, deadline: float, seconds: float) -> Worker:
        try:
            return await self.crew.take(deadline, seconds)
        except RequestError as error:
            raise type(error)(self._said(error.message), reason=error.reason) from error

    def _said(self, what: str) -> str:
        return f"model {self.name!r}: {what}"

    def call_blocking(
        self, inputs: Mapping[str, Array], rows: int, seconds: float
    ) -> dict[str, Array]:
        """The same, from another thread than the event loop's."""
        return self._threads.blocking(self.call(inputs, rows, seconds))

    def attempt_blocking(
        self, inputs: Mapping[str, Array], rows: int, seconds: float
    ) -> dict[str, Array]:
        """The same for inputs that are made up: a worker that ends of them is replaced at once, and waited for.

        Code that is loaded already is not called again with inputs of these types and shapes, unless it gave what is no
        answer: then SidekickMisfit is raised.
        """
        return self._threads.blocking(self._attempt(inputs, rows, seconds))

    async def _attempt(
        self, inputs: Mapping[str, Array], rows: int, seconds: float
    ) -> dict[str, Array]:
        crew, own = self.crew, self._said("")
        key = tuple((name, array.dtype.str, array.shape) for name, array in inputs.items())
        known = crew.attempts.get(key)
        if isinstance(known, dict):
            return known
        if known is not None:
            raise SidekickFailed(own + known)
        if len(crew.attempts) >= _MOST_ATTEMPTS:
            crew.attempts.clear()
        before = crew.excused
        try:
            answer = await self._call(inputs, rows, seconds, attempt=True)
        except RequestError as error:
            await crew.recovered()
            # Where it had no turn it has not been tried.
            if crew.excused != before and not isinstance(error, SidekickMisfit):
                crew.attempts[key] = error.message.removeprefix(own)
            raise
        crew.attempts[key] = answer
        return answer

    async def _packed(self, header: dict[str, Any], inputs: Mapping[str, Array]) -> Parts:
        if sum(array.size for array in inputs.values() if array.dtype == object) < _MANY:
            return wire.encode(header, inputs, MAX_REQUEST_BYTES)
        return await self._apart(wire.encode, header, inputs, MAX_REQUEST_BYTES)

    async def _unpacked(self, frame: Frame) -> dict[str, Array]:
        if len(frame.data) < _MANY_BYTES or '"string"' not in str(
            frame.data[: frame.start], "utf-8"
        ):
            return wire.arrays_of(frame.header, frame.data, frame.start)
        return await self._apart(wire.arrays_of, frame.header, frame.data, frame.start)

    async def _apart(self, work: Callable[..., Answer], *arguments: Any) -> Answer:
        return await self._threads.loop.run_in_executor(self._threads.packing, work, *arguments)


def _checked(outputs: dict[str, Array], rows: int) -> dict[str, Array]:
    """The worker has looked already, but what came over a socket is looked at again."""
    for name, array in outputs.items():
        if not array.shape or array.shape[0] != rows:
            raise FrameError(f"output {name!r} has the shape {list(array.shape)} for {rows} rows")
    return outputs
