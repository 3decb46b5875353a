"""The rows that were answered last, kept in memory for whoever asks `POST /logs`.

Bounded in rows and bytes; what is older goes. Nothing is made of them before somebody asks, so that keeping them costs
a request next to nothing. They end with the process: this is no store. Used on the event loop's thread only.
"""

from collections import deque
from typing import Protocol

from midstream_engine.batch import Result

MAX_ROWS = 1000
MAX_BYTES = 8 << 20
"""Of the bodies that the rows came and went with: what they keep in memory is of that order."""


class Writer(Protocol):
    """Writes the results of one revision as pandas-records."""

    def write(self, result: Result) -> bytes: ...


class Recent:
    """The last answers."""

    __slots__ = ("_bytes", "_entries", "_max_bytes", "_max_rows", "_rows")

    def __init__(self, max_rows: int = MAX_ROWS, max_bytes: int = MAX_BYTES) -> None:
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._entries: deque[tuple[Writer, Result, int]] = deque()
        self._rows = 0
        self._bytes = 0

    def add(self, writer: Writer, result: Result, size: int) -> None:
        """Keep an answer. What it holds may still grow: challengers add their outputs when they have them."""
        rows = result.batch.rows
        if rows > self._max_rows or size > self._max_bytes:
            return
        entries = self._entries
        entries.append((writer, result, size))
        self._rows += rows
        self._bytes += size
        while self._rows > self._max_rows or self._bytes > self._max_bytes:
            _, oldest, freed = entries.popleft()
            self._rows -= oldest.batch.rows
            self._bytes -= freed

    def render(self) -> bytes:
        """All rows as pandas-records, oldest first."""
        bodies = [writer.write(result)[1:-1] for writer, result, _ in self._entries]
        return b"[%b]" % b",".join(bodies)
