"""A worker: the process in which users' code runs, one call after the other.

It is started with an almost empty environment, a folder of its own, no standard input, and one socket, over which it
gets the code and then calls. Guarantees: what the code raises is an answer, not the end; the process ends with the
one that started it, and when the socket closes. It does not measure time: whoever calls kills it.

Imports the standard library and numpy only, so that it starts fast and stays small.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from midstream_engine.sidekicks import isolation, values, wire
from midstream_engine.sidekicks.entry import Code, Entry, InvalidCode, NoRoom, summary
from midstream_engine.sidekicks.wire import Array, Header

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_MESSAGE = 3500
"""Characters of a message at most."""
_RESERVE = 64 << 20
"""Bytes beyond the memory limit, to say that it was reached."""
_SOCKET_FROM = 200
"""The socket is moved there: low numbers are what code writes to by mistake."""


def main() -> None:
    """Settings come as JSON in the first argument."""
    settings = json.loads(sys.argv[1])
    del sys.argv[1:]
    sock = _take_socket(settings["socket"])
    isolation.give_up_rights()
    _die_with(settings["parent"])
    _limit(settings["memory"], settings["file_bytes"])
    os.nice(settings["niceness"])
    Worker(sock, Path.cwd(), settings["memory"]).run()


class Worker:
    """Loads the code, then answers calls until the socket closes."""

    def __init__(self, sock: socket.socket, folder: Path, memory: int) -> None:
        self._sock = sock
        self._folder = folder
        self._memory = memory
        self._pid = os.getpid()

    def run(self) -> None:
        try:
            self._run()
        except OSError:
            # The engine is gone, or the code has closed the socket; the engine sees that we end.
            os._exit(0)
        except wire.FrameError as error:
            sys.stderr.write(f"the worker was sent what it cannot read: {error}\n")
            os._exit(1)
        # Threads and exit handlers of the code have no say.
        os._exit(0)

    def _run(self) -> None:
        first = wire.receive(self._sock, wire.ANY_SIZE)
        if first is None:
            return
        header, arrays = first
        code = Code(header["name"], self._folder / "code")
        try:
            entry = code.load(arrays["code"].tobytes())
        except InvalidCode as error:
            self._reply({"op": "refused", "id": 0, "message": str(error)})
            return
        except NoRoom as error:
            self._reply({"op": "refused", "id": 0, "message": str(error), "transient": True})
            return
        except MemoryError:
            self._out_of_memory("refused", 0)
            return
        del first, arrays
        self._reply({"op": "ready", "id": 0, "entry": entry.kind})
        while (call := wire.receive(self._sock, wire.ANY_SIZE)) is not None:
            self._answer(code, entry, *call)
            # Not kept while waiting for the next one.
            del call

    def _answer(self, code: Code, entry: Entry, header: Header, inputs: dict[str, Array]) -> None:
        number, limit = header["id"], header["limit"]
        try:
            try:
                outputs = _call(entry, inputs, header["rows"])
            finally:
                self._stay_one()
            parts = wire.encode({"op": "answer", "id": number}, outputs, limit)
        except MemoryError:
            self._out_of_memory("failed", number)
            return
        except (values.BadOutput, wire.FrameError) as error:
            what = (
                f"its answer is too large: {error}"
                if isinstance(error, wire.FrameTooLargeError)
                else str(error)
            )
            # What a row of zeros has no value for, another row may have.
            misfit = not isinstance(error, wire.FrameError | values.MissingValues)
            self._reply({"op": "failed", "id": number, "message": what, "misfit": misfit})
            return
        except BaseException as error:  # noqa: BLE001 - SystemExit and KeyboardInterrupt are the code's, too
            message = f"{entry.kind} raised {summary(error)}\n{code.tail(error)}"
            self._reply({"op": "failed", "id": number, "message": message})
            return
        wire.send(self._sock, parts)

    def _stay_one(self) -> None:
        """A child that the code has forked must not answer, too."""
        if os.getpid() != self._pid:
            os._exit(0)

    def _reply(self, header: Header) -> None:
        # What the code has put into a message may be long, and no Unicode.
        if "message" in header:
            message = header["message"].encode(errors="backslashreplace").decode()
            header["message"] = message if len(message) <= _MESSAGE else _shorter(message)
        wire.send(self._sock, wire.encode(header, {}))

    def _out_of_memory(self, op: str, number: int) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
        message = f"it ran out of memory: a worker may have {self._memory >> 20} MiB"
        self._reply({"op": op, "id": number, "message": message, "retire": True})


def _shorter(message: str) -> str:
    """The beginning, and the end, where the traceback ends."""
    half = _MESSAGE // 2 - 5
    return f"{message[:half]} […] {message[-half:]}"


def _call(entry: Entry, inputs: dict[str, Array], rows: int) -> dict[str, Array]:
    if entry.kind == "process":
        return values.outputs(entry.function(inputs), rows)
    return values.from_document(entry.function(values.as_json(inputs)), rows)


def _take_socket(descriptor: int) -> socket.socket:
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _SOCKET_FROM)
    os.close(descriptor)
    return socket.socket(fileno=moved)


def _die_with(parent: int) -> None:
    """End when the thread that started us ends, and be the first that the kernel ends when memory runs out.

    What our code starts stays below us while we live, so that it can be told whose it was when we have ended.
    """
    prctl: Any = ctypes.CDLL(None).prctl
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)
    with contextlib.suppress(OSError):  # not everywhere
        Path("/proc/self/oom_score_adj").write_text("1000")


def _limit(memory: int, file_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    # What a process has of its own to write to. RLIMIT_AS would also count libraries and what is only reserved.
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    hard = memory + _RESERVE if most == resource.RLIM_INFINITY else min(memory + _RESERVE, most)
    resource.setrlimit(resource.RLIMIT_DATA, (min(memory, hard), hard))
