"""The cache folder: damage, other processes, dead processes, and folders that cannot be one."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from midstream_artifacts import errors, locks
from midstream_artifacts.cache import Artifact, Cache
from midstream_artifacts.fetch import fetch, resolve
from midstream_artifacts.sources import Source

DATA = b"a model" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """Return an empty cache."""
    return Cache(tmp_path / "cache")


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Return the address of a file that stands for a model."""
    (tmp_path / "rf.onnx").write_bytes(DATA)
    return Source.parse("rf.onnx", tmp_path)


def never() -> None:
    """Keep waiting."""


def damage(artifact: Artifact) -> None:
    """Turn one bit of the cached copy, as a bad disk does."""
    artifact.path.chmod(0o600)
    with artifact.path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff")
    artifact.path.chmod(0o400)


def test_cache_that_does_not_exist_is_empty(cache: Cache) -> None:
    """Looking into a cache creates nothing."""
    assert cache.get(DIGEST) is None
    with pytest.raises(errors.NotCached, match=DIGEST):
        cache.verified_path(DIGEST)
    assert not cache.root.exists()


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", DIGEST.upper(), DIGEST[:-1]])
def test_what_is_no_digest_is_refused(cache: Cache, digest: str) -> None:
    """A digest becomes part of a path, so it must be one."""
    with pytest.raises(ValueError, match="is no SHA-256"):
        cache.get(digest)


def test_damaged_copy_is_found_removed_and_fetched_anew(cache: Cache, source: Source) -> None:
    """Damage is noticed before loading, nothing damaged is handed out, and the next fetch heals it."""
    damage(fetch(source, cache, sha256=DIGEST))
    with pytest.raises(errors.CacheDamaged, match="was removed") as caught:
        cache.verified_path(DIGEST)
    assert isinstance(caught.value, errors.DigestMismatch)
    assert caught.value.transient
    assert cache.get(DIGEST) is None
    fetch(source, cache, sha256=DIGEST)
    assert cache.verified_path(DIGEST).read_bytes() == DATA


def test_truncated_copy_is_found(cache: Cache, source: Source) -> None:
    """A copy that lost its end is damaged, too."""
    artifact = resolve(source, cache)
    artifact.path.chmod(0o600)
    os.truncate(artifact.path, 10)
    with pytest.raises(errors.CacheDamaged, match="10 bytes"):
        cache.verify(artifact)


def test_fetching_again_repairs_a_copy(cache: Cache, source: Source) -> None:
    """A mutable source puts good bytes over damaged ones."""
    artifact = resolve(source, cache)
    damage(artifact)
    resolve(source, cache)
    cache.verify(artifact)


def test_unreadable_copy(cache: Cache, source: Source) -> None:
    """A copy that cannot be read is reported, not taken for damaged."""
    artifact = resolve(source, cache)
    artifact.path.unlink()
    artifact.path.mkdir()
    with pytest.raises(errors.CacheUnreadable, match="cannot read"):
        cache.verified_path(DIGEST)
    assert artifact.path.exists()


def test_file_where_the_folder_should_be(tmp_path: Path, source: Source) -> None:
    """A cache that cannot be made says where, why, and what it must be."""
    (tmp_path / "taken").touch()
    cache = Cache(tmp_path / "taken" / "cache")
    with pytest.raises(errors.CacheUnwritable) as caught:
        resolve(source, cache)
    assert str(cache.root) in str(caught.value)
    assert "Not a directory" in str(caught.value)


def test_read_only_file_system(source: Source) -> None:
    """A folder that not even root can write to is a clear error."""
    with pytest.raises(errors.CacheUnwritable):
        resolve(source, Cache(Path("/proc/midstream")))


def test_removed_folder_is_made_again(cache: Cache, source: Source) -> None:
    """Somebody who empties the cache while a process runs costs a fetch, no more."""
    resolve(source, cache)
    subprocess.run(["rm", "-rf", str(cache.root)], check=True)
    assert resolve(source, cache).path.exists()


def test_emptied_folder_is_filled_again(cache: Cache, source: Source) -> None:
    """The same where the folder itself stays, as after `rm -rf cache/*`."""
    resolve(source, cache)
    for entry in cache.root.iterdir():
        subprocess.run(["rm", "-rf", str(entry)], check=True)
    assert resolve(source, cache).path.exists()


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_digest_at_the_borders_of_a_chunk(cache: Cache, tmp_path: Path, size: int) -> None:
    """Hashing in chunks gives the digest of the whole."""
    data = os.urandom(size)
    (tmp_path / "x").write_bytes(data)
    assert resolve(Source.parse("x", tmp_path), cache).sha256 == hashlib.sha256(data).hexdigest()


def test_remains_of_dead_processes_are_removed_after_a_day(cache: Cache, source: Source) -> None:
    """Old temporary files go; young ones, and partial files in use, stay."""
    resolve(source, cache)
    tmp, partial = cache.root / "tmp", cache.root / "partial"
    old = [tmp / "old", partial / "old", partial / "old.json", partial / "used"]
    with cache.lock("used", never):
        for path in (*old, tmp / "young"):
            path.touch()
        for path in old:
            os.utime(path, (0, time.time() - 25 * 3600))
        resolve(source, Cache(cache.root))
        assert [path.name for path in tmp.iterdir()] == ["young"]
        assert [path.name for path in partial.iterdir()] == ["used"]
    assert list((cache.root / "locks").iterdir()) == []


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    """Threads that all want the lock get it one after the other, and no lock file is left."""
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(20):
            with locks.held(tmp_path / "lock", never):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 80
    assert list(tmp_path.iterdir()) == []


def test_waiting_for_a_lock_can_be_cancelled(cache: Cache) -> None:
    """A caller that gives up while another holds the lock gets its own error through."""
    asked = threading.Event()

    def give_up() -> None:
        asked.set()
        raise errors.FetchCancelled("enough")

    with cache.lock("x", never), pytest.raises(errors.FetchCancelled), cache.lock("x", give_up):
        pass
    assert asked.is_set()


def test_killed_holder_blocks_nobody(tmp_path: Path) -> None:
    """A lock is free once its holder was killed with SIGKILL."""
    lock = tmp_path / "lock"
    code = (
        "import sys, time, pathlib\n"
        "from midstream_artifacts import locks\n"
        "with locks.held(pathlib.Path(sys.argv[1]), lambda: None):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(lock)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert locks.try_acquire(lock) is None
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    descriptor = locks.try_acquire(lock)
    assert descriptor is not None
    locks.release(lock, descriptor)
