"""A worker as the engine sees it: one connection, one call at a time.

Guarantees: every call ends, with an answer, with what the code raised, or with the process; a caller that goes away
leaves the connection in step, because the answer is still waited for and dropped; a worker that takes too long, says
what it should not, or says too much is killed with its whole process group.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from midstream_engine.sidekicks import wire
from midstream_engine.sidekicks.handle import Handle, Starter
from midstream_engine.sidekicks.output import Output
from midstream_engine.sidekicks.wire import FrameError, Header, Parts

MAX_MESSAGE_CHARACTERS = 4000

_REPLIES = ("answer", "failed", "ready", "refused")


class WorkerEnded(Exception):
    """The process ended before the call did; the text says how."""


class WorkerTimedOut(Exception):
    """The call took too long, and the process was killed."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What a worker has answered."""

    header: Header
    data: memoryview
    start: int
    """Of the buffers in `data`."""

    @property
    def message(self) -> str:
        return str(self.header.get("message"))[:MAX_MESSAGE_CHARACTERS]


class Worker(asyncio.BufferedProtocol):
    """Made by `start`, used on the event loop that made it.

    on_free: called when a call is over and the next one may begin. on_end: called once, when the process has ended,
    with a sentence on how.
    """

    def __init__(
        self,
        limit: int,
        on_free: Callable[["Worker"], None],
        on_end: Callable[["Worker", str], None],
    ) -> None:
        self.ended = False
        self._limit = limit
        self._on_free = on_free
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._handle: Handle | None = None
        self._output: Output | None = None
        self._transport: asyncio.Transport | None = None
        self._cause: str | None = None
        self._number = 0
        self._answer: asyncio.Future[Frame] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._prefix = memoryview(bytearray(wire.PREFIX_BYTES))
        self._header_bytes = 0
        self._expect(self._prefix)

    async def start(self, starter: Starter, line: Callable[[str], None]) -> None:
        """Start the process. line: gets what it prints. Raises OSError."""
        ours, theirs = socket.socketpair()
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            self._handle = await starter.start(theirs, writing, self._process_ended)
        except BaseException:
            ours.close()
            os.close(reading)
            raise
        finally:
            theirs.close()
            os.close(writing)
        self._output = Output(reading, line)
        ours.settimeout(0)
        await self._loop.create_unix_connection(lambda: self, sock=ours)

    @property
    def pid(self) -> int | None:
        return self._handle.pid if self._handle else None

    @property
    def busy(self) -> bool:
        return self._answer is not None

    def begin(self, number: int, parts: Parts, seconds: float) -> "asyncio.Future[Frame]":
        """Send one message, and expect its answer within `seconds`.

        The future may be cancelled: then nobody gets the answer. It raises WorkerEnded and WorkerTimedOut.
        """
        answer: asyncio.Future[Frame] = self._loop.create_future()
        if self.ended or self._transport is None:
            answer.set_exception(WorkerEnded(self._cause or "it has ended"))
            return answer
        self._number, self._answer = number, answer
        self._timer = self._loop.call_later(seconds, self._too_late, seconds)
        self._transport.writelines(parts)
        return answer

    def kill(self, cause: str) -> None:
        """End the process and its group. cause: what callers are told."""
        if self._cause is None:
            self._cause = cause
        if self._handle is not None and not self.ended:
            self._handle.kill()

    def retire(self, on_end: Callable[["Worker", str], None]) -> None:
        """Kill an idle worker that nobody is to miss: `on_end` is called instead of the one given first."""
        self._on_end = on_end
        self.kill("it was not needed any more")

    def _too_late(self, seconds: float) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(WorkerTimedOut(f"it did not answer within {seconds:g} s"))
        self.kill(f"it did not answer within {seconds:g} s")

    def _process_ended(self, how: str) -> None:
        self.ended = True
        cause = self._cause or f"its process ended with {how}{_hint(how)}"
        if self._output is not None:
            self._output.close()
            if self._cause is None and (printed := self._output.last()):
                cause = f"{cause}; it had printed\n{printed}"
        self._cause = cause
        if self._transport is not None:
            self._transport.abort()
        if self._timer is not None:
            self._timer.cancel()
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(WorkerEnded(cause))
        self._on_end(self, cause)

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, not a check: uvloop's transports do not derive from asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        if self.ended:
            self._transport.abort()

    def connection_lost(self, _exc: Exception | None) -> None:
        # Either the process has ended or it has closed its end: it is of no use any more. How it ended is told by the
        # process, and a signal to one that is ending already does not change that.
        if self._handle is not None and not self.ended:
            self._handle.kill()

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._into[self._at :]

    def buffer_updated(self, nbytes: int) -> None:
        self._at += nbytes
        if self._at < len(self._into):
            return
        try:
            if self._into is self._prefix:
                self._header_bytes, buffer_bytes = wire.sizes(self._prefix, self._limit)
                self._expect(wire.room(self._header_bytes + buffer_bytes))
                return
            data = self._into
            self._expect(self._prefix)
            self._received(
                Frame(wire.header_of(data, self._header_bytes), data, self._header_bytes)
            )
        except wire.FrameTooLargeError as error:
            self._break(f"its answer is too large: {error}")
        except FrameError as error:
            self._break(f"something else than an answer was written to its connection ({error})")

    def _expect(self, into: memoryview) -> None:
        self._into, self._at = into, 0

    def _received(self, frame: Frame) -> None:
        header = frame.header
        if (
            self._answer is None
            or header.get("op") not in _REPLIES
            or header.get("id") != self._number
        ):
            raise FrameError("no answer to the question")
        answer, self._answer = self._answer, None
        if self._timer is not None:
            self._timer.cancel()
        if not answer.done():
            answer.set_result(frame)
        if header.get("retire") or header["op"] == "refused":
            self.kill(frame.message)
        if self._cause is None:
            self._on_free(self)

    def _break(self, cause: str) -> None:
        self.kill(cause)
        if self._transport is not None:
            self._transport.abort()


def _hint(how: str) -> str:
    if how != "signal SIGKILL":
        return ""
    return " (from outside: the kernel sends it when memory runs out, and any other process may)"
