"""A real engine and its config folder: what is not whole is reported, and never unloads what serves."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kit.engine import engine
from kit.folder import ConfigFolder, entry
from kit.started import ROW, Started, scaled, started
from midstream_api import names, version
from midstream_api.engineconfig import Assignment


def removed(it: Started) -> None:
    """The whole folder is gone."""
    shutil.rmtree(it.config.path)


def emptied(it: Started) -> None:
    """The folder has no files."""
    for path in it.config.path.iterdir():
        path.unlink()


def cut_index(it: Started) -> None:
    """The index ends in the middle."""
    index = it.config.path / names.INDEX_FILE
    index.write_bytes(index.read_bytes()[:40])


def cut_document(it: Started) -> None:
    """The document of the revision that serves ends in the middle."""
    path = it.config.path / entry(it.stable).document
    path.write_bytes(path.read_bytes()[:40])


def circle(it: Started) -> None:
    """The index is a link to itself."""
    index = it.config.path / names.INDEX_FILE
    index.unlink()
    index.symlink_to(names.INDEX_FILE)


def older(it: Started) -> None:
    """A late copy of an earlier wish."""
    it.config.write(scaled(it.path, 5), sequence=0)


def conflicting(it: Started) -> None:
    """Another wish under the same sequence."""
    it.config.write(scaled(it.path, 5), sequence=1)


def unknown_revision(it: Started) -> None:
    """The assignment names a revision that is not in the folder."""
    wanted = entry(scaled(it.path, 5)).revision
    assign(it.config, wanted)


def assign(config: ConfigFolder, revision: str) -> None:
    """Write an assignment for the index that is there."""
    made = Assignment(uid=config.uid, sequence=config.sequence, hold=[revision], serve=revision)
    config.put(names.ASSIGNMENT_FILE, version.dump(made))


BAD: list[tuple[Callable[[Started], None], str]] = [
    (removed, "ConfigMissing"),
    (emptied, "ConfigMissing"),
    (cut_index, "ConfigInvalid"),
    (cut_document, "ConfigHalfWritten"),
    (circle, "ConfigUnreadable"),
    (older, "ConfigOlder"),
    (conflicting, "ConfigConflict"),
    (unknown_revision, "AssignmentUnknownRevision"),
]


@pytest.mark.parametrize(("spoil", "reason"), BAD, ids=[spoil.__name__ for spoil, _ in BAD])
def test_a_bad_folder_unloads_nothing(
    tmp_path: Path, spoil: Callable[[Started], None], reason: str
) -> None:
    """The reason is told and stands in the status, requests are answered, and a good folder is obeyed again."""
    with started(tmp_path) as it:
        spoil(it)
        it.running.wait("config_refused", reason=reason)
        config = it.status()["config"]
        assert (False, reason) == (config["accepted"], config["reason"])
        it.assert_untouched()
        assert 200 == it.running.get("/readyz").status

        new = scaled(tmp_path, 2)
        for path in it.config.path.glob("*"):
            path.unlink()
        it.config.path.mkdir(exist_ok=True)
        it.config.write(new, sequence=9)
        it.wait("serving", new)
        assert it.status()["config"]["accepted"]
        assert 36.0 == it.value()
        assert 0 == it.running.stop()
        assert "" == it.running.stderr


def test_an_engine_waits_for_its_first_folder(tmp_path: Path) -> None:
    """It lives, is not ready, says what it waits for, and serves as soon as the folder is whole."""
    with engine(tmp_path) as running:
        running.wait("config_refused", reason="ConfigMissing")
        assert 200 == running.get("/livez").status
        assert 503 == running.get("/readyz").status
        refused = running.post([ROW])
        assert 503 == refused.status
        assert "retry-after" in refused.headers
        stable = scaled(tmp_path, 1)
        ConfigFolder(tmp_path / "config").write(stable)
        running.wait("serving", version=stable.version)
        assert 200 == running.get("/readyz").status
        assert 200 == running.post([ROW]).status


def test_an_assignment_that_cannot_be_obeyed_means_stable_at_the_start(tmp_path: Path) -> None:
    """Stable serves and the reason is reported; the right assignment is obeyed when it comes."""
    stable, candidate = scaled(tmp_path, 1), scaled(tmp_path, 2)
    config = ConfigFolder(tmp_path / "config")
    config.write(stable, candidate)
    assign(config, "0123456789abcdef")
    with engine(tmp_path) as running:
        running.wait("serving", version=stable.version)
        report = running.get("/status").json()["config"]
        assert (False, "AssignmentUnknownRevision") == (report["accepted"], report["reason"])
        assert "0123456789abcdef" in report["message"]
        assign(config, entry(candidate).revision)
        running.wait("serving", version=candidate.version)
        assert running.get("/status").json()["config"]["accepted"]


def test_a_folder_that_the_kubelet_swaps_is_followed(tmp_path: Path) -> None:
    """Files are links through `..data`, and one rename changes them all."""
    outer = tmp_path / "config"
    outer.mkdir()

    def swap(name: str, factor: float) -> str:
        wished = scaled(tmp_path, factor)
        inner = ConfigFolder(outer / name)
        inner.write(wished, sequence=int(name[2:]))
        for path in inner.path.iterdir():
            link = outer / path.name
            if not link.is_symlink():
                link.symlink_to(Path(names.DATA_LINK) / path.name)
        (outer / "..data_tmp").symlink_to(name)
        (outer / "..data_tmp").rename(outer / names.DATA_LINK)
        return wished.version

    first = swap("..1", 1)
    with engine(tmp_path) as running:
        running.wait("serving", version=first)
        for sequence in range(2, 6):
            running.wait("serving", version=swap(f"..{sequence}", sequence))
            shutil.rmtree(outer / f"..{sequence - 1}")
        assert not [each for each in running.events if each["event"] == "config_refused"]


def test_an_index_edited_in_place_is_obeyed(tmp_path: Path) -> None:
    """An editor that writes into the file itself, without a rename."""
    with started(tmp_path) as it:
        index = it.config.path / names.INDEX_FILE
        (it.config.path / names.ASSIGNMENT_FILE).unlink()
        value = json.loads(index.read_bytes())
        index.write_text(json.dumps({**value, "sequence": 5}))
        it.running.wait("config_accepted", sequence=5)
        it.assert_untouched()
