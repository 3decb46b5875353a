"""The composition root: makes the parts, starts them in order, and ends the process when one of them dies.

Order: health first, so that it can be asked from the start; the lists; then the workers, which must not see half of the
cluster; kopf last, for it needs the resource to be there. On SIGTERM: no new work, a moment for what is under way, end.
"""

import asyncio
import contextlib
import functools
import logging
import signal
import sys
from collections.abc import Coroutine
from typing import Any, Protocol

from midstream_operator import logs, metrics, settings, shell
from midstream_operator.cluster import PIPELINE, Cluster
from midstream_operator.errors import ClusterError
from midstream_operator.events import Events
from midstream_operator.health import Health
from midstream_operator.metrics import Metrics
from midstream_operator.queue import LONGEST_DELAY, Key, Queue, Result
from midstream_operator.reconcile import Reconciler
from midstream_operator.settings import Settings
from midstream_operator.store import Scope, Store
from midstream_operator.sweep import Doubts, Resync, Sweep
from midstream_operator.watch import OWNED, Feed, Watch

_GRACE_SECONDS = 1.0
"""For the looks that are under way when the process is told to end."""
_BUSY_LONGEST_SECONDS = 15.0
"""Longest wait after a failure that is the API server's: it may be back any moment."""
_STUCK_SECONDS = 150.0
"""A watch that has done nothing for so long is stuck; it turns at least once a minute."""
_BEAT_SECONDS = 1.0
_LATE_SECONDS = 30.0

_logger = logging.getLogger(__name__)


class Look(Protocol):
    """What reconciles; the operator's own is `Reconciler`."""

    async def __call__(self, key: Key, /) -> float | None: ...

    async def close(self) -> None: ...


class Make(Protocol):
    """Makes what reconciles."""

    def __call__(
        self, cluster: Cluster, store: Store, settings: Settings, events: Events, metrics: Metrics
    ) -> Look: ...


class Heard(Protocol):
    """A part that listens to the API server."""

    scope: Scope
    turned: float
    heard: float


def main() -> int:
    """Run until a signal; return the exit code."""
    given = settings.read(sys.argv[1:])
    logs.set_up(as_json=given.json_logs)
    try:
        return asyncio.run(serve(given))
    except (ClusterError, OSError) as error:
        _logger.critical("%s", error)
        return 1


async def serve(given: Settings, make: Make = Reconciler) -> int:
    """Run all parts until SIGTERM or SIGINT (0), or until one of them dies (1)."""
    stop = asyncio.Event()
    _on_signal(stop)
    numbers = Metrics()
    health = Health(numbers.expose, metrics.CONTENT_TYPE)
    port = await health.start(given.host, given.port)
    cluster = await Cluster.connect()
    cluster.observe = numbers.called
    _logger.info(
        "operator started", extra={"port": port, "namespaces": ",".join(given.namespaces) or "all"}
    )
    try:
        return await _Operator(given, cluster, numbers, health, make).run(stop)
    finally:
        await cluster.close()
        await health.close()


def _on_signal(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


class _Operator:
    """All parts of a running operator."""

    def __init__(
        self, given: Settings, cluster: Cluster, numbers: Metrics, health: Health, make: Make
    ) -> None:
        self._given = given
        self._cluster = cluster
        self._numbers = numbers
        places = given.namespaces or (None,)
        kinds = (PIPELINE, *OWNED)
        self._store = Store(Scope(kind, place) for kind in kinds for place in places)
        self._queue: Queue[Key] = Queue(
            longest=_longest, deadline=given.deadline, on_done=self._done
        )
        self._feed = Feed(self._store, self._queue)
        cluster.written = self._feed.written
        self._watches = [
            Watch(cluster, self._feed, Scope(kind, place)) for kind in OWNED for place in places
        ]
        self._sweeps = [
            Sweep(cluster, self._feed, Scope(PIPELINE, place), numbers.found, given.sweep)
            for place in places
        ]
        self._doubts = Doubts(cluster, self._store, self._feed)
        self._feed.doubt = self._doubts.doubt
        self._feed.missed = self._missed
        self._events = Events(cluster, numbers.event)
        self._reconcile = make(cluster, self._store, given, self._events, numbers)
        self._beat = asyncio.get_running_loop().time()
        self._tasks: dict[asyncio.Task[None], str] = {}
        health.watch([self._slow, self._overdue, self._stuck], [self._unlisted])
        self._show()

    async def run(self, stop: asyncio.Event) -> int:
        """Run the parts until told to stop (0) or until one ends by itself (1)."""
        for watch in self._watches:
            self._start(f"watch of {watch.scope.kind.plural}", watch.run())
        for sweep in self._sweeps:
            self._start("sweep", sweep.run())
        self._start("doubts", self._doubts.run())
        self._start("heartbeat", self._heartbeat())
        self._start("events", self._events.run())
        self._start("resync", Resync(self._store, self._queue, self._given.resync).run())
        workers = self._start("workers", self._work())
        self._start("kopf", self._shell(stop))
        stopped = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait(
                [*self._tasks, stopped], return_when=asyncio.FIRST_COMPLETED
            )
            if stop.is_set():
                _logger.info("operator stops")
            return 0 if stop.is_set() else self._dead(done)
        finally:
            stopped.cancel()
            await self._end(workers)

    def _start(self, name: str, part: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(part, name=name)
        self._tasks[task] = name
        return task

    async def _work(self) -> None:
        await self._store.synced()
        _logger.info("everything listed", extra={"pipelines": len(self._store.keys(PIPELINE))})
        await self._queue.run(self._reconcile, self._given.workers)

    async def _shell(self, stop: asyncio.Event) -> None:
        for sweep in self._sweeps:
            await sweep.first.wait()  # kopf does not wait for a resource that is defined later
        started = functools.partial(_on_signal, stop)
        await shell.run(self._cluster, self._feed, self._given.namespaces, started)

    def _missed(self) -> None:
        for sweep in self._sweeps:
            sweep.missed()

    async def _heartbeat(self) -> None:
        while True:
            self._beat = asyncio.get_running_loop().time()
            await asyncio.sleep(_BEAT_SECONDS)

    def _dead(self, done: set[asyncio.Task[Any]]) -> int:
        for task in done:
            error = None if task.cancelled() else task.exception()
            _logger.critical("%s ended: %s", task.get_name(), error or "no reason", exc_info=error)
        return 1

    async def _end(self, workers: asyncio.Task[None]) -> None:
        """Let the looks under way come to an end, then stop everything."""
        self._queue.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GRACE_SECONDS):
                if self._store.synced_now():
                    await asyncio.wait([workers])
                await self._events.drain()
        for task in self._tasks:
            task.cancel()
        ended, _ = await asyncio.wait(self._tasks, timeout=_GRACE_SECONDS)
        for task in ended:
            _ = task.cancelled() or task.exception()
        await self._reconcile.close()

    def _done(self, key: Key, result: Result, seconds: float, error: Exception | None) -> None:
        self._numbers.reconciled(result, seconds)
        if error is None:
            return
        extra = {"namespace": key.namespace, "pipeline": key.name}
        if isinstance(error, ClusterError | TimeoutError):
            _logger.warning(
                "will be tried again: %s", error or f"gave up after {seconds:.0f} s", extra=extra
            )
        else:
            _logger.error("will be tried again", exc_info=error, extra=extra)

    def _slow(self) -> str | None:
        late = asyncio.get_running_loop().time() - self._beat
        return f"the event loop is {late:.0f} s late" if late > _LATE_SECONDS else None

    def _overdue(self) -> str | None:
        taken = self._queue.longest_taken()
        # The deadline itself cancels; later than that, even cancelling has not helped.
        over = taken > self._given.deadline + _LATE_SECONDS
        return f"a look at a pipeline has taken {taken:.0f} s" if over else None

    def _stuck(self) -> str | None:
        now = asyncio.get_running_loop().time()
        stuck = [
            part.scope.kind.plural for part in self._ears() if now - part.turned > _STUCK_SECONDS
        ]
        return f"stuck: watch of {', '.join(stuck)}" if stuck else None

    def _unlisted(self) -> str | None:
        missing = [
            scope.kind.plural + (f" in {scope.namespace}" if scope.namespace else "")
            for scope in self._store.missing()
        ]
        return f"not listed yet: {', '.join(missing)}" if missing else None

    def _ears(self) -> list[Heard]:
        return [*self._watches, *self._sweeps]

    def _show(self) -> None:
        """Have the numbers shown that somebody only has to read."""
        gauge, queue = self._numbers.gauge, self._queue
        gauge("queue_depth", "Pipelines that wait for a worker", queue.depth)
        gauge("queue_oldest_seconds", "Time that the oldest of them has waited", queue.oldest)
        gauge("queue_failing", "Pipelines whose last look failed", queue.failing)
        gauge("pipelines", "Pipelines there are", lambda: len(self._store.keys(PIPELINE)))
        now = asyncio.get_running_loop().time
        for kind in (PIPELINE, *OWNED):
            ears = [ear for ear in self._ears() if ear.scope.kind == kind]
            gauge(
                "watch_silence_seconds",
                "Time since the API server last said anything of a kind, in the quietest namespace",
                functools.partial(lambda ears: now() - min(ear.heard for ear in ears), ears),
                kind=kind.plural,
            )


def _longest(error: Exception) -> float:
    busy = isinstance(error, ClusterError) and error.overloaded
    return _BUSY_LONGEST_SECONDS if busy else LONGEST_DELAY
