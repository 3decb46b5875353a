"""What makes sure that nothing missed stays missed.

`Sweep` lists all pipelines again and again, and soon after a gap, and finds what kopf's watch has lost; deletes above
all. `Doubts` asks for a pipeline whose objects somebody deletes: the garbage collector may know more than kopf has
told, and making them again would be a fight with it. `Resync` has each pipeline looked at once in a while.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from midstream_operator.cluster import PIPELINE, Cluster
from midstream_operator.errors import ClusterError
from midstream_operator.queue import Key, Lane, Queue
from midstream_operator.store import Scope, Store
from midstream_operator.watch import Feed, retry_delay, spread

_GAP_SECONDS = 1.0
"""Between two lists, whatever the reasons."""

_logger = logging.getLogger(__name__)


class Sweep:
    """Lists the pipelines of one namespace, or of all, again and again."""

    def __init__(
        self,
        cluster: Cluster,
        feed: Feed,
        scope: Scope,
        found: Callable[[int], None],
        period: float,
    ) -> None:
        self._cluster = cluster
        self._feed = feed
        self.scope = scope
        self._found = found
        """Told how many changes nobody had heard of before."""
        self._period = period
        """Seconds between two lists."""
        self._failures = 0
        loop = asyncio.get_running_loop()
        self._now = loop.time
        self.turned = loop.time()
        self.heard = loop.time()
        self.first = asyncio.Event()
        """Set once a list has succeeded."""
        self._missed = asyncio.Event()

    def missed(self) -> None:
        """List soon: something may have been missed."""
        self._missed.set()

    async def run(self) -> None:
        """List until cancelled."""
        while True:
            self._missed.clear()
            pause = await self._once()
            # Many reasons that come together are one.
            await asyncio.sleep(min(pause, _GAP_SECONDS))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, pause - _GAP_SECONDS)):
                    await self._missed.wait()

    async def _once(self) -> float:
        """List; return the seconds to the next time."""
        try:
            objects, version = await self._cluster.list(PIPELINE, self.scope.namespace)
        except ClusterError as error:
            self.turned = self._now()
            self._failures += 1
            if self._failures == 1:
                _logger.warning("pipelines cannot be listed: %s", error)
            return retry_delay(self._failures)
        self.turned = self.heard = self._now()
        if self._failures:
            _logger.info("pipelines can be listed again")
            self._failures = 0
        changes = self._feed.listed(self.scope, objects, version)
        if self.first.is_set():
            self._found(changes)
        self.first.set()
        return self._period * spread()


class Doubts:
    """Asks whether pipelines are still there."""

    def __init__(self, cluster: Cluster, store: Store, feed: Feed) -> None:
        self._cluster = cluster
        self._store = store
        self._feed = feed
        self._waiting: dict[Key, None] = {}
        self._woken = asyncio.Event()

    def doubt(self, key: Key) -> bool:
        """Ask for a pipeline, and have it looked at then. False: it is known to be gone, or on its way out."""
        known = self._store.get(PIPELINE, *key)
        if known is None or "deletionTimestamp" in known["metadata"]:
            return False
        self._waiting[key] = None
        self._woken.set()
        return True

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._waiting:
                key = next(iter(self._waiting))
                try:
                    found = await self._cluster.get(PIPELINE, *key)
                except ClusterError:
                    pass  # nothing learnt; the look will find the same trouble, and the sweep the truth
                else:
                    if found is None:
                        self._feed.vanished(PIPELINE, key)
                    else:
                        self._feed.seen(PIPELINE, found)
                del self._waiting[key]
                self._feed.look(key)


class Resync:
    """Puts every pipeline into the queue once in a period, spread out over it."""

    def __init__(self, store: Store, queue: Queue[Key], period: float) -> None:
        self._store = store
        self._queue = queue
        self._period = period

    async def run(self) -> None:
        """Go round until cancelled."""
        while True:
            keys = self._store.keys(PIPELINE)
            pause = self._period / max(1, len(keys))
            for key in keys:
                await asyncio.sleep(pause)
                self._queue.add(key, Lane.RESYNC)
            if not keys:
                await asyncio.sleep(self._period / 10)
