"""An engine's hold on a worker's process: one that it started itself, or one that a host in another container did.

Both are told the same way: the worker gets one end of a socket pair and of a pipe, and the engine keeps the others. A
host is asked over its Unix socket, with the two descriptors attached. All of it is used on the event loop; what
blocks happens in the starter's thread, which lives as long as the engine, because a worker ends with the thread that
started it.
"""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, TypeVar

from midstream_engine.memory import cgroup_limit
from midstream_engine.sidekicks import launch
from midstream_engine.sidekicks.folders import Folders
from midstream_engine.sidekicks.launch import Child, Limits

Made = TypeVar("Made")

_HOST_SECONDS = 10.0
"""The longest that a host may take to start a process."""
_CLEAN_SECONDS = 2.0
"""How long the end waits until folders are removed; the next engine removes what is left."""
MAX_MESSAGE_BYTES = 4096

OnEnd = Callable[[str], None]
"""Called once, on the loop, with how the process ended: `exit code 3`, `signal SIGKILL`."""


class Handle(Protocol):
    """A process that was started."""

    @property
    def pid(self) -> int: ...

    def kill(self) -> None:
        """End it and its group, whatever it is doing. Never blocks; `on_end` is called when it has ended."""


class Starter:
    """Starts workers' processes here, or through the host at `host`."""

    def __init__(self, limits: Limits, host: Path | None, base: Path | None) -> None:
        # A host knows the limit of its own container.
        self._limits = limits if host is not None else limits.within(cgroup_limit())
        self._host = host
        self._base = base
        self._folders: Folders | None = None
        self._thread = ThreadPoolExecutor(1, "midstream-sidekicks")
        self._thread.submit(
            os.getpid
        ).result()  # only now there is a thread, with this one's priority

    async def start(self, sock: socket.socket, output: int, on_end: OnEnd) -> Handle:
        """Start a process with `sock` and the pipe `output`, which stay the caller's to close. Raises OSError."""
        loop = asyncio.get_running_loop()
        if self._host is not None:
            asked = loop.run_in_executor(
                self._thread, _ask, self._host, self._limits, sock.fileno(), output
            )
            return await _finished(asked, lambda answer: _Hosted(*answer, on_end))
        started = loop.run_in_executor(self._thread, self._begin, sock.fileno(), output)
        return await _finished(started, lambda child: _Own(child, self._thread, on_end))

    def _begin(self, sock: int, output: int) -> Child:
        # Not before it is needed: an engine without Python models needs no place to write.
        if self._folders is None:
            self._folders = Folders(self._base)
        return launch.start(sock, output, self._limits, self._folders.path)

    async def close(self) -> None:
        """Start nothing more. The workers that are left end with the thread."""
        if self._folders is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLEAN_SECONDS):
                    loop = asyncio.get_running_loop()
                    await loop.run_in_executor(self._thread, self._folders.close)
        self._thread.shutdown(wait=False)


async def _finished(job: "asyncio.Future[Made]", hold: Callable[["Made"], Handle]) -> Handle:
    """A handle on what was made, also when nobody waits for it any more: then it is ended."""
    try:
        return hold(await asyncio.shield(job))
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):
            hold(await job).kill()
        raise


class _Own:
    """A child of this process."""

    def __init__(self, child: Child, thread: Executor, on_end: OnEnd) -> None:
        self._child = child
        self._thread = thread
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._pidfd = os.pidfd_open(child.pid)
        self._loop.add_reader(self._pidfd, self._ended)

    @property
    def pid(self) -> int:
        return self._child.pid

    def kill(self) -> None:
        self._child.kill()

    def _ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        code = self._child.reap()
        with contextlib.suppress(RuntimeError):  # the starter is closed: so is the engine, soon
            self._thread.submit(self._child.clean)
        self._on_end(launch.ending(code))


class _Hosted:
    """A child of the host, which ends it when it hears from us again or the connection closes."""

    def __init__(self, control: socket.socket, pid: int, on_end: OnEnd) -> None:
        self._control = control
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._pid = pid
        control.settimeout(0)
        self._loop.add_reader(control, self._readable)

    @property
    def pid(self) -> int:
        return self._pid

    def kill(self) -> None:
        # Already gone, or told before and not read yet: both come to the same.
        with contextlib.suppress(OSError):
            self._control.send(b"kill")

    def _readable(self) -> None:
        try:
            message = self._receive()
        except BlockingIOError:
            return
        self._loop.remove_reader(self._control)
        self._control.close()
        self._on_end(
            launch.ending(json.loads(message)["exit"]) if message else "the end of its host"
        )

    def _receive(self) -> bytes:
        # A host that closes before it has read our last word resets the connection: the reset is told first, and what
        # it had said before comes with the next look.
        with contextlib.suppress(ConnectionResetError):
            return self._control.recv(MAX_MESSAGE_BYTES)
        try:
            return self._control.recv(MAX_MESSAGE_BYTES)
        except OSError:
            return b""


def _ask(host: Path, limits: Limits, sock: int, output: int) -> tuple[socket.socket, int]:
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        control.settimeout(_HOST_SECONDS)
        control.connect(str(host))
        message = json.dumps({"limits": asdict(limits)}).encode()
        socket.send_fds(control, [message], [sock, output])
        return control, _pid_in(control.recv(MAX_MESSAGE_BYTES))
    except BaseException as error:
        control.close()
        if isinstance(error, OSError):
            raise OSError(f"the host at {host}: {error}") from error
        raise


def _pid_in(reply: bytes) -> int:
    answer = json.loads(reply) if reply else {"error": "it closed the connection"}
    if "error" in answer:
        raise OSError(answer["error"])
    return int(answer["pid"])
