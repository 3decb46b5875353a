"""Listeners: uvicorn with the hot path on the data listener, and the lean application behind both.

Guarantees: no request is taken before something can answer it or say why not; a stop lets requests that have begun
finish, for a bounded time. A missing uvloop or httptools is an error, never a silent fallback to a slower one.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Generator, MutableMapping
from typing import Any

import uvicorn

from midstream_engine.dataplane import Answer
from midstream_engine.errors import (
    BodyTooLarge,
    MethodNotAllowed,
    Overloaded,
    RequestError,
)
from midstream_engine.request import HEADERS, Headers, Request
from midstream_engine.settings import Settings
from midstream_engine.web.gate import Gate
from midstream_engine.web.protocol import MAX_TRACE, HotProtocol, bound_to

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

_SWEEP_SECONDS = 1.0


class App:
    """Inference paths to the data plane, all others to the management application."""

    def __init__(self, gate: Gate, management: Asgi) -> None:
        self._gate = gate
        self._management = management

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        query = scope["query_string"]
        target = self._gate.target(scope["raw_path"] + (b"?" + query if query else b""))
        if target is None:
            await self._management(scope, receive, send)
            return
        plane = self._gate.plane
        if scope["method"] != "POST":
            error = MethodNotAllowed(f"method {scope['method']} is not allowed here; use POST")
            await _send(send, plane.refuse(error))
            return
        headers = Headers()
        for name, value in scope["headers"]:
            if name in HEADERS:
                setattr(headers, HEADERS[name], value)
        try:
            body = await self._body(receive)
        except RequestError as error:
            await _send(send, plane.refuse(error), close=True)
            return
        if body is None:
            return
        answer = plane.infer(Request(target, body, headers))
        await _send(
            send,
            answer if isinstance(answer, Answer) else await answer,
            trace=headers.trace if len(headers.trace) <= MAX_TRACE else b"",
        )

    async def _body(self, receive: Receive) -> bytes | None:
        """The whole body; None when the client has gone. Raises BodyTooLarge and Overloaded."""
        counts, settings = self._gate.counts, self._gate.settings
        body = bytearray()
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                chunk = message.get("body", b"")
                body += chunk
                counts.buffered += len(chunk)
                if len(body) > settings.max_body:
                    raise BodyTooLarge(
                        f"the body has {len(body)} bytes or more; at most {settings.max_body} are taken: "
                        "send fewer rows"
                    )
                if counts.buffered > settings.max_buffered:
                    raise Overloaded(
                        "too many request bodies are arriving at once; try again in a second"
                    )
                if not message.get("more_body", False):
                    return bytes(body)
        finally:
            counts.buffered -= len(body)


async def _send(send: Send, answer: Answer, *, close: bool = False, trace: bytes = b"") -> None:
    lines = (line.split(b": ", 1) for line in answer.headers.split(b"\r\n") if line)
    headers = [(name, value) for name, value in lines]
    headers.append((b"content-length", str(len(answer.body)).encode()))
    if trace:
        headers.append((b"traceparent", trace))
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


class _Server(uvicorn.Server):
    """uvicorn without hands on the signals: `main` owns them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class Listener:
    """One listening socket, served until `stop`."""

    def __init__(
        self, app: Asgi, sock: socket.socket, settings: Settings, gate: Gate | None
    ) -> None:
        self._sock = sock
        self._server = _Server(
            uvicorn.Config(
                app,
                http=bound_to(gate) if gate is not None else "httptools",
                loop="uvloop",
                ws="none",
                lifespan="off",
                log_config=None,
                # What clients do wrong is answered; only defects are worth a line.
                log_level="error",
                access_log=False,
                server_header=False,
                backlog=2048,
                timeout_keep_alive=int(settings.keep_alive_seconds),
                timeout_graceful_shutdown=max(1, int(settings.drain_seconds)),
            )
        )

    async def serve(self) -> None:
        sweep = asyncio.create_task(self._sweep())
        try:
            await self._server.serve(sockets=[self._sock])
        finally:
            sweep.cancel()

    def stop(self) -> None:
        """Stop accepting; `serve` returns when the requests that have begun are answered."""
        self._server.should_exit = True

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = loop.time()
            for connection in list(self._server.server_state.connections):
                if isinstance(connection, HotProtocol):
                    connection.sweep(now)
