"""A thread that does one thing after the other and hands each result to the event loop.

It shares no lock with the loop: what is put in costs the loop no wait, whatever priority the thread has. It is a
daemon: a function that never comes back keeps its thread, not the process.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any

from midstream_engine import scheduling

IDLE_SECONDS = 30.0

_Item = tuple[Callable[[], Any], Callable[[Any], None]]


class Worker:
    """Made, and used, on the event loop's thread."""

    def __init__(
        self,
        name: str,
        *,
        first: bool,
        idle: Callable[[], None],
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        """Start the thread.

        first: a request waits for what it does; otherwise requests come first. idle: called on the loop's thread when
        there was nothing to do for `idle_seconds`, once until there is something again; it may `stop`.
        """
        self._loop = asyncio.get_running_loop()
        self._items: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._first = first
        self._idle = idle
        self._idle_seconds = idle_seconds
        self._thread = threading.Thread(target=self._work, name=f"midstream-{name}", daemon=True)
        self._thread.start()

    def put(self, function: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Call `function` in the thread when its turn comes, then `then` on the loop's thread.

        `then` gets the result, or the exception if there was one.
        """
        self._items.put((function, then))

    def stop(self) -> None:
        """End the thread after what was put in so far. Waits for nothing."""
        self._items.put(None)

    def _work(self) -> None:
        if not self._first:
            scheduling.yield_to_requests()
        while (item := self._next()) is not None:
            function, then = item
            try:
                result = function()
            except BaseException as error:  # noqa: BLE001 - not even an exit may end the thread unheard
                # Its traceback would lead to all that the function used.
                result = error.with_traceback(None)
            if not self._post(then, result):
                return
            # While it waits it keeps nothing in memory.
            del item, function, then, result

    def _next(self) -> _Item | None:
        try:
            return self._items.get(timeout=self._idle_seconds)
        except queue.Empty:
            self._post(lambda _: self._idle(), None)
            return self._items.get()

    def _post(self, then: Callable[[Any], None], result: Any) -> bool:
        """False when there is no loop any more."""
        try:
            self._loop.call_soon_threadsafe(then, result)
        except RuntimeError:
            return False
        return True
