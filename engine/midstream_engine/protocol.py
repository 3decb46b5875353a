"""The hot path: inference answered straight from uvicorn's HTTP parser, with everything else left to uvicorn.

A plain ASGI application costs more than reading, running and answering together, so `POST /infer` and
`POST /pipelines/{name}` are taken out of the parser's callbacks before ASGI starts (measured in `benchmarks/`). All other
requests, and those that arrive while an answer on the same connection is still due (HTTP pipelining), go uvicorn's own way
and reach the same data plane through `server.App`. This builds on uvicorn's class: its version is pinned, and `tests/engine/test_http.py` holds the behaviour.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any
from urllib.parse import unquote

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from midstream_engine.dataplane import Answer, DataPlane
from midstream_engine.errors import BodyTooLarge, Overloaded, RequestError
from midstream_engine.settings import Settings

_PREFIX = b"/pipelines/"
_LINGER_SECONDS = 2.0
"""How long the rest of a refused body is read and dropped, so that the client sees the answer and not a reset."""


class Gate:
    """What all connections of a listener share: limits, and the time by which they are swept."""

    def __init__(self, plane: DataPlane, settings: Settings) -> None:
        self.plane = plane
        self.settings = settings
        self.targets: dict[bytes, str | None] = {b"/infer": None}
        self.buffered = 0
        self._defaults: list[tuple[bytes, bytes]] | None = None
        self._default_bytes = b""

    def target(self, url: bytes) -> tuple[bool, str | None]:
        """Whether a URL is an inference path, and the pipeline it names."""
        if url in self.targets:
            return True, self.targets[url]
        if not url.startswith(_PREFIX) or b"?" in url:
            return False, None
        name = unquote(url[len(_PREFIX) :].decode("latin-1"))
        if not name or "/" in name:
            return False, None
        if len(self.targets) < 100:
            self.targets[url] = name
        return True, name

    def default_headers(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """uvicorn's own headers (date, server) as bytes; uvicorn makes a new list once a second."""
        if headers is not self._defaults:
            self._defaults = headers
            self._default_bytes = b"".join(b"%b: %b\r\n" % pair for pair in headers)
        return self._default_bytes


class _Pending:
    """Stands where uvicorn keeps its request cycle while an answer of ours is due, so that it queues what follows."""

    def __init__(self) -> None:
        self.response_complete = False
        self.disconnected = False
        self.keep_alive = True
        self.more_body = False
        self.body = bytearray()
        self.message_event = asyncio.Event()


class HotProtocol(HttpToolsProtocol):
    """One connection. Bound to its Gate by `bound_to`."""

    gate: Gate

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._hot = False
        self._name: str | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        self._receiving = False
        self._closing = False
        self._dropping = False
        self._keep_alive = True
        self._content_type = b""
        self._trace = b""
        self._task: asyncio.Task[None] | None = None
        self._since = self.loop.time()
        """When the connection fell idle, or the request that is arriving began."""
        if len(self.connections) > self.gate.settings.max_connections:
            self._refuse(
                Overloaded(f"{len(self.connections)} connections are open already; try again in a second")
            )

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_body()
        if self._task is not None:
            self._task.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._dropping:
            super().data_received(data)

    # Parser callbacks

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._hot = False
        self._receiving = True
        self._since = self.loop.time()
        self._content_type = b""
        self._trace = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.headers.append((name, value))
        if name == b"content-type":
            self._content_type = value
        elif name == b"traceparent":
            self._trace = value
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True

    def on_headers_complete(self) -> None:
        busy = self.cycle is not None and not self.cycle.response_complete
        hot = False
        if not busy and self.parser.get_method() == b"POST" and not self.parser.should_upgrade():
            hot, self._name = self.gate.target(self.url)
        if not hot:
            self._give_to_uvicorn()
            return
        self._hot = True
        self._keep_alive = self.parser.should_keep_alive()
        length = _content_length(self.headers)
        if length is not None and length > self.gate.settings.max_body:
            self._too_large(length)
        elif self.expect_100_continue:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        if not self._hot:
            super().on_body(body)
            return
        if self._dropping:
            return
        self._chunks.append(body)
        self._size += len(body)
        gate = self.gate
        gate.buffered += len(body)
        if self._size > gate.settings.max_body:
            self._too_large(self._size)
        elif gate.buffered > gate.settings.max_buffered:
            self._refuse(Overloaded("too many request bodies are arriving at once; try again in a second"))

    def on_message_complete(self) -> None:
        self._receiving = False
        if not self._hot:
            super().on_message_complete()
            return
        if self._dropping:
            return
        chunks = self._chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._forget_body()
        result = self.gate.plane.infer(self._name, self._content_type, body)
        if type(result) is Answer:
            self._write(result)
        else:
            self._answer_later(result)  # type: ignore[arg-type]

    # Answering

    def _give_to_uvicorn(self) -> None:
        url, headers = self.url, self.headers
        expected = self.expect_100_continue
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers)
        self.expect_100_continue = expected
        super().on_headers_complete()

    def _write(self, answer: Answer) -> None:
        keep = self._keep_alive and not self._closing
        self.transport.write(
            b"%b%b%b%b%bcontent-length: %d\r\n\r\n%b"
            % (
                STATUS_LINE[answer.status],
                self.gate.default_headers(self.server_state.default_headers),
                answer.headers,
                b"" if not self._trace else b"traceparent: %b\r\n" % self._trace,
                b"" if keep else b"connection: close\r\n",
                len(answer.body),
                answer.body,
            )
        )
        self.server_state.total_requests += 1
        self._since = self.loop.time()
        if not keep:
            self.transport.close()

    def _answer_later(self, coming: Coroutine[Any, Any, Answer]) -> None:
        self.cycle = pending = _Pending()  # type: ignore[assignment]
        self.flow.pause_reading()
        self._task = task = self.loop.create_task(self._wait(coming, pending))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _wait(self, coming: Coroutine[Any, Any, Answer], pending: _Pending) -> None:
        answer = await coming
        self._task = None
        if pending.disconnected or self.transport.is_closing():
            return
        self._keep_alive = self._keep_alive and pending.keep_alive
        pending.response_complete = True
        self._write(answer)
        # Resumes reading and starts what was queued behind us.
        self.on_response_complete()

    def _too_large(self, size: int) -> None:
        limit = self.gate.settings.max_body
        self._refuse(
            BodyTooLarge(f"the body has {size} bytes or more; at most {limit} are taken: send fewer rows")
        )

    def _refuse(self, error: RequestError) -> None:
        """Answer before the request is complete; read and drop the rest for a moment, then close."""
        self._forget_body()
        answer = self.gate.plane.refuse(error)
        self._keep_alive = False
        self._dropping = True
        self._receiving = False
        self.transport.write(
            b"%b%b%bconnection: close\r\ncontent-length: %d\r\n\r\n%b"
            % (
                STATUS_LINE[answer.status],
                self.gate.default_headers(self.server_state.default_headers),
                answer.headers,
                len(answer.body),
                answer.body,
            )
        )
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def _forget_body(self) -> None:
        self.gate.buffered -= self._size
        self._chunks = []
        self._size = 0

    # Life of the connection

    def eof_received(self) -> None:
        if self._dropping:
            self.transport.close()

    def sweep(self, now: float) -> None:
        """Close a connection that is idle, or whose request does not arrive, for too long. Called about once a second."""
        settings = self.gate.settings
        busy = self.cycle is not None and not self.cycle.response_complete
        if self._receiving and not busy and now - self._since > settings.receive_seconds:
            self.transport.write(
                STATUS_LINE[408] + b"connection: close\r\ncontent-length: 0\r\n\r\n"
            )
            self.transport.close()
        elif not self._receiving and not busy and now - self._since > settings.keep_alive_seconds:
            self.transport.close()

    def shutdown(self) -> None:
        if self._receiving and self._hot:
            self._closing = True
        else:
            super().shutdown()

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

