"""Composition root of an engine: settings, then sessions, manager, data plane, listeners; and their orderly end.

`serve` runs an engine; `inspect` says what a revision takes and gives, and ends.
"""

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

from midstream_api.engineconfig import ResolvedModel
from midstream_artifacts.cache import Cache
from midstream_artifacts.errors import ArtifactError, SourceDenied
from midstream_artifacts.fetch import fetch
from midstream_artifacts.registry import RegistryAccess
from midstream_artifacts.sources import Source as Address
from midstream_engine import events, memory, scheduling
from midstream_engine.channel import Channel
from midstream_engine.counts import Counts
from midstream_engine.dataplane import DataPlane
from midstream_engine.errors import ConfigError, LoadError
from midstream_engine.inspection import inspect
from midstream_engine.metrics import EngineCollector, Exposition
from midstream_engine.revisions.loader import Loader
from midstream_engine.revisions.manager import Fetch, Manager, Wish
from midstream_engine.revisions.marks import Marks
from midstream_engine.revisions.policy import POLICIES
from midstream_engine.revisions.source import Source
from midstream_engine.sessions import SessionPool
from midstream_engine.settings import Settings
from midstream_engine.sidekicks.pool import Sidekicks
from midstream_engine.sidekicks.settings import SidekickSettings
from midstream_engine.web.gate import Gate
from midstream_engine.web.management import EngineReporter, Report, Reporter, create
from midstream_engine.web.server import App, Listener

_STATUS_SECONDS = 0.002
"""From a change that others act on to the report to the supervisor, so that a burst of changes is one message."""

_UNHURRIED_SECONDS = 0.1
"""The same for other changes. A report costs 0.2 ms: while models are swapped, requests come first."""


def main(argv: list[str] | None = None) -> int:
    arguments = _arguments(argv)
    if arguments.command == "inspect":
        return inspect(arguments.document, arguments.cache)
    settings = Settings(
        config=arguments.config,
        state=arguments.state,
        cache=arguments.cache,
        policy=arguments.policy,
        warm_up_seconds=arguments.warm_up_seconds,
        max_body=arguments.max_body,
        memory_limit=arguments.memory_limit,
        **{name: value for name in _OPTIONAL if (value := getattr(arguments, name)) is not None},
    )
    memory.fix_allocator()
    scheduling.answer_at_once()
    # The default of 5 ms is how long a request may wait for the GIL behind a busy Python thread.
    sys.setswitchinterval(0.0001)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(Engine(settings, arguments).run())
    if threading.active_count() > 1:
        # A thread that onnxruntime does not let go of would hold up the end, or abort it.
        sys.stdout.flush()
        os._exit(code)
    return code


_OPTIONAL = (
    "threads",
    "partition",
    "registry_config",
    "recent_rows",
    "sidekick_socket",
    "infer_seconds",
    "receive_seconds",
    "drain_seconds",
    "inline_ns",
    "max_buffered",
    "max_connections",
    "max_queued",
)
"""Options whose defaults are those of Settings."""


class Engine:
    """One engine process."""

    def __init__(self, settings: Settings, arguments: argparse.Namespace) -> None:
        self._settings = settings
        self._arguments = arguments
        self._stopping = asyncio.Event()
        self._channel: Channel | None = None
        self.source: Source | None = None
        self._worker: int | None = arguments.worker

    async def run(self) -> int:
        settings = self._settings
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        await self._open_channel()
        pool = SessionPool()
        self.sidekicks = sidekicks = Sidekicks(
            SidekickSettings(host=settings.sidekick_socket),
            emit=self._emit,
            changed=self._touch,
        )
        cache = Cache(settings.cache)
        limit = settings.memory_limit or memory.cgroup_limit()
        loader = Loader(
            pool=pool,
            sidekicks=sidekicks,
            verified_path=lambda sha256: _verified(cache, sha256),
            partition=settings.partition,
            memory_limit=limit,
            warm_up_seconds=settings.warm_up_seconds,
        )
        self.manager = manager = Manager(
            loader,
            _fetcher(cache, settings),
            POLICIES[settings.policy],
            Marks(settings.state),
            self._emit,
        )
        self.counts = Counts()
        self.plane = plane = DataPlane(manager, self.counts, settings)
        manager.quiesces = plane.discard
        self.source = Source(settings.config, self._accept, self._refuse)
        self.exposition = Exposition(EngineCollector(self.counts, manager, pool, sidekicks))
        listeners = self._listeners(Gate(plane, settings))
        tasks = [
            asyncio.create_task(manager.run(), name="manager"),
            asyncio.create_task(self.source.run(), name="source"),
            asyncio.create_task(self._push_status(), name="status"),
        ]
        serving = [asyncio.create_task(self._serve(each), name="listener") for each in listeners]
        stop = asyncio.create_task(self._stopping.wait(), name="stop")
        self._emit("started", worker=self._worker)
        gc.collect()
        gc.freeze()
        done, _ = await asyncio.wait([*tasks, *serving, stop], return_when=asyncio.FIRST_COMPLETED)
        for listener in listeners:
            listener.stop()
        await asyncio.gather(*serving, return_exceptions=True)
        failed = [task for task in done if task is not stop and task.exception() is not None]
        for task in [*tasks, stop]:
            task.cancel()
        await asyncio.gather(*tasks, stop, return_exceptions=True)
        await plane.close()
        await manager.close()
        await sidekicks.close()
        self._emit("stopped", worker=self._worker)
        if self._channel is not None:
            await self._channel.close()
        for task in failed:
            # A dead part would leave the engine half alive: end it, and say which part it was.
            raise RuntimeError(f"the {task.get_name()} task died") from task.exception()
        return 0

    async def _serve(self, listener: Listener) -> None:
        if self._arguments.listen_fd is not None:
            # The socket is the supervisor's and its queue is open: callers wait there while a worker starts, and are
            # not turned away. A revision that cannot be loaded ends the wait, so that somebody says why.
            waits = [
                asyncio.create_task(self.manager.settles()),
                asyncio.create_task(self._stopping.wait()),
            ]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for each in waits:
                each.cancel()
        if not self._stopping.is_set():
            await listener.serve()

    def _listeners(self, gate: Gate) -> list[Listener]:
        arguments, settings = self._arguments, self._settings
        own = EngineReporter(self.report, self.exposition, self.plane.recent.render)
        if arguments.listen_fd is not None:
            # Under a supervisor: one listener for everything, and the supervisor speaks for all workers.
            reporter: Reporter = (
                _Supervisor(self._channel, self._tell_status) if self._channel else own
            )
            sock = socket.socket(fileno=arguments.listen_fd)
            return [Listener(App(gate, create(reporter)), sock, settings, gate)]
        management = create(own)
        sock = _bind(arguments.host, arguments.port)
        self._emit("listening", host=arguments.host, port=sock.getsockname()[1])
        data = Listener(App(gate, management), sock, settings, gate)
        if arguments.management_port is None:
            return [data]
        return [
            data,
            Listener(management, _bind(arguments.host, arguments.management_port), settings, None),
        ]

    async def _open_channel(self) -> None:
        if self._arguments.channel_fd is None:
            return
        self._channel = await Channel.open(
            self._arguments.channel_fd,
            {
                "poke": lambda _: self._poke(),
                "drain": lambda _: self._stopping.set(),
                "metrics": lambda _: {"body": self.exposition.render()},
                "logs": lambda _: {"body": self.plane.recent.render().decode()},
            },
        )
        self._orphaned = asyncio.create_task(self._stop_when_orphaned(self._channel))

    def _poke(self) -> None:
        # Before there is a source, its first look is still to come.
        if self.source is not None:
            self.source.poke()

    async def _stop_when_orphaned(self, channel: Channel) -> None:
        await channel.closed.wait()
        self._stopping.set()

    # What is told, and to whom

    def report(self) -> dict[str, Any]:
        error = self.source.error if self.source else None
        return {
            **self.manager.report(),
            "sidekicks": self.sidekicks.report(),
            "config": {
                "accepted": error is None and self.manager.wish is not None,
                "reason": error.reason if error else None,
                "message": error.message if error else None,
            },
        }

    def _emit(self, event: str, **fields: Any) -> None:
        if self._channel is None:
            events.to_lines(event, **fields)
        else:
            self._channel.notify("event", {"event": event, "at": time.time(), **fields})

    def _touch(self) -> None:
        self.manager.touch()

    def _accept(self, wish: Wish) -> None:
        self.manager.accept(wish)
        self._emit("config_accepted", sequence=wish.sequence)

    def _refuse(self, error: ConfigError) -> None:
        self._emit("config_refused", reason=error.reason, message=error.message)
        self.manager.touch()

    async def _push_status(self) -> None:
        while True:
            await self.manager.changed()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_UNHURRIED_SECONDS):
                    await self.manager.presses()
            # Before, not after: what follows at once belongs to the same message.
            await asyncio.sleep(_STATUS_SECONDS)
            self._tell_status()

    def _tell_status(self) -> None:
        self.manager.seen()
        if self._channel is not None:
            self._channel.notify("status", self.report())


class _Supervisor:
    """Answers with what the supervisor says of all workers."""

    def __init__(self, channel: Channel, tell_status: Callable[[], None]) -> None:
        self._channel = channel
        self._tell_status = tell_status

    async def ask(self, what: str) -> Report:
        # What has changed here must not wait for its turn: the answer would be older than what the caller has seen.
        self._tell_status()
        return Report.model_validate(await self._channel.call("ask", {"what": what}))


def _verified(cache: Cache, sha256: str) -> Path:
    try:
        return cache.verified_path(sha256)
    except ArtifactError as error:
        raise LoadError(error.reason, str(error), transient=error.transient) from error


def _fetcher(cache: Cache, settings: Settings) -> Fetch:
    def fetch_model(model: ResolvedModel, cancelled: Any) -> None:
        assert model.uri is not None
        try:
            fetch(
                Address.parse(model.uri, None),
                cache,
                sha256=model.sha256,
                size_limit=settings.size_limit,
                registry=RegistryAccess(settings.registry_config, model.insecure),
                cancelled=cancelled,
            )
        except ArtifactError as error:
            # A login may arrive after the revision that needs it: both are files that the kubelet projects.
            transient = error.transient or (
                isinstance(error, SourceDenied) and settings.registry_config is not None
            )
            raise LoadError(
                error.reason, f"model {model.name!r}: {error}", transient=transient
            ) from error

    return fetch_model


def _bind(host: str, port: int) -> socket.socket:
    return socket.create_server((host, port), backlog=2048, reuse_port=False)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="midstream-engine", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve the pipeline of a config folder")
    serve.add_argument("--config", type=Path, required=True, help="the config folder")
    serve.add_argument("--state", type=Path, required=True, help="survives a crash of the engine")
    serve.add_argument("--cache", type=Path, required=True, help="the model cache")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=8080)
    serve.add_argument("--management-port", type=int, help="a second listener for management")
    serve.add_argument("--listen-fd", type=int, help="an inherited listening socket")
    serve.add_argument("--channel-fd", type=int, help="an inherited socket to the supervisor")
    serve.add_argument("--worker", type=int, help="this worker's number")
    serve.add_argument("--policy", choices=sorted(POLICIES), default="availability")
    serve.add_argument("--warm-up-seconds", type=float, default=120.0, help="for each step")
    serve.add_argument("--max-body", type=int, default=16 << 20, help="bytes")
    serve.add_argument("--memory-limit", type=int, help="bytes; default: the cgroup's")
    serve.add_argument("--threads", type=int, help="for large batches")
    serve.add_argument("--partition", help="this engine's name in answers")
    serve.add_argument(
        "--registry-config", type=Path, help="Docker config JSON with logins; may appear later"
    )
    serve.add_argument("--recent-rows", type=int, help="that POST /logs can show; 0: none")
    serve.add_argument(
        "--sidekick-socket", type=Path, help="of the container that runs Python models"
    )
    serve.add_argument("--infer-seconds", type=float, help="the longest one step may run")
    serve.add_argument("--receive-seconds", type=float, help="for a request to arrive")
    serve.add_argument("--drain-seconds", type=float, help="for requests under way at a stop")
    serve.add_argument("--inline-ns", type=int, help="longer work goes to a thread")
    serve.add_argument("--max-buffered", type=int, help="bytes of all bodies that arrive or wait")
    serve.add_argument("--max-connections", type=int, help="open at the same time")
    serve.add_argument("--max-queued", type=int, help="large batches that wait for a thread")
    look = commands.add_parser("inspect", help="print what a revision takes and gives, as JSON")
    look.add_argument("document", type=Path, help="the revision's document")
    look.add_argument("--cache", type=Path, required=True, help="the model cache; has its models")
    return parser.parse_args(argv)
