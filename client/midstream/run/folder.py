"""Writes the config folder the way the kubelet projects a ConfigMap.

Guarantee: a reader that resolves `..data` once sees one whole state, never a mixture. The state before the current
one is kept until the next write, for readers that have just resolved the link. One writer only.
"""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from midstream.resolve import Resolved
from midstream_api import names, version
from midstream_api.engineconfig import Assignment, Index


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

    def write(self, content: Mapping[str, bytes]) -> None:
        """Change the folder to exactly these files, in one stroke."""
        self.path.mkdir(parents=True, exist_ok=True)
        link = self.path / names.DATA_LINK
        before = link.readlink().name if link.is_symlink() else None
        now = time.time_ns()
        folder = self.path / time.strftime(f"..%Y_%m_%d_%H_%M_%S.{now}", time.gmtime(now / 1e9))
        folder.mkdir()
        for name, data in content.items():
            (folder / name).write_bytes(data)
        fresh = self.path / f"{names.DATA_LINK}_tmp"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(folder.name)
        fresh.replace(link)
        self._link(content)
        self._remove_all_but({folder.name, before})

    def _link(self, content: Mapping[str, bytes]) -> None:
        for name in content:
            visible = self.path / name
            if not visible.is_symlink():
                visible.symlink_to(f"{names.DATA_LINK}/{name}")
        for visible in self.path.iterdir():
            if not visible.name.startswith("..") and visible.name not in content:
                visible.unlink()

    def _remove_all_but(self, kept: set[str | None]) -> None:
        for entry in self.path.iterdir():
            is_state = entry.name.startswith("..") and entry.is_dir() and not entry.is_symlink()
            if is_state and entry.name not in kept:
                shutil.rmtree(entry)
