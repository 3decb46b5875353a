"""The launcher's own HTTP listener: probes, metrics and state. It leads nowhere near the traffic.

`/livez`    200 while Envoy's main thread answers
`/readyz`   200 while traffic may come here; the body says why not
`/status`   the same judgement as JSON, always 200
`/metrics`  Envoy's metrics in the Prometheus text format
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from midstream_lb.admin import Admin, AdminError
from midstream_lb.readiness import Readiness

_Answer = tuple[HTTPStatus, str, bytes]
_TEXT = "text/plain; charset=utf-8"


@contextmanager
def listening(host: str, port: int, admin: Admin, readiness: Readiness) -> Iterator[int]:
    """Answer on that address until the context ends; yields the port, which the system chose when `port` is 0."""
    server = _Server((host, port), _Handler)
    server.admin, server.readiness = admin, readiness
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True
    )
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 32
    admin: Admin
    readiness: Readiness


class _Handler(BaseHTTPRequestHandler):
    """One request; the connection is closed after it."""

    timeout = 5.0
    server: _Server
    server_version = "midstream-lb"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer a path."""
        answers = {
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/status": self._status,
            "/metrics": self._metrics,
        }
        path = self.path.partition("?")[0]
        answer = answers.get(path)
        if answer is None:
            paths = ", ".join(answers)
            self._send(HTTPStatus.NOT_FOUND, _TEXT, f"{path} is none of {paths}\n".encode())
        else:
            self._send(*answer())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing: probes come every second."""

    def _livez(self) -> _Answer:
        try:
            self.server.admin.answers()
        except AdminError as error:
            return HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, f"{error}\n".encode()
        return HTTPStatus.OK, _TEXT, b"live\n"

    def _readyz(self) -> _Answer:
        verdict = self.server.readiness.verdict()
        status = HTTPStatus.OK if verdict.ready else HTTPStatus.SERVICE_UNAVAILABLE
        return status, _TEXT, f"{verdict.reason}\n".encode()

    def _status(self) -> _Answer:
        document = self.server.readiness.verdict().document()
        return HTTPStatus.OK, "application/json", json.dumps(document).encode()

    def _metrics(self) -> _Answer:
        try:
            body = self.server.admin.metrics()
        except AdminError as error:
            return HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, f"{error}\n".encode()
        return HTTPStatus.OK, "text/plain; version=0.0.4; charset=utf-8", body

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
