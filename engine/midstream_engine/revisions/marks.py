"""The mark of a candidate, left in the state folder before the engine touches it.

An engine that dies with its candidate finds the mark when it starts again, serves the stable revision and does not
try it again. The file is `candidate-mark.json`; whoever knows better (a supervisor that saw the engine killed from
outside) may delete it between two lives of the engine.

An engine that cannot leave a mark does not touch a candidate: `leave` and `clear` raise LoadError `StateUnwritable`.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from midstream_engine.errors import LoadError

MARK_FILE = "candidate-mark.json"


class Marks:
    """Reads the old mark once, at the start; writes and clears the own one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / MARK_FILE
        self.found = self._read()
        """The revision that was being loaded when the last engine died, or None."""

    def leave(self, revision: str) -> None:
        """Name the candidate, on the disk before this returns."""
        temporary = self._path.with_suffix(".tmp")
        with self._writing():
            # What clears old files out of /tmp takes the folder of a long run with it.
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("w") as file:
                json.dump({"revision": revision, "at": time.time()}, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)

    def clear(self) -> None:
        with self._writing():
            self._path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LoadError(
                "StateUnwritable",
                f"the mark of a candidate, {self._path}, cannot be written or removed: {error.strerror}; "
                "the state folder must be there, be writable and have room",
                transient=True,
            ) from error

    def _read(self) -> str | None:
        try:
            value = json.loads(self._path.read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            # Cut off by a crash of the machine: says nothing, and the next mark takes its place.
            return None
        revision = value.get("revision") if isinstance(value, dict) else None
        return revision if isinstance(revision, str) else None
