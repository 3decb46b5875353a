"""News of the cluster: what is heard goes into the store, and what matters of it puts a pipeline into the queue.

`Feed` is where all news comes in; `Watch` hears of one kind by list and watch. Guarantees of a watch: it never ends by
itself, whatever the API server does; what happened while it was deaf is found by the list that follows, deletions
included. Pipelines are heard through kopf (module shell) and by the sweep.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from typing import Any

from midstream_api import names
from midstream_operator.cluster import (
    CONFIG_MAP,
    CONTROLLER_REVISION,
    DEPLOYMENT,
    PIPELINE,
    POD,
    SERVICE,
    SERVICE_ACCOUNT,
    Cluster,
    Kind,
    kind_of,
)
from midstream_operator.errors import ClusterError
from midstream_operator.observed import Object
from midstream_operator.queue import Key, Lane, Queue
from midstream_operator.store import Change, Scope, Store, owner_of

OWNED = (DEPLOYMENT, POD, CONFIG_MAP, SERVICE, SERVICE_ACCOUNT, CONTROLLER_REVISION)
"""Kinds that are watched here. Secrets are not: a role that may list them may read them all."""
SELECTOR = f"app.kubernetes.io/managed-by={names.MANAGED_BY}"

RELIST_SECONDS = 600.0
"""Between two lists of a kind even when nothing seems to be wrong."""
FIRST_DELAY = 0.2
LONGEST_DELAY = 5.0

_logger = logging.getLogger(__name__)


def spread() -> float:
    """Return a factor about 1, so that not all do the same at the same moment."""
    return random.uniform(0.9, 1.1)  # noqa: S311  # no secret


def retry_delay(failures: int) -> float:
    """Return the seconds to wait after so many failures in a row."""
    # 2 ** 10 is beyond the limit; a larger exponent would only grow.
    return min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(failures - 1, 10)) * spread()


class Feed:
    """Takes news into the store and puts the pipelines that it concerns into the queue."""

    def __init__(self, store: Store, queue: Queue[Key]) -> None:
        self._store = store
        self._queue = queue
        self.doubt: Callable[[Key], bool] = _never
        """Asked when an owned object was deleted. True: it sees to it that the pipeline is looked at."""
        self.missed: Callable[[], None] = _nobody
        """Told that something may have been missed."""

    def seen(self, kind: Kind, obj: Object) -> None:
        """Somebody saw this object."""
        self._pass_on(self._store.put(kind, obj))

    def gone(self, kind: Kind, obj: Object) -> None:
        """This object was deleted."""
        self._pass_on(self._store.remove(kind, obj))

    def vanished(self, kind: Kind, key: Key) -> None:
        """It turned out that there is no such object."""
        self._pass_on(self._store.discard(kind, *key))

    def look(self, key: Key) -> None:
        """Have a pipeline looked at."""
        self._queue.add(key)

    def listed(self, scope: Scope, objects: list[Object], resource_version: str) -> int:
        """Take all objects that there are in a scope; return how many changes had not been heard of."""
        changes = self._store.listed(scope, objects, resource_version)
        for change in changes:
            self._pass_on(change)
        return len(changes)

    def written(self, obj: Object) -> None:
        """Take an object as a write of our own returned it, so that the next look sees what the last one did."""
        labels = obj["metadata"].get("labels") or {}
        kind = kind_of(obj)
        if self._store.watches(kind) and (
            kind == PIPELINE or labels.get("app.kubernetes.io/managed-by") == names.MANAGED_BY
        ):
            self.seen(kind, obj)

    def _pass_on(self, change: Change | None) -> None:
        if change is not None:
            lane = Lane.CHANGE if change.kind == PIPELINE else Lane.DRIFT
            for key in concerned(change):
                if not (_is_bereft(change) and self.doubt(key)):
                    self._queue.add(key, lane)


def _never(_key: Key) -> bool:
    return False


def _nobody() -> None:
    """Nobody wants to know."""


def _is_bereft(change: Change) -> bool:
    """Whether somebody deleted what a pipeline owns: it may be the garbage collector, after the pipeline itself.

    Pods come and go for other reasons, and are made again by others.
    """
    return change.after is None and change.kind not in (PIPELINE, POD)


def concerned(change: Change) -> set[Key]:
    """Return the pipelines that have to be looked at because of a change; none when nothing that is used changed."""
    before, after = change.before, change.after
    if before is not None and after is not None and _used(before) == _used(after):
        return set()
    if change.kind == PIPELINE:
        metadata = (after or before or {})["metadata"]
        return {Key(metadata["namespace"], metadata["name"])}
    owners = (owner_of(each) for each in (before, after) if each is not None)
    return {owner for owner in owners if owner is not None}


def _used(obj: Object) -> Any:
    """Return the part of an object whose change is a reason to look."""
    metadata = obj["metadata"]
    head = [
        metadata.get(name) for name in ("uid", "labels", "annotations", "deletionTimestamp")
    ] + [metadata.get("ownerReferences")]
    kind = obj["kind"]
    if kind == PIPELINE.kind:
        return [*head, metadata.get("generation")]  # not its status: that is our own writing
    status = obj.get("status") or {}
    conditions = [
        [each.get(name) for name in ("type", "status", "reason", "message")]
        for each in status.get("conditions") or ()
    ]
    if kind == DEPLOYMENT.kind:
        counts = {name: value for name, value in status.items() if name != "conditions"}
        return [*head, obj.get("spec"), counts, conditions]
    if kind == POD.kind:
        fields = ("phase", "podIP", "containerStatuses", "initContainerStatuses", "reason")
        seen = [status.get(name) for name in fields]
        return [*head, seen, conditions]
    return [head, {name: value for name, value in obj.items() if name != "metadata"}]


class Watch:
    """Hears of one kind, in one namespace or in all, for ever."""

    def __init__(self, cluster: Cluster, feed: Feed, scope: Scope, labels: str = SELECTOR) -> None:
        self._cluster = cluster
        self._feed = feed
        self.scope = scope
        self._labels = labels
        self._failures = 0
        loop = asyncio.get_running_loop()
        self._now = loop.time
        self.turned = loop.time()
        """When it last did anything, be it in vain."""
        self.heard = loop.time()
        """When the API server last said anything."""

    async def run(self) -> None:
        """List and watch until cancelled."""
        while True:
            with contextlib.suppress(ClusterError):  # told and waited for where it was raised
                version = await self._list()
                until = self._now() + RELIST_SECONDS * spread()
                await self._follow(version, until)

    async def _list(self) -> str:
        try:
            objects, version = await self._cluster.list(
                self.scope.kind, self.scope.namespace, self._labels
            )
        except ClusterError as error:
            await self._failed(error)
            raise
        self._feed.listed(self.scope, objects, version)
        self._succeeded()
        return version

    async def _follow(self, version: str, until: float) -> None:
        """Watch from the version on. Raise ClusterError when only a list helps."""
        kind = self.scope.kind
        while self._now() < until:
            self.turned = started = self._now()
            news = self._cluster.watch(kind, version, self.scope.namespace, self._labels)
            try:
                async with contextlib.aclosing(news):
                    async for event, obj in news:
                        self._succeeded()
                        version = obj["metadata"]["resourceVersion"]
                        if event == "DELETED":
                            self._feed.gone(kind, obj)
                        elif event != "BOOKMARK":
                            self._feed.seen(kind, obj)
            except ClusterError as error:
                if error.status == 410:
                    # Too much was missed: no failure, and the list comes now.
                    await asyncio.sleep(FIRST_DELAY)
                    raise
                await self._failed(error)
                if error.status != 0:
                    raise
            else:
                if self._now() - started < FIRST_DELAY:
                    await asyncio.sleep(FIRST_DELAY)  # something in between hangs up at once

    def _succeeded(self) -> None:
        self.turned = self.heard = self._now()
        if self._failures:
            _logger.info("heard again: %s", self._what())
            self._feed.missed()
            self._failures = 0

    async def _failed(self, error: ClusterError) -> None:
        """Say it once, and wait: longer each time, and not all watches at the same moment."""
        self.turned = self._now()
        self._failures += 1
        if self._failures == 1:
            _logger.warning("not heard: %s: %s", self._what(), error)
        await asyncio.sleep(retry_delay(self._failures))

    def _what(self) -> str:
        where = f" in namespace {self.scope.namespace}" if self.scope.namespace else ""
        return f"{self.scope.kind.plural}{where}"
