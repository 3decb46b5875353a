"""Talks to Envoy's admin interface, at the address that the bootstrap names.

Guarantees: every call ends within `timeout` seconds and raises nothing but `AdminError`. It judges nothing.
"""

import http.client
import json
import socket
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CONNECTIONS = "http.engine_lb."
"""Statistics of the listener: the HTTP connection manager's `stat_prefix` is `engine_lb`."""
_ROUTES = f"{_CONNECTIONS}rds.engine_routes."
"""Statistics of the routes: the route configuration is named `engine_routes`."""
_ENGINES = "cluster.engine.membership_healthy"
"""Engines that traffic may go to: the cluster is named `engine`."""
_WANTED = (
    r"^(server\.state|cluster\.engine\.membership_healthy|http\.engine_lb\.(downstream_(rq|cx)_active"
    r"|rds\.engine_routes\.(version_text|update_rejected|update_failure)))$"
)
_LIVE = 0
"""Value of `server.state` in an Envoy that is started and not draining."""


class AdminError(Exception):
    """Envoy's admin interface gave no usable answer; the message says why."""


@dataclass(frozen=True, slots=True)
class State:
    """What Envoy says of itself at one moment."""

    live: bool
    """Started, and not told to fail its health checks."""
    routes: str
    """`version_info` of the routes that it applied last; '' when it never had any."""
    refused: int
    """How many route files it has refused or could not read so far."""
    requests: int | None
    """Requests it is working on; None when the bootstrap leaves the statistic out."""
    connections: int | None
    """Open connections of clients; None as above."""
    engines: int | None
    """Engines that traffic may go to; None as above."""


class Admin:
    """Calls of one Envoy's admin interface."""

    def __init__(self, address: tuple[str, int] | str, timeout: float = 1.0) -> None:
        self._address = address
        self._timeout = timeout

    @classmethod
    def of_bootstrap(cls, bootstrap: Path) -> "Admin":
        """Find the address in a bootstrap, which is JSON.

        Raises:
            AdminError: the file cannot be read, or names no admin address.
        """
        try:
            address = json.loads(bootstrap.read_text())["admin"]["address"]
            if (pipe := address.get("pipe")) is not None:
                return cls(str(pipe["path"]))
            at = address["socket_address"]
            return cls((str(at["address"]), int(at["port_value"])))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise AdminError(f"{bootstrap} names no admin address: {error!r}") from error

    def state(self) -> State:
        """What Envoy says of itself now."""
        query = urllib.parse.urlencode({"format": "json", "filter": _WANTED})
        text = self._call("GET", f"/stats?{query}")
        try:
            said: dict[str, Any] = {one["name"]: one["value"] for one in json.loads(text)["stats"]}
        except (ValueError, LookupError, TypeError) as error:
            raise AdminError(f"Envoy's statistics cannot be read: {error!r}") from error
        return State(
            live=said.get("server.state") == _LIVE,
            routes=str(said.get(f"{_ROUTES}version_text", "")),
            refused=_count(said.get(f"{_ROUTES}update_rejected"))
            + _count(said.get(f"{_ROUTES}update_failure")),
            requests=said.get(f"{_CONNECTIONS}downstream_rq_active"),
            connections=said.get(f"{_CONNECTIONS}downstream_cx_active"),
            engines=said.get(_ENGINES),
        )

    def answers(self) -> None:
        """Return when Envoy's main thread answers, whatever its state.

        Raises:
            AdminError: it does not.
        """
        self._call("GET", "/ready", also=(503,))

    def metrics(self) -> bytes:
        """Envoy's metrics in the Prometheus text format."""
        return self._call("GET", "/stats/prometheus?usedonly")

    def fail_health_checks(self) -> None:
        """From now on answers ask clients to close their connections, and Envoy's own health check fails."""
        self._call("POST", "/healthcheck/fail")

    def _call(self, method: str, path: str, also: tuple[int, ...] = ()) -> bytes:
        """Return the body of the answer."""
        connection = self._connection()
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise AdminError(
                f"Envoy's admin interface at {self._address} gave no answer: {error!r}"
            ) from error
        finally:
            connection.close()
        if answer.status != http.client.OK and answer.status not in also:
            raise AdminError(f"{method} {path} of Envoy's admin interface: {answer.status}")
        return body

    def _connection(self) -> http.client.HTTPConnection:
        if isinstance(self._address, str):
            return _OverSocket(self._address, self._timeout)
        host, port = self._address
        return http.client.HTTPConnection(host, port, timeout=self._timeout)


class _OverSocket(http.client.HTTPConnection):
    """HTTP over a Unix domain socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Open the socket in place of a TCP connection."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _count(value: Any) -> int:
    """A counter's value; one that Envoy does not show is 0."""
    return int(value) if isinstance(value, int | float) else 0
