"""Inference: bytes in, bytes out. Knows no HTTP server and no ASGI.

A request takes the serving revision once and runs on it from the first step to the last. Small work runs at once on the
event loop; large work, or work of models known to be slow, runs in a bounded number of threads under a lease. What
cannot be taken in is refused with `Overloaded` rather than queued without end.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from midstream_engine.errors import (
    BadInput,
    BodyTooLarge,
    HeadTooLarge,
    InternalError,
    InvalidHTTP,
    MethodNotAllowed,
    NotReady,
    Overloaded,
    RequestError,
    StepFailed,
    TooSlow,
    UnknownPipeline,
    UnsupportedMediaType,
)
from midstream_engine.formats.records import dumps
from midstream_engine.manager import Manager
from midstream_engine.metrics import Counts
from midstream_engine.revision import Loaded, Revision
from midstream_engine.schema import Array
from midstream_engine.settings import Settings
from midstream_engine.steps import run_chain

STATUS_CODES: dict[type[RequestError], int] = {
    BadInput: 400,
    InvalidHTTP: 400,
    MethodNotAllowed: 405,
    TooSlow: 408,
    BodyTooLarge: 413,
    HeadTooLarge: 431,
    UnsupportedMediaType: 415,
    UnknownPipeline: 404,
    NotReady: 503,
    Overloaded: 503,
    StepFailed: 500,
    InternalError: 500,
}
"""What each error is over HTTP."""

_ACCEPTED = frozenset({"application/json", "application/json;format=pandas-records"})

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
        self._media_types: dict[bytes, bool] = {}
        self._waits = settings.policy == "resource"

    def infer(
        self, pipeline: str | None, content_type: bytes, body: bytes
    ) -> Answer | Coroutine[Any, Any, Answer]:
        """Answer a request now, or give what will answer it.

        pipeline: the name in the path; None for `POST /infer`, which takes whatever serves. content_type: as sent,
        empty when there was none. Never raises: errors are answers.
        """
        start = time.perf_counter_ns()
        revision = self._manager.serving
        try:
            if revision is None or revision.loaded is None:
                return self._wait_and_infer(pipeline, content_type, body)
            self._check(revision, pipeline, content_type)
            loaded = revision.loaded
            arrays, rows, echo = loaded.reader.read(body)
            if loaded.batch is not None:
                _check_batch(rows, loaded.batch)
            read_ns = time.perf_counter_ns() - start
            if revision.row_ns * rows > self._settings.inline_ns:
                return self._infer_in_thread(
                    revision, loaded, arrays, rows, echo, start, read_ns, len(body)
                )
            outputs, elapsed = run_chain(loaded.steps, arrays, rows)
            return self._answer(revision, loaded, outputs, rows, echo, start, [read_ns, *elapsed])
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

    def close(self) -> None:
        """Take no more work. Waits for nothing: a model that does not stop has its thread for good."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _check(self, revision: Revision, pipeline: str | None, content_type: bytes) -> None:
        if pipeline is not None and pipeline != revision.document.pipeline:
            raise UnknownPipeline(
                f"no pipeline {pipeline[:60]!r} here; this engine serves {revision.document.pipeline!r}"
            )
        known = self._media_types.get(content_type)
        if known is None:
            known = _is_accepted(content_type)
            if len(self._media_types) < 100 and len(content_type) < 200:
                self._media_types[content_type] = known
        if not known:
            raise UnsupportedMediaType(
                f"content type {content_type.decode('latin-1')[:100]!r} is not supported; "
                "send application/json; format=pandas-records"
            )

    def _answer(
        self,
        revision: Revision,
        loaded: Loaded,
        outputs: list[Array],
        rows: int,
        echo: Any,
        start: int,
        elapsed: list[int],
    ) -> Answer:
        body = loaded.writer.write(outputs, echo, time.time_ns() // 1_000_000, elapsed)
        counts = self.counts
        total = 0
        for step, ns in zip(loaded.steps, elapsed[1:], strict=True):
            counts.stepped(step.name, ns)
            total += ns
        # Decides where the next request runs. A run that was not given the processor says nothing about the model, so
        # one request moves it by a tenth at most.
        revision.row_ns += 0.1 * (min(total / rows, 2 * revision.row_ns) - revision.row_ns)
        counts.answered(rows, time.perf_counter_ns() - start)
        return Answer(200, loaded.headers, body)

    def _infer_in_thread(
        self,
        revision: Revision,
        loaded: Loaded,
        arrays: dict[str, Array],
        rows: int,
        echo: Any,
        start: int,
        read_ns: int,
        size: int,
    ) -> Coroutine[Any, Any, Answer]:
        counts, settings = self.counts, self._settings
        if counts.queued >= settings.max_queued + settings.threads:
            raise Overloaded(
                f"{counts.queued} large batches are waiting already; try again in a second"
            )
        self._hold(size)
        job = _Job(loaded, arrays, rows, settings.infer_seconds)
        future = asyncio.get_running_loop().run_in_executor(self._threads, job.run)
        # The lease is taken here, not when the coroutine first runs: a swap may come in between. A vanished client ends
        # the wait, not the work, so it is given back when the thread is done.
        counts.queued += 1
        revision.leases += 1
        future.add_done_callback(lambda done: self._over(revision, size, done))

        async def wait() -> Answer:
            try:
                outputs, elapsed = await _patiently(future, job)
                return self._answer(
                    revision, loaded, outputs, rows, echo, start, [read_ns, *elapsed]
                )
            except RequestError as error:
                return self.refuse(error)
            except Exception as error:  # noqa: BLE001 - as in `infer`
                return self._defect(error)

        return wait()

    def _hold(self, size: int) -> None:
        """Count the bytes of a body that waits. Raises Overloaded when that would be too many."""
        counts = self.counts
        if counts.buffered + size > self._settings.max_buffered:
            raise Overloaded(
                f"request bodies of {counts.buffered} bytes are waiting already; try again in a second"
            )
        counts.buffered += size

    def _over(self, revision: Revision, size: int, future: "asyncio.Future[Any]") -> None:
        self.counts.queued -= 1
        self.counts.buffered -= size
        revision.release()
        if not future.cancelled():
            future.exception()  # looked at, also when nobody waits any more

    async def _wait_and_infer(
        self, pipeline: str | None, content_type: bytes, body: bytes
    ) -> Answer:
        """Under the resource-preserving policy a swap leaves a gap: requests wait for its end."""
        if not (self._waits and self._manager.wish is not None):
            return self.refuse(self._not_ready())
        counts, settings = self.counts, self._settings
        if counts.waiting >= settings.max_connections:
            return self.refuse(
                Overloaded("too many requests are waiting already; try again in a second")
            )
        try:
            self._hold(len(body))
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
            counts.buffered -= len(body)
        answer = self.infer(pipeline, content_type, body)
        return answer if isinstance(answer, Answer) else await answer

    def _not_ready(self) -> NotReady:
        failed = [r.error for r in self._manager.revisions.values() if r.error is not None]
        said = f": {failed[0].message}" if failed else "; it is still loading"
        return NotReady(f"nothing serves yet{said}")


@dataclass(slots=True)
class _Job:
    """Work for a thread."""

    loaded: Loaded
    arrays: dict[str, Array]
    rows: int
    seconds: float
    """The longest that one step may take."""
    started: float | None = None

    def run(self) -> tuple[list[Array], list[int]]:
        self.started = time.monotonic()
        return run_chain(self.loaded.steps, self.arrays, self.rows, self.seconds)


async def _patiently(future: "asyncio.Future[Any]", job: _Job) -> Any:
    """The result of a job, or an error when it gets no thread or does not stop when told to."""
    limit = job.seconds * len(job.loaded.steps) + _GRACE_SECONDS
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
                    f"step {steps}: the model did not answer within {job.seconds:g} s, and does not stop",
                    reason="StepTimedOut",
                )


def _check_batch(rows: int, batch: int) -> None:
    if rows != batch:
        raise BadInput(
            f"the body has {rows} rows; this model takes exactly {batch}", reason="WrongBatch"
        )


def _is_accepted(content_type: bytes) -> bool:
    """JSON, with or without `format=pandas-records`; nothing at all counts as JSON.

    Old clients send the header's name once more in its value: that is taken, too.
    """
    text = content_type.decode("latin-1").lower().replace(" ", "")
    text = text.removeprefix("content-type:")
    kept = [part for part in text.split(";") if part and part != "charset=utf-8"]
    return not kept or ";".join(kept) in _ACCEPTED
