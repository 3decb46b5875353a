"""Owns the revisions: turns the whole wish of the config folder into one action at a time.

Guarantees: a failed load leaves the serving revision untouched; the serving revision changes by one attribute store; a
revision is freed only when its last lease is back; a newer wish replaces an older one that is not done yet; whatever
goes wrong with a revision ends that revision, not the engine. Runs on the event loop; what takes long runs in two
threads, one that fetches and one that loads and frees.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from midstream_api.engineconfig import ResolvedModel, RevisionDocument
from midstream_engine import memory, scheduling
from midstream_engine.errors import LoadError, contained
from midstream_engine.events import Emit
from midstream_engine.revisions.loader import Loaded, Loader
from midstream_engine.revisions.marks import Marks
from midstream_engine.revisions.policy import (
    Action,
    Goal,
    Load,
    Policy,
    Prepare,
    Serve,
    Snapshot,
    Unload,
)
from midstream_engine.revisions.revision import Revision, State
from midstream_engine.schema import Field, differences, lost
from midstream_engine.steps.connect import routing_fields

Fetch = Callable[[ResolvedModel, Callable[[], bool]], None]
"""fetch(model, cancelled) puts the model's bytes into the cache, or raises LoadError. Blocks."""

RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Waits between tries of a load that failed transiently."""


@dataclass(frozen=True, slots=True)
class Wish:
    """The config folder's content, validated as a whole."""

    pipeline: str
    uid: str
    sequence: int
    goal: Goal
    documents: dict[str, RevisionDocument]
    allow_schema_change: bool


class Manager:
    def __init__(
        self,
        loader: Loader,
        fetch: Fetch,
        policy: Policy,
        marks: Marks,
        emit: Emit,
    ) -> None:
        self._loader = loader
        self._fetch = fetch
        self._policy = policy
        self._marks = marks
        self._emit = emit
        self._load_thread = ThreadPoolExecutor(
            1, "midstream-load", initializer=scheduling.yield_to_requests
        )
        self._fetch_thread = ThreadPoolExecutor(
            1, "midstream-fetch", initializer=scheduling.yield_to_requests
        )
        self._metronome = scheduling.Metronome()
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._pressing = asyncio.Event()
        self._served = asyncio.Event()
        self._settled = asyncio.Event()
        self._frees: set[asyncio.Task[None]] = set()
        self._freeing: set[Revision] = set()
        self._jobs: set[Future[Any]] = set()
        """What the loading thread has been given and not done yet."""
        self._closing = False
        self._killer = marks.found
        self._asked = 0.0
        self._shown: tuple[tuple[Field, ...] | None, tuple[Field, ...] | None] | None = None
        """Inputs and outputs that callers have seen last."""
        self._optional: tuple[str, ...] = ()
        """What they could send beside: fields that only splits look at."""
        self.revisions: dict[str, Revision] = {}
        self.serving: Revision | None = None
        self.wish: Wish | None = None
        self.swaps = 0
        self.failures: dict[str, int] = {}
        self.quiesces: Callable[[Revision], None] = lambda _: None
        """Told of a revision that takes no more work."""

    def accept(self, wish: Wish) -> None:
        """Take a new wish; what it does not name any more is dropped."""
        if self.wish is None or self.wish.goal.serve != wish.goal.serve:
            self._asked = time.perf_counter()
        self.wish = wish
        wanted = {*wish.goal.hold, wish.goal.serve, wish.goal.stable}
        for name, revision in list(self.revisions.items()):
            if name not in wanted and revision.state in (State.NEW, State.FAILED):
                revision.move(State.UNLOADED)
                del self.revisions[name]
        if self._killer is not None and self._killer not in wanted:
            self._killer = None
            try:
                self._marks.clear()
            except LoadError as error:
                # The next start finds it once more, sees that nobody wants that revision, and tries again.
                self._emit("state_unwritable", message=error.message)
        for name in wanted:
            if name not in self.revisions:
                self._add(name)
        if wish.allow_schema_change:
            self._retry_all("SchemaChanged")
        if self.serving is None and wish.goal.stable in self.revisions:
            # The last resort, and somebody has changed something since it failed.
            self._retry(self.revisions[wish.goal.stable])
        # Else somebody is waiting for what comes of it.
        self._notify(pressing=self.next_action() is None)

    def _add(self, name: str) -> None:
        wish = self.wish
        assert wish is not None
        revision = Revision(name, wish.documents[name])
        self.revisions[name] = revision
        if name == self._killer and name != wish.goal.stable:
            self._failed(
                revision,
                LoadError(
                    "CandidateKilledEngine",
                    f"the engine died while it loaded this revision ({_models(revision)}); "
                    "it is not tried again until the pipeline changes",
                ),
                "candidate_killed_engine",
            )

    async def run(self) -> None:
        """Carry out actions as wishes come, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while (action := self.next_action()) is not None:
                await self.execute(action)

    def next_action(self) -> Action | None:
        if self.wish is None:
            return None
        snapshots = {
            name: Snapshot(revision.state, revision.prepared)
            for name, revision in self.revisions.items()
        }
        serving = self.serving.id if self.serving else None
        return self._policy(snapshots, self.wish.goal, serving, bool(self._freeing))

    async def execute(self, action: Action) -> None:
        revision = self.revisions[action.revision]
        match action:
            case Prepare():
                await self._prepare(revision)
            case Load():
                await self._load(revision)
            case Serve():
                self._serve(revision)
            case Unload():
                self._unload(revision)
        self._notify(wake=False, pressing=not isinstance(action, Unload))

    async def close(self) -> None:
        """Free everything; `run` must have ended, and no request may be running any more.

        A load in progress is left behind in its thread: nothing stops onnxruntime while it builds a session.
        """
        self._closing = True  # ends a fetch
        for task in self._frees:
            task.cancel()
        await asyncio.gather(*self._frees, return_exceptions=True)
        self.serving = None
        done = not self._jobs
        if done:
            for revision in self.revisions.values():
                if revision.loaded is not None:
                    loaded, revision.loaded = revision.loaded, None
                    await self._in_load_thread(self._loader.free, loaded)
        else:
            # It ends because it was asked to, not because of its candidate.
            with contextlib.suppress(LoadError):
                self._marks.clear()
        self._fetch_thread.shutdown(wait=False, cancel_futures=True)
        self._load_thread.shutdown(wait=done, cancel_futures=True)
        self._metronome.close()

    def touch(self) -> None:
        """Something beside the revisions has changed that `report`'s readers should see."""
        self._notify(wake=False, pressing=True)

    async def changed(self) -> None:
        """Wait until anything in `report` may have changed."""
        await self._changed.wait()
        self._changed.clear()

    async def presses(self) -> None:
        """Wait until something has changed that others act on: a load or a swap that is done, or refused."""
        await self._pressing.wait()

    def seen(self) -> None:
        """Take what has changed so far as known: the report that is made now says it."""
        self._changed.clear()
        self._pressing.clear()

    async def settles(self) -> None:
        """Wait until a revision serves, or the stable one has failed."""
        await self._settled.wait()

    async def serves(self) -> None:
        """Wait until a revision serves."""
        while self.serving is None:
            await self._served.wait()

    def report(self) -> dict[str, Any]:
        wish, serving = self.wish, self.serving
        return {
            "pipeline": wish.pipeline if wish else None,
            "uid": wish.uid if wish else None,
            "sequence": wish.sequence if wish else 0,
            "goal": {"hold": list(wish.goal.hold), "serve": wish.goal.serve} if wish else None,
            "ready": serving is not None,
            "serving": {"revision": serving.id, "version": serving.document.version}
            if serving
            else None,
            "revisions": [revision.report() for revision in self.revisions.values()],
            "memory": {"rss": memory.resident()},
        }

    # Actions

    async def _prepare(self, revision: Revision) -> None:
        start = time.perf_counter()
        try:
            await self._fetch_all(revision)
            await self._in_load_thread(self._verify_files, revision)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this revision's end, not the engine's
            self._failed(revision, contained(error))
            return
        revision.prepared = True
        revision.stages["prepared"] = (time.perf_counter() - start) * 1e3

    async def _load(self, revision: Revision) -> None:
        assert self.wish is not None
        start = time.perf_counter()
        candidate = revision.id != self.wish.goal.stable
        revision.move(State.LOADING)
        revision.stages.clear()
        self._notify(wake=False)
        self._tell(revision, "loading")
        try:
            await self._fetch_all(revision)
            tell = self._threadsafe_tell(revision)
            loaded = await self._in_load_thread(self._load_in_thread, revision, candidate, tell)
            changes = self._schema_changes(revision, loaded)
            if changes:
                await self._in_load_thread(self._free_in_thread, loaded)
                raise _schema_changed(changes)  # noqa: TRY301 - one way out for all that can go wrong
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this revision's end, not the engine's
            self._failed(revision, contained(error))
            return
        revision.loaded = loaded
        revision.row_ns = float(loaded.warm_ns)
        revision.prepared = True
        revision.move(State.READY)
        self._tell(revision, "ready", ms=_since(start))

    def _serve(self, revision: Revision) -> None:
        old = self.serving
        # The swap: requests take this reference once each, so none sees both.
        self.serving = revision
        self._served.set()
        self._settled.set()
        assert revision.loaded is not None
        self._shown = (revision.loaded.inputs, revision.loaded.outputs)
        self._optional = routing_fields(revision.loaded.steps)
        if old is not None:
            self.swaps += 1
        revision.stages["served"] = (time.perf_counter() - self._asked) * 1e3
        self._tell(revision, "serving", ms=round(revision.stages["served"], 3))

    def _unload(self, revision: Revision) -> None:
        if self.serving is revision:
            self.serving = None
            self._served.clear()
        revision.move(State.QUIESCING)
        self.quiesces(revision)
        if revision.leases == 0:
            revision.drained.set()
        # Off the list: a wish for the same revision loads it anew while this one drains.
        del self.revisions[revision.id]
        if self.wish is not None and revision.id in (
            *self.wish.goal.hold,
            self.wish.goal.stable,
        ):
            self._add(revision.id)
        self._freeing.add(revision)
        task = asyncio.create_task(self._drain_and_free(revision))
        self._frees.add(task)
        task.add_done_callback(self._frees.discard)

    async def _drain_and_free(self, revision: Revision) -> None:
        start = time.perf_counter()
        await revision.drained.wait()
        drained = _since(start)
        self._tell(revision, "drained", ms=drained)
        loaded, revision.loaded = revision.loaded, None
        assert loaded is not None
        try:
            freed = await self._in_load_thread(self._free_in_thread, loaded)
        except Exception as error:  # noqa: BLE001 - one revision's memory is not worth the engine
            failed = contained(error)
            self._tell(revision, "not_freed", message=failed.message, traceback=failed.trace)
        else:
            self._tell(revision, "freed", ms=_since(start), bytes=freed)
        revision.move(State.UNLOADED)
        self._freeing.discard(revision)
        self._retry_all("ModelDoesNotFit")
        self._notify()

    # In the threads

    async def _fetch_all(self, revision: Revision) -> None:
        start = time.perf_counter()

        def cancelled() -> bool:
            return self._closing or not self._wanted(revision)

        def fetch() -> None:
            for model in revision.document.models():
                if model.uri is not None:
                    self._fetch(model, cancelled)

        with self._metronome:
            await asyncio.get_running_loop().run_in_executor(self._fetch_thread, fetch)
        revision.stages["fetched"] = (time.perf_counter() - start) * 1e3

    async def _in_load_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        with self._metronome:
            job = self._load_thread.submit(function, *args)
            self._jobs.add(job)
            job.add_done_callback(self._jobs.discard)
            return await asyncio.wrap_future(job)

    def _verify_files(self, revision: Revision) -> None:
        for model in revision.document.models():
            if model.uri is not None:
                self._loader.verified_path(model.sha256)

    def _load_in_thread(self, revision: Revision, candidate: bool, tell: Emit) -> Loaded:
        loaded = failure = None
        try:
            if candidate:
                self._marks.leave(revision.id)
            loaded = self._loader.load(revision.document, revision.stages, tell)
        except Exception as error:  # noqa: BLE001 - what it holds must go here, in this thread
            failure = contained(error)
        if candidate:
            # Reached whether it loaded or was refused: this engine is still alive.
            try:
                self._marks.clear()
            except LoadError as error:
                failure = failure or contained(error)
        if loaded is not None and failure is None:
            return loaded
        if loaded is not None:
            self._loader.free(loaded)
        memory.give_back()
        assert failure is not None
        raise failure

    def _free_in_thread(self, loaded: Loaded) -> int:
        before = memory.resident()
        self._loader.free(loaded)
        memory.give_back()
        return max(0, before - memory.resident())

    # Small things

    def _schema_changes(self, revision: Revision, loaded: Loaded) -> list[str]:
        wish = self.wish
        assert wish is not None
        if self._shown is None or wish.allow_schema_change:
            return []
        if self.serving is None and revision.id == wish.goal.stable:
            return []  # nothing serves, and this is the last resort
        inputs, outputs = self._shown
        return [
            *differences(inputs, loaded.inputs, "input"),
            *lost(self._optional, loaded.inputs, routing_fields(loaded.steps)),
            *differences(outputs, loaded.outputs, "output"),
        ]

    def _wanted(self, revision: Revision) -> bool:
        if self.wish is None or self.revisions.get(revision.id) is not revision:
            return False
        goal = self.wish.goal
        return revision.id in (*goal.hold, goal.serve, goal.stable)

    def _failed(self, revision: Revision, error: LoadError, event: str = "refused") -> None:
        if not self._wanted(revision):
            self._drop(revision)
            return
        if error.reason == "FetchCancelled":
            # Dropped and wished for again while its fetch was being cancelled.
            if revision.state is not State.NEW:
                revision.move(State.NEW)
            return
        if error.reason == "ModelDoesNotFit" and self._freeing:
            # There will be more room when what drains now is gone.
            error = LoadError(error.reason, error.message, transient=True)
        if self.wish is not None and revision.id == self.wish.goal.stable:
            self._settled.set()
        revision.fail(error)
        revision.attempts += 1
        self.failures[error.reason] = self.failures.get(error.reason, 0) + 1
        trace = {"traceback": error.trace} if error.trace else {}
        self._tell(revision, event, reason=error.reason, message=error.message, **trace)
        if error.transient:
            wait = RETRY_SECONDS[min(revision.attempts, len(RETRY_SECONDS)) - 1]
            asyncio.get_running_loop().call_later(wait, self._retry, revision)

    def _drop(self, revision: Revision) -> None:
        """A newer wish has no use for what was being fetched or loaded."""
        if self.revisions.get(revision.id) is revision:
            revision.move(State.UNLOADED)
            del self.revisions[revision.id]
        self._tell(revision, "dropped")

    def _retry_all(self, reason: str) -> None:
        for revision in list(self.revisions.values()):
            error = revision.error
            if error is not None and error.reason == reason:
                self._retry(revision)

    def _retry(self, revision: Revision) -> None:
        if self.revisions.get(revision.id) is revision and revision.state is State.FAILED:
            revision.move(State.NEW)
            # Its files are looked at again before anything is unloaded for it.
            revision.prepared = False
            revision.error = None
            self._notify()

    def _tell(self, revision: Revision, event: str, **fields: Any) -> None:
        self._emit(event, revision=revision.id, version=revision.document.version, **fields)

    def _threadsafe_tell(self, revision: Revision) -> Emit:
        loop = asyncio.get_running_loop()

        def tell(event: str, **fields: Any) -> None:
            loop.call_soon_threadsafe(lambda: self._tell(revision, event, **fields))

        return tell

    def _notify(self, *, wake: bool = True, pressing: bool = False) -> None:
        self._changed.set()
        if pressing:
            self._pressing.set()
        if wake:
            self._wake.set()


def _schema_changed(changes: list[str]) -> LoadError:
    return LoadError(
        "SchemaChanged",
        f"the swap would change what callers see: {'; '.join(changes)}; "
        "set spec.rollout.allowSchemaChange: true if that is wanted",
    )


def _models(revision: Revision) -> str:
    return ", ".join(model.name for model in revision.document.models())


def _since(start: float) -> float:
    return round((time.perf_counter() - start) * 1e3, 3)
