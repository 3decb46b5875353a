"""Writes the config folder the way the kubelet projects a ConfigMap.

Guarantee: a reader that resolves `..data` once sees one whole state, never a mixture, and has `KEPT_SECONDS` to read it
before it is removed. One writer only.
"""

import shutil
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from midstream.resolve import Resolved
from midstream_api import names, version
from midstream_api.engineconfig import Assignment, Index

KEPT_SECONDS = 10.0


def files(
    uid: str, sequence: int, stable: Resolved, candidate: Resolved | None, *, serve: str
) -> dict[str, bytes]:
    """What is in the folder: index, assignment and documents. All revisions that are in it are held."""
    revisions = [stable] if candidate is None else [stable, candidate]
    index = Index(
        pipeline=stable.pipeline,
        uid=uid,
        sequence=sequence,
        stable=stable.entry(),
        candidate=candidate.entry() if candidate is not None else None,
        allow_schema_change=candidate is not None and candidate.allow_schema_change,
    )
    hold = [one.revision for one in revisions]
    assignment = Assignment(uid=uid, sequence=sequence, hold=hold, serve=serve)
    return {
        **{one.entry().document: one.dump() for one in revisions},
        names.INDEX_FILE: version.dump(index),
        names.ASSIGNMENT_FILE: version.dump(assignment),
    }


class ConfigFolder:
    """One folder, made on the first write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._states: deque[tuple[float, Path]] = deque()
        """What is there, oldest first, with the time when it was written."""

    @property
    def intact(self) -> bool:
        """Whether what was written last is still there; what clears old files away may have taken it."""
        data = self.path / names.DATA_LINK
        return (data / names.INDEX_FILE).exists() and (data / names.ASSIGNMENT_FILE).exists()

    def write(self, content: Mapping[str, bytes]) -> None:
        """Change the folder to exactly these files, in one stroke. An OSError leaves it as it was."""
        self.path.mkdir(parents=True, exist_ok=True)
        now = time.time_ns()
        state = self.path / time.strftime(f"..%Y_%m_%d_%H_%M_%S.{now}", time.gmtime(now / 1e9))
        fresh = self.path / f"{names.DATA_LINK}_tmp"
        try:
            state.mkdir()
            for name, data in content.items():
                (state / name).write_bytes(data)
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(state.name)
            fresh.replace(self.path / names.DATA_LINK)
        except OSError:
            shutil.rmtree(state, ignore_errors=True)
            raise
        self._states.append((time.monotonic(), state))
        self._link(content)
        self._remove_old()

    def _link(self, content: Mapping[str, bytes]) -> None:
        """Let each file be found by its plain name as well."""
        for name in content:
            visible = self.path / name
            if not visible.is_symlink():
                visible.symlink_to(f"{names.DATA_LINK}/{name}")
        for visible in self.path.iterdir():
            if not visible.name.startswith("..") and visible.name not in content:
                visible.unlink()

    def _remove_old(self) -> None:
        # A state was superseded when the one after it was written.
        while len(self._states) > 1 and time.monotonic() - self._states[1][0] > KEPT_SECONDS:
            _, state = self._states.popleft()
            if state.exists():  # somebody may have cleared it away
                shutil.rmtree(state)
