"""Several threads and processes on one cache: each thing is fetched once, and the dead block nobody."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit import origin as kit
from kit.origin import Origin
from midstream_artifacts.cache import Artifact, Cache
from midstream_artifacts.fetch import fetch, resolve
from midstream_artifacts.sources import Source

DATA = os.urandom(6_000_000)
DIGEST = hashlib.sha256(DATA).hexdigest()
CUT = 4_000_000

FETCH = """
import pathlib, resource, signal, sys
from midstream_artifacts.cache import Cache
from midstream_artifacts.errors import ArtifactError
from midstream_artifacts.fetch import fetch
from midstream_artifacts.sources import Source

root, uri, sha256, most = sys.argv[1:]
if most:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), int(most)))
print("begun", flush=True)
try:
    artifact = fetch(Source.parse(uri), Cache(pathlib.Path(root)), sha256=sha256 or None)
except ArtifactError as error:
    print(error.reason, error)
else:
    print(artifact.sha256, artifact.size)
"""


@pytest.fixture
def origin() -> Iterator[Origin]:
    """Return a running server."""
    with Origin().running() as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """Return an empty cache."""
    return Cache(tmp_path / "cache")


def started(
    cache: Cache, uri: str, sha256: str | None = DIGEST, most: int | None = None
) -> subprocess.Popen[str]:
    """Start a process that fetches `uri`, writing no file larger than `most` bytes; wait until it begins."""
    arguments = [str(cache.root), uri, sha256 or "", str(most or "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "no_proxy": "*"}
    process = subprocess.Popen(
        [sys.executable, "-c", FETCH, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def result(process: subprocess.Popen[str]) -> str:
    """Return what a process says at its end."""
    said, _ = process.communicate()
    assert process.returncode == 0
    return said.strip()


def partial_size(cache: Cache) -> int:
    """Return how many bytes of a broken download are in the cache."""
    return sum(path.stat().st_size for path in cache.root.glob("partial/*") if not path.suffix)


def test_two_processes_download_once(origin: Origin, cache: Cache) -> None:
    """The second process waits for the first, and takes its copy."""
    both = threading.Event()
    uri = origin.serve("/rf.onnx", kit.file(DATA, cut=CUT, until=both))
    processes = [started(cache, uri), started(cache, uri)]
    both.set()
    assert [result(process) for process in processes] == [f"{DIGEST} {len(DATA)}"] * 2
    assert len(origin.requests) == 1


def test_two_processes_transfer_a_mutable_address_once(origin: Origin, cache: Cache) -> None:
    """Without a digest the second one asks, too, and hears that nothing changed."""
    both = threading.Event()
    uri = origin.serve("/rf.onnx", kit.file(DATA, cut=CUT, until=both))
    processes = [started(cache, uri, None), started(cache, uri, None)]
    both.set()
    assert [result(process) for process in processes] == [f"{DIGEST} {len(DATA)}"] * 2
    assert [r.headers.get("if-none-match") for r in origin.requests] == [None, kit.etag_of(DATA)]


def test_threads_download_once(origin: Origin, cache: Cache) -> None:
    """The same holds among the threads of one process."""
    uri = origin.serve("/rf.onnx", kit.file(DATA))
    artifacts: list[Artifact] = []

    def work() -> None:
        artifacts.append(fetch(Source.parse(uri), cache, sha256=DIGEST))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [artifact.sha256 for artifact in artifacts] == [DIGEST] * 4
    assert len(origin.requests) == 1


@pytest.mark.parametrize("sha256", [None, DIGEST], ids=["mutable", "pinned"])
def test_killed_download_is_resumed(origin: Origin, cache: Cache, sha256: str | None) -> None:
    """What a process had when it was killed is the next one's to go on with."""
    stalled = threading.Event()
    uri = origin.serve(
        "/rf.onnx",
        kit.file(DATA, cut=CUT, stall=stalled, until=origin.free),
        kit.file(DATA),
    )
    with started(cache, uri, sha256) as process:
        assert stalled.wait(30)
        while not partial_size(cache):
            os.sched_yield()
        process.send_signal(signal.SIGKILL)
    size = partial_size(cache)
    assert fetch(Source.parse(uri), cache, sha256=sha256).sha256 == DIGEST
    assert origin.requests[1].headers["range"] == f"bytes={size}-"
    assert cache.verified_path(DIGEST).read_bytes() == DATA
    assert list(cache.root.glob("partial/*")) == []


def test_full_disk_while_downloading(origin: Origin, cache: Cache) -> None:
    """A write that fails for want of room is told as such, and what was written is given back."""
    uri = origin.serve("/rf.onnx", kit.file(DATA))
    assert result(started(cache, uri, most=1_000_000)).startswith("NoSpace ")
    assert [path for path in cache.root.rglob("*") if path.is_file()] == []


def test_full_disk_while_copying(cache: Cache, tmp_path: Path) -> None:
    """The same holds for a local file."""
    (tmp_path / "rf.onnx").write_bytes(DATA)
    said = result(started(cache, str(tmp_path / "rf.onnx"), most=1_000_000))
    assert said.startswith("NoSpace ")
    assert [path for path in cache.root.rglob("*") if path.is_file()] == []


def test_copies_at_once_end_as_one(cache: Cache, tmp_path: Path) -> None:
    """Processes that copy the same file at the same time do not disturb each other."""
    (tmp_path / "rf.onnx").write_bytes(DATA)
    uri = str(tmp_path / "rf.onnx")
    processes = [started(cache, uri, None) for _ in range(3)]
    assert [result(process) for process in processes] == [f"{DIGEST} {len(DATA)}"] * 3
    artifact = resolve(Source.parse(uri), cache)
    assert [path for path in cache.root.rglob("*") if path.is_file()] == [artifact.path]
