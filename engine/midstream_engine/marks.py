"""The mark of a candidate, left in the state folder before the engine touches it.

An engine that dies with its candidate finds the mark when it starts again, serves the stable revision and does not
try a second time. The file is `candidate-mark.json`; whoever knows better (a supervisor that saw the engine killed from outside)
may delete it between two lives of the engine.
"""

import json
import os
import time
from pathlib import Path

MARK_FILE = "candidate-mark.json"


class Marks:
    """Reads the old mark once, at the start; writes and clears the own one. Each call is one small fsync'ed write."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / MARK_FILE
        self.found = self._read()
        """The revision that was being loaded when the last engine died, or None."""

    def leave(self, revision: str) -> None:
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("w") as file:
            json.dump({"revision": revision, "at": time.time()}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)

    def clear(self) -> None:
        self._path.unlink(missing_ok=True)

    def _read(self) -> str | None:
        try:
            value = json.loads(self._path.read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            self.clear()  # cut off by a crash of the machine: says nothing
            return None
        revision = value.get("revision") if isinstance(value, dict) else None
        return revision if isinstance(revision, str) else None
