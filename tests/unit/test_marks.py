"""The mark of a candidate: what the next engine finds of it."""

from pathlib import Path

import pytest

from midstream_engine.errors import LoadError
from midstream_engine.revisions.marks import MARK_FILE, Marks


def test_a_mark_that_was_left_is_found_by_the_next_engine(tmp_path: Path) -> None:
    """The revision's id survives the engine; the state folder is made when it is not there."""
    marks = Marks(tmp_path / "new" / "state")
    assert marks.found is None
    marks.leave("0123456789abcdef")
    assert "0123456789abcdef" == Marks(tmp_path / "new" / "state").found


def test_a_mark_that_was_cleared_is_not_found(tmp_path: Path) -> None:
    """Clearing twice is as good as once."""
    marks = Marks(tmp_path)
    marks.leave("0123456789abcdef")
    marks.clear()
    marks.clear()
    assert Marks(tmp_path).found is None
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content", [b"", b'{"revision": "01234', b"\xff\xfe", b"[]", b'{"revision": 7}', b"null"]
)
def test_a_mark_that_says_nothing_is_no_mark(tmp_path: Path, content: bytes) -> None:
    """A file cut off by a power failure does not stop the engine, and the next mark replaces it."""
    (tmp_path / MARK_FILE).write_bytes(content)
    marks = Marks(tmp_path)
    assert marks.found is None
    marks.leave("0123456789abcdef")
    assert "0123456789abcdef" == Marks(tmp_path).found


def test_a_mark_that_cannot_be_written_is_an_error_that_may_heal(tmp_path: Path) -> None:
    """The error says which file, and what the state folder must be."""
    marks = Marks(tmp_path / "state")
    (tmp_path / "state").rmdir()
    (tmp_path / "state").touch()
    with pytest.raises(LoadError, match=r"candidate-mark\.json.*must be there") as caught:
        marks.leave("0123456789abcdef")
    assert ("StateUnwritable", True) == (caught.value.reason, caught.value.transient)


def test_a_folder_that_somebody_removed_is_made_again(tmp_path: Path) -> None:
    """What clears old files out of a temporary folder does not end all swaps."""
    folder = tmp_path / "state" / "worker-0"
    marks = Marks(folder)
    folder.rmdir()
    folder.parent.rmdir()
    marks.clear()
    marks.leave("0123456789abcdef")
    assert "0123456789abcdef" == Marks(folder).found


def test_a_mark_that_cannot_be_removed_is_an_error(tmp_path: Path) -> None:
    """It would stop the next engine from trying, so it is not passed over."""
    (tmp_path / MARK_FILE).mkdir()
    (tmp_path / MARK_FILE / "in-the-way").touch()
    with pytest.raises(IsADirectoryError):
        Marks(tmp_path)  # at the start a wrong state folder ends the engine, with the place
    (tmp_path / MARK_FILE / "in-the-way").unlink()
    (tmp_path / MARK_FILE).rmdir()
    marks = Marks(tmp_path)
    (tmp_path / MARK_FILE).mkdir()
    with pytest.raises(LoadError) as caught:
        marks.clear()
    assert "StateUnwritable" == caught.value.reason
