"""An engine's inside in the test's own process: a real manager, loader and data plane, without HTTP."""

import asyncio
import hashlib
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from kit.folder import entry
from kit.live import Live, live
from midstream_api.engineconfig import RevisionDocument
from midstream_engine.counts import Counts
from midstream_engine.dataplane import Answer, DataPlane
from midstream_engine.revisions.revision import State
from midstream_engine.settings import Settings
from midstream_engine.web.gate import Gate
from reference.wire import Sent

WAIT_SECONDS = 60.0
"""The longest a caller waits for the engine before it fails."""

_AT_ONCE = 4
"""Requests under way where they do not run at once."""

Found = TypeVar("Found")


class Plane:
    """Serves one revision after the other, and answers requests. All of it runs on a loop in a thread of its own."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="plane")
        self._thread.start()
        self._stop = asyncio.Event()
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._life = asyncio.run_coroutine_threadsafe(self._run(folder, settings), self._loop)
        self._do(self._wait_started())

    def keep(self, code: str) -> None:
        """Have the processes of a Python model outlive the revisions that use it."""
        data = code.encode()
        self._do(self._keep(data, hashlib.sha256(data).hexdigest()))

    def serve(self, document: RevisionDocument) -> None:
        """Load a revision and swap to it. Fails when it is refused."""
        self._do(self._serve(document))

    def infer(self, requests: Sequence[Sent], *, in_threads: bool = False) -> list[Answer]:
        """The answers, in order. in_threads: work that could run at once runs as what takes long does."""
        return self._do(self._infer(self._planes[in_threads], requests))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._life.result(WAIT_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, call: Coroutine[Any, Any, Found]) -> Found:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    async def _wait_started(self) -> None:
        await asyncio.wait(
            (self._started, asyncio.wrap_future(self._life)), return_when=asyncio.FIRST_COMPLETED
        )
        if not self._started.done():
            self._life.result()

    async def _run(self, folder: Path, settings: dict[str, Any]) -> None:
        async with live(folder) as made:
            self._live: Live = made
            chosen = Settings(
                config=folder, state=folder / "state", cache=folder / "cache", **settings
            )
            self._planes = [
                DataPlane(made.manager, Counts(), chosen),
                DataPlane(made.manager, Counts(), replace(chosen, inline_ns=0)),
            ]

            self._gate = Gate(self._planes[0], chosen)

            def discard(revision: Any) -> None:
                for plane in self._planes:
                    plane.discard(revision)

            made.manager.quiesces = discard
            self._started.set_result(None)
            await self._stop.wait()
            for plane in self._planes:
                await plane.close()

    async def _keep(self, code: bytes, sha256: str) -> None:
        await asyncio.to_thread(self._live.sidekicks.acquire, "kept", code, sha256)

    async def _serve(self, document: RevisionDocument) -> None:
        wanted = entry(document).revision
        manager = self._live.manager
        if self._live.serving == wanted:
            return
        self._live.wish(document, allow_schema_change=True)
        async with asyncio.timeout(WAIT_SECONDS):
            while self._live.serving != wanted:
                await manager.changed()
                revision = manager.revisions[wanted]
                if revision.state is State.FAILED:
                    assert revision.error is not None
                    raise AssertionError(f"refused: {revision.error.message} {document}")

    async def _infer(self, plane: DataPlane, requests: Sequence[Sent]) -> list[Answer]:
        answers: dict[int, Answer] = {}
        waiting: dict[int, Coroutine[Any, Any, Answer]] = {}

        async def settle() -> None:
            found = await asyncio.gather(*waiting.values())
            answers.update(zip(waiting, found, strict=True))
            waiting.clear()

        for number, sent in enumerate(requests):
            request = sent.request(self._gate)
            if request is None:
                answers[number] = Answer(404, b"", b"")
                continue
            answer = plane.infer(request)
            if isinstance(answer, Answer):
                answers[number] = answer
            else:
                waiting[number] = answer
                if len(waiting) >= _AT_ONCE:
                    async with asyncio.timeout(WAIT_SECONDS):
                        await settle()
        async with asyncio.timeout(WAIT_SECONDS):
            await settle()
        return [answers[number] for number in range(len(requests))]


@contextmanager
def plane(folder: Path, **settings: Any) -> Iterator[Plane]:
    """One that is closed in the end."""
    made = Plane(folder, **settings)
    try:
        yield made
    finally:
        made.close()
