"""Events about a pipeline, as `kubectl describe` shows them.

Guarantees: posting never waits and never raises; the same words about the same generation are posted once and counted
from then on; a pipeline cannot flood its namespace. What cannot be posted is lost, and counted.
"""

import asyncio
import logging
import socket
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from midstream_api import names
from midstream_operator.cluster import EVENT, Kind
from midstream_operator.errors import ClusterError
from midstream_operator.observed import Object

REPEAT_SECONDS = 300.0
"""Between two writes that tell how often an event has happened."""
BURST = 25
"""Events that one pipeline may post at once; after them one more every REFILL_SECONDS."""
REFILL_SECONDS = 30.0
REMEMBERED = 4096
"""Events whose repeats are counted; the oldest are forgotten first."""
BACKLOG = 512
"""Events that wait to be posted."""

_LONGEST_NOTE = 1024
_LONGEST_WORD = 128
_ATTEMPTS = 3
_RETRY_SECONDS = 1.0

_logger = logging.getLogger(__name__)

_Words = tuple[str, ...]
"""What makes two events the same."""


class Board(Protocol):
    """Where events are posted to: a `Cluster`."""

    async def create(self, obj: Object) -> Object: ...

    async def merge(self, kind: Kind, namespace: str, name: str, patch: Object) -> Object: ...


@dataclass(slots=True)
class _Known:
    """An event that has been posted, or is about to be."""

    words: _Words
    namespace: str
    name: str
    told: float
    """When its count was last told, on the event loop's clock."""
    count: int = 1


@dataclass(slots=True)
class _Allowance:
    """What one pipeline may still post."""

    left: float
    at: float


@dataclass(frozen=True, slots=True)
class _Write:
    """One call that waits to be made."""

    known: _Known
    body: Object
    new: bool


def _nobody(_result: str) -> None:
    """Nobody counts."""


class Events:
    """Posts events in the background."""

    def __init__(self, board: Board, count: Callable[[str], None] = _nobody) -> None:
        self._board = board
        self._count = count
        self._known: OrderedDict[_Words, _Known] = OrderedDict()
        self._allowances: OrderedDict[str, _Allowance] = OrderedDict()
        self._backlog: asyncio.Queue[_Write] = asyncio.Queue(BACKLOG)
        self._instance = socket.gethostname()[:_LONGEST_WORD]

    def post(self, regarding: Object, type_: str, reason: str, message: str, action: str) -> None:
        """Tell something about an object.

        Args:
            regarding: The object; of its metadata name, namespace, uid and generation are used.
            type_: `Normal` or `Warning`.
            reason: Why, a constant in CamelCase.
            message: A sentence for people; cut after 1024 characters.
            action: What was being done, a constant in CamelCase.
        """
        metadata = regarding["metadata"]
        uid = metadata.get("uid") or ""
        words = (uid, str(metadata.get("generation")), type_, reason, message, action)
        now = asyncio.get_running_loop().time()
        known = self._known.get(words)
        if known is not None:
            self._repeat(known, now)
            return
        if not self._allowed(uid, now):
            self._count("limited")
            return
        namespace = metadata["namespace"]
        known = _Known(words, namespace, f"{metadata['name']}.{uuid.uuid4().hex[:16]}", now)
        body = {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {"name": known.name, "namespace": namespace},
            "eventTime": _now(),
            "reportingController": f"{names.GROUP}/operator",
            "reportingInstance": self._instance,
            "regarding": {
                "apiVersion": regarding["apiVersion"],
                "kind": regarding["kind"],
                "name": metadata["name"],
                "namespace": namespace,
                "uid": uid,
            },
            "type": type_,
            "reason": reason[:_LONGEST_WORD],
            "action": action[:_LONGEST_WORD],
            # The limit counts bytes.
            "note": message.encode()[:_LONGEST_NOTE].decode(errors="ignore"),
        }
        if self._put(_Write(known, body, new=True)):
            self._known[words] = known
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)

    async def run(self) -> None:
        """Post what waits, until cancelled."""
        while True:
            write = await self._backlog.get()
            try:
                await self._make(write)
            finally:
                self._backlog.task_done()

    async def drain(self) -> None:
        """Wait until nothing waits any more; `run` must be running."""
        await self._backlog.join()

    def _repeat(self, known: _Known, now: float) -> None:
        known.count += 1
        self._known.move_to_end(known.words)
        self._count("repeated")
        if now - known.told >= REPEAT_SECONDS:
            known.told = now
            series = {"count": known.count, "lastObservedTime": _now()}
            self._put(_Write(known, {"series": series}, new=False))

    def _allowed(self, uid: str, now: float) -> bool:
        allowance = self._allowances.setdefault(uid, _Allowance(BURST, now))
        self._allowances.move_to_end(uid)
        if len(self._allowances) > REMEMBERED:
            self._allowances.popitem(last=False)
        allowance.left = min(BURST, allowance.left + (now - allowance.at) / REFILL_SECONDS)
        allowance.at = now
        if allowance.left < 1:
            return False
        allowance.left -= 1
        return True

    def _put(self, write: _Write) -> bool:
        try:
            self._backlog.put_nowait(write)
        except asyncio.QueueFull:
            self._count("lost")
            return False
        return True

    async def _make(self, write: _Write) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                if write.new:
                    await self._board.create(write.body)
                else:
                    known = write.known
                    await self._board.merge(EVENT, known.namespace, known.name, write.body)
            except ClusterError as error:
                if error.overloaded and error.status != 409 and attempt < _ATTEMPTS:
                    await asyncio.sleep(_RETRY_SECONDS * attempt)
                    continue
                if error.status != 409:  # 409: the attempt before did arrive
                    # The next time that it happens it is posted anew.
                    self._known.pop(write.known.words, None)
                    self._count("lost")
                    _logger.debug("event lost: %s", error)
            else:
                self._count("posted")
            return


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
