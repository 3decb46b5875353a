"""Notices that the manifest, or a local model file it names, has changed.

Looks at each path every fifth of a second rather than ask the kernel for events: that survives every way of saving
(rewrite in place, rename over, a swapped symbolic link, a file that is gone for a moment) on every file system. A
change counts once two looks agree, so a file that is still being written is left alone. Contents are never read here.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from midstream import models
from midstream.manifest import Manifest
from midstream_artifacts import errors
from midstream_artifacts.sources import Source

INTERVAL_S = 0.2

LOOKS = 2
"""Equal looks until a change counts."""

LOOKS_GONE = 10
"""The same when a file that was there is gone: most of the time it comes back."""

Signature = tuple[str, int, int, int, int, int] | None
"""Where the path leads, and device, inode, time, size and mode there; None when nothing is there."""

Signatures = Mapping[Path, Signature]


def signature(path: Path) -> Signature:
    """Tell one state of a file from another, links followed."""
    try:
        stat = path.stat()
        target = os.path.realpath(path)
    except OSError:
        return None
    return target, stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size, stat.st_mode


def signatures(paths: Iterable[Path]) -> Signatures:
    """Take one look at each path."""
    return {path: signature(path) for path in paths}


def local_models(manifest: Manifest) -> list[Path]:
    """Return the local files that a manifest names, whether they exist or not."""
    found = []
    for one in models.written(manifest):
        if one.model.source.uri is None:
            continue  # its code is the manifest's own text
        try:
            path = Source.parse(one.model.source.uri, manifest.folder).path
        except errors.ArtifactError:
            continue  # resolving it will say what is wrong
        if path is not None:
            found.append(path)
    return found


class Debounce:
    """Decides from looks alone when there is something new. Pure: knows neither clock nor files."""

    def __init__(self, known: Signatures) -> None:
        self._known = known
        self._last = known
        self._equal = 0

    @property
    def paths(self) -> list[Path]:
        """What to look at."""
        return list(self._known)

    def know(self, known: Signatures) -> None:
        """Take these states as seen, and look at these paths from now on."""
        self._known = self._last = known
        self._equal = 0

    def look(self, now: Signatures) -> bool:
        """Take one look; whether it settles a change, which is then known."""
        self._equal = self._equal + 1 if now == self._last else 1
        self._last = now
        if now == self._known:
            return False
        gone = any(now[path] is None and self._known[path] is not None for path in now)
        if self._equal < (LOOKS_GONE if gone else LOOKS):
            return False
        self._known = now
        return True


class Watch:
    """Looks at the files of one manifest until cancelled."""

    def __init__(self, manifest: Path, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._debounce = Debounce(signatures([manifest]))

    def know(self, known: Signatures) -> None:
        """Take these states as acted upon. Without model files the ones watched so far stay watched."""
        if len(known) == 1:
            known = {**signatures(self._debounce.paths), **known}
        self._debounce.know(known)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            if self._debounce.look(signatures(self._debounce.paths)):
                self._changed()
