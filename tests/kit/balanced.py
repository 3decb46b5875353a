"""A real load balancer before real engines, on loopback: the launcher, Envoy, and the operator's files."""

import http.client
import json
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kit.balancer import Balancer, BalancerFolder, Upstream, balancer
from kit.engine import WAIT_SECONDS, EngineProcess, Reply
from kit.raw import eventually
from midstream_operator import envoy


class Balanced:
    """Callers ask `port`; `stat` and `active` look at Envoy from behind."""

    def __init__(self, running: Balancer) -> None:
        self._running = running
        self.port = running.listener()

    def ask(
        self, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Reply:
        """Send one request. target: as it stands in the request line."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)
        try:
            return _exchange(connection, method, target, body, headers or {})
        finally:
            connection.close()

    def stat(self, name: str) -> int:
        """One of Envoy's numbers about its engines."""
        found = self._admin(f"/stats?format=json&filter=^cluster\\.engine\\.{name}$")["stats"]
        return int(found[0]["value"]) if found else 0

    def hosts(self) -> dict[int, dict[str, int]]:
        """By port of an engine: its gauges and counters, and `healthy`."""
        found = self._admin("/clusters?format=json")["cluster_statuses"][0].get("host_statuses", [])
        return {
            each["address"]["socket_address"]["port_value"]: {
                **{one["name"]: int(one.get("value", 0)) for one in each["stats"]},
                "healthy": int(each["health_status"] == {"eds_health_status": "HEALTHY"}),
            }
            for each in found
        }

    def until_healthy(self, count: int) -> None:
        eventually(
            lambda: sum(each["healthy"] for each in self.hosts().values()) == count,
            f"{count} healthy engines",
        )

    def _admin(self, path: str) -> Any:
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.settimeout(WAIT_SECONDS)
            connection.sock.connect(str(self._running.folder.admin))
            return _exchange(connection, "GET", path, b"", {}).json()
        finally:
            connection.close()


@contextmanager
def balanced(*engines: EngineProcess | Upstream, healthy: int | None = None) -> Iterator[Balanced]:
    """Run a load balancer before these engines until it is ready. healthy: how many must be, left out: all."""
    folder = Path(tempfile.mkdtemp(prefix="lb-"))  # short, for the name of a socket
    try:
        files = BalancerFolder(folder, 0)
        files.bootstrap.write_text(_bootstrap(files, [each.port for each in engines]))
        files.write(envoy.dump(envoy.routes()))
        quick = [f"--{each}-seconds=0" for each in ("settle", "linger")]
        if healthy == 0:
            quick.append("--engine-seconds=0")
        with balancer(files, *quick) as running:
            running.until_ready()
            made = Balanced(running)
            made.until_healthy(len(engines) if healthy is None else healthy)
            yield made
    finally:
        shutil.rmtree(folder)


def _bootstrap(files: BalancerFolder, ports: Sequence[int]) -> str:
    settings = envoy.Envoy(
        engines=tuple(("localhost", port) for port in ports),
        memory=512 << 20,
        folder=str(files.path),
        host="127.0.0.1",
        port=0,
    )
    made = envoy.bootstrap(settings)
    made["admin"] = json.loads(files.bootstrap.read_text())["admin"]
    return envoy.dump(made)


def _exchange(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    body: bytes,
    headers: dict[str, str],
) -> Reply:
    connection.request(method, target, body, headers)
    answer = connection.getresponse()
    said = {name.lower(): value for name, value in answer.getheaders()}
    return Reply(answer.status, said, answer.read())
