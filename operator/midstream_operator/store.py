"""What the API server was last heard to hold: objects by kind, namespace and name.

Pure. News comes from several mouths (a watch, a list, the answer to a write of our own), and not in order: the resource
version decides, so an older word never replaces a newer one, and what was deleted does not come back by an old list.
Objects are shared: whoever reads one must not change it.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from midstream_api import names
from midstream_operator.cluster import Kind
from midstream_operator.observed import Object
from midstream_operator.queue import Key


class Scope(NamedTuple):
    """What one list covers: a kind, in one namespace or (None) in all."""

    kind: Kind
    namespace: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """What news made of an object."""

    kind: Kind
    before: Object | None
    """None: there was none."""
    after: Object | None
    """None: there is none any more."""


@dataclass(slots=True)
class _Shelf:
    """All objects of one kind."""

    objects: dict[Key, Object] = field(default_factory=dict)
    owned: dict[Key, dict[str, Object]] = field(default_factory=dict)
    """By the pipeline that an object's label names, then by name."""
    gone: dict[Key, int] = field(default_factory=dict)
    """Resource versions of deletions that an older word could still undo."""


class Store:
    """The objects of all kinds that are watched."""

    def __init__(self, scopes: Iterable[Scope]) -> None:
        self._missing = set(scopes)
        """What has not been listed yet."""
        self._shelves = {scope.kind: _Shelf() for scope in self._missing}
        self._listed: dict[Scope, int] = {}
        """Resource versions of the last lists."""
        self._synced = asyncio.Event()

    def watches(self, kind: Kind) -> bool:
        """Whether objects of this kind are kept here."""
        return kind in self._shelves

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """Return the object, None when there is none."""
        return self._shelves[kind].objects.get(Key(namespace, name))

    def owned(self, kind: Kind, namespace: str, pipeline: str) -> list[Object]:
        """Return the objects that the pipeline's label is on, by name."""
        found = self._shelves[kind].owned.get(Key(namespace, pipeline), {})
        return [found[name] for name in sorted(found)]

    def keys(self, kind: Kind) -> list[Key]:
        """Return namespace and name of all objects of a kind."""
        return list(self._shelves[kind].objects)

    async def synced(self) -> None:
        """Wait until everything has been listed once."""
        await self._synced.wait()

    def synced_now(self) -> bool:
        """Whether everything has been listed once."""
        return self._synced.is_set()

    def missing(self) -> list[Scope]:
        """Return what has not been listed yet."""
        return sorted(self._missing, key=lambda scope: (scope.kind.kind, scope.namespace or ""))

    def put(self, kind: Kind, obj: Object) -> Change | None:
        """Take an object as somebody saw it; None when that is no news."""
        shelf = self._shelves[kind]
        key, version = _key(obj), _version(obj)
        before = shelf.objects.get(key)
        # What is not here was deleted at some version, or is in no list up to one: a word from before is no news.
        known = (
            max(self._floor(kind, key), shelf.gone.get(key, -1))
            if before is None
            else _version(before)
        )
        if version <= known:
            return None
        self._set(shelf, key, obj)
        return Change(kind, before, obj)

    def remove(self, kind: Kind, obj: Object) -> Change | None:
        """Take the news that this object was deleted, as it last was."""
        return self._remove(kind, _key(obj), _version(obj))

    def discard(self, kind: Kind, namespace: str, name: str) -> Change | None:
        """Forget an object that was just deleted on our own demand."""
        known = self.get(kind, namespace, name)
        return None if known is None else self._remove(kind, Key(namespace, name), _version(known))

    def listed(
        self, scope: Scope, objects: Sequence[Object], resource_version: str
    ) -> list[Change]:
        """Take a whole list as it was at the resource version; return what had not been heard, deletions too."""
        shelf, version = self._shelves[scope.kind], int(resource_version)
        if version < self._listed.get(scope, 0):
            # History itself went back: the API server was restored. No word from before counts any more.
            shelf.gone.clear()
            for key in self._within(scope):
                shelf.objects[key]["metadata"]["resourceVersion"] = "0"
        self._listed.pop(scope, None)
        changes = [self.put(scope.kind, obj) for obj in objects]
        self._listed[scope] = version
        there = {_key(obj) for obj in objects}
        changes += [
            self._remove(scope.kind, key, version)
            for key in self._within(scope)
            if key not in there and _version(shelf.objects[key]) <= version
        ]
        for key in [key for key, when in shelf.gone.items() if when <= version]:
            if scope.namespace in (None, key.namespace):
                del shelf.gone[key]
        self._missing.discard(scope)
        if not self._missing:
            self._synced.set()
        return [change for change in changes if change is not None]

    def _floor(self, kind: Kind, key: Key) -> int:
        """Return the version up to which lists have told all about this place."""
        return max(self._listed.get(Scope(kind, each), -1) for each in (None, key.namespace))

    def _within(self, scope: Scope) -> list[Key]:
        keys = self._shelves[scope.kind].objects
        return [key for key in keys if scope.namespace in (None, key.namespace)]

    def _remove(self, kind: Kind, key: Key, version: int) -> Change | None:
        shelf = self._shelves[kind]
        before = shelf.objects.get(key)
        if before is not None and version < _version(before):
            return None  # it was made again since
        shelf.gone[key] = max(version, shelf.gone.get(key, -1))
        if before is None:
            return None
        self._unset(shelf, key, before)
        return Change(kind, before, None)

    def _set(self, shelf: _Shelf, key: Key, obj: Object) -> None:
        before = shelf.objects.get(key)
        if before is not None:
            self._unset(shelf, key, before)
        shelf.gone.pop(key, None)
        shelf.objects[key] = obj
        owner = owner_of(obj)
        if owner is not None:
            shelf.owned.setdefault(owner, {})[key.name] = obj

    def _unset(self, shelf: _Shelf, key: Key, before: Object) -> None:
        del shelf.objects[key]
        owner = owner_of(before)
        if owner is not None:
            siblings = shelf.owned[owner]
            del siblings[key.name]
            if not siblings:
                del shelf.owned[owner]


def owner_of(obj: Object) -> Key | None:
    """Return the pipeline whose label the object bears."""
    metadata = obj["metadata"]
    pipeline = (metadata.get("labels") or {}).get(names.PIPELINE_LABEL)
    return Key(metadata["namespace"], pipeline) if pipeline else None


def _key(obj: Object) -> Key:
    metadata = obj["metadata"]
    return Key(metadata["namespace"], metadata["name"])


def _version(obj: Object) -> int:
    """Return the resource version as a number: Kubernetes lets versions of one kind be compared so."""
    return int(obj["metadata"]["resourceVersion"])
