"""The life of one load balancer: Envoy runs until it dies or we are told to stop, and then it ends in good order.

Guarantees: from the signal on readiness fails and Envoy asks clients to close their connections, while it goes on
serving; it is stopped when nobody needs it any more, or at the deadline. It decides nothing about traffic.
"""

import queue
import signal
import time
from dataclasses import dataclass

from midstream_lb.admin import Admin, AdminError
from midstream_lb.envoy import Envoy
from midstream_lb.events import emit
from midstream_lb.readiness import Readiness

_POLL_SECONDS = 0.1
_STOP_SECONDS = 5.0
"""From SIGTERM to SIGKILL of an Envoy that serves nobody any more; it takes some 30 ms."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a stop takes, in seconds from the signal."""

    settle: float
    """At least this long: until everybody who sends requests here has heard that they should not."""
    linger: float
    """At most this long for connections that are open and idle: a request may be on its way on one of them."""
    drain: float
    """At most this long for requests that are being served."""


class Launcher:
    """Waits for signals and for Envoy's end."""

    def __init__(self, admin: Admin, readiness: Readiness, patience: Patience) -> None:
        self._admin = admin
        self._readiness = readiness
        self._patience = patience
        # SimpleQueue.put may be called from a signal handler, also while the same thread is inside get.
        self._news: queue.SimpleQueue[signal.Signals | int] = queue.SimpleQueue()

    def listen(self) -> None:
        """Take over the signals; call it from the main thread, before Envoy is started."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: self._news.put(signal.Signals(number)))

    def ended(self, code: int) -> None:
        """Envoy is gone."""
        self._news.put(code)

    def run(self, envoy: Envoy) -> int:
        """Wait for the end; return the exit code: Envoy's own, or 0 after a stop that was asked for."""
        news = self._news.get()
        if not isinstance(news, signal.Signals):
            emit("envoy_died", code=news)
            return news
        emit("draining", signal=news.name)
        self._readiness.stop()
        code = self._drain()
        if code is None:
            return self._stop(envoy)
        emit("envoy_died", code=code)
        return code

    def _drain(self) -> int | None:
        """Return when Envoy may be stopped, or its exit code when it ended before that."""
        began = time.monotonic()
        asked = False
        while True:
            # Asked again until it was heard: Envoy may only just have been started.
            asked = asked or self._fail_health_checks()
            if (why := self._may_stop(time.monotonic() - began)) is not None:
                emit("drained", because=why, seconds=round(time.monotonic() - began, 3))
                return None
            try:
                news = self._news.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if not isinstance(news, signal.Signals):
                return news
            emit("drained", because=f"a second {news.name}")
            return None

    def _may_stop(self, waited: float) -> str | None:
        """Why Envoy may be stopped now; None when it may not."""
        if waited >= self._patience.drain:
            return "the deadline has come"
        if waited < self._patience.settle:
            return None
        try:
            state = self._admin.state()
        except AdminError:
            return None
        if state.requests != 0:
            return None
        if state.connections == 0:
            return "nobody is connected"
        return "the connections are idle" if waited >= self._patience.linger else None

    def _fail_health_checks(self) -> bool:
        try:
            self._admin.fail_health_checks()
        except AdminError:
            return False
        return True

    def _stop(self, envoy: Envoy) -> int:
        """End Envoy; return 0, as this is what was asked for."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            envoy.send(number)
            deadline = time.monotonic() + _STOP_SECONDS
            while (left := deadline - time.monotonic()) > 0:
                try:
                    news = self._news.get(timeout=left)
                except queue.Empty:
                    break
                if not isinstance(news, signal.Signals):
                    emit("stopped")
                    return 0
        emit("stopped", warning=f"process {envoy.pid} did not end")
        return 0
