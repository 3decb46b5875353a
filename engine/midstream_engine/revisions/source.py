"""Watches the config folder and hands over its whole wish, or says why it cannot be obeyed.

Guarantees: every file is read from one resolved folder, checked against the index and validated as a whole before
anything is handed over; a folder that is unreadable, half-written, older, contradictory or gone changes nothing.
Polling survives every way of changing a folder (the kubelet's link swap, renames, rewrites in place). A look is made in
pieces, and requests are answered between them.
"""

import asyncio
import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from midstream_api import names
from midstream_api.engineconfig import Assignment, Index, IndexEntry, RevisionDocument
from midstream_api.version import version_of
from midstream_engine.errors import ConfigError
from midstream_engine.revisions.manager import Wish
from midstream_engine.revisions.policy import Goal

POLL_SECONDS = 0.05

MAX_FILE = 1 << 20
"""Bytes; a ConfigMap cannot hold more."""

_RACY_SECONDS = 0.1
"""A file that was changed this short ago may change again without its time changing."""

_AGAIN = frozenset({"ConfigMissing", "ConfigDenied", "ConfigUnreadable"})
"""Reasons that may go away without any file of the folder changing."""

Document = TypeVar("Document", Index, Assignment, RevisionDocument)


class Source:
    """One config folder. `look` is for the event loop's thread only."""

    def __init__(
        self, folder: Path, accept: Callable[[Wish], None], refuse: Callable[[ConfigError], None]
    ) -> None:
        self._folder = folder
        self._accept = accept
        self._refuse = refuse
        self._signature: object = None
        self._poked = asyncio.Event()
        self._last: tuple[Wish, bytes] | None = None
        self.error: ConfigError | None = None
        """Why the folder as it is now is not obeyed; None when it is."""

    async def run(self) -> None:
        """Look at the folder until cancelled: at once when poked, else every `POLL_SECONDS`."""
        while True:
            for _ in self._pieces():
                await asyncio.sleep(0)
            # Not wait_for: Python 3.11's loses a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._poked.wait()
            self._poked.clear()

    def poke(self) -> None:
        """Let `run` look again at once, or when the look that is under way has ended."""
        self._poked.set()

    def look(self) -> None:
        """Read the folder if it has changed since the last look, in one go. Not while `run` runs."""
        for _ in self._pieces():
            pass

    def _pieces(self) -> Iterator[None]:
        """One look. Others may have their turn at each piece's end; what is handed over is, whole, in the last one."""
        signature, newest = _signature(self._folder)
        if signature == self._signature:
            return
        self._signature = None if abs(time.time() - newest) < _RACY_SECONDS else signature
        yield
        try:
            reading = yield from _reading(
                self._folder, self._last[0].documents if self._last else {}
            )
            self._check_order(reading)
        except ConfigError as error:
            if error.reason in _AGAIN:
                self._signature = None
            self._report(error)
            return
        yield
        wish = reading.wish
        if reading.assignment_error is not None:
            if self._last is None:
                # At the start there must be something to serve: the stable revision.
                self._obey(reading)
            self._report(reading.assignment_error)
            return
        recovered = self.error is not None
        self.error = None
        if recovered or self._last is None or self._last[0] != wish:
            self._obey(reading)

    def _obey(self, reading: "Reading") -> None:
        self._last = (reading.wish, reading.index)
        self._accept(reading.wish)

    def _report(self, error: ConfigError) -> None:
        known = self.error
        self.error = error
        if known is None or (known.reason, known.message) != (error.reason, error.message):
            self._refuse(error)

    def _check_order(self, reading: "Reading") -> None:
        wish = reading.wish
        if self._last is None or self._last[0].uid != wish.uid:
            return
        sequence = self._last[0].sequence
        if wish.sequence < sequence:
            raise ConfigError(
                "ConfigOlder",
                f"{names.INDEX_FILE} has sequence {wish.sequence}, and {sequence} is obeyed already: ignored",
            )
        if wish.sequence == sequence and reading.index != self._last[1]:
            raise ConfigError(
                "ConfigConflict",
                f"{names.INDEX_FILE} has changed and kept its sequence {sequence}; a change needs a higher one",
            )


@dataclass(frozen=True, slots=True)
class Reading:
    """What a folder says."""

    wish: Wish
    """With the stable revision alone when there is no assignment, or one that cannot be obeyed."""
    index: bytes
    assignment_error: ConfigError | None


def read(folder: Path, known: Mapping[str, RevisionDocument] | None = None) -> Reading:
    """Read and check the whole folder. Raises ConfigError for all but the assignment.

    known: documents read before, by revision; their content need not be understood again.
    """
    pieces = _reading(folder, known or {})
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            reading: Reading = end.value
            return reading


def _reading(folder: Path, known: Mapping[str, RevisionDocument]) -> Generator[None, None, Reading]:
    """`read`, in pieces of about 0.1 ms.

    What changes in between is noticed as in one go: all files come from the folder that the link led to at first, or
    do not fit the index, or have changed the folder's signature by the next look.
    """
    root = _resolved(folder)
    yield
    index_bytes = _bytes(root, names.INDEX_FILE)
    index = _parse(Index, names.INDEX_FILE, index_bytes)
    yield
    documents = {}
    for entry in index.entries():
        documents[entry.revision] = yield from _document(root, index, entry, known)
        yield
    stable = index.stable.revision
    goal = Goal(hold=(stable,), serve=stable, stable=stable)
    assignment, assignment_error = None, None
    try:
        assignment = _assignment(root, index, documents)
    except ConfigError as error:
        assignment_error = error
    if assignment is not None:
        goal = Goal(hold=tuple(assignment.hold), serve=assignment.serve, stable=stable)
    wish = Wish(
        pipeline=index.pipeline,
        uid=index.uid,
        sequence=index.sequence,
        goal=goal,
        documents=documents,
        allow_schema_change=index.allow_schema_change,
    )
    return Reading(wish, index_bytes, assignment_error)


def _assignment(
    root: str, index: Index, documents: dict[str, RevisionDocument]
) -> Assignment | None:
    try:
        data = _bytes(root, names.ASSIGNMENT_FILE)
    except ConfigError as error:
        if error.reason != "ConfigMissing":
            raise
        # Whoever swaps folders may remove the old one between two reads: then this says nothing.
        _bytes(root, names.INDEX_FILE)
        return None
    if not data:
        # A pod without the annotation: the kubelet projects an empty file.
        return None
    assignment = _parse(Assignment, names.ASSIGNMENT_FILE, data)
    if (assignment.uid, assignment.sequence) != (index.uid, index.sequence):
        raise ConfigError(
            "AssignmentMismatch",
            f"{names.ASSIGNMENT_FILE} is for sequence {assignment.sequence}, {names.INDEX_FILE} has "
            f"{index.sequence}: waiting for a pair that matches",
        )
    unknown = [revision for revision in assignment.hold if revision not in documents]
    if unknown:
        raise ConfigError(
            "AssignmentUnknownRevision",
            f"{names.ASSIGNMENT_FILE} names the revision {unknown[0]}, which is not in the folder",
        )
    return assignment


def _document(
    root: str, index: Index, entry: IndexEntry, known: Mapping[str, RevisionDocument]
) -> Generator[None, None, RevisionDocument]:
    data = _bytes(root, entry.document)
    digest = hashlib.sha256(data).hexdigest()
    if digest != entry.sha256:
        raise ConfigError(
            "ConfigHalfWritten",
            f"{entry.document} has the SHA-256 {digest[:12]}…, {names.INDEX_FILE} says {entry.sha256[:12]}…: "
            "waiting for the rest",
        )
    document = known.get(digest[:16])
    if document is not None and (entry.revision, entry.version, index.pipeline) == (
        digest[:16],
        document.version,
        document.pipeline,
    ):
        return document
    yield
    document = _parse(RevisionDocument, entry.document, data)
    yield
    if entry.revision != digest[:16]:
        raise ConfigError(
            "ConfigInvalid",
            f"{names.INDEX_FILE} calls {entry.document} revision {entry.revision}; its content makes it {digest[:16]}",
        )
    version = version_of(document.pipeline, document.steps, document.validations)
    for where, said in ((names.INDEX_FILE, entry.version), (entry.document, document.version)):
        if said != version:
            raise ConfigError(
                "ConfigInvalid",
                f"{where} says version {said}; the content of {entry.document} makes it {version}",
            )
    if document.pipeline != index.pipeline:
        raise ConfigError(
            "ConfigInvalid",
            f"{entry.document} is of pipeline {document.pipeline!r}, {names.INDEX_FILE} of {index.pipeline!r}",
        )
    return document


def _parse(kind: type[Document], name: str, data: bytes) -> Document:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(
            "ConfigInvalid", f"{name}: {where + ': ' if where else ''}{first['msg']}"
        ) from error


def _resolved(folder: Path) -> str:
    """The folder that holds the files now; links are followed once, so that all files come from the same one."""
    try:
        link = folder / names.DATA_LINK
        return os.path.realpath(link if link.is_symlink() else folder, strict=True)
    except OSError as error:
        raise _unreadable(folder.name, error) from error


def _bytes(root: str, name: str) -> bytes:
    # Requests wait meanwhile: no `pathlib`, and no buffer larger than the file.
    try:
        # Not blocking: a FIFO would otherwise stop the event loop.
        descriptor = os.open(f"{root}/{name}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise ConfigError("ConfigUnreadable", f"{name} is not a file")
            size = min(found.st_size, MAX_FILE) + 1
            data = os.read(descriptor, size)
            if len(data) == size <= MAX_FILE:
                # It has grown since.
                data += os.read(descriptor, MAX_FILE + 1 - size)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _unreadable(name, error) from error
    if len(data) > MAX_FILE:
        raise ConfigError(
            "ConfigInvalid",
            f"{name} has more than {MAX_FILE} bytes, which is the most that is read",
        )
    return data


def _unreadable(name: str, error: OSError) -> ConfigError:
    if isinstance(error, FileNotFoundError):
        return ConfigError("ConfigMissing", f"{name} is not there: waiting for it")
    if isinstance(error, PermissionError):
        return ConfigError(
            "ConfigDenied", f"{name} may not be read by this user (uid {os.getuid()})"
        )
    return ConfigError("ConfigUnreadable", f"{name} cannot be read: {error.strerror or error}")


def _signature(folder: Path) -> tuple[object, float]:
    """What changes whenever the folder does, and the newest time of change (seconds since the epoch).

    Behind the link, a change is another target: what a link leads to is never edited in place. Without it, every file
    is looked at.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            # As in `_bytes`: this is done 20 times a second.
            link = f"{folder}/{names.DATA_LINK}"
            target, behind = os.readlink(link), os.stat(link)  # noqa: PTH115, PTH116
            return (target, behind.st_ino, behind.st_ctime_ns), 0.0
        with os.scandir(folder) as entries:
            files = sorted((entry.name, *_identity(entry)) for entry in entries)
    except OSError as error:
        return (type(error), error.errno), 0.0
    newest = max((changed for *_, changed in files), default=0)
    return (str(folder), files), newest / 1e9


def _identity(entry: "os.DirEntry[str]") -> tuple[int, int, int, int]:
    """Inode, size, and nanoseconds of the last change of content and of anything else, permissions included."""
    try:
        found = entry.stat()
    except OSError:
        found = entry.stat(follow_symlinks=False)
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
