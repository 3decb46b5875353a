"""Local files on their way into the cache, with real files of every kind."""

import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from midstream_artifacts import errors
from midstream_artifacts.cache import Cache
from midstream_artifacts.fetch import fetch, resolve
from midstream_artifacts.progress import Progress
from midstream_artifacts.sources import Source

DATA = os.urandom(3 << 20) + b"end"
DIGEST = hashlib.sha256(DATA).hexdigest()
NOBODY = 65534


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """Return a cache in a folder that does not exist yet."""
    return Cache(tmp_path / "new" / "cache")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a file that stands for a model."""
    path = tmp_path / "models" / "rf ä.onnx"
    path.parent.mkdir()
    path.write_bytes(DATA)
    return path


def kept(cache: Cache) -> list[Path]:
    """Return every file in the cache's folder."""
    return [path for path in cache.root.rglob("*") if not path.is_dir()]


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Take root's rights away for the length of the block: root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_resolve_learns_the_digest(cache: Cache, model: Path) -> None:
    """A path without a digest is pinned to the digest of the bytes that are kept."""
    artifact = resolve(Source.parse("models/rf ä.onnx", model.parents[1]), cache)
    assert (artifact.sha256, artifact.size) == (DIGEST, len(DATA))
    assert artifact.path == cache.root / "sha256" / DIGEST[:2] / DIGEST
    assert artifact.path.read_bytes() == DATA
    assert kept(cache) == [artifact.path]


def test_the_copy_is_immutable_and_its_own(cache: Cache, model: Path) -> None:
    """The copy is nobody's to write, and what happens to the file later does not reach it."""
    artifact = resolve(Source.parse(str(model)), cache)
    assert artifact.path.stat().st_mode & 0o777 == 0o400
    assert not model.samefile(artifact.path)
    with model.open("r+b") as file:
        file.write(b"changed")
    assert cache.verified_path(DIGEST).read_bytes() == DATA


def test_known_digest_needs_no_source(cache: Cache, model: Path) -> None:
    """With a digest that is in the cache the file is not even looked at."""
    source = Source.parse(str(model))
    first = fetch(source, cache, sha256=DIGEST)
    model.unlink()
    assert fetch(source, cache, sha256=DIGEST) == first


def test_symbolic_link_is_followed_anew_each_time(cache: Cache, model: Path) -> None:
    """A link that is swapped leads to the new file at the next fetch."""
    link, other = model.parent / "current", model.parent / "other"
    other.write_bytes(b"other")
    link.symlink_to(model.name)
    source = Source.parse("current", model.parent)
    assert resolve(source, cache).sha256 == DIGEST
    link.unlink()
    link.symlink_to("other")
    assert resolve(source, cache).size == 5


def test_empty_file_is_a_file(cache: Cache, tmp_path: Path) -> None:
    """Whether bytes are a model is for the engine to say, also when there are none."""
    (tmp_path / "empty").touch()
    assert resolve(Source.parse("empty", tmp_path), cache).size == 0


def test_file_system_without_copy_file_range(cache: Cache) -> None:
    """Files whose size the system does not know, such as those in /proc, are read to the end."""
    artifact = resolve(Source.parse("/proc/self/mounts"), cache)
    assert artifact.size > 0


def test_wrong_digest_keeps_nothing(cache: Cache, model: Path) -> None:
    """The error names the file, what was promised and what was found; it is final."""
    with pytest.raises(errors.DigestMismatch) as caught:
        fetch(Source.parse(str(model)), cache, sha256="0" * 64)
    assert all(part in str(caught.value) for part in (str(model), "0" * 64, DIGEST))
    assert not caught.value.transient
    assert kept(cache) == []


def test_progress_ends_with_the_whole(cache: Cache, model: Path) -> None:
    """The last report has all bytes."""
    reports: list[Progress] = []
    resolve(Source.parse(str(model)), cache, progress=reports.append)
    assert (reports[-1].done, reports[-1].total) == (len(DATA), len(DATA))


def test_cancelled_copy_keeps_nothing(cache: Cache, model: Path) -> None:
    """A caller that gives up while the bytes move gets its own error."""
    asked = iter([False, True])
    with pytest.raises(errors.FetchCancelled, match="cancelled"):
        resolve(Source.parse(str(model)), cache, cancelled=lambda: next(asked))
    assert kept(cache) == []


def test_size_limit(cache: Cache, model: Path) -> None:
    """A file of the limit's size passes, one byte less of limit refuses it."""
    source = Source.parse(str(model))
    with pytest.raises(errors.SourceTooLarge, match=f"{len(DATA) - 1} bytes"):
        resolve(source, cache, size_limit=len(DATA) - 1)
    assert kept(cache) == []
    assert resolve(source, cache, size_limit=len(DATA)).size == len(DATA)


def test_size_limit_holds_while_the_file_grows(cache: Cache) -> None:
    """A file that is larger than it said is refused, too."""
    with pytest.raises(errors.SourceTooLarge):
        resolve(Source.parse("/proc/self/mounts"), cache, size_limit=1)
    assert kept(cache) == []


def test_file_that_does_not_fit_on_the_disk(cache: Cache, tmp_path: Path) -> None:
    """A file larger than the free space is refused before a byte is copied."""
    disk = os.statvfs(tmp_path)
    huge = tmp_path / "huge"
    huge.touch()
    os.truncate(huge, size := disk.f_bavail * disk.f_frsize + (1 << 33))
    with pytest.raises(errors.NoSpace, match="do not fit") as caught:
        resolve(Source.parse(str(huge)), cache, size_limit=size)
    assert caught.value.transient
    assert kept(cache) == []


def test_missing_file_says_where_the_path_ends(cache: Cache, model: Path) -> None:
    """The message names the path and the last folder that exists."""
    with pytest.raises(errors.SourceNotFound) as caught:
        resolve(Source.parse("modles/x/rf.onnx", model.parent), cache)
    assert "modles/x/rf.onnx does not exist" in str(caught.value)
    assert f"the folder {model.parent} does" in str(caught.value)


def test_directory(cache: Cache, model: Path) -> None:
    """A folder is refused by name."""
    with pytest.raises(errors.SourceIsADirectory, match="is a directory"):
        resolve(Source.parse(str(model.parent)), cache)


def test_fifo_does_not_block(cache: Cache, tmp_path: Path) -> None:
    """A FIFO that nobody writes to is refused at once."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(errors.SourceNotAFile, match="is a FIFO"):
        resolve(Source.parse("fifo", tmp_path), cache)


def test_socket(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket is no model."""
    monkeypatch.chdir(tmp_path)  # addresses of sockets are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        with pytest.raises(errors.SourceNotAFile, match="is a socket"):
            resolve(Source.parse("socket", tmp_path), cache)


def test_device(cache: Cache) -> None:
    """An endless device is refused, not read."""
    with pytest.raises(errors.SourceNotAFile, match="is a character device"):
        resolve(Source.parse("/dev/zero"), cache)


def test_dangling_link(cache: Cache, tmp_path: Path) -> None:
    """The message says that it is the link's target that is missing."""
    (tmp_path / "link").symlink_to("gone.onnx")
    with pytest.raises(
        errors.SourceNotFound, match=r"symbolic link to gone\.onnx, which does not exist"
    ):
        resolve(Source.parse("link", tmp_path), cache)


def test_link_loop(cache: Cache, tmp_path: Path) -> None:
    """Links in a circle end in a message."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(errors.SourceNotFound, match="form a loop"):
        resolve(Source.parse("a", tmp_path), cache)


def test_file_where_a_folder_should_be(cache: Cache, model: Path) -> None:
    """A path through a file is told apart from a missing file."""
    with pytest.raises(errors.SourceNotFound, match="is no folder"):
        resolve(Source.parse(f"{model}/rf.onnx"), cache)


def test_permission_denied(cache: Cache, model: Path) -> None:
    """A file that this user may not read says so, and which user it is."""
    model.chmod(0o000)
    with (
        ordinary_user(),
        pytest.raises(errors.SourceDenied, match=f"user {os.geteuid() or NOBODY} may"),
    ):
        resolve(Source.parse(str(model)), cache)


def test_name_too_long(cache: Cache) -> None:
    """A name that no file system takes is an invalid address."""
    with pytest.raises(errors.InvalidSource, match="longer than"):
        resolve(Source.parse("/" + "a" * 5000), cache)
