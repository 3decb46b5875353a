"""A minimal HTTP/1.1 client: prebuilt requests out, answers with a `Content-Length` in.

It exists because a load generator must cost little and must not hide what it saw: no retries, no redirects, no
pooling. It understands nothing but keep-alive answers with a `Content-Length`; another framing is an error.
"""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

RECORDS = "application/json; format=pandas-records"
_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it goes over the wire, and the rows that are in it (empty: not records)."""

    raw: bytes
    rows: tuple[Mapping[str, Any], ...] = ()

    @property
    def body(self) -> bytes:
        return self.raw.partition(_END)[2]


def records(path: str, rows: Sequence[Mapping[str, Any]]) -> Request:
    """A request in pandas-records."""
    return Request(post(path, orjson.dumps(list(rows)), RECORDS), tuple(rows))


def post(path: str, body: bytes, content_type: str) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Reply(NamedTuple):
    """One complete answer. `length` is its size on the wire, head included, in bytes."""

    status: int
    head: bytes
    """In lower case."""
    body: bytes
    length: int

    def header(self, name: bytes) -> str:
        """The value of a header (name in lower case), or the empty string."""
        at = self.head.find(b"\r\n" + name + b":")
        if at < 0:
            return ""
        at += len(name) + 3
        end = self.head.find(b"\r\n", at)
        return self.head[at : end if end >= 0 else None].strip().decode("latin-1")


def parse(data: bytes) -> Reply | None:
    """The first answer in `data`, or None while it is incomplete.

    Raises `ValueError` for an answer without a `Content-Length`.
    """
    end = data.find(_END)
    if end < 0:
        return None
    head = data[:end].lower()
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        raise ValueError(f"answer without a Content-Length: {head[:200]!r}")
    stop = head.find(b"\r\n", at + 2)
    total = end + 4 + int(head[at + 17 : stop if stop >= 0 else end])
    if len(data) < total:
        return None
    return Reply(int(head[9:12]), head, data[end + 4 : total], total)


class Connection:
    """One keep-alive connection with at most one request under way. Never blocks after it is connected."""

    __slots__ = (
        "_chunks",
        "_received",
        "_unsent",
        "busy",
        "number",
        "request",
        "scheduled",
        "sent",
        "socket",
    )

    def __init__(self, host: str, port: int, *, timeout: float = 10.0) -> None:
        self.socket = socket.create_connection((host, port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.busy = False
        """A request is under way."""
        self.request = 0
        """Index of the request under way."""
        self.number = 0
        """The caller's own number of the request under way."""
        self.scheduled = 0.0
        self.sent = 0.0
        self._unsent = memoryview(b"")
        self._chunks: list[bytes] = []
        self._received = 0

    def fileno(self) -> int:
        return self.socket.fileno()

    def close(self) -> None:
        self.socket.close()

    def send(self, raw: bytes) -> bool:
        """Start a request. False: the rest has to be sent by `send_more` once the socket is writable."""
        self._unsent = memoryview(raw)
        return self.send_more()

    def send_more(self) -> bool:
        try:
            sent = self.socket.send(self._unsent)
        except BlockingIOError:
            sent = 0
        self._unsent = self._unsent[sent:]
        return not self._unsent

    def receive(self) -> Reply | None:
        """The answer, or None while it is incomplete.

        Raises `ConnectionError` when the server closed the connection, `ValueError` on an answer it cannot read.
        """
        try:
            data = self.socket.recv(1 << 18)
        except BlockingIOError:
            return None
        if not data:
            raise ConnectionResetError(
                f"closed by the server after {self._received} bytes of an answer"
            )
        if self._chunks:
            self._chunks.append(data)
            data = b"".join(self._chunks)
        reply = parse(data)
        if reply is None:
            self._chunks = [data]
            self._received = len(data)
            return None
        if reply.length != len(data):
            raise ValueError(f"{len(data) - reply.length} bytes after the end of the answer")
        self._chunks = []
        self._received = 0
        return reply
