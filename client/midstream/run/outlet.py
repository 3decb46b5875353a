"""Standard output that never holds up the service.

Guarantee: `write` returns at once, whatever becomes of the text. A reader that has stopped reading (a paused
terminal, a stuck pipe) costs lines, not swaps; one that has gone, a disk that is full, and an encoding without some
character cost no more either. `close` waits for what is on its way, but not long.
"""

import os
import queue
import threading
from typing import Protocol

WAITING_LINES = 1000
"""What may wait for a slow reader; more is left out."""

CLOSE_SECONDS = 1.0


class Stream(Protocol):
    """What is needed of `sys.stdout`."""

    @property
    def encoding(self) -> str: ...
    def fileno(self) -> int: ...
    def isatty(self) -> bool: ...


class Outlet:
    """Writes to a stream's file from a thread of its own."""

    def __init__(self, stream: Stream) -> None:
        self._descriptor = stream.fileno()
        self._encoding = stream.encoding
        self._tty = stream.isatty()
        self._texts: queue.Queue[str | None] = queue.Queue(WAITING_LINES)
        # A daemon: a reader that is stuck cannot hold up the end of the process.
        self._thread = threading.Thread(target=self._pass_on, name="midstream-out", daemon=True)
        self._thread.start()

    def isatty(self) -> bool:
        return self._tty

    def write(self, text: str) -> int:
        try:
            self._texts.put_nowait(text)
        except queue.Full:
            return 0
        return len(text)

    def flush(self) -> None:
        """Do nothing: everything is on its way."""

    def close(self) -> None:
        """Let what waits be written, if somebody reads it."""
        try:
            self._texts.put(None, timeout=CLOSE_SECONDS)
        except queue.Full:
            return
        self._thread.join(CLOSE_SECONDS)

    def _pass_on(self) -> None:
        while (text := self._texts.get()) is not None:
            data = text.encode(self._encoding, "replace")
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
            except OSError:
                continue  # the next line may find a reader, or room, again
