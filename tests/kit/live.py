"""A real manager with real models in the test's own process, for what only shows from within: leases and sessions."""

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from kit.folder import entry
from midstream_api.engineconfig import RevisionDocument
from midstream_artifacts.cache import Cache
from midstream_engine.main import _fetcher, _verified
from midstream_engine.revisions.loader import Loader
from midstream_engine.revisions.manager import Fetch, Manager, Wish
from midstream_engine.revisions.marks import Marks
from midstream_engine.revisions.policy import POLICIES, Goal
from midstream_engine.revisions.revision import Revision
from midstream_engine.sessions import Session, SessionPool
from midstream_engine.settings import Settings
from midstream_engine.sidekicks.pool import Sidekicks

WAIT_SECONDS = 30.0
"""The longest a test waits for an event before it fails."""


class WatchedPool(SessionPool):
    """A pool that remembers, without keeping them alive, which sessions there were."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: list[weakref.ref[Session]] = []
        self.most = 0
        """The most sessions that were in memory when one was asked for."""

    def acquire(self, sha256: str, path: Path) -> Session:
        """As the pool does."""
        session = super().acquire(sha256, path)
        self._seen.append(weakref.ref(session))
        self.most = max(self.most, self.alive)
        return session

    @property
    def alive(self) -> int:
        """Sessions whose memory is not free yet, in the pool or not."""
        return len({id(found) for each in self._seen if (found := each()) is not None})


class WatchedMarks(Marks):
    """Marks that remember what the next engine would have found after each of them was left."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._folder = folder
        self.left: list[str | None] = []

    def leave(self, revision: str) -> None:
        """As marks do."""
        super().leave(revision)
        self.left.append(Marks(self._folder).found)


class Live:
    def __init__(
        self,
        folder: Path,
        policy: str = "availability",
        fetch: Fetch | None = None,
        warm_up_seconds: float = 20.0,
    ) -> None:
        settings = Settings(config=folder, state=folder / "state", cache=folder / "cache")
        cache = Cache(settings.cache)
        self.pool = WatchedPool()
        self.sidekicks = Sidekicks()
        self.loader = Loader(
            pool=self.pool,
            sidekicks=self.sidekicks,
            verified_path=lambda sha256: _verified(cache, sha256),
            partition="test",
            memory_limit=None,
            warm_up_seconds=warm_up_seconds,
        )
        self.state = settings.state
        self.marks = WatchedMarks(settings.state)
        self.cached = _fetcher(cache, settings)
        """Fetches as an engine does."""
        self.manager = Manager(
            self.loader, fetch or self.cached, POLICIES[policy], self.marks, self._emit
        )
        self.events: list[dict[str, Any]] = []
        self._heard = 0
        self._news = asyncio.Event()
        self._sequence = 0

    def wish(
        self,
        stable: RevisionDocument,
        candidate: RevisionDocument | None = None,
        *,
        serve: RevisionDocument | None = None,
        allow_schema_change: bool = False,
    ) -> None:
        """Ask for these revisions. serve: default candidate, else stable."""
        self._sequence += 1
        present = [stable] if candidate is None else [stable, candidate]
        documents = {entry(each).revision: each for each in present}
        goal = Goal(
            hold=tuple(documents),
            serve=entry(serve or present[-1]).revision,
            stable=entry(stable).revision,
        )
        self.manager.accept(
            Wish(stable.pipeline, "test", self._sequence, goal, documents, allow_schema_change)
        )

    async def wait(self, event: str, document: RevisionDocument, **fields: Any) -> dict[str, Any]:
        """The next event of this name about this revision; those before it are passed over."""
        wanted = {"event": event, "revision": entry(document).revision, **fields}
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                while self._heard < len(self.events):
                    found = self.events[self._heard]
                    self._heard += 1
                    if wanted.items() <= found.items():
                        return found
                self._news.clear()
                await self._news.wait()

    def names(self, document: RevisionDocument) -> list[str]:
        """What happened to this revision, in order."""
        wanted = entry(document).revision
        return [each["event"] for each in self.events if each.get("revision") == wanted]

    def revision(self, document: RevisionDocument) -> Revision:
        """The manager's revision of this document."""
        return self.manager.revisions[entry(document).revision]

    @property
    def serving(self) -> str | None:
        """The revision id of what serves."""
        return self.manager.serving.id if self.manager.serving else None

    def limit_memory(self, limit: int) -> None:
        """Set the limit of models that are loaded from now on."""
        object.__setattr__(self.loader, "memory_limit", limit)

    def _emit(self, event: str, **fields: Any) -> None:
        self.events.append({"event": event, **fields})
        self._news.set()


@asynccontextmanager
async def live(folder: Path, *arguments: Any, **options: Any) -> AsyncIterator[Live]:
    """Run a manager for the length of the block; it must not die meanwhile."""
    made = Live(folder, *arguments, **options)
    running = asyncio.create_task(made.manager.run())
    try:
        yield made
        assert not running.done(), "the manager died"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await made.manager.close()
        await made.sidekicks.close()


Story = Callable[[], Any]


def play(story: Story) -> None:
    """Run an async story to its end; it must leave no task behind."""

    async def told() -> None:
        async with asyncio.timeout(2 * WAIT_SECONDS):
            await story()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(told())
