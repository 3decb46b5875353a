"""The config folder: what is obeyed, what is refused with which reason, and what heals."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit.folder import ConfigFolder, document, entry
from midstream_api import names, version
from midstream_api.engineconfig import Assignment, ResolvedModel, RevisionDocument
from midstream_engine.errors import ConfigError
from midstream_engine.revisions.manager import Wish
from midstream_engine.revisions.source import MAX_FILE, Source, read


def revision(letter: str, pipeline: str = "house-price") -> RevisionDocument:
    """A revision whose one model has a SHA-256 of one letter."""
    model = ResolvedModel(name=f"rf-{letter}", uri=f"file:///{letter}", sha256=letter * 64, size=1)
    return document(model, pipeline=pipeline)


A, B, C = (revision(letter) for letter in "abc")
ID_A, ID_B, ID_C = (entry(each).revision for each in (A, B, C))


class Watched:
    """A config folder and a source that looks at it when told to."""

    def __init__(self, folder: Path) -> None:
        self.folder = ConfigFolder(folder)
        self.path = folder
        self.wishes: list[Wish] = []
        self.refused: list[ConfigError] = []
        self.source = Source(folder, self.wishes.append, self.refused.append)

    @property
    def serve(self) -> list[str]:
        """What the wishes that were handed over want to be served."""
        return [wish.goal.serve for wish in self.wishes]

    def look(self) -> str | None:
        """Look twice, as one look may be too early, and give the reason why the folder is not obeyed."""
        self.source.look()
        self.source.look()
        return self.source.error.reason if self.source.error else None

    def edit(self, name: str, **fields: Any) -> None:
        """Change fields of a document as somebody with an editor would."""
        value = json.loads((self.path / name).read_bytes())
        self.folder.put(name, json.dumps({**value, **fields}).encode())

    def assign(self, **fields: Any) -> None:
        """Write an assignment that need not make sense."""
        given = {"uid": "test", "sequence": self.folder.sequence, "hold": [ID_A], "serve": ID_A}
        self.folder.put(
            names.ASSIGNMENT_FILE, version.dump(Assignment.model_validate({**given, **fields}))
        )


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    """An empty folder under watch."""
    return Watched(tmp_path / "config")


def test_a_whole_folder_is_handed_over_once(watched: Watched) -> None:
    """Documents, goal and permission, and nothing more while nothing changes."""
    watched.folder.write(A, B, allow_schema_change=True)
    assert watched.look() is None
    assert watched.look() is None
    (wish,) = watched.wishes
    assert ("house-price", "test", 1) == (wish.pipeline, wish.uid, wish.sequence)
    assert {ID_A: A, ID_B: B} == wish.documents
    assert ((ID_A, ID_B), ID_B, ID_A) == (wish.goal.hold, wish.goal.serve, wish.goal.stable)
    assert wish.allow_schema_change


def test_without_an_assignment_stable_is_served(watched: Watched) -> None:
    """A candidate in the folder is not a wish for it."""
    watched.folder.write(A, B)
    (watched.path / names.ASSIGNMENT_FILE).unlink()
    assert watched.look() is None
    assert (ID_A,) == watched.wishes[-1].goal.hold
    assert [ID_A] == watched.serve


def test_an_empty_assignment_says_as_much_as_none(watched: Watched) -> None:
    """The kubelet projects an annotation that a pod does not have as an empty file: stable is served, all is well."""
    watched.folder.write(A, B)
    watched.folder.put(names.ASSIGNMENT_FILE, b"")
    assert watched.look() is None
    assert watched.serve == [ID_A]


def test_a_new_assignment_for_the_same_sequence_is_obeyed(watched: Watched) -> None:
    """Prepare first, serve later: the index stays as it is."""
    watched.folder.write(A, B, serve=A)
    watched.look()
    watched.assign(hold=[ID_A, ID_B], serve=ID_B)
    assert watched.look() is None
    assert [ID_A, ID_B] == watched.serve


def half_written(watched: Watched) -> None:
    """The document of the candidate ends in the middle."""
    watched.folder.write(A, B)
    path = watched.path / entry(B).document
    path.write_bytes(path.read_bytes()[:100])


def deleted(watched: Watched) -> None:
    """The folder itself is gone."""
    for path in watched.path.iterdir():
        path.unlink()
    watched.path.rmdir()


def emptied(watched: Watched) -> None:
    """The folder is there, and nothing in it."""
    for path in watched.path.iterdir():
        path.unlink()


def document_missing(watched: Watched) -> None:
    """The index names a document that has not arrived."""
    watched.folder.write(A, B)
    (watched.path / entry(B).document).unlink()


def empty_files(watched: Watched) -> None:
    """All files are there with no content, as after a power failure."""
    for path in watched.path.iterdir():
        path.write_bytes(b"")


def empty_document(watched: Watched) -> None:
    """A document without content beside a good index."""
    watched.folder.write(A, B)
    (watched.path / entry(B).document).write_bytes(b"")


def index_is_a_folder(watched: Watched) -> None:
    """Somebody made a folder of that name."""
    (watched.path / names.INDEX_FILE).unlink()
    (watched.path / names.INDEX_FILE).mkdir()


def index_is_a_fifo(watched: Watched) -> None:
    """A FIFO would keep a careless reader waiting."""
    (watched.path / names.INDEX_FILE).unlink()
    os.mkfifo(watched.path / names.INDEX_FILE)


def index_never_ends(watched: Watched) -> None:
    """A link to a device that has bytes for ever."""
    (watched.path / names.INDEX_FILE).unlink()
    (watched.path / names.INDEX_FILE).symlink_to("/dev/zero")


def index_too_large(watched: Watched) -> None:
    """More than a ConfigMap can hold."""
    (watched.path / names.INDEX_FILE).write_bytes(b" " * (MAX_FILE + 1))


def index_links_to_itself(watched: Watched) -> None:
    """A symbolic link in a circle."""
    (watched.path / names.INDEX_FILE).unlink()
    (watched.path / names.INDEX_FILE).symlink_to(names.INDEX_FILE)


def data_links_to_itself(watched: Watched) -> None:
    """The kubelet's link in a circle."""
    (watched.path / names.DATA_LINK).symlink_to(names.DATA_LINK)


def data_leads_nowhere(watched: Watched) -> None:
    """The kubelet's link to a folder that is not there."""
    (watched.path / names.DATA_LINK).symlink_to("..2026")


def not_json(watched: Watched) -> None:
    """A page instead of a document."""
    watched.folder.put(names.INDEX_FILE, b"<html>")


def unknown_schema(watched: Watched) -> None:
    """A document of a later version of the format."""
    watched.edit(names.INDEX_FILE, schemaVersion=2)


def unknown_field(watched: Watched) -> None:
    """A field that this engine would not act on."""
    watched.edit(names.INDEX_FILE, colour="green")


def wrong_version(watched: Watched) -> None:
    """The index says another version than the content makes."""
    made = {**entry(A).model_dump(by_alias=True), "version": entry(B).version}
    watched.edit(names.INDEX_FILE, stable=made, sequence=5)


def wrong_version_in_the_document(watched: Watched) -> None:
    """The document says another version than its content makes."""
    forged = A.model_copy(update={"version": B.version})
    watched.folder.write(forged, B)


def wrong_revision(watched: Watched) -> None:
    """The index calls a document by another one's name."""
    made = {**entry(A).model_dump(by_alias=True), "revision": ID_B}
    watched.edit(names.INDEX_FILE, stable=made, sequence=5)


def other_pipeline(watched: Watched) -> None:
    """The document belongs to somebody else."""
    stranger = revision("a", "car-price")
    watched.folder.put(entry(stranger).document, version.dump(stranger))
    watched.edit(names.INDEX_FILE, stable=entry(stranger).model_dump(by_alias=True), sequence=5)


BAD: list[tuple[Callable[[Watched], None], str, str]] = [
    (half_written, "ConfigHalfWritten", "waiting for the rest"),
    (deleted, "ConfigMissing", "config is not there"),
    (emptied, "ConfigMissing", "index.json is not there"),
    (document_missing, "ConfigMissing", f"{entry(B).document} is not there"),
    (empty_files, "ConfigInvalid", "index.json"),
    (empty_document, "ConfigHalfWritten", entry(B).document),
    (index_is_a_folder, "ConfigUnreadable", "index.json is not a file"),
    (index_is_a_fifo, "ConfigUnreadable", "index.json is not a file"),
    (index_never_ends, "ConfigUnreadable", "index.json is not a file"),
    (index_too_large, "ConfigInvalid", f"more than {MAX_FILE} bytes"),
    (index_links_to_itself, "ConfigUnreadable", "index.json cannot be read"),
    (data_links_to_itself, "ConfigUnreadable", "config cannot be read"),
    (data_leads_nowhere, "ConfigMissing", "config is not there"),
    (not_json, "ConfigInvalid", "index.json"),
    (unknown_schema, "ConfigInvalid", "schemaVersion"),
    (unknown_field, "ConfigInvalid", "colour"),
    (wrong_version, "ConfigInvalid", "index.json says version"),
    (wrong_version_in_the_document, "ConfigInvalid", "says version"),
    (wrong_revision, "ConfigInvalid", f"revision {ID_B}"),
    (other_pipeline, "ConfigInvalid", "car-price"),
]


@pytest.mark.parametrize(
    ("spoil", "reason", "said"), BAD, ids=[spoil.__name__ for spoil, *_ in BAD]
)
def test_a_bad_folder_is_reported_once_and_changes_nothing(
    watched: Watched, spoil: Callable[[Watched], None], reason: str, said: str
) -> None:
    """The reason is told one time, the last good wish stays, and a good folder is obeyed again."""
    watched.folder.write(A)
    watched.look()
    spoil(watched)
    assert reason == watched.look()
    assert reason == watched.look()
    assert [reason] == [error.reason for error in watched.refused]
    assert said in watched.refused[0].message
    assert [ID_A] == watched.serve

    for path in (watched.path / names.DATA_LINK, watched.path / names.INDEX_FILE):
        if path.is_symlink() or path.exists():
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    watched.path.mkdir(exist_ok=True)
    watched.folder.write(B, sequence=9)
    assert watched.look() is None
    assert ID_B == watched.serve[-1]


@pytest.mark.parametrize(
    ("spoil", "reason", "said"), BAD, ids=[spoil.__name__ for spoil, *_ in BAD]
)
def test_a_bad_folder_at_the_start_is_waited_for(
    watched: Watched, spoil: Callable[[Watched], None], reason: str, said: str
) -> None:
    """There is no wish yet, and a reason."""
    watched.folder.write(A)
    spoil(watched)
    assert reason == watched.look()
    assert said in watched.refused[0].message
    assert [] == watched.wishes


def test_the_same_folder_back_is_obeyed_without_another_word(watched: Watched) -> None:
    """An index that vanishes and comes back as it was is no conflict."""
    watched.folder.write(A)
    watched.look()
    kept = (watched.path / names.INDEX_FILE).read_bytes()
    (watched.path / names.INDEX_FILE).unlink()
    assert "ConfigMissing" == watched.look()
    watched.folder.put(names.INDEX_FILE, kept)
    assert watched.look() is None
    assert {ID_A} == set(watched.serve)


def test_an_older_index_is_ignored_and_reported(watched: Watched) -> None:
    """The message has both sequences; the sequence of another uid counts from its own start."""
    watched.folder.write(A, sequence=7)
    watched.look()
    watched.folder.write(B, sequence=6)
    assert "ConfigOlder" == watched.look()
    assert "sequence 6, and 7 is obeyed already" in watched.refused[-1].message
    assert [ID_A] == watched.serve

    watched.folder.uid = "another"
    watched.folder.write(B, sequence=1)
    assert watched.look() is None
    assert [ID_A, ID_B] == watched.serve


def test_the_same_sequence_with_other_content_is_refused(watched: Watched) -> None:
    """A change needs a higher sequence, or nobody can tell which one is newer."""
    watched.folder.write(A, sequence=7)
    watched.look()
    watched.folder.write(B, sequence=7)
    assert "ConfigConflict" == watched.look()
    assert "kept its sequence 7" in watched.refused[-1].message
    watched.folder.write(B, sequence=8)
    assert watched.look() is None
    assert [ID_A, ID_B] == watched.serve


ASSIGNMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "for a later sequence": ({"sequence": 99}, "AssignmentMismatch"),
    "for an earlier sequence": ({"sequence": 0}, "AssignmentMismatch"),
    "for another uid": ({"uid": "another"}, "AssignmentMismatch"),
    "naming a revision that is not there": (
        {"hold": [ID_A, ID_C], "serve": ID_C},
        "AssignmentUnknownRevision",
    ),
}


@pytest.mark.parametrize("what", ASSIGNMENTS)
def test_an_assignment_that_does_not_fit_means_stable_at_the_start(
    watched: Watched, what: str
) -> None:
    """Something must serve; the reason is reported, and the right assignment is obeyed when it comes."""
    fields, reason = ASSIGNMENTS[what]
    watched.folder.write(A, B)
    watched.assign(**fields)
    assert reason == watched.look()
    assert [ID_A] == watched.serve
    watched.assign(hold=[ID_A, ID_B], serve=ID_B)
    assert watched.look() is None
    assert [ID_A, ID_B] == watched.serve


@pytest.mark.parametrize("what", ASSIGNMENTS)
def test_an_assignment_that_does_not_fit_changes_nothing_later(watched: Watched, what: str) -> None:
    """What serves stays, whatever stable is now."""
    fields, reason = ASSIGNMENTS[what]
    watched.folder.write(A, B, serve=B)
    watched.look()
    watched.folder.write(A, B, serve=A)
    watched.assign(**fields)
    assert reason == watched.look()
    assert [ID_B] == watched.serve


def test_an_assignment_that_is_no_assignment_is_refused(watched: Watched) -> None:
    """To serve what is not held is a contradiction."""
    watched.folder.write(A, B)
    watched.look()
    watched.edit(names.ASSIGNMENT_FILE, hold=[ID_A], serve=ID_B)
    assert "ConfigInvalid" == watched.look()
    assert "not among hold" in watched.refused[-1].message


def test_a_link_swap_changes_everything_at_once(tmp_path: Path) -> None:
    """As the kubelet does: files are links through `..data`, which is renamed over."""
    outer = tmp_path / "config"
    outer.mkdir()

    def swap(
        name: str, stable: RevisionDocument, candidate: RevisionDocument | None = None
    ) -> None:
        inner = ConfigFolder(outer / name)
        inner.write(stable, candidate, sequence=int(name[2:]))
        for path in inner.path.iterdir():
            link = outer / path.name
            if not link.is_symlink():
                link.symlink_to(Path(names.DATA_LINK) / path.name)
        (outer / "..data_tmp").symlink_to(name)
        (outer / "..data_tmp").rename(outer / names.DATA_LINK)

    watched = Watched(outer)
    swap("..1", stable=A)
    assert watched.look() is None
    swap("..2", stable=A, candidate=B)
    assert watched.look() is None
    assert [ID_A, ID_B] == watched.serve


def test_an_edit_in_place_that_leaves_size_and_time_is_noticed(watched: Watched) -> None:
    """Two writes within one tick of the file system's clock differ in content only."""
    watched.folder.write(A, sequence=1)
    watched.source.look()
    index = watched.path / names.INDEX_FILE
    before = index.stat()
    with index.open("r+b") as file:
        file.write(index.read_bytes().replace(b'"sequence":1', b'"sequence":2'))
    os.utime(index, ns=(before.st_atime_ns, before.st_mtime_ns))
    watched.look()
    assert "AssignmentMismatch" == (watched.source.error and watched.source.error.reason)


DENIED = """
import os, sys
from pathlib import Path
from midstream_engine.errors import ConfigError
from midstream_engine.revisions.source import read
if os.getuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
os.chdir("/")
try:
    read(Path(sys.argv[1]))
except ConfigError as error:
    print(error.reason, error.message)
"""


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_folder_that_may_not_be_read_is_reported_as_that(what: str) -> None:
    """The message names the user; asked by an ordinary user, because root may read everything."""
    # Not in pytest's own folder: its parents are closed to others.
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        folder = ConfigFolder(Path(place) / "config")
        folder.write(A)
        closed = folder.path if what == "folder" else folder.path / names.INDEX_FILE
        closed.chmod(0)
        try:
            asked = subprocess.run(
                [sys.executable, "-c", DENIED, str(folder.path)],
                check=True,
                capture_output=True,
                text=True,
            )
        finally:
            closed.chmod(0o700)
    name = folder.path.name if what == "folder" else names.INDEX_FILE
    assert asked.stdout.startswith(f"ConfigDenied {name} may not be read by this user (uid ")


def test_permissions_that_come_back_are_noticed(watched: Watched) -> None:
    """Nothing but the permissions of a file changes, and that is enough to look again."""
    watched.folder.write(A)
    watched.look()
    watched.folder.write(B)
    index = watched.path / names.INDEX_FILE
    index.chmod(0)
    watched.look()
    index.chmod(0o600)
    assert watched.look() is None
    assert ID_B == watched.serve[-1]


def test_read_gives_the_bytes_of_the_index(watched: Watched) -> None:
    """They tell whether a sequence was used twice."""
    watched.folder.write(A)
    reading = read(watched.path)
    assert (watched.path / names.INDEX_FILE).read_bytes() == reading.index
    assert reading.assignment_error is None


def test_a_source_that_is_poked_and_cancelled_at_once_ends(tmp_path: Path) -> None:
    """An engine that is told to stop in the moment of a change stops."""

    async def poke_and_cancel() -> None:
        source = Watched(tmp_path).source
        running = asyncio.create_task(source.run())
        await asyncio.sleep(0)
        source.poke()
        running.cancel()
        await asyncio.wait((running,), timeout=5)
        assert running.cancelled()

    asyncio.run(poke_and_cancel())
