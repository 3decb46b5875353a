"""HTTP by hand: a socket that sends any bytes at all and reads whole answers. For tests of the protocol itself."""

import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any, NamedTuple

from kit.engine import EngineProcess

SECONDS = 30.0
"""The longest a test waits for bytes, or for a condition, before it fails."""

JSON = "application/json; format=pandas-records"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        return str(self.json()["reason"])


class Raw:
    """One connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def send(self, *data: bytes) -> None:
        for each in data:
            self.socket.sendall(each)

    def answer(self, *, head: bool = False) -> Answer:
        """The next answer. head: it is one to HEAD, without a body."""
        end = self._until(lambda data: data.find(b"\r\n\r\n"))
        lines = self._received[:end].decode("latin-1").split("\r\n")
        self._received = self._received[end + 4 :]
        match = re.fullmatch(r"HTTP/1\.1 (\d{3}) .+", lines[0])
        assert match, lines
        status = int(match[1])
        headers = {name.lower(): value for name, _, value in (x.partition(": ") for x in lines[1:])}
        length = 0 if head or status == 100 else int(headers["content-length"])
        self._until(lambda data: 0 if len(data) >= length else -1)
        body, self._received = self._received[:length], self._received[length:]
        return Answer(status, headers, body)

    def end(self) -> bytes:
        """What comes before the other side closes."""
        while data := self._receive():
            self._received += data
        return self._received

    def close(self) -> None:
        self.socket.close()

    def _until(self, found: Callable[[bytes], int]) -> int:
        while (at := found(self._received)) < 0:
            data = self._receive()
            assert data, f"closed after {self._received!r}"
            self._received += data
        return at

    def _receive(self) -> bytes:
        try:
            return self.socket.recv(1 << 16)
        except ConnectionResetError:
            return b""


@contextmanager
def raw(running: EngineProcess) -> Iterator[Raw]:
    """A connection to an engine, closed at the end."""
    connection = Raw(running.port)
    try:
        yield connection
    finally:
        connection.close()


def post(body: bytes | Any, path: str = "/infer", *lines: str, content_type: str = JSON) -> bytes:
    """A whole request with its length."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head(path, f"Content-Length: {len(data)}", *lines, content_type=content_type) + data


def head(path: str = "/infer", *lines: str, content_type: str = JSON) -> bytes:
    """The head of a POST."""
    first = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {content_type}", *lines]
    return "\r\n".join([*first, "", ""]).encode()


def get(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


def chunked(*parts: bytes) -> bytes:
    """A body in chunks, with its end."""
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (*parts, b""))


def metric(running: EngineProcess, name: str, **labels: str) -> float:
    """A sample of `/metrics` by the part of its name behind `midstream_engine_`; 0 when there is none."""
    for line in running.get("/metrics").body.decode().splitlines():
        match = re.fullmatch(rf"midstream_engine_{name}(?:\{{(.*)\}})? (\S+)", line)
        if match and all(f'{k}="{v}"' in (match[1] or "") for k, v in labels.items()):
            return float(match[2])
    return 0.0


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Ask until it is so, or fail."""
    deadline = monotonic() + SECONDS
    while not condition():
        assert monotonic() < deadline, f"not within {SECONDS} s: {what}"
        sleep(0.005)
