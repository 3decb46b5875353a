"""Moulds: what Arrow bodies with the same columns and as many rows have in common, and where their numbers are.

A body takes pyarrow some hundred calls to write or to validate, though two bodies of the same columns differ in their
numbers only. A mould is made of one body that went the long way, and serves the next ones by comparing or joining
bytes. Knows nothing of Arrow: who makes a mould says which bytes may change, and has seen to it that nothing else
depends on them.
"""

import threading
from collections.abc import Hashable, Sequence
from typing import Any, Generic, TypeVar

Place = tuple[int, int]
"""Of bytes in a body: the first one, and the one behind the last."""

_Key = TypeVar("_Key", bound=Hashable)
_Kept = TypeVar("_Kept")

_MOST = 8
_MOST_BYTES = 1 << 20
_MOST_SEEN = 64

LARGEST = 1 << 20
"""Bytes of a body that is worth a mould: the larger it is, the less of its time goes to anything but its numbers."""


class Mould:
    """A body without the bytes that change. Immutable."""

    __slots__ = ("_gaps", "_kept", "size")

    def __init__(self, body: bytes, places: Sequence[Place]) -> None:
        """places: what changes, none beginning before the one before it ends. Raises ValueError for others."""
        starts = [0, *(end for _, end in places)]
        ends = [*(start for start, _ in places), len(body)]
        self._gaps = list(zip(starts, ends, strict=True))
        if any(start > end for start, end in self._gaps):
            raise ValueError("places of a mould overlap")
        self._kept = [body[start:end] for start, end in self._gaps]
        self.size = len(body)
        """Bytes of each body."""

    @property
    def kept(self) -> int:
        """Bytes that the mould itself holds."""
        return sum(map(len, self._kept))

    def filled(self, values: Sequence[Any]) -> bytes:
        """A body with other values: one contiguous buffer for each place, of its size."""
        parts: list[Any] = [None] * (2 * len(values) + 1)
        parts[0::2] = self._kept
        parts[1::2] = values
        return b"".join(parts)

    def fits(self, body: bytes) -> bool:
        """Whether a body is the same but for the bytes that may change."""
        return len(body) == self.size and all(
            body.startswith(kept, start)
            for (start, _), kept in zip(self._gaps, self._kept, strict=True)
        )


class Shelf(Generic[_Key, _Kept]):
    """The moulds of one reader or writer: of what came at least twice, bounded in number and bytes; the oldest goes.

    For several threads.
    """

    __slots__ = ("_bytes", "_kept", "_lock", "_seen")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[_Key, tuple[_Kept, int]] = {}
        self._seen: set[int] = set()
        """Hashes: a key may hold long names that a caller made up."""
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: _Key) -> _Kept | None:
        found = self._kept.get(key)
        return None if found is None else found[0]

    def wants(self, key: _Key) -> bool:
        """Whether it is worth making what is not there: the key was asked for before."""
        with self._lock:
            seen = hash(key)
            if seen in self._seen:
                self._seen.discard(seen)
                return True
            if len(self._seen) >= _MOST_SEEN:
                self._seen.clear()
            self._seen.add(seen)
            return False

    def put(self, key: _Key, kept: _Kept, size: int) -> None:
        """size: bytes that it holds."""
        with self._lock:
            self._remove(key)
            self._kept[key] = kept, size
            self._bytes += size
            while len(self._kept) > _MOST or self._bytes > _MOST_BYTES:
                self._remove(next(iter(self._kept)))

    def drop(self, key: _Key) -> None:
        with self._lock:
            self._remove(key)

    def _remove(self, key: _Key) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self._bytes -= found[1]
