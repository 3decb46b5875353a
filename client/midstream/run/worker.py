"""One engine worker: a child process that is started again whenever it ends.

Guarantee: when `keep` returns or is cancelled, the process is gone. The listening socket is only lent: it stays open
here while a worker is down, so that new connections wait instead of failing. What a death means is decided elsewhere.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midstream import dockerconfig
from midstream.run.child import Child, Starter
from midstream.run.rollout import Death
from midstream_engine import memory
from midstream_engine.channel import Channel, ChannelClosed, ChannelError, Handler
from midstream_engine.revisions.marks import MARK_FILE

STEADY_SECONDS = 10.0
"""A worker that lived this long is started again at once when it dies."""

LONGEST_PAUSE_SECONDS = 10.0
_LAST_WORDS_SECONDS = 1.0
_STDERR = 2


@dataclass(frozen=True, slots=True)
class Launch:
    """How workers are started."""

    starter: Starter
    listener: socket.socket
    config: Path
    state: Path
    """Each worker has the folder `worker-N` in it."""
    cache: Path
    policy: str
    max_body: int
    threads: int
    memory_limit: int
    """Bytes, for each worker."""

    def command(self, number: int, channel_fd: int) -> list[str]:
        """Return the command line of worker `number`."""
        # -P: what lies in the folder where the user stands must not shadow a library.
        command = [sys.executable, "-P", "-m", "midstream_engine", "serve"]
        options: dict[str, object] = {
            "config": self.config,
            "state": self.folder(number),
            "cache": self.cache,
            "listen-fd": self.listener.fileno(),
            "channel-fd": channel_fd,
            "worker": number,
            "policy": self.policy,
            "max-body": self.max_body,
            "threads": self.threads,
            "memory-limit": self.memory_limit,
        }
        if (logins := dockerconfig.path()) is not None:
            options["registry-config"] = logins
        return command + [
            word for name, value in options.items() for word in (f"--{name}", str(value))
        ]

    def folder(self, number: int) -> Path:
        """Return the state folder of worker `number`."""
        return self.state / f"worker-{number}"


class Worker:
    """One place among the workers; processes come and go in it."""

    def __init__(
        self,
        number: int,
        launch: Launch,
        handlers: Mapping[str, Callable[[int, dict[str, Any]], Any]],
        changed: Callable[[], None],
        died: Callable[[Death], None],
    ) -> None:
        self.number = number
        self.restarts = 0
        self.status: dict[str, Any] | None = None
        """The running process's newest status document; None until it has sent one."""
        self.pid: int | None = None
        self._launch = launch
        self._handlers: dict[str, Handler] = {
            name: lambda params, handler=handler: handler(number, params)  # type: ignore[misc]
            for name, handler in handlers.items()
        }
        self._changed = changed
        self._died = died
        self._channel: Channel | None = None
        self._process: Child | None = None
        self._stopping = asyncio.Event()

    async def keep(self) -> None:
        """Run a process, and another whenever it ends, until `drain` or `kill`."""
        crashes = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                death = await self._live()
            except OSError as error:  # no process or no memory to be had, for now
                death = Death(self.number, error=f"could not be started: {error}")
            if self._stopping.is_set():
                return
            self._died(death)
            well = time.monotonic() - began >= STEADY_SECONDS or (
                death.from_outside and death.served is not None
            )
            crashes = 0 if well else crashes + 1
            # The first time at once; a crash loop must not eat the machine.
            pause = 0.0 if crashes < 2 else min(LONGEST_PAUSE_SECONDS, 2.0 ** (crashes - 4))
            if pause:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._stopping.wait()
            self.restarts += 1

    def poke(self) -> None:
        """Let the process look at the config folder now; one that is starting looks by itself."""
        if self._channel is not None and self.status is not None:
            self._channel.notify("poke", {})

    async def metrics(self) -> str | None:
        """Return the process's metrics in Prometheus' text format; None when it does not answer."""
        return await self._asked("metrics")

    async def logs(self) -> str | None:
        """Return the rows that the process answered last, as pandas-records; None when it does not answer."""
        return await self._asked("logs")

    async def _asked(self, what: str) -> str | None:
        if self._channel is None:
            return None
        try:
            answer = await self._channel.call(what, {}, timeout=2.0)
        except (ChannelClosed, ChannelError, TimeoutError):
            return None
        body: str = answer["body"]
        return body

    def drain(self) -> None:
        """Let the process accept nothing more, finish its requests and end; `keep` then returns."""
        self._stopping.set()
        if self._channel is not None:
            self._channel.notify("drain", {})

    def kill(self) -> None:
        """End the process now; `keep` then returns."""
        self._stopping.set()
        if self._process is not None:
            self._process.kill()

    def forgive(self) -> None:
        """Delete the mark, so that the next process tries the candidate again."""
        self._mark_file().unlink(missing_ok=True)

    async def _live(self) -> Death:
        """Run one process to its end."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._channel = await Channel.open(ours, {**self._handlers, "status": self._take})
            try:
                self._process = process = await self._launch.starter.start(
                    self._launch.command(self.number, theirs.fileno()),
                    pass_fds=(self._launch.listener.fileno(), theirs.fileno()),
                    stdin=subprocess.DEVNULL,
                    stdout=_STDERR,  # ours is for what the supervisor says
                    env={**memory.environment(os.environ), "ORT_DISABLE_TELEMETRY": "1"},
                    # Ctrl-C in the terminal is the supervisor's to handle. Not a session: Linux shares processors
                    # between sessions first, and would give ours as much as all of the worker's threads.
                    process_group=0,
                )
            except BaseException:
                await self._hang_up()
                raise
        self.pid = process.pid
        if self._stopping.is_set():
            self._channel.notify("drain", {})
        try:
            returncode = await process.wait()
            # What it said last is still on the way.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS_SECONDS):
                    await self._channel.closed.wait()
        finally:
            if not process.ended:
                process.kill()
                await process.wait()
            await self._hang_up()
        served = self.status["serving"] if self.status else None
        self.status = self.pid = self._process = None
        self._changed()
        return Death(
            worker=self.number,
            pid=process.pid,
            code=returncode if returncode >= 0 else None,
            signal=_signal_name(-returncode) if returncode < 0 else None,
            mark=self._mark(),
            served=served["revision"] if served else None,
        )

    def _take(self, status: dict[str, Any]) -> None:
        self.status = status
        self._changed()

    async def _hang_up(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    def _mark_file(self) -> Path:
        return self._launch.folder(self.number) / MARK_FILE

    def _mark(self) -> str | None:
        try:
            value = json.loads(self._mark_file().read_bytes())
        except (OSError, ValueError):
            return None  # no mark, or cut off by the death: then it had not touched the candidate
        revision = value.get("revision") if isinstance(value, dict) else None
        return revision if isinstance(revision, str) else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
