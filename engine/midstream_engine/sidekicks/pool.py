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
from midstream_engine.sidekicks.handle import Starter
from midstream_engine.sidekicks.sidekick import Shared, Sidekick, SidekickSettings

_END_SECONDS = 2.0
"""How long `close` waits for processes that it has killed."""


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
        settings = settings or SidekickSettings()
        self._packing = ThreadPoolExecutor(1, "midstream-packing")
        self._shared = Shared(
            settings=settings,
            starter=Starter(settings.limits, settings.host, settings.folder),
            packing=self._packing,
            emit=emit,
            changed=changed,
            loop=asyncio.get_running_loop(),
            thread=threading.get_ident(),
        )
        self._sidekicks: dict[str, Sidekick] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._sidekicks)

    def acquire(self, name: str, code: bytes, sha256: str) -> Sidekick:
        """The sidekick of this code, started if it is not there. Each call needs one `release`.

        name: the model's, for messages; the first one counts. Blocks until the code is imported: not for the event
        loop's thread. Raises LoadError: InvalidCode, SidekickCrashed, SidekickTimedOut, or SidekickUnavailable, which
        may heal.
        """
        return self._shared.blocking(self._acquire(name, code, sha256))

    def release(self, sidekick: Sidekick) -> None:
        """Give up one use; the last one ends the workers. From any thread, and without waiting."""
        if not self._closed:
            self._shared.loop.call_soon_threadsafe(self._release, sidekick)

    def report(self) -> list[dict[str, Any]]:
        """One entry for each worker: name, model, sha256, pid, status, restarts, reason."""
        return [line for sidekick in self._sidekicks.values() for line in sidekick.report()]

    async def close(self) -> None:
        """End all workers; whoever waits for one is told. Nothing is started afterwards."""
        self._closed = True
        sidekicks = list(self._sidekicks.values())
        self._sidekicks.clear()
        await asyncio.gather(*(sidekick.close() for sidekick in sidekicks))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                while self._shared.living:
                    self._shared.ended.clear()
                    await self._shared.ended.wait()
        self._shared.starter.close()
        self._packing.shutdown(wait=False)

    async def _acquire(self, name: str, code: bytes, sha256: str) -> Sidekick:
        if self._closed:
            raise LoadError("SidekickUnavailable", "the engine is stopping", transient=True)
        sidekick = self._sidekicks.get(sha256)
        if sidekick is None:
            sidekick = self._sidekicks[sha256] = Sidekick(self._shared, name, code, sha256)
        sidekick.users += 1
        try:
            await sidekick.opened()
        except BaseException:
            self._release(sidekick)
            raise
        return sidekick

    def _release(self, sidekick: Sidekick) -> None:
        sidekick.users -= 1
        if sidekick.users == 0 and self._sidekicks.get(sidekick.sha256) is sidekick:
            del self._sidekicks[sidekick.sha256]
            sidekick.end()
            self._shared.changed()
