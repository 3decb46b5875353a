"""The host: the container of their own, in which workers are started for an engine in another one.

    python -m midstream_engine.sidekicks.host --socket PATH

Each connection is one worker: its first message has the limits and two descriptors attached, the worker's end of the
socket to the engine and of the pipe that it prints to. The host answers with the process's number, and when it has
ended with how. Whatever else is received, and the end of the connection, end the worker with its group. Guarantees:
only processes of the same user are obeyed; no worker outlives its connection or the host. What engine and worker say to
each other does not pass through here.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from midstream_engine.memory import cgroup_limit
from midstream_engine.sidekicks import launch
from midstream_engine.sidekicks.folders import Folders
from midstream_engine.sidekicks.handle import MAX_MESSAGE_BYTES
from midstream_engine.sidekicks.launch import Child, Limits

_END_SECONDS = 2.0
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class Host:
    """Starts a worker for each connection to `listener`."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._folders = Folders()
        self._guests: dict[_Guest, asyncio.Event] = {}
        listener.settimeout(0)
        self._loop.add_reader(listener, self._accept)

    async def close(self) -> None:
        """End all workers, and wait for that a little: they end with this process at the latest."""
        self._loop.remove_reader(self._listener)
        for guest in list(self._guests):
            guest.end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                for gone in list(self._guests.values()):
                    await gone.wait()
        self._folders.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # the caller is gone already, or we are out of descriptors and it tries again
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(raw)[1] != os.getuid():
            connection.close()
            return
        guest = _Guest(connection, self._folders.path, self._gone)
        self._guests[guest] = asyncio.Event()

    def _gone(self, guest: "_Guest") -> None:
        self._guests.pop(guest).set()


class _Guest:
    """One connection, and its worker."""

    def __init__(
        self, connection: socket.socket, root: Path, gone: "Callable[[_Guest], None]"
    ) -> None:
        self._connection = connection
        self._root = root
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._child: Child | None = None
        self._pidfd = -1
        connection.settimeout(0)
        self._loop.add_reader(connection, self._readable)

    def end(self) -> None:
        """Kill the worker; `_ended` follows."""
        if self._child is not None:
            self._child.kill()
        else:
            self._leave()

    def _readable(self) -> None:
        if self._child is not None:
            # Told to, or left alone. Nothing more is read: an end would be reported over and over.
            self._loop.remove_reader(self._connection)
            self._child.kill()
            return
        descriptors: list[int] = []
        try:
            message, descriptors, _, _ = socket.recv_fds(
                self._connection, MAX_MESSAGE_BYTES, 2, socket.MSG_CMSG_CLOEXEC
            )
            if not message:
                self._leave()
                return
            sock, output = descriptors
            self._start(sock, output, Limits(**json.loads(message)["limits"]))
        except BlockingIOError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._say({"error": str(error)})
            self._leave()
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _start(self, sock: int, output: int, limits: Limits) -> None:
        self._child = launch.start(sock, output, limits.within(cgroup_limit()), self._root)
        self._pidfd = os.pidfd_open(self._child.pid)
        self._loop.add_reader(self._pidfd, self._ended)
        self._say({"pid": self._child.pid})

    def _ended(self) -> None:
        assert self._child is not None
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        code = self._child.reap()
        self._child.clean()
        self._say({"exit": code})
        self._leave()

    def _say(self, message: dict[str, object]) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more, and then nobody wants to know
            self._connection.send(json.dumps(message).encode())

    def _leave(self) -> None:
        self._loop.remove_reader(self._connection)
        self._connection.close()
        self._gone(self)


async def serve(path: Path) -> None:
    """Listen at `path`, where nothing is yet, until SIGTERM or SIGINT."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        mask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        listener.listen(64)
        host = Host(listener)
        sys.stdout.write(json.dumps({"event": "host_listening", "socket": str(path)}) + "\n")
        sys.stdout.flush()
        try:
            await stopping.wait()
        finally:
            await host.close()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="midstream-sidekicks", description=__doc__)
    parser.add_argument("--socket", type=Path, required=True, help="where to listen")
    path = parser.parse_args(argv).socket
    path.unlink(missing_ok=True)
    try:
        asyncio.run(serve(path))
    finally:
        path.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
