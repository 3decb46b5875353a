"""The hot path: inference answered straight from uvicorn's HTTP parser, with everything else left to uvicorn.

A plain ASGI application costs more than reading, running and answering together, so `POST /infer` and
`POST /pipelines/{name}` are taken out of the parser's callbacks before ASGI starts (measured in `benchmarks/`). All
other requests, and those that arrive while an answer on the same connection is still due (HTTP pipelining), go
uvicorn's own way and reach the same data plane through `server.App`.

Guarantees: answers leave in the order of their requests; what one connection can make the engine keep is bounded in
bytes and in time; nothing that a client sends raises. This builds on uvicorn's class: its version is pinned, and
`tests/engine/test_http.py` names every part of it that is used.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from midstream_engine.dataplane import Answer
from midstream_engine.errors import (
    BodyTooLarge,
    HeadTooLarge,
    InternalError,
    InvalidHTTP,
    Overloaded,
    RequestError,
    TooSlow,
)
from midstream_engine.request import HEADERS, Headers, Request, Target
from midstream_engine.web.gate import Gate

_LARGE = 64 << 10
"""Bytes of a body that is handed to the socket as it is; smaller ones are copied behind their head."""

_LINGER_SECONDS = 2.0
"""How long the rest of a refused request is read and dropped, so that the client sees the answer and not a reset."""

_MAX_HEAD = 64 << 10
"""Bytes of a request that arrive one after the other and are no body."""

_MAX_PIPELINED = 256
"""Requests that wait on one connection behind another one's answer."""

MAX_TRACE = 100
"""Characters of a `traceparent` that is sent back; the standard's form has 55."""

_UPGRADE = (b"upgrade", b"http2-settings")

_log = logging.getLogger(__name__)


class _Flow(FlowControl):
    """Reads no further while requests are queued, or while the client does not take its answers.

    uvicorn resumes reading with every answer, so that a client could queue faster than it is answered.
    """

    def __init__(self, transport: asyncio.Transport, queue: deque[Any]) -> None:
        super().__init__(transport)
        self._queue = queue

    def resume_reading(self) -> None:
        if not self._queue and not self.write_paused:
            super().resume_reading()


class _Pending:
    """Stands where uvicorn keeps its request cycle while an answer of ours is due, so that it queues what follows."""

    def __init__(self, keep_alive: bool) -> None:
        self.response_complete = False
        self.disconnected = False
        self.keep_alive = keep_alive
        self.more_body = False
        self.body = bytearray()
        self.message_event = asyncio.Event()


class HotProtocol(HttpToolsProtocol):
    """One connection. Bound to its Gate by `bound_to`."""

    gate: Gate

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        # Of the request that arrives
        self._receiving = False
        self._hot = False
        """It is answered here."""
        self._cold = False
        """uvicorn has a cycle for it."""
        self._upgrading = False
        self._target: Target | None = None
        self._body: bytes | bytearray = b""
        self._size = 0
        self._moved = False
        """It began, or some of its body came, since the last look."""
        self._bare = 0
        """Bytes without any body since then."""
        self._keep_alive = True
        self._head = Headers()
        # Of the connection
        self._closing = False
        """The engine stops: the request that arrives is the last one."""
        self._dropping = False
        """Nothing that arrives is looked at any more."""
        self._last_words: bytes | None = None
        """A refusal whose turn has not come: answers to earlier requests are due."""
        self._task: asyncio.Task[None] | None = None
        self._unsent = 0
        self._since = self._taken = self.loop.time()
        """When the connection fell idle, or the request that is arriving began; when the client last took bytes."""
        if len(self.connections) > self.gate.settings.max_connections:
            self._refuse(
                Overloaded(
                    f"{len(self.connections)} connections are open already; try again in a second"
                )
            )

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_body()
        self._dropping = True
        if self._task is not None:
            self._task.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        if self._dropping:
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrades(data, upgrade)
        except httptools.HttpParserError as error:
            self._not_understood(error)
        if self._receiving:
            self._bound_head(len(data))

    # Parser callbacks

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._hot = False
        self._cold = False
        self._receiving = True
        self._moved = True
        self._since = self.loop.time()
        self._head = Headers()

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.headers.append((name, value))
        kept = HEADERS.get(name)
        if kept is not None:
            setattr(self._head, kept, value)
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True

    def on_headers_complete(self) -> None:
        parser = self.parser
        if self._dropping:
            self._hot = True
            return
        if parser.should_upgrade():
            self._upgrading = True
            return
        busy = self.cycle is not None and not self.cycle.response_complete
        self._target = None
        if not busy and parser.get_method() == b"POST":
            self._target = self.gate.target(self.url)
        if self._target is None:
            self._give_to_uvicorn()
            return
        self._hot = True
        self._keep_alive = parser.should_keep_alive()
        length = _content_length(self.headers)
        if length is not None and length > self.gate.settings.max_body:
            self._too_large(length)
        elif self.expect_100_continue and parser.get_http_version() != "1.0":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._moved = True
        if not self._hot:
            super().on_body(body)
            return
        if self._dropping:
            return
        if not self._size:
            self._body = body
        else:
            # One growing block: a list of many small pieces would take many times the bytes that are counted.
            if type(self._body) is bytes:
                self._body = bytearray(self._body)
            self._body += body
        gate = self.gate
        self._size += len(body)
        gate.counts.buffered += len(body)
        if self._size > gate.settings.max_body:
            self._too_large(self._size)
        elif gate.counts.buffered > gate.settings.max_buffered:
            self._refuse(
                Overloaded("too many request bodies are arriving at once; try again in a second")
            )

    def on_message_complete(self) -> None:
        if self._upgrading:
            return
        self._receiving = False
        if not self._hot:
            super().on_message_complete()
            return
        if self._dropping:
            return
        body = self._body
        self._forget_body()
        assert self._target is not None
        head = self._head
        result = self.gate.plane.infer(
            Request(self._target, body if type(body) is bytes else bytes(body), head)
        )
        keep = self._keep_alive and not self._closing
        if type(result) is Answer:
            self._write(result, keep, head.trace)
        else:
            self._answer_later(result, keep)  # type: ignore[arg-type]

    # What is not for the hot path

    def _give_to_uvicorn(self) -> None:
        if len(self.pipeline) >= _MAX_PIPELINED:
            # Enough: answer these, then close. Clients send what got no answer again.
            self.cycle.keep_alive = False
            self._drop()
            return
        url, headers = self.url, self.headers
        expected = self.expect_100_continue
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers)
        self.expect_100_continue = expected
        try:
            super().on_headers_complete()
        except (httptools.HttpParserError, AttributeError, ValueError, TypeError):
            # What uvicorn and httptools do with a target that has no path, or one that is not ASCII.
            self._refuse(InvalidHTTP("the request's target is not a path"))
            return
        self._cold = True
        if self._closing:
            self.cycle.keep_alive = False

    def _ignore_upgrades(self, data: bytes, upgrade: httptools.HttpParserUpgrade) -> None:
        """Take requests with an `Upgrade` (h2c, websocket) as if it were not there, which HTTP allows.

        The parser stops behind their head, for what follows it takes to be another protocol's.
        """
        rest = memoryview(data)
        again: httptools.HttpParserUpgrade | None = upgrade
        while again is not None:
            rest = rest[again.args[0] :]
            again = None
            self._upgrading = False
            method, version = self.parser.get_method(), self.parser.get_http_version()
            if method == b"CONNECT":
                self._refuse(InvalidHTTP("this is no proxy: CONNECT is not supported"))
                return
            head = [b"%b %b HTTP/%b\r\n" % (method, self.url, version.encode())]
            head += [b"%b: %b\r\n" % pair for pair in _without_upgrade(self.headers)]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            try:
                self.parser.feed_data(b"".join(head) + b"\r\n")
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as error:
                again = error
            except httptools.HttpParserError as error:
                self._not_understood(error)

    def _not_understood(self, error: httptools.HttpParserError) -> None:
        if self._dropping:
            return
        if isinstance(error, httptools.HttpParserCallbackError):
            _log.error("a callback of the HTTP parser raised", exc_info=error)
            self._refuse(InternalError("the engine failed on this request; its log says why"))
            return
        self._refuse(InvalidHTTP(f"this is not an HTTP/1.1 request: {str(error)[:100]}"))

    def _bound_head(self, size: int) -> None:
        """Refuse a head, or trailers, without end. Called for what left a request incomplete."""
        if self._moved:
            self._moved = False
            self._bare = 0
            return
        self._bare += size
        if self._bare > _MAX_HEAD:
            self._refuse(HeadTooLarge(f"the request's head has more than {_MAX_HEAD} bytes"))

    # Answering

    def _write(self, answer: Answer, keep: bool, trace: bytes) -> None:
        body = answer.body
        large = len(body) > _LARGE
        head = b"%b%b%b%b%bcontent-length: %d\r\n\r\n%b" % (
            STATUS_LINE[answer.status],
            self.gate.default_headers(self.server_state.default_headers),
            answer.headers,
            b"traceparent: %b\r\n" % trace if 0 < len(trace) <= MAX_TRACE else b"",
            b"" if keep else b"connection: close\r\n",
            len(body),
            b"" if large else body,
        )
        if large:
            self.transport.writelines((head, body))
        else:
            self.transport.write(head)
        self.server_state.total_requests += 1
        self._since = self.loop.time()
        if not keep:
            self._dropping = True
            self.transport.close()

    def _answer_later(self, coming: Coroutine[Any, Any, Answer], keep: bool) -> None:
        self.cycle = pending = _Pending(keep)  # type: ignore[assignment]
        self.flow.pause_reading()
        self._task = task = self.loop.create_task(self._wait(coming, pending, self._head.trace))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _wait(
        self, coming: Coroutine[Any, Any, Answer], pending: _Pending, trace: bytes
    ) -> None:
        answer = await coming
        self._task = None
        if pending.disconnected or self.transport.is_closing():
            return
        pending.response_complete = True
        self._write(answer, pending.keep_alive, trace)
        # Resumes reading and starts what was queued behind us.
        self.on_response_complete()

    def on_response_complete(self) -> None:
        self._since = self.loop.time()
        if self._last_words is not None and not self.pipeline:
            if not self.transport.is_closing():
                self._say(self._last_words)
            return
        super().on_response_complete()

    def _too_large(self, size: int) -> None:
        limit = self.gate.settings.max_body
        self._refuse(
            BodyTooLarge(
                f"the body has {size} bytes or more; at most {limit} are taken: send fewer rows"
            )
        )

    def _refuse(self, error: RequestError) -> None:
        """Answer a request that is not complete, when its turn comes; look at nothing more, then close."""
        own = self._cold and self._receiving
        self._drop()
        answer = self.gate.plane.refuse(error)
        words = b"%b%b%bconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (
            STATUS_LINE[answer.status],
            self.gate.default_headers(self.server_state.default_headers),
            answer.headers,
            len(answer.body),
            answer.body,
        )
        cycle = self.cycle
        if own and (cycle.response_started or cycle.response_complete):
            self.transport.close()  # it has its answer
        elif own and self.pipeline:
            self.pipeline.popleft()
            self._last_words = words
        elif own:
            cycle.disconnected = True  # the application gives up
            cycle.message_event.set()
            self._say(words)
        elif cycle is not None and not cycle.response_complete:
            self._last_words = words
        else:
            self._say(words)

    def _say(self, words: bytes) -> None:
        """Answer for the last time; read and drop for a moment, so that the answer is not lost to a reset."""
        self.transport.write(words)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def _drop(self) -> None:
        """Look at nothing that arrives from now on."""
        self._forget_body()
        self._dropping = True
        self._receiving = False
        self._hot = True

    def _forget_body(self) -> None:
        self.gate.counts.buffered -= self._size
        self._body = b""
        self._size = 0

    # Life of the connection

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep a connection that the client has closed on its side while answers are due."""
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy and not self._receiving:
            self.cycle.keep_alive = False
            return True
        return False

    def sweep(self, now: float) -> None:
        """Close what is idle, arrives or is taken too slowly. Called about once a second."""
        settings = self.gate.settings
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent < self._unsent:
            self._taken = now
        self._unsent = unsent
        if unsent and now - self._taken > settings.receive_seconds:
            self.transport.abort()
            return
        if self._dropping:
            return
        busy = self.cycle is not None and not self.cycle.response_complete
        if self._receiving:
            # Behind an answer that is due nothing is read: that is not the client's doing.
            waits = not busy or (self._cold and not self.pipeline)
            if waits and now - self._since > settings.receive_seconds and not self.flow.read_paused:
                self._refuse(
                    TooSlow(f"the request was not complete after {settings.receive_seconds:g} s")
                )
        elif not busy and now - self._since > settings.keep_alive_seconds:
            self.transport.close()

    def shutdown(self) -> None:
        if not self._receiving:
            super().shutdown()
            return
        self._closing = True
        if self._cold:
            self.cycle.keep_alive = False

    def pause_writing(self) -> None:
        """The client does not read its answers: read no more of its requests."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._task is None:
            self.flow.resume_reading()


def bound_to(gate: Gate) -> type[HotProtocol]:
    """The protocol class that uvicorn makes connections from, tied to a gate."""
    return type("BoundHotProtocol", (HotProtocol,), {"gate": gate})


def _content_length(headers: list[tuple[bytes, bytes]]) -> int | None:
    for name, value in headers:
        if name == b"content-length":
            return int(value)
    return None


def _without_upgrade(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    kept = []
    for name, value in headers:
        if name == b"connection":
            tokens = [token.strip() for token in value.lower().split(b",")]
            tokens = [token for token in tokens if token not in _UPGRADE]
            kept.append((name, b", ".join(tokens) or b"keep-alive"))
        elif name not in _UPGRADE:
            kept.append((name, value))
    return kept
