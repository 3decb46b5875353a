"""Watches the config folder and hands over its whole wish, or says why it cannot be obeyed.

Guarantees: every file is read from one resolved folder, checked against the index and validated as a whole
before anything is handed over; a folder that is unreadable, half-written, older, contradictory or gone changes nothing. Polling
survives every way of changing a folder (the kubelet's link swap, renames, rewrites in place).
"""

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from midstream_api import names
from midstream_api.engineconfig import Assignment, Index, IndexEntry, RevisionDocument
from midstream_api.version import version_of
from midstream_engine.errors import ConfigError
from midstream_engine.manager import Wish
from midstream_engine.policy import Goal

POLL_SECONDS = 0.05

MAX_FILE = 1 << 20
"""Bytes; a ConfigMap cannot hold more."""

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
        self._last: tuple[str, int, bytes] | None = None
        self.error: ConfigError | None = None
        """Why the folder as it is now is not obeyed; None when it is."""

    async def run(self) -> None:
        """Look at the folder until cancelled: at once when poked, else every `POLL_SECONDS`."""
        while True:
            self.look()
            try:
                await asyncio.wait_for(self._poked.wait(), POLL_SECONDS)
            except TimeoutError:
                continue
            self._poked.clear()

    def poke(self) -> None:
        self._poked.set()

    def look(self) -> None:
        """Read the folder if it has changed since the last look."""
        signature = _signature(self._folder)
        if signature == self._signature:
            return
        self._signature = signature
        try:
            wish, index_bytes = read(self._folder, at_start=self._last is None)
            self._check_order(wish, index_bytes)
        except ConfigError as error:
            if self.error is None or (error.reason, error.message) != (
                self.error.reason,
                self.error.message,
            ):
                self.error = error
                self._refuse(error)
            return
        self.error = None
        self._last = (wish.uid, wish.sequence, index_bytes)
        self._accept(wish)

    def _check_order(self, wish: Wish, index_bytes: bytes) -> None:
        if self._last is None or self._last[0] != wish.uid:
            return
        _, sequence, before = self._last
        if wish.sequence < sequence:
            raise ConfigError(
                "ConfigOlder",
                f"{names.INDEX_FILE} has sequence {wish.sequence}, and {sequence} is obeyed already: ignored",
            )
        if wish.sequence == sequence and index_bytes != before:
            raise ConfigError(
                "ConfigConflict",
                f"{names.INDEX_FILE} has changed and kept its sequence {sequence}; a change needs a higher one",
            )


def read(folder: Path, *, at_start: bool = False) -> tuple[Wish, bytes]:
    """The wish in a folder and the bytes of its index. Raises ConfigError.

    at_start: an assignment that cannot be obeyed yet means the stable revision, not an error.
    """
    root = _resolved(folder)
    index_bytes = _bytes(root, names.INDEX_FILE)
    index = _parse(Index, names.INDEX_FILE, index_bytes)
    documents = {entry.revision: _document(root, index, entry) for entry in index.entries()}
    stable = index.stable.revision
    goal = Goal(hold=(stable,), serve=stable, stable=stable)
    try:
        assignment = _assignment(root, index, documents)
    except ConfigError:
        if not at_start:
            raise
        assignment = None
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
    return wish, index_bytes


def _assignment(
    root: Path, index: Index, documents: dict[str, RevisionDocument]
) -> Assignment | None:
    try:
        data = _bytes(root, names.ASSIGNMENT_FILE)
    except ConfigError as error:
        if error.reason == "ConfigMissing":
            return None
        raise
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


def _document(root: Path, index: Index, entry: IndexEntry) -> RevisionDocument:
    data = _bytes(root, entry.document)
    digest = hashlib.sha256(data).hexdigest()
    if digest != entry.sha256:
        raise ConfigError(
            "ConfigHalfWritten",
            f"{entry.document} has the SHA-256 {digest[:12]}…, {names.INDEX_FILE} says {entry.sha256[:12]}…: "
            "waiting for the rest",
        )
    document = _parse(RevisionDocument, entry.document, data)
    if entry.revision != digest[:16]:
        raise ConfigError(
            "ConfigInvalid",
            f"{names.INDEX_FILE} calls {entry.document} revision {entry.revision}; its content makes it {digest[:16]}",
        )
    version = version_of(document.pipeline, document.steps)
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


def _resolved(folder: Path) -> Path:
    """The folder that holds the files now; links are followed once, so that all files come from the same one."""
    try:
        link = folder / names.DATA_LINK
        return (link if link.is_symlink() else folder).resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise _unreadable(folder, error) from error


def _bytes(root: Path, name: str) -> bytes:
    path = root / name
    try:
        if path.is_file() and path.stat().st_size > MAX_FILE:
            raise ConfigError(
                "ConfigInvalid", f"{name} has {path.stat().st_size} bytes; at most {MAX_FILE} are read"
            )
        return path.read_bytes()
    except (OSError, RuntimeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ConfigError:
    if isinstance(error, FileNotFoundError):
        return ConfigError("ConfigMissing", f"{path.name} is not there: waiting for it")
    if isinstance(error, PermissionError):
        return ConfigError("ConfigDenied", f"{path.name} may not be read by this user (uid {os.getuid()})")
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ConfigError("ConfigUnreadable", f"{path.name} cannot be read: {said}")


def _signature(folder: Path) -> object:
    """Changes whenever a file of the folder does: link target, and identity, size and time of each file."""
    try:
        root = os.path.realpath(folder / names.DATA_LINK)
        if not os.path.isdir(root):
            root = str(folder)
        with os.scandir(root) as entries:
            return root, sorted(
                (entry.name, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_mode)
                for entry in entries
                for stat in (_stat(entry),)
            )
    except OSError as error:
        return type(error), error.errno


def _stat(entry: "os.DirEntry[str]") -> os.stat_result:
    try:
        return entry.stat()
    except OSError:
        return entry.stat(follow_symlinks=False)
