"""Many workers, one voice: what each of them says of the same thing becomes one event.

An event is passed on when every worker has said it, with the longest time and, where memory was freed, the sum. A
worker that was started again repeats what has been said already; that is not passed on. Pure: no clock, no output.
"""

from collections.abc import Mapping
from typing import Any

Event = Mapping[str, Any]

OF_ONE_WORKER = frozenset({"sidekick_ended", "sidekick_output", "validation_blind"})
"""Events that each worker says for itself: nobody waits for the others."""

Key = tuple[str, str | None, str | None, str | None]
"""Event, revision, step, variant."""


class Chorus:
    """Hears all workers of one fleet."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._waiting: dict[Key, dict[int, Event | None]] = {}
        self._said: set[Key] = set()

    def begin(self, revision: str) -> None:
        """Expect everything about a revision anew, though it has been said before."""
        for key in [key for key in self._waiting if key[1] == revision]:
            del self._waiting[key]
        self._said = {key for key in self._said if key[1] != revision}

    def hear(self, worker: int, event: Event) -> Event | None:
        """Take one worker's event; returns what is to be passed on."""
        key: Key = (
            event["event"],
            event.get("revision"),
            event.get("step"),
            event.get("variant"),
        )
        if key in self._said:
            return None
        heard = self._waiting.setdefault(key, {})
        heard[worker] = event
        return self._complete(key)

    def lose(self, worker: int) -> list[Event]:
        """Wait no longer for a worker that has died; returns what is complete without it."""
        found = []
        for key, heard in list(self._waiting.items()):
            heard.setdefault(worker, None)
            event = self._complete(key)
            if event is not None:
                found.append(event)
        return found

    def _complete(self, key: Key) -> Event | None:
        heard = self._waiting[key]
        if len(heard) < self._workers:
            return None
        del self._waiting[key]
        if key[0] == "freed":  # the last that is said of a revision
            self._said = {said for said in self._said if said[1] != key[1]}
        else:
            self._said.add(key)
        events = [event for event in heard.values() if event is not None]
        merged = dict(events[-1])
        if "ms" in merged:
            merged["ms"] = max(event["ms"] for event in events)
        if key[0] == "freed":
            merged["bytes"] = sum(event["bytes"] for event in events)
        return merged
