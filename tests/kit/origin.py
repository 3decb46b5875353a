"""A real HTTP server on loopback that answers as a test tells it to, well or badly.

Each path has a list of answers; each request takes the next one, and the last one stays. An answer is a function
that gets the request's handler and does with the connection what it likes; it is closed afterwards.
"""

import hashlib
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sent."""

    path: str
    headers: Mapping[str, str]
    """Names in lower case."""


Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Note the request and give the path's next answer."""
        origin: Origin = self.server.origin  # type: ignore[attr-defined]
        self.close_connection = True
        origin.take(self)(self)

    def do_POST(self) -> None:
        """As a GET; the answer may ask for the body."""
        self.do_GET()

    def body(self) -> bytes:
        """Return what the client sent with its request."""
        return self.rfile.read(int(self.asked("Content-Length") or 0))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""

    def start(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        """Send the status line and the headers."""
        self.send_response(status)
        for name, value in {"Connection": "close", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def asked(self, name: str) -> str:
        """Return a header of the request, or ''."""
        return str(self.headers.get(name, ""))


class Origin:
    """The server, and what it was asked so far."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.origin = self  # type: ignore[attr-defined]
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign] # clients that vanish are the point
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._scheme = "http" if tls is None else "https"
        self._lock = threading.Lock()
        self._answers: dict[str, list[Answer]] = {}
        self._queries: dict[str, Answer] = {}
        self.requests: list[Request] = []
        self.free = threading.Event()
        """Set at the end: answers that wait for it let go of their connections."""

    def serve(self, path: str, *answers: Answer) -> str:
        """Answer requests for `path` with these, in turn; return its address."""
        self._answers[path] = list(answers)
        return self.url(path)

    def serve_queries(self, path: str, answer: Answer) -> str:
        """Answer requests for `path` with any query; return its address."""
        self._queries[path] = answer
        return self.url(path)

    def url(self, path: str) -> str:
        """Return the address of a path."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}{path}"

    def take(self, handler: Handler) -> Answer:
        """Note a request and return what it is to be answered with."""
        with self._lock:
            headers = {name.lower(): value for name, value in handler.headers.items()}
            self.requests.append(Request(handler.path, headers))
            if answer := self._queries.get(handler.path.partition("?")[0]):
                return answer
            answers = self._answers.get(handler.path, [status(404)])
            return answers.pop(0) if len(answers) > 1 else answers[0]

    @contextmanager
    def running(self) -> Iterator["Origin"]:
        """Answer requests for the length of the block."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self.free.set()
            self._server.shutdown()
            thread.join()
            self._server.server_close()


def etag_of(data: bytes) -> str:
    """Return a strong ETag of the bytes."""
    return f'"{hashlib.sha256(data).hexdigest()[:16]}"'


def file(
    data: bytes,
    *,
    etag: str | None = None,
    ranges: bool = True,
    cut: int | None = None,
    headers: Mapping[str, str] | None = None,
    stall: threading.Event | None = None,
    until: threading.Event | None = None,
) -> Answer:
    """Return an answer that serves `data` as a good file server does: ranges, conditions, ETag.

    `etag=""` sends none; `ranges=False` ignores Range; `cut` breaks the connection after so many bytes of the
    body; `until` waits for that event at the cut, after setting `stall`, and then goes on.
    """
    tag = etag_of(data) if etag is None else etag

    def answer(handler: Handler) -> None:
        sent = {**({"ETag": tag} if tag else {}), **(headers or {})}
        if tag and handler.asked("If-None-Match") == tag:
            handler.start(304, sent)
            return
        first, code = 0, 200
        if ranges and handler.asked("Range") and handler.asked("If-Range") in {"", tag}:
            first, code = int(handler.asked("Range").removeprefix("bytes=").removesuffix("-")), 206
            if first >= len(data):
                handler.start(416, {**sent, "Content-Range": f"bytes */{len(data)}"})
                return
            sent["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        body = data[first:]
        handler.start(code, {"Content-Length": str(len(body)), **sent})
        handler.wfile.write(body if cut is None else body[:cut])
        if cut is not None and until is not None:
            handler.wfile.flush()
            if stall is not None:
                stall.set()
            until.wait()
            handler.wfile.write(body[cut:])

    return answer


def chunked(*pieces: bytes, end: bool = True) -> Answer:
    """Return an answer that does not tell its length beforehand."""

    def answer(handler: Handler) -> None:
        handler.start(200, {"Transfer-Encoding": "chunked"})
        for piece in pieces:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if end:
            handler.wfile.write(b"0\r\n\r\n")

    return answer


def status(code: int, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an answer that is a status and no body."""
    return lambda handler: handler.start(code, {"Content-Length": "0", **(headers or {})})


def silent(until: threading.Event) -> Answer:
    """Return an answer that does not come before the event."""

    def answer(_: Handler) -> None:
        until.wait()

    return answer


def raw(data: bytes) -> Answer:
    """Return an answer that is these bytes, whatever HTTP says."""

    def answer(handler: Handler) -> None:
        handler.wfile.write(data)

    return answer
