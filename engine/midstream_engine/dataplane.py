"""Inference: bytes in, bytes out. Knows no HTTP server and no ASGI.

A request takes the serving revision once and runs on it from the first step to the last. Small work runs at once on the
event loop; large work, or work of models known to be slow, runs in a bounded number of threads under a lease. What
cannot be taken in is refused with `Overloaded` rather than queued without end.
"""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from midstream_engine.batch import Result, elements
from midstream_engine.challenged import Challenged, Room
from midstream_engine.codec import Asked
from midstream_engine.counts import Counts
from midstream_engine.errors import (
    BadInput,
    BodyTooLarge,
    HeadTooLarge,
    InternalError,
    InvalidHTTP,
    MethodNotAllowed,
    NotAcceptable,
    NotReady,
    Overloaded,
    RequestError,
    SidekickFailed,
    SidekickTimedOut,
    StepFailed,
    TooSlow,
    UnknownPipeline,
    UnsupportedMediaType,
)
from midstream_engine.formats.columns import quiet
from midstream_engine.formats.jsontext import dumps
from midstream_engine.job import Job, is_much_to_write, kept_bytes, patiently
from midstream_engine.recent import Recent
from midstream_engine.request import Request, Target
from midstream_engine.revisions.loader import Loaded
from midstream_engine.revisions.manager import Manager
from midstream_engine.revisions.revision import Revision
from midstream_engine.settings import Settings
from midstream_engine.shadow.runner import ShadowRunner
from midstream_engine.steps.flow import is_short, learned, run_beside, run_here, run_one, run_plain
from midstream_engine.steps.kinds import Run

STATUS_CODES: dict[type[RequestError], int] = {
    BadInput: 400,
    InvalidHTTP: 400,
    MethodNotAllowed: 405,
    NotAcceptable: 406,
    TooSlow: 408,
    BodyTooLarge: 413,
    HeadTooLarge: 431,
    UnsupportedMediaType: 415,
    UnknownPipeline: 404,
    NotReady: 503,
    Overloaded: 503,
    StepFailed: 500,
    SidekickFailed: 502,
    SidekickTimedOut: 504,
    InternalError: 500,
}
"""What each error is over HTTP."""

_log = logging.getLogger(__name__)

_WAIT_SECONDS = 30.0
"""The longest a request waits while a resource-preserving swap has nothing to serve."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: bytes
    """Complete lines, each ended by CR LF, without content-length."""
    body: bytes


class DataPlane:
    def __init__(self, manager: Manager, counts: Counts, settings: Settings) -> None:
        self._manager = manager
        self.counts = counts
        self._settings = settings
        self._threads = ThreadPoolExecutor(settings.threads, "midstream-infer", quiet)
        self._waits = settings.policy == "resource"
        self._shadows = ShadowRunner(counts.shadows, max_asked=settings.max_connections // 2)
        self.recent = Recent(settings.recent_rows)

    def infer(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        """Answer a request now, or give what will answer it. Never raises: errors are answers."""
        start = time.perf_counter_ns()
        revision = self._manager.serving
        job = None
        try:
            if revision is None or revision.loaded is None:
                return self._wait_and_infer(request)
            _check(revision, request.target)
            loaded = revision.loaded
            asked = loaded.codec.read_at_once(request, self._settings.max_body)
            if asked is None:
                return self._read_and_infer(request, revision, loaded, start)
            job = self._job(request, revision, loaded, asked, start)
            if loaded.waits:
                return self._guarded(self._infer_beside(job))
            if self._takes_long(job):
                self._check_room(job.size)
                return self._guarded(self._infer_in_thread(job))
            run = job.run
            if loaded.plain:
                outputs = run_plain(loaded.steps, run)
            else:
                outputs = (run_one if run.batch.rows == 1 else run_here)(loaded.steps, run)
            return self._answer(job, *job.written(outputs))
        except RequestError as error:
            if job is not None:
                self.counts.failed(job.loaded.steps, job.run, error)
            return self.refuse(error)
        except Exception as error:  # noqa: BLE001 - the last one who can turn a defect into an answer
            return self._defect(error)

    def _defect(self, error: Exception) -> Answer:
        _log.error("a request failed on a defect of the engine", exc_info=error)
        return self.refuse(InternalError("the engine failed on this request; its log says why"))

    def refuse(self, error: RequestError) -> Answer:
        """The answer that an error is, counted."""
        status = STATUS_CODES[type(error)]
        self.counts.refused(status)
        content: dict[str, Any] = {"error": error.message, "reason": error.reason}
        if error.field is not None:
            content["field"] = error.field
        if error.row is not None:
            content["row"] = error.row
        headers = b"content-type: application/json\r\n"
        if status == 503:
            headers += b"retry-after: 1\r\n"
        elif status == 405:
            headers += b"allow: POST\r\n"
        serving = self._manager.serving
        if serving is not None:
            headers += b"x-midstream-version: %b\r\n" % serving.document.version.encode()
        return Answer(status, headers, dumps(content))

    def discard(self, revision: Revision) -> None:
        """Give up challengers' work that waits for a revision which is to be freed."""
        self._shadows.discard(revision)

    async def close(self) -> None:
        """Take no more work. Waits for no model that does not stop: it has its thread for good."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._shadows.close()

    def _job(
        self, request: Request, revision: Revision, loaded: Loaded, asked: Asked, start: int
    ) -> Job:
        """What is to be done for a request. Raises BadInput for a number of rows that the model does not take."""
        batch = asked.batch
        if loaded.batch is not None:
            _check_batch(batch.rows, loaded.batch)
        run = Run(batch, asked.literal)
        read_ns = time.perf_counter_ns() - start
        load = batch.rows if loaded.fixed else elements(batch.fields)
        job = Job(revision, loaded, run, asked, len(request.body), start, read_ns, load)
        if loaded.shadowed:
            room = Room(self.counts, self._settings.max_buffered)
            run.runner = job.challenged = Challenged(self._shadows, revision, room)
        return job

    def _takes_long(self, job: Job) -> bool:
        return job.revision.row_ns * job.load > self._settings.inline_ns or is_much_to_write(job)

    def _answer(self, job: Job, result: Result, headers: bytes, body: bytes) -> Answer:
        """Count what was done, and give the answer."""
        loaded, run, counts = job.loaded, job.run, self.counts
        rows = run.batch.rows
        total = 0
        for step, ns in zip(loaded.steps, run.elapsed, strict=True):
            counts.stepped(step.name, ns)
            total += ns
        # Decides where the next request runs. In threads several runs share the processor: by the clock they would be
        # long for that alone, and stay with threads.
        revision = job.revision
        took = total if job.spent_ns is None else job.spent_ns
        revision.row_ns = learned(revision.row_ns, took, job.load, self._settings.inline_ns)
        for choice in run.choices:
            counts.chosen(choice)
        checks = result.checks
        if checks is not None and checks is not loaded.validator.passed:  # type: ignore[union-attr]
            counts.checked(checks)
        if job.challenged is None and job.asked.is_record:
            self.recent.add_body(body, rows)
        else:
            self.recent.add(job.asked.codec.records, result, kept_bytes(job, result))
        if job.challenged is not None:
            job.challenged.hand_over(result.shadows)
        counts.answered(rows, time.perf_counter_ns() - job.start)
        return Answer(200, headers, body)

    def _read_and_infer(
        self, request: Request, revision: Revision, loaded: Loaded, start: int
    ) -> Coroutine[Any, Any, Answer]:
        """The same for a body that takes long to read: other requests have their turns meanwhile."""
        self._check_room(len(request.body))
        loop = asyncio.get_running_loop()
        read = functools.partial(loaded.codec.read, request, self._settings.max_body)
        release = self._hold(revision, len(request.body))

        async def work() -> Answer:
            try:
                asked = await loop.run_in_executor(self._threads, read)
                job = self._job(request, revision, loaded, asked, start)
                answer = self._infer_beside(job) if loaded.waits else self._infer_in_thread(job)
            finally:
                release()  # the job holds what it needs itself
            return await answer

        # A task of its own, for the same reason as below.
        task = loop.create_task(work())
        task.add_done_callback(_look)

        async def wait() -> Answer:
            return await asyncio.shield(task)

        return self._guarded(wait())

    def _infer_in_thread(self, job: Job) -> Coroutine[Any, Any, Answer]:
        seconds = self._settings.infer_seconds
        future = asyncio.get_running_loop().run_in_executor(self._threads, job.compute, seconds)
        # The lease is taken here, not when the coroutine first runs: a swap may come in between. A vanished client ends
        # the wait, not the work, so it is given back when the thread is done.
        future.add_done_callback(functools.partial(_end, self._hold(job.revision, job.size)))

        async def wait() -> Answer:
            with self._failures_of(job):
                return self._answer(job, *await patiently(future, job, seconds))

        return wait()

    def _infer_beside(self, job: Job) -> Coroutine[Any, Any, Answer]:
        settings = self._settings
        loop = asyncio.get_running_loop()
        queued = not is_short(job.loaded.steps, job.run.batch, settings.inline_ns)
        if queued:
            self._check_room(job.size)
        # Else it waits for challengers alone, and is not asked to where there is no room for that.
        if job.challenged is not None:
            job.challenged.room.queued = queued

        async def execute(function: Callable[[], Any]) -> Any:
            return await loop.run_in_executor(self._threads, function)

        async def run() -> tuple[Result, bytes, bytes]:
            outputs = await run_beside(
                job.loaded.steps, job.run, settings.infer_seconds, settings.inline_ns, execute
            )
            written = functools.partial(job.written, outputs)
            return await execute(written) if is_much_to_write(job) else written()

        # A task of its own, for the same reason as above.
        work = loop.create_task(run())
        release = self._hold(job.revision, job.size, queued=queued)
        work.add_done_callback(functools.partial(_end, release))

        async def wait() -> Answer:
            with self._failures_of(job):
                return self._answer(job, *await asyncio.shield(work))

        return wait()

    @contextlib.contextmanager
    def _failures_of(self, job: Job) -> Iterator[None]:
        try:
            yield
        except RequestError as error:
            self.counts.failed(job.loaded.steps, job.run, error)
            raise

    async def _guarded(self, answer: Coroutine[Any, Any, Answer]) -> Answer:
        try:
            return await answer
        except RequestError as error:
            return self.refuse(error)
        except Exception as error:  # noqa: BLE001 - as in `infer`
            return self._defect(error)

    def _check_room(self, size: int) -> None:
        """Raise Overloaded when too much does not run at once already."""
        counts, settings = self.counts, self._settings
        if counts.queued >= settings.max_queued + settings.threads:
            raise Overloaded(
                f"{counts.queued} requests are waiting for their turn already; try again in a second"
            )
        self._check_bytes(size)

    def _check_bytes(self, size: int) -> None:
        counts = self.counts
        if counts.buffered + size > self._settings.max_buffered:
            raise Overloaded(
                f"request bodies of {counts.buffered} bytes are waiting already; try again in a second"
            )

    def _hold(self, revision: Revision, size: int, *, queued: bool = True) -> Callable[[], None]:
        """Count a request that does not run at once and keep its revision, until what is returned is called."""
        counts = self.counts
        counts.queued += queued
        counts.buffered += size
        revision.leases += 1

        def release() -> None:
            counts.queued -= queued
            counts.buffered -= size
            revision.release()

        return release

    async def _wait_and_infer(self, request: Request) -> Answer:
        """Under the resource-preserving policy a swap leaves a gap: requests wait for its end."""
        if not (self._waits and self._manager.wish is not None):
            return self.refuse(self._not_ready())
        counts, settings = self.counts, self._settings
        if counts.waiting >= settings.max_connections:
            return self.refuse(
                Overloaded("too many requests are waiting already; try again in a second")
            )
        try:
            self._check_bytes(len(request.body))
        except Overloaded as error:
            return self.refuse(error)
        counts.buffered += len(request.body)
        counts.waiting += 1
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                await self._manager.serves()
        except TimeoutError:
            return self.refuse(self._not_ready())
        finally:
            counts.waiting -= 1
            counts.buffered -= len(request.body)
        answer = self.infer(request)
        return answer if isinstance(answer, Answer) else await answer

    def _not_ready(self) -> NotReady:
        failed = [r.error for r in self._manager.revisions.values() if r.error is not None]
        said = f": {failed[0].message}" if failed else "; it is still loading"
        return NotReady(f"nothing serves yet{said}")


def _look(done: "asyncio.Future[Any]") -> None:
    """At how it went, also when nobody waits any more."""
    if not done.cancelled():
        done.exception()


def _end(release: Callable[[], None], done: "asyncio.Future[Any]") -> None:
    release()
    _look(done)


def _check(revision: Revision, target: Target) -> None:
    document = revision.document
    if target.pipeline is not None and target.pipeline != document.pipeline:
        raise UnknownPipeline(
            f"no pipeline {target.pipeline[:60]!r} here; this engine serves {document.pipeline!r}"
        )
    if target.version is not None and target.version != document.version:
        raise UnknownPipeline(
            f"version {target.version[:60]!r} of {document.pipeline!r} does not serve here; "
            f"{document.version} does",
            reason="UnknownVersion",
        )


def _check_batch(rows: int, batch: int) -> None:
    if rows != batch:
        raise BadInput(
            f"the body has {rows} rows; this model takes exactly {batch}", reason="WrongBatch"
        )
