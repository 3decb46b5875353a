"""Sidekicks: the workers of Python models, shared between revisions by the content of the code, and counted.

Guarantees: `release` and `close` never wait for users' code; equal code is imported once, however many revisions use
it.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from midstream_engine.errors import LoadError
from midstream_engine.events import Emit
from midstream_engine.sidekicks.crew import Crew, Shared
from midstream_engine.sidekicks.handle import Starter
from midstream_engine.sidekicks.settings import SidekickSettings
from midstream_engine.sidekicks.sidekick import Sidekick, Threads

_END_SECONDS = 2.0
"""How long `close` waits for processes that it has killed."""
_STOPPING = "the engine is stopping"


class Sidekicks:
    """All sidekicks of an engine. Made on the event loop, before any thread lowers its priority.

    emit: gets `sidekick_started`, `sidekick_ended` and `sidekick_output`. changed: called when `report` would differ.
    """

    def __init__(
        self,
        settings: SidekickSettings | None = None,
        *,
        emit: Emit = lambda *_, **__: None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings or SidekickSettings()
        self._packing = ThreadPoolExecutor(1, "midstream-packing")
        self._threads = Threads(asyncio.get_running_loop(), threading.get_ident(), self._packing)
        starter = Starter(self._settings.limits, self._settings.host, self._settings.folder)
        self._shared = Shared(self._settings, starter, emit, changed)
        self._crews: dict[str, Crew] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._crews)

    def has(self, sha256: str) -> bool:
        """Whether this code has its workers already. From any thread."""
        return sha256 in self._crews

    def acquire(self, name: str, code: bytes, sha256: str) -> Sidekick:
        """A sidekick of this code, whose workers are started if they are not there. Each needs one `release`.

        name: the model's, for messages and `report`. Blocks until the code is imported: not for the event
        loop's thread. Raises LoadError: InvalidCode, SidekickCrashed, SidekickTimedOut, or SidekickUnavailable, which
        may heal.
        """
        return self._threads.blocking(self._acquire(name, code, sha256))

    def release(self, sidekick: Sidekick) -> None:
        """Give up one use; the last one ends the workers. From any thread, and without waiting."""
        if not self._closed:
            self._threads.loop.call_soon_threadsafe(self._release, sidekick)

    def report(self) -> list[dict[str, Any]]:
        """One entry for each worker and model that uses it: name, model, sha256, pid, status, restarts, reason."""
        return [line for crew in self._crews.values() for line in crew.report()]

    async def close(self) -> None:
        """End all workers; whoever waits for one is told. Nothing is started afterwards."""
        if self._closed:
            return
        self._closed = True
        crews = list(self._crews.values())
        self._crews.clear()
        await asyncio.gather(*(crew.close(_STOPPING) for crew in crews))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                while self._shared.living:
                    self._shared.ended.clear()
                    await self._shared.ended.wait()
        await self._shared.starter.close()
        self._packing.shutdown(wait=False)

    async def _acquire(self, name: str, code: bytes, sha256: str) -> Sidekick:
        if self._closed:
            raise LoadError("SidekickUnavailable", _STOPPING, transient=True)
        crew = self._crews.get(sha256)
        if crew is None:
            crew = self._crews[sha256] = Crew(self._shared, name, code, sha256)
        crew.join(name)
        sidekick = Sidekick(name, crew, self._threads, sha256, self._settings.max_answer)
        try:
            await crew.opened()
        except BaseException:
            self._release(sidekick)
            raise
        return sidekick

    def _release(self, sidekick: Sidekick) -> None:
        crew = sidekick.crew
        if not crew.leave(sidekick.name) and self._crews.get(sidekick.sha256) is crew:
            del self._crews[sidekick.sha256]
            crew.end()
