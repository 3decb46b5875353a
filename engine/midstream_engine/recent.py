"""The rows that were answered last, kept in memory for whoever asks `POST /logs`.

Bounded in rows and bytes; what is older goes. Nothing is made of them before somebody asks, so that keeping them costs
a request next to nothing. They end with the process: this is no store. Used on the event loop's thread only.
"""

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from midstream_engine.batch import Result

MAX_ROWS = 1000
MAX_BYTES = 8 << 20
"""Of all that the rows keep in memory, about."""


class Writer(Protocol):
    """Writes the results of one revision as pandas-records."""

    def write(self, result: Result) -> bytes: ...


class Recent:
    """The last answers."""

    __slots__ = ("_bytes", "_entries", "_held", "_max_bytes", "_max_rows", "_rows", "_sizes")

    def __init__(self, max_rows: int = MAX_ROWS, max_bytes: int = MAX_BYTES) -> None:
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        # Side by side rather than in tuples: the garbage collector looks at what holds other objects, and there would
        # be one more with every request.
        self._entries: deque[bytes | _Kept] = deque()
        self._sizes: deque[int] = deque()
        self._held: deque[int] = deque()
        """Rows of each entry."""
        self._rows = 0
        self._bytes = 0

    def add_body(self, body: bytes, rows: int) -> None:
        """Keep an answer that was written as pandas-records with everything in it."""
        self._add(body, rows, len(body))

    def add(self, writer: Writer, result: Result, size: int) -> None:
        """Keep an answer. What it holds may still grow: challengers add their outputs when they have them.

        size: bytes that it keeps in memory, about, those outputs included.
        """
        self._add(_Kept(writer, result), result.batch.rows, size)

    def _add(self, entry: "bytes | _Kept", rows: int, size: int) -> None:
        if rows > self._max_rows or size > self._max_bytes:
            return
        self._entries.append(entry)
        self._sizes.append(size)
        self._held.append(rows)
        self._rows += rows
        self._bytes += size
        while self._rows > self._max_rows or self._bytes > self._max_bytes:
            self._entries.popleft()
            self._rows -= self._held.popleft()
            self._bytes -= self._sizes.popleft()

    def render(self) -> bytes:
        """All rows as pandas-records, oldest first."""
        return b"[%b]" % b",".join(
            [
                (entry if isinstance(entry, bytes) else entry.writer.write(entry.result))[1:-1]
                for entry in self._entries
            ]
        )


@dataclass(frozen=True, slots=True)
class _Kept:
    writer: Writer
    result: Result
