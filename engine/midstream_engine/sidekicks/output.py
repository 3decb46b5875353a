"""What workers print, on its way to the engine's log: bounded in lines, in length and in what reading it costs.

A worker that prints too fast waits for its pipe. Nothing else does.
"""

import asyncio
import os
from collections.abc import Callable

TAIL_BYTES = 4096
LINE_CHARACTERS = 500
LINES_PER_SECOND = 50
BYTES_PER_SECOND = 8 << 20
_CHUNK = 64 << 10
_LAST_READS = 32


class Output:
    """The reading end of a worker's standard output and error. `line` gets what belongs in the log."""

    def __init__(self, descriptor: int, line: Callable[[str], None]) -> None:
        self._descriptor = descriptor
        self._line = line
        self._loop = asyncio.get_running_loop()
        self._tail = b""
        self._rest = b""
        self._window = self._loop.time()
        self._bytes = 0
        self._lines = 0
        self._dropped = 0
        self._pause: asyncio.TimerHandle | None = None
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self._readable)

    def close(self) -> None:
        """Take what is still in the pipe, and end. Call it when the worker has ended."""
        if self._descriptor < 0:
            return
        for _ in range(_LAST_READS):
            if not self._read():
                break
        self._end()

    def last(self, lines: int = 5) -> str:
        """The last lines that were printed, at most 1,000 characters."""
        text = self._tail.decode(errors="replace").strip()
        return "\n".join(text.splitlines()[-lines:])[-1000:]

    def _readable(self) -> None:
        if self._read() == b"":
            self._end()
            return
        now = self._loop.time()
        if now - self._window >= 1.0:
            self._next_window(now)
        elif self._bytes > BYTES_PER_SECOND:
            self._loop.remove_reader(self._descriptor)
            self._pause = self._loop.call_at(self._window + 1.0, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._next_window(self._loop.time())
        self._loop.add_reader(self._descriptor, self._readable)

    def _next_window(self, now: float) -> None:
        self._window, self._bytes, self._lines = now, 0, 0
        self._say_dropped()

    def _read(self) -> bytes | None:
        """What is there, nothing at the end, None when nothing is there yet."""
        try:
            data = os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return None
        self._bytes += len(data)
        self._tail = (self._tail + data)[-TAIL_BYTES:]
        # Lines that will be dropped are counted, not made: a flood must stay cheap.
        *lines, rest = (self._rest + data).split(b"\n", LINES_PER_SECOND - self._lines)
        for line in lines:
            self._log(line)
        self._dropped += rest.count(b"\n")
        self._rest = rest.rpartition(b"\n")[2][-TAIL_BYTES:]
        return data

    def _log(self, line: bytes) -> None:
        if not line.strip():
            return
        self._lines += 1
        self._line(line.decode(errors="replace")[:LINE_CHARACTERS])

    def _say_dropped(self) -> None:
        if self._dropped:
            self._line(f"({self._dropped} more lines)")
            self._dropped = 0

    def _end(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        self._log(self._rest)
        self._say_dropped()
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1
