"""Inference: bytes in, bytes out. Knows no HTTP server and no ASGI.

A request takes the serving revision once and runs on it from the first step to the last. Small work runs at once on the
event loop; large work, or work of models known to be slow, runs in a bounded number of threads under a lease. What
cannot be taken in is refused with `Overloaded` rather than queued without end.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from midstream_engine.batch import Result
from midstream_engine.challenged import Challenged, Room
from midstream_engine.codec import Asked
from midstream_engine.comparison import size_of
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
from midstream_engine.flow import is_short, run_beside, run_here, run_one, run_plain
from midstream_engine.formats.jsontext import dumps
from midstream_engine.loader import Loaded
from midstream_engine.manager import Manager
from midstream_engine.metrics import Counts
from midstream_engine.recent import Recent
from midstream_engine.request import Request, Target
from midstream_engine.revision import Revision
from midstream_engine.sessions import Arrays, spent_ns
from midstream_engine.settings import Settings
from midstream_engine.shadow import ShadowRunner
from midstream_engine.steps import Run, SplitStep

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

_GRACE_SECONDS = 1.0
"""For a step that was told to stop."""

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
        self._threads = ThreadPoolExecutor(settings.threads, "midstream-infer")
        self._waits = settings.policy == "resource"
        self._shadows = ShadowRunner(counts.shadows, max_asked=settings.max_connections // 2)
        self.recent = Recent(settings.recent_rows)

    def infer(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        """Answer a request now, or give what will answer it. Never raises: errors are answers."""
        start = time.perf_counter_ns()
        revision = self._manager.serving
        try:
            if revision is None or revision.loaded is None:
                return self._wait_and_infer(request)
            _check(revision, request.target)
            loaded = revision.loaded
            asked = loaded.codec.read(request, self._settings.max_body)
            batch = asked.batch
            if loaded.batch is not None:
                _check_batch(batch.rows, loaded.batch)
            run = Run(batch, asked.literal)
            job = _Job(
                revision,
                loaded,
                run,
                asked,
                len(request.body),
                start,
                time.perf_counter_ns() - start,
            )
            if loaded.shadowed:
                room = Room(self.counts, self._settings.max_buffered)
                run.runner = job.challenged = Challenged(self._shadows, revision, room)
            if loaded.waits:
                return self._infer_beside(job)
            if revision.row_ns * batch.rows > self._settings.inline_ns:
                return self._infer_in_thread(job)
            if loaded.plain:
                outputs = run_plain(loaded.steps, run)
            else:
                outputs = (run_one if batch.rows == 1 else run_here)(loaded.steps, run)
            return self._answer(job, outputs)
        except RequestError as error:
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

    def _answer(self, job: "_Job", outputs: Arrays) -> Answer:
        loaded, run, counts = job.loaded, job.run, self.counts
        rows = run.batch.rows
        total = 0
        for step, ns in zip(loaded.steps, run.elapsed, strict=True):
            counts.stepped(step.name, ns)
            total += ns
        # Decides where the next request runs. A run that was not given the processor says nothing about the model, so
        # one request moves it by a tenth at most. In threads several runs share the processor: by the clock they would
        # be long for that alone, and stay with threads.
        revision = job.revision
        if job.spent_ns is not None:
            total = job.spent_ns
        revision.row_ns += 0.1 * (min(total / rows, 2 * revision.row_ns) - revision.row_ns)
        result = Result(
            run.batch, outputs, time.time_ns() // 1_000_000, [job.read_ns, *run.elapsed]
        )
        if not loaded.plain:
            result.choices = run.choices
            result.shadows = run.shadows
            for choice in run.choices:
                counts.chosen(choice)
        if loaded.validator is not None:
            result.checks = checks = loaded.validator.check(
                run.batch.fields, run.steps, outputs, rows, run.choices
            )
            if checks is not loaded.validator.passed:
                counts.checked(checks)
        headers, body = job.asked.write(result)
        if job.challenged is None and job.asked.is_record:
            self.recent.add_body(body, rows)
        else:
            self.recent.add(job.asked.codec.records, result, _kept_bytes(job, result))
        if job.challenged is not None:
            job.challenged.hand_over(result.shadows)
        counts.answered(rows, time.perf_counter_ns() - job.start)
        return Answer(200, headers, body)

    def _infer_in_thread(self, job: "_Job") -> Coroutine[Any, Any, Answer]:
        self._take(job.size)
        future = asyncio.get_running_loop().run_in_executor(
            self._threads, job.compute, self._settings.infer_seconds
        )
        # The lease is taken here, not when the coroutine first runs: a swap may come in between. A vanished client ends
        # the wait, not the work, so it is given back when the thread is done.
        job.revision.leases += 1
        future.add_done_callback(lambda done: self._over(job.revision, job.size, done))

        async def wait() -> Answer:
            outputs = await _patiently(future, job, self._settings.infer_seconds)
            return self._answer(job, outputs)

        return self._guarded(wait())

    def _infer_beside(self, job: "_Job") -> Coroutine[Any, Any, Answer]:
        settings = self._settings
        queued = not is_short(job.loaded.steps, job.run.batch.rows, settings.inline_ns)
        if queued:
            self._take(job.size)
        else:
            # It waits for challengers alone, and is not asked to where there is no room for that.
            self.counts.buffered += job.size
        if job.challenged is not None:
            job.challenged.room.queued = queued
        loop = asyncio.get_running_loop()

        async def execute(function: Callable[[], Arrays]) -> Arrays:
            return await loop.run_in_executor(self._threads, function)

        # A task of its own, for the same reason as above.
        work = loop.create_task(
            run_beside(
                job.loaded.steps, job.run, settings.infer_seconds, settings.inline_ns, execute
            )
        )
        job.revision.leases += 1
        work.add_done_callback(lambda done: self._over(job.revision, job.size, done, queued=queued))

        async def wait() -> Answer:
            outputs = await asyncio.shield(work)
            return self._answer(job, outputs)

        return self._guarded(wait())

    async def _guarded(self, answer: Coroutine[Any, Any, Answer]) -> Answer:
        try:
            return await answer
        except RequestError as error:
            return self.refuse(error)
        except Exception as error:  # noqa: BLE001 - as in `infer`
            return self._defect(error)

    def _take(self, size: int) -> None:
        """Count a request that does not run at once. Raises Overloaded."""
        counts, settings = self.counts, self._settings
        if counts.queued >= settings.max_queued + settings.threads:
            raise Overloaded(
                f"{counts.queued} requests are waiting for their turn already; try again in a second"
            )
        self._hold(size)
        counts.queued += 1

    def _hold(self, size: int) -> None:
        """Count the bytes of a body that waits. Raises Overloaded when that would be too many."""
        counts = self.counts
        if counts.buffered + size > self._settings.max_buffered:
            raise Overloaded(
                f"request bodies of {counts.buffered} bytes are waiting already; try again in a second"
            )
        counts.buffered += size

    def _over(
        self, revision: Revision, size: int, future: "asyncio.Future[Any]", *, queued: bool = True
    ) -> None:
        self.counts.queued -= queued
        self.counts.buffered -= size
        revision.release()
        if not future.cancelled():
            future.exception()  # looked at, also when nobody waits any more

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
            self._hold(len(request.body))
        except Overloaded as error:
            return self.refuse(error)
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


@dataclass(slots=True)
class _Job:
    """A request that has been read."""

    revision: Revision
    loaded: Loaded
    run: Run
    asked: Asked
    size: int
    """Bytes of the body that it came with."""
    start: int
    """When it came, in nanoseconds of the performance counter."""
    read_ns: int
    challenged: Challenged | None = None
    started: float | None = None
    """When its thread began."""
    spent_ns: int | None = None
    """What its models took of the processor's time, in a thread."""

    def compute(self, seconds: float) -> Arrays:
        """In a thread; seconds: the longest that one step may take."""
        self.started = time.monotonic()
        start = spent_ns()
        outputs = run_here(self.loaded.steps, self.run, seconds)
        self.spent_ns = spent_ns() - start
        return outputs


async def _patiently(future: "asyncio.Future[Arrays]", job: _Job, seconds: float) -> Arrays:
    """The result of a job, or an error when it gets no thread or does not stop when told to."""
    # The variants of a split run one after the other here.
    parts = [len(s.variants) if isinstance(s, SplitStep) else 1 for s in job.loaded.steps]
    limit = seconds * sum(parts) + _GRACE_SECONDS
    remaining = limit
    while True:
        await asyncio.wait((future,), timeout=remaining)
        if future.done():
            return future.result()
        if job.started is None:
            if future.cancel():
                raise Overloaded(f"no thread was free for {limit:g} s; try again in a second")
        else:
            remaining = limit - (time.monotonic() - job.started)
            if remaining <= 0:
                steps = ", ".join(repr(step.name) for step in job.loaded.steps)
                raise StepFailed(
                    f"step {steps}: the model did not answer within {seconds:g} s, and does not stop",
                    reason="StepTimedOut",
                )


def _kept_bytes(job: _Job, result: Result) -> int:
    """What a result keeps in memory, about, which the answer may show a small part of."""
    batch, outputs = result.batch, result.outputs
    # Columns may be views of the body. Challengers that nobody has waited for add their outputs later.
    late = job.challenged.offered if job.challenged is not None else 0
    return (
        job.size
        + sum(map(len, batch.echo or ()))
        + size_of(batch.fields, outputs, *(each for each in result.shadows.values() if each))
        + late * size_of(outputs)
    )


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
