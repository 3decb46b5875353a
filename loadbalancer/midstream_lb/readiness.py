"""Judges whether traffic may come here: Envoy is live, serves the routes that are on disk, and is not being stopped.

Routes that Envoy refuses do not take a working load balancer out of service. It keeps its last good ones, and losing
every load balancer to one bad file would be worse than serving the routes of a moment ago. A load balancer that never
had good routes answers 404 to everything, and is not ready.

A load balancer that has just started waits until it has found an engine: the first look at the DNS may come before
the first engine's address, and the next some seconds later. After that, and after `engine_seconds` without one, it is
ready whatever the engines do, so that callers are told what is the matter.
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from midstream_lb.admin import Admin, AdminError, State


@dataclass(frozen=True, slots=True)
class Verdict:
    ready: bool
    reason: str
    wanted: str | None
    """`version_info` of the routes on disk; None when the file holds no routes."""
    state: State | None
    """None when Envoy does not answer."""

    def document(self) -> dict[str, object]:
        """Return the verdict as it is told to callers."""
        state = self.state
        return {
            "ready": self.ready,
            "reason": self.reason,
            "routes": {
                "applied": state.routes if state else None,
                "wanted": self.wanted,
            },
            "active": {
                "requests": state.requests if state else None,
                "connections": state.connections if state else None,
            },
        }


class Readiness:
    """One load balancer's readiness. Safe to ask from several threads."""

    def __init__(
        self,
        admin: Admin,
        routes: Path,
        engine_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._admin = admin
        self._routes = routes
        self._engine_seconds = engine_seconds
        self._clock = clock
        self._live_since: float | None = None
        self._found_engine = False
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._refused_before: int | None = None
        """Refusals counted when the routes in use were last those on disk; None: they never were."""

    def stop(self) -> None:
        """Never be ready again."""
        self._stopping.set()

    def verdict(self) -> Verdict:
        """Judge now."""
        # The file first: routes that change in between are then judged as late, never as applied.
        wanted = _version(self._routes)
        try:
            state = self._admin.state()
        except AdminError as error:
            return Verdict(ready=False, reason=str(error), wanted=wanted, state=None)
        reason = self._objection(wanted, state)
        if reason is not None:
            return Verdict(ready=False, reason=reason, wanted=wanted, state=state)
        said = (
            "serves the routes on disk" if wanted == state.routes else "keeps its last good routes"
        )
        return Verdict(ready=True, reason=said, wanted=wanted, state=state)

    def _objection(self, wanted: str | None, state: State) -> str | None:
        """Why it is not ready; None when it is."""
        if self._stopping.is_set():
            return "is being stopped"
        if not state.live:
            return "Envoy is starting, or draining"
        with self._lock:
            if wanted is not None and state.routes == wanted:
                self._refused_before = state.refused
                return self._without_engines(state)
            before = self._refused_before
        if before is not None and (wanted is None or state.refused > before):
            return None
        applied = state.routes or "none"
        return f"Envoy has applied routes {applied}, on disk are {wanted or 'none'}"

    def _without_engines(self, state: State) -> str | None:
        """Why the first engine is still waited for; None when it is not."""
        now = self._clock()
        if self._live_since is None:
            self._live_since = now
        if state.engines is None or state.engines > 0:
            self._found_engine = True
        if self._found_engine or now - self._live_since > self._engine_seconds:
            return None
        return "has found no engine yet"


def _version(path: Path) -> str | None:
    """`version_info` of a route file; None for a file without routes, which Envoy passes over."""
    try:
        document = json.loads(path.read_bytes())
        version, routes = document["version_info"], document["resources"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return version if isinstance(version, str) and version and routes else None
