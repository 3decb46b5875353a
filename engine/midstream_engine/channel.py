"""A symmetrical line of talk between two processes over one inherited socket.

Newline-delimited JSON: `{"method", "params"}` notifies, `{"id", "method", "params"}` asks, `{"id", "result"}` or
`{"id", "error"}` answers. Guarantees: messages arrive in the order sent; handlers that are plain functions run in that
order; the end of the peer, however it came, ends the channel. It does not reconnect and does not
authenticate: a socket pair has exactly one peer.
"""

import asyncio
import itertools
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self, cast

Handler = Callable[[dict[str, Any]], Any | Awaitable[Any]]

MAX_LINE_BYTES = 64 * 1024 * 1024
"""A longer message is not sent, and one that comes in ends the channel."""

MAX_UNSENT_BYTES = 8 * 1024 * 1024
"""With more than this unsent, of each kind of notification only the newest is kept for later."""

_CLOSE_SECONDS = 1.0
_encoded = json.JSONEncoder(separators=(",", ":")).encode
"""Made once: `json.dumps` makes an encoder for each message, unless it is the default one."""

_log = logging.getLogger(__name__)


class ChannelClosed(Exception):
    """The peer is gone, or this end was closed."""


class ChannelError(Exception):
    """The peer received the call and answered with an error, or the call cannot be sent."""


class Channel(asyncio.Protocol):
    """One end. Made by `open`; used from the event loop that opened it only."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self.closed = asyncio.Event()
        self._handlers = dict(handlers)
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._searched = 0
        self._ids = itertools.count(1)
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._late: dict[str, bytes] = {}
        self._paused = False
        self._closer: asyncio.Task[Any] | None = None

    @classmethod
    async def open(
        cls, sock_or_fd: socket.socket | int, handlers: Mapping[str, Handler]
    ) -> "Channel":
        """Take over a connected Unix stream socket, or the number of an inherited one.

        `handlers` maps a method to a function of its params; what it returns, awaited if need be, is the answer, and
        what it raises becomes the caller's `ChannelError`. The channel owns the socket from here on.
        """
        sock = socket.socket(fileno=sock_or_fd) if isinstance(sock_or_fd, int) else sock_or_fd
        sock.set_inheritable(False)  # a grandchild holding it would hide our end from the peer
        sock.settimeout(0)
        loop = asyncio.get_running_loop()
        channel = cls(handlers)
        await loop.create_unix_connection(lambda: channel, sock=sock)
        return channel

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Send without waiting for anything.

        Never blocks, and does nothing when the peer is gone. When the peer does not read, the newest notification of
        each method is kept and sent once it reads again; older ones are dropped.
        """
        if self._transport is None or self.closed.is_set():
            return
        line = _line({"method": method, "params": params})
        if len(line) > MAX_LINE_BYTES:
            _log.warning("channel_message_too_long method=%s bytes=%d", method, len(line))
        elif self._paused:
            self._late.pop(method, None)
            self._late[method] = line
        else:
            self._transport.write(line)

    async def call(self, method: str, params: Mapping[str, Any], timeout: float = 5.0) -> Any:  # noqa: ASYNC109 - part of the contract: a call without a deadline would outlive a stuck peer
        """Ask and wait for the answer; `timeout` in seconds.

        Raises:
            ChannelClosed: the peer is gone or goes before it answers.
            ChannelError: the peer's handler failed, or the message is too long to send.
            TimeoutError: no answer in time; a late one is dropped.
        """
        if self._transport is None or self.closed.is_set():
            raise ChannelClosed(f"cannot call {method}: the channel is closed")
        number = next(self._ids)
        line = _line({"id": number, "method": method, "params": params})
        if len(line) > MAX_LINE_BYTES:
            raise ChannelError(f"{method}: {len(line)} bytes, at most {MAX_LINE_BYTES} can be sent")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._calls[number] = answer
        self._transport.write(line)
        try:
            async with asyncio.timeout(timeout):
                return await answer
        finally:
            del self._calls[number]

    async def close(self) -> None:
        """Send what is still unsent, for at most a second, and end. Running handlers are cancelled."""
        if self._transport is None:
            return
        if self._late and not self.closed.is_set():
            self.resume_writing()
        self._closer = asyncio.current_task()
        self._transport.close()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.closed.wait()
        except TimeoutError:
            self._transport.abort()
            await self.closed.wait()
        if others := self._tasks - {self._closer}:
            await asyncio.wait(others)

    # What follows is called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, not a check: uvloop's transports do not derive from asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=MAX_UNSENT_BYTES)

    def connection_lost(self, _exc: Exception | None) -> None:
        self.closed.set()
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(ChannelClosed("the peer went away before it answered"))
        for task in self._tasks:
            if task is not self._closer:
                task.cancel()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        late, self._late = self._late, {}
        for line in late.values():
            if self._transport is not None:
                self._transport.write(line)

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        start = 0
        while (end := received.find(b"\n", max(start, self._searched))) >= 0:
            self._take(received[start:end])
            start = end + 1
        del received[:start]
        self._searched = len(received)
        if len(received) > MAX_LINE_BYTES:
            self._break(f"a message of more than {MAX_LINE_BYTES} bytes")

    def _take(self, line: bytearray) -> None:
        if self.closed.is_set():
            return
        try:
            message = json.loads(line)
            params = message.get("params", {})
        except (ValueError, AttributeError):
            self._break("a line that is not a JSON object")
            return
        if "method" in message:
            self._dispatch(message["method"], params, message.get("id"))
            return
        answer = self._calls.get(message.get("id"))
        if answer is None or answer.done():
            return  # the caller has given up
        if "error" in message:
            answer.set_exception(ChannelError(message["error"]))
        else:
            answer.set_result(message.get("result"))

    def _dispatch(self, method: str, params: dict[str, Any], number: int | None) -> None:
        handler = self._handlers.get(method)
        if handler is None:
            self._answer(number, method, error=f"unknown method {method!r}")
            return
        try:
            result = handler(params)
        except Exception as error:  # noqa: BLE001 - a failing handler must not end the channel
            self._failed(number, method, error)
            return
        if not isinstance(result, Awaitable):
            self._answer(number, method, result)
            return
        task = asyncio.ensure_future(self._wait_for(result, method, number))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _wait_for(self, result: Awaitable[Any], method: str, number: int | None) -> None:
        try:
            self._answer(number, method, await result)
        except Exception as error:  # noqa: BLE001 - a failing handler must not end the channel
            self._failed(number, method, error)

    def _failed(self, number: int | None, method: str, error: Exception) -> None:
        _log.error("channel_handler_failed method=%s", method, exc_info=error)
        self._answer(number, method, error=f"{type(error).__name__}: {error}")

    def _answer(
        self, number: int | None, method: str, result: Any = None, error: str | None = None
    ) -> None:
        if number is None:
            if error is not None:
                _log.warning("channel_notification_failed method=%s error=%s", method, error)
            return
        if self._transport is None or self.closed.is_set():
            return
        try:
            answer = {"id": number, "result": result}
            line = _line(answer if error is None else {"id": number, "error": error})
        except (TypeError, ValueError) as unsendable:
            line = _line({"id": number, "error": f"{method}: the answer is not JSON: {unsendable}"})
        if len(line) > MAX_LINE_BYTES:
            line = _line({"id": number, "error": f"{method}: the answer is too long to send"})
        self._transport.write(line)

    def _break(self, why: str) -> None:
        _log.error("channel_broken: received %s", why)
        self._received.clear()
        if self._transport is not None:
            self._transport.abort()


def _line(message: Mapping[str, Any]) -> bytes:
    return _encoded(message).encode() + b"\n"
