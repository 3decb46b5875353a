"""A real load balancer on loopback: the launcher, the real Envoy, the operator's files, and upstreams that can be held.

The folder changes as the kubelet changes a mounted ConfigMap: a new directory, and one rename of `..data`.
"""

import contextlib
import copy
import http.client
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from kit.engine import WAIT_SECONDS, Reply
from midstream_operator import envoy

PATH = "/pipelines/house-price"


class Upstream:
    """Stands where an engine stands: always ready, and does as the headers of a request say.

    `x-hold`: hold it until released. `x-answer`: the status. `x-back`: JSON of headers of the answer. The body comes
    back as it was.
    """

    def __init__(self) -> None:
        self.held = threading.Semaphore(0)
        """Released once for each request that has arrived and is held."""
        self.release = threading.Event()
        self.seen: list[dict[str, str]] = []
        """The headers of each request with a body, in small letters."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _UpstreamHandler)
        self._server.upstream = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _UpstreamHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        upstream: Upstream = self.server.upstream  # type: ignore[attr-defined]
        upstream.seen.append({name.lower(): value for name, value in self.headers.items()})
        if self.headers.get("x-hold"):
            upstream.held.release()
            upstream.release.wait(WAIT_SECONDS)
        self._answer(body)

    def _answer(self, body: bytes) -> None:
        self.send_response(int(self.headers.get("x-answer") or 200))
        self.send_header("Content-Length", str(len(body)))
        for name, value in json.loads(self.headers.get("x-back") or "{}").items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


class BalancerFolder:
    """`/etc/engine-lb` of a load balancer, in a short path: a Unix socket's name has room for 107 characters."""

    def __init__(self, folder: Path, upstream: int) -> None:
        self.path = folder
        self.admin = folder / "admin.sock"
        settings = envoy.Envoy(
            engines=(("127.0.0.1", upstream),),
            memory=512 << 20,
            folder=str(folder),
            host="127.0.0.1",
            port=0,
        )
        bootstrap = envoy.bootstrap(settings)
        bootstrap["admin"] = {"address": {"pipe": {"path": str(self.admin)}}}
        self.bootstrap = folder / "bootstrap.json"
        self.bootstrap.write_text(envoy.dump(bootstrap))
        self.routes = folder / envoy.ROUTES_FILE
        self._writes = 0

    def routes_of(self, version: str, cluster: str = envoy.CLUSTER) -> str:
        """The operator's routes under another version; with a cluster that is not there, Envoy refuses them."""
        document = copy.deepcopy(envoy.routes())
        document["version_info"] = version
        text = envoy.dump(document)
        return text.replace(f'"cluster": "{envoy.CLUSTER}"', f'"cluster": "{cluster}"')

    def write(self, text: str) -> None:
        """Replace the routes in one stroke."""
        self._writes += 1
        fresh = self.path / f"..{self._writes}"
        (fresh / "dynamic").mkdir(parents=True)
        (fresh / envoy.ROUTES_FILE).write_text(text)
        (self.path / "..data_tmp").symlink_to(fresh.name)
        (self.path / "..data_tmp").rename(self.path / "..data")
        if self._writes == 1:
            (self.path / "dynamic").symlink_to("..data/dynamic")


class Balancer:
    """A running launcher."""

    def __init__(self, folder: BalancerFolder, *options: str) -> None:
        self.folder = folder
        self.events: list[dict[str, Any]] = []
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "midstream_lb"),
                *("--bootstrap", str(folder.bootstrap), "--routes", str(folder.routes)),
                *("--host", "127.0.0.1", "--port", "0", *options),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A group of its own, so that Envoy cannot outlive a test that kills the launcher.
            start_new_session=True,
        )
        self.output: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.health_port = self.envoy = 0

    def started(self) -> None:
        """Wait until it has started Envoy."""
        event = self.wait("started")
        self.health_port, self.envoy = int(event["port"]), int(event["envoy"])

    def wait(self, event: str) -> dict[str, Any]:
        """The next event of this name; those before it are passed over."""
        while True:
            found = self._queue.get(timeout=WAIT_SECONDS)
            if found is None:
                raise AssertionError(f"it ended before {event}: {''.join(self.output)}")
            if found["event"] == event:
                return found

    def ask(self, path: str) -> Reply:
        """Ask the launcher."""
        connection = http.client.HTTPConnection("127.0.0.1", self.health_port, timeout=WAIT_SECONDS)
        try:
            return _exchange(connection, "GET", path)
        finally:
            connection.close()

    def until(self, what: str, holds: Callable[[Reply], bool], path: str = "/readyz") -> Reply:
        """Ask until the answer is as wanted."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            reply = self.ask(path)
            if holds(reply):
                return reply
            time.sleep(0.01)  # between two questions; what is waited for is the answer
        raise AssertionError(f"{what} has not come: {reply}; {''.join(self.output)}")

    def until_ready(self) -> Reply:
        return self.until("readiness", lambda reply: reply.status == 200)

    def listener(self) -> int:
        """The port where Envoy takes traffic, from its admin interface."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.settimeout(WAIT_SECONDS)
            connection.sock.connect(str(self.folder.admin))
            said = _exchange(connection, "GET", "/listeners?format=json").json()
        finally:
            connection.close()
        return int(said["listener_statuses"][0]["local_address"]["socket_address"]["port_value"])

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait for the end and give the exit code."""
        code = self.process.wait(WAIT_SECONDS)
        self._reader.join()
        return code

    def close(self) -> None:
        """Take the whole group away, whatever state it is in."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.end()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)
            if line.startswith("{"):
                self.events.append(json.loads(line))
                self._queue.put(self.events[-1])
        self._queue.put(None)


@contextmanager
def balancer_folder() -> Iterator[tuple[BalancerFolder, Upstream]]:
    """A folder without routes, and the upstream that its files name."""
    upstream = Upstream()
    folder = Path(tempfile.mkdtemp(prefix="lb-"))
    try:
        yield BalancerFolder(folder, upstream.port), upstream
    finally:
        upstream.close()
        shutil.rmtree(folder)


@contextmanager
def balancer(folder: BalancerFolder, *options: str) -> Iterator[Balancer]:
    running = Balancer(folder, *options)
    try:
        running.started()
        yield running
    finally:
        running.close()


class Caller:
    """One connection to the load balancer that is kept for as long as it allows."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection

    def post(self, body: bytes, **headers: str) -> Reply:
        return _exchange(self._connection, "POST", PATH, body, headers)


@contextmanager
def caller(port: int) -> Iterator[Caller]:
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)
    ) as connection:
        yield Caller(connection)


def post_once(port: int, body: bytes, **headers: str) -> Reply:
    """Ask the load balancer on a connection of its own."""
    with caller(port) as once:
        return once.post(body, **headers)


def _exchange(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Reply:
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    said = {name.lower(): value for name, value in answer.getheaders()}
    return Reply(answer.status, said, answer.read())
