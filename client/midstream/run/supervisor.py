"""Composition of `midstream run`: socket, config folder, workers, watch; their start, and their orderly end.

Guarantees: the listening socket is bound before anything is fetched and stays open until the end; no worker outlives
the supervisor; a part that dies takes the whole down instead of leaving it half alive.
"""

import asyncio
import contextlib
import json
import shutil
import signal
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midstream import blame
from midstream.manifest import Manifest
from midstream.resolve import Resolved
from midstream.run import exposition, fleet, greeting, rollout
from midstream.run.binding import CannotStart, bind
from midstream.run.child import Starter
from midstream.run.chorus import OF_ONE_WORKER, Chorus, Event
from midstream.run.conductor import Conductor, names
from midstream.run.console import Console, duration, sentence
from midstream.run.folder import ConfigFolder
from midstream.run.rollout import Death, Refusal
from midstream.run.watch import Watch
from midstream.run.wishes import Outcome, Unusable, Wish, Wishes, left_aside
from midstream.run.worker import Launch, Worker
from midstream_artifacts.cache import Cache
from midstream_artifacts.progress import Progress
from midstream_engine import scheduling

DRAIN_SECONDS = 30.0
BACKLOG = 2048
FIRST_DEATHS = 3
"""Times that the first start of a worker may end in a signal before the whole gives up."""

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says."""

    manifest: Path
    host: str
    port: int
    workers: int
    cache: Path
    state: Path
    """A folder that is ours alone while we run."""
    policy: str
    max_body: int
    threads: int
    memory_limit: int
    """Of each worker, in bytes."""


class Supervisor:
    """One service, from start to end. Made inside a running event loop's thread or before it starts."""

    def __init__(self, settings: Settings, console: Console) -> None:
        self._settings = settings
        self._console = console
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()
        self._stopping = False
        self._ready = asyncio.Event()
        self._killed = False
        self._port = 0
        self._cannot: CannotStart | None = None
        self._first_deaths = 0
        self._began = 0.0
        self._uid = str(uuid.uuid4())
        self._chorus = Chorus(settings.workers)
        self._dead: dict[int, float] = {}
        self._workers: list[Worker] = []
        self._manifest: Manifest | None = None
        self._first: asyncio.Future[Outcome] | None = None
        self._conductor: Conductor | None = None
        self._watch = Watch(settings.manifest, self._manifest_changed)
        self._wishes = Wishes(
            settings.manifest,
            Cache(settings.cache),
            self._progress,
            self._watch.know,
            self._deliver,
        )

    async def run(self) -> int:
        """Serve until told to stop; returns the exit code. Raises CannotStart."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._signalled)
        listener = bind(self._settings.host, self._settings.port)
        with contextlib.closing(listener), contextlib.closing(Starter()) as starter:
            # Where processors are few, requests come first: workers are not started by this thread.
            scheduling.yield_to_requests(scheduling.LAST)
            try:
                first = await self._first_wish()
                if first is None:
                    return 130
                await self._serve(listener, starter, first)
            finally:
                self._wishes.close()
        if self._cannot is not None:
            raise self._cannot
        self._console.say("stopped", "stopped")
        return 130 if self._killed else 0

    async def _first_wish(self) -> Wish | None:
        """Read the manifest and fetch its models; None when told to stop meanwhile."""
        self._first = asyncio.get_running_loop().create_future()
        self._wishes.renew()
        stop = asyncio.create_task(self._stop.wait())
        waited: list[asyncio.Future[Any]] = [self._first, stop]
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not self._first.done():
            self._first.cancel()
            return None
        outcome = self._first.result()
        if isinstance(outcome, Unusable):
            raise CannotStart(outcome.refusal.reason, "\n".join(outcome.problems))
        if fields := left_aside(outcome.manifest):
            text = f"note: only a cluster acts on spec.{' and spec.'.join(fields)}"
            self._console.say("left_aside", text, fields=fields)
        self._manifest = outcome.manifest
        return outcome

    async def _serve(self, listener: socket.socket, starter: Starter, first: Wish) -> None:
        settings = self._settings
        try:
            listener.listen(BACKLOG)
            self._port = listener.getsockname()[1]
            self._conductor = conductor = self._open(first.resolved)
        except OSError as error:
            raise CannotStart("CannotWrite", f"cannot start: {error}") from error
        launch = Launch(
            starter=starter,
            listener=listener,
            config=settings.state / "config",
            state=settings.state,
            cache=settings.cache,
            policy=settings.policy,
            max_body=settings.max_body,
            threads=settings.threads,
            memory_limit=settings.memory_limit,
        )
        handlers: dict[str, Callable[[int, dict[str, Any]], Any]] = {
            "event": self._hear,
            "ask": self._answer,
        }
        self._workers = [
            Worker(number, launch, handlers, self._changed.set, self._died)
            for number in range(settings.workers)
        ]
        conductor.workers = self._workers
        self._began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            keepers = [group.create_task(worker.keep()) for worker in self._workers]
            others = [
                group.create_task(self._control(conductor)),
                group.create_task(self._watch_later()),
            ]
            await self._stop.wait()
            self._stopping = True
            for task in others:
                task.cancel()
            # Ours is closed first: once the workers have closed theirs too, new connections are
            # refused instead of left to wait.
            listener.close()
            await self._drain(keepers)

    def _open(self, first: Resolved) -> Conductor:
        state = self._settings.state
        for old in state.glob("worker-*"):
            shutil.rmtree(old)  # of an earlier run: says nothing about this one
        conductor = Conductor(
            ConfigFolder(state / "config"),
            self._uid,
            first,
            self._console,
            self._chorus.begin,
            self._wishes.renew,
        )
        shutil.rmtree(state / "config", ignore_errors=True)
        conductor.publish()
        if conductor.restless:
            raise OSError(f"cannot write the config folder {state / 'config'}")
        return conductor

    # While it runs

    async def _control(self, conductor: Conductor) -> None:
        while True:
            pause = 0.25 if conductor.restless or not self._ready.is_set() else None
            # Not wait_for: Python 3.11's loses a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            self._changed.clear()
            self._tell_returned()
            if self._ready.is_set():
                conductor.turn(time.monotonic())
            else:
                self._look_whether_ready(conductor)

    async def _watch_later(self) -> None:
        await self._ready.wait()
        await self._watch.run()

    def _look_whether_ready(self, conductor: Conductor) -> None:
        reports = [rollout.report(one.number, one.status, self._uid) for one in self._workers]
        revision = conductor.stable.revision
        for one in reports:
            known = one.revisions.get(revision)
            if known is not None and known.refusal is not None:
                self._give_up(*self._told(conductor.stable, known.refusal))
                return
            if one.config is not None and time.monotonic() - self._began > rollout.CONFIG_SECONDS:
                self._give_up(one.config.reason, str(one.config))
                return
        if any(one.serving != revision for one in reports):
            return
        self._ready.set()
        settings = self._settings
        url = greeting.base_url(settings.host, self._port)
        pipeline = conductor.stable.pipeline
        self._console.say(
            "serving",
            f"serving {names(conductor.stable)}, version {conductor.stable.version}, at {url}/pipelines/{pipeline}",
            url=f"{url}/pipelines/{pipeline}",
            host=settings.host,
            port=self._port,
            version=conductor.stable.version,
            workers=[worker.pid for worker in self._workers],
        )
        status = self._workers[0].status
        inputs = [
            field
            for one in (status["revisions"] if status else [])
            if one["revision"] == revision
            for field in one["inputs"]
        ]
        for line in greeting.lines(url, pipeline, settings.manifest, inputs):
            self._console.hint(line)

    def _told(self, stable: Resolved, refusal: Refusal) -> tuple[str, str]:
        """The reason, and the text that says it with file and line."""
        reason, message = refusal.reason, refusal.message
        if self._manifest is not None:
            message = blame.located(self._manifest, stable, reason, message)
        return reason, f"{reason}: {message}"

    def _give_up(self, reason: str, message: str) -> None:
        self._cannot = CannotStart(reason, message)
        self._stop.set()

    def _manifest_changed(self) -> None:
        if self._conductor is not None:
            self._conductor.changed()

    def _deliver(self, outcome: Outcome) -> None:
        if self._conductor is None:
            if self._first is not None and not self._first.done():
                self._first.set_result(outcome)
            return
        self._conductor.want(outcome)
        self._changed.set()

    def _progress(self, step: str, done: Progress) -> None:
        self._console.progress(step, done)

    # What workers say

    def _hear(self, worker: int, event: Event) -> None:
        if event["event"] == "config_refused":
            self._console.say(
                "config_refused",
                f"worker {worker} does not obey the config folder: {event['reason']}: {event['message']}",
                worker=worker,
                reason=event["reason"],
            )
            return
        if event["event"] in OF_ONE_WORKER:
            self._pass_on(event)
            return
        merged = self._chorus.hear(worker, event)
        if merged is not None:
            self._pass_on(merged)

    def _pass_on(self, event: Event) -> None:
        before = None
        if self._conductor is not None:
            self._conductor.heard(event)
            before = self._conductor.called_before(event)
        text = sentence(event, before)
        if text is not None:
            said = {name: value for name, value in event.items() if name not in {"event", "at"}}
            self._console.say(event["event"], text, **said)

    def _died(self, death: Death) -> None:
        worker = self._workers[death.worker]
        for event in self._chorus.lose(death.worker):
            self._pass_on(event)
        if not self._ready.is_set():
            self._first_deaths += 1
            if death.code or self._first_deaths >= FIRST_DEATHS:
                self._give_up(
                    "WorkerFailed",
                    f"worker {death.worker} {death} before it served"
                    + ("; what it printed stands above" if death.code else ""),
                )
                return
        self._dead.setdefault(death.worker, time.monotonic())
        who = f"worker {death.worker}" + (f" (process {death.pid})" if death.pid else "")
        self._console.say(
            "worker_died",
            f"{who} {death}; starting another",
            worker=death.worker,
            pid=death.pid,
            code=death.code,
            signal=death.signal,
        )
        if self._conductor is not None:
            self._conductor.died(death, worker)

    def _tell_returned(self) -> None:
        for worker in self._workers:
            status = worker.status
            if worker.number in self._dead and status is not None and status["ready"]:
                ms = (time.monotonic() - self._dead.pop(worker.number)) * 1e3
                self._console.say(
                    "worker_ready",
                    f"worker {worker.number} (process {worker.pid}) serves again after {duration(ms)}",
                    worker=worker.number,
                    pid=worker.pid,
                    ms=round(ms, 3),
                )

    async def _answer(self, _worker: int, params: dict[str, Any]) -> dict[str, Any]:
        """Answer for all workers what one of them was asked."""
        what = params["what"]
        conductor = self._conductor
        if conductor is None:
            raise RuntimeError("there are no workers before there is a conductor")
        if what == "metrics":
            return _answer(200, exposition.CONTENT_TYPE, await self._metrics(conductor))
        if what == "logs":
            bodies = await asyncio.gather(*(worker.logs() for worker in self._workers))
            return _json(200, fleet.logs([body for body in bodies if body is not None]))
        members = [
            fleet.Member(one.number, one.pid, one.restarts, one.status) for one in self._workers
        ]
        pipeline = conductor.stable.pipeline
        if what == "status":
            record = conductor.record.report() if conductor.record else None
            manifest = {
                "path": str(self._settings.manifest),
                "accepted": conductor.accepted,
                "problems": list(conductor.problems),
            }
            stable = conductor.stable
            content = {"revision": stable.revision, **stable.content()}
            return _json(
                200,
                fleet.status(members, pipeline, conductor.sequence, record, manifest, content),
            )
        if what == "readyz":
            reasons = fleet.reasons(members, stopping=self._stopping)
            return _json(503 if reasons else 200, {"ready": not reasons, "reasons": reasons})
        if what == "pipelines":
            return _json(200, {"pipelines": fleet.pipelines(members, pipeline)})
        if what == "models":
            return _json(200, {"models": fleet.models(members)})
        raise ValueError(f"unknown question {what!r}")

    async def _metrics(self, conductor: Conductor) -> str:
        bodies = await asyncio.gather(*(worker.metrics() for worker in self._workers))
        return exposition.merged(
            {number: body for number, body in enumerate(bodies) if body is not None},
            {worker.number: worker.restarts for worker in self._workers},
            conductor.outcomes,
            conductor.record.stages if conductor.record else {},
        )

    # The end

    def _signalled(self) -> None:
        if not self._stop.is_set():
            self._stop.set()
            return
        self._killed = True
        for worker in self._workers:
            worker.kill()

    async def _drain(self, keepers: list[asyncio.Task[None]]) -> None:
        if self._ready.is_set():
            self._console.say(
                "stopping", "stopping: running requests are being finished (Ctrl-C: at once)"
            )
        for worker in self._workers:
            worker.drain()
        _, running = await asyncio.wait(keepers, timeout=DRAIN_SECONDS)
        if running:
            self._console.say(
                "killing", f"not done within {DRAIN_SECONDS:.0f} s: ending the workers"
            )
            for worker in self._workers:
                worker.kill()


def _json(status: int, content: Any) -> dict[str, Any]:
    return _answer(status, JSON, json.dumps(content, ensure_ascii=False, separators=(",", ":")))


def _answer(status: int, content_type: str, body: str) -> dict[str, Any]:
    return {"status": status, "content_type": content_type, "body": body}
