"""Downloads that break off: what is resumed, what starts anew, and that halves of two files never meet."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit import origin as kit
from kit.origin import Origin
from midstream_artifacts import errors
from midstream_artifacts.cache import Artifact, Cache
from midstream_artifacts.fetch import fetch
from midstream_artifacts.patience import Patience
from midstream_artifacts.sources import Source

DATA = os.urandom(600_000)
OTHER = os.urandom(600_000)
DIGEST = hashlib.sha256(DATA).hexdigest()
OTHER_DIGEST = hashlib.sha256(OTHER).hexdigest()
CUT = 250_000
QUICK = Patience(attempts=3, backoff_s=0.001, retry_after_limit_s=0.001)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def origin() -> Iterator[Origin]:
    """Return a running server."""
    with Origin().running() as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """Return an empty cache."""
    return Cache(tmp_path / "cache")


def get(uri: str, cache: Cache, sha256: str | None = None) -> Artifact:
    """Fetch an address."""
    return fetch(Source.parse(uri), cache, sha256=sha256, patience=QUICK)


def kept(cache: Cache) -> list[str]:
    """Return every file in the cache's folder."""
    found = (path for path in cache.root.rglob("*") if not path.is_dir())
    return sorted(str(path.relative_to(cache.root)) for path in found)


def ranges(origin: Origin) -> list[str]:
    """Return which bytes each request asked for."""
    return [request.headers.get("range", "all") for request in origin.requests]


@pytest.mark.parametrize("sha256", [None, DIGEST], ids=["mutable", "pinned"])
def test_broken_transfer_is_resumed(origin: Origin, cache: Cache, sha256: str | None) -> None:
    """After a broken connection only the rest is asked for, if it is still the same file."""
    uri = origin.serve("/rf.onnx", kit.file(DATA, cut=CUT), kit.file(DATA, cut=CUT), kit.file(DATA))
    assert get(uri, cache, sha256).sha256 == DIGEST
    assert ranges(origin) == ["all", f"bytes={CUT}-", f"bytes={2 * CUT}-"]
    assert [r.headers.get("if-range") for r in origin.requests[1:]] == [kit.etag_of(DATA)] * 2


def test_fetch_resumes_what_an_earlier_one_left(origin: Origin, cache: Cache) -> None:
    """A fetch that failed leaves its bytes to the next one."""
    uri = origin.serve("/rf.onnx", kit.file(DATA, cut=CUT), kit.status(500))
    with pytest.raises(errors.SourceUnreachable):
        get(uri, cache, DIGEST)
    origin.serve("/rf.onnx", kit.file(DATA))
    get(uri, cache, DIGEST)
    assert ranges(origin)[-1] == f"bytes={CUT}-"


def test_server_that_ignores_ranges(origin: Origin, cache: Cache) -> None:
    """A server that sends everything again is taken at its word."""
    uri = origin.serve("/rf.onnx", kit.file(DATA, cut=CUT), kit.file(DATA, ranges=False))
    assert get(uri, cache).sha256 == DIGEST


def test_file_that_changes_midway(origin: Origin, cache: Cache) -> None:
    """Halves of two files are never put together: If-Range makes the server send the new one."""
    uri = origin.serve("/rf.onnx", kit.file(DATA, cut=CUT), kit.file(OTHER))
    assert get(uri, cache).sha256 == OTHER_DIGEST


def test_file_that_changes_midway_on_a_careless_server(origin: Origin, cache: Cache) -> None:
    """A server that honours Range and not If-Range is caught by its new ETag."""

    def careless(handler: kit.Handler) -> None:
        del handler.headers["If-Range"]
        kit.file(OTHER)(handler)

    uri = origin.serve("/rf.onnx", kit.file(DATA, cut=CUT), careless)
    assert get(uri, cache).sha256 == OTHER_DIGEST
    assert ranges(origin) == ["all", f"bytes={CUT}-", "all"]


def test_file_that_changes_midway_unnoticed(origin: Origin, cache: Cache) -> None:
    """Without any ETag the digest tells that the halves do not fit; the whole is fetched then."""
    uri = origin.serve("/rf.onnx", kit.file(DATA, etag="", cut=CUT), kit.file(OTHER, etag=""))
    assert get(uri, cache, OTHER_DIGEST).sha256 == OTHER_DIGEST
    assert ranges(origin) == ["all", f"bytes={CUT}-", "all"]


def test_nothing_is_resumed_without_a_digest_or_an_etag(origin: Origin, cache: Cache) -> None:
    """When nothing could tell that the halves fit, the transfer starts anew."""
    uri = origin.serve("/rf.onnx", kit.file(DATA, etag="", cut=CUT), kit.file(DATA, etag='W/"1"'))
    assert get(uri, cache).sha256 == DIGEST
    assert ranges(origin) == ["all", "all"]


@pytest.mark.parametrize(
    ("changed", "second"), [("08:00:00", f"bytes={CUT}-"), ("09:00:00", "all")]
)
def test_date_of_change(origin: Origin, cache: Cache, changed: str, second: str) -> None:
    """A date identifies a file only when the answer is younger than it."""
    dates = {
        "Date": "Sat, 21 Nov 2026 09:00:00 GMT",
        "Last-Modified": f"Sat, 21 Nov 2026 {changed} GMT",
    }

    def date(timestamp: float | None = None) -> str:  # noqa: ARG001 - the base class's parameter
        return dates["Date"]

    def first(handler: kit.Handler) -> None:
        handler.date_time_string = date  # type: ignore[method-assign]
        kit.file(DATA, etag="", cut=CUT, headers={"Last-Modified": dates["Last-Modified"]})(handler)

    uri = origin.serve("/rf.onnx", first, kit.file(DATA, etag="", ranges=False))
    assert get(uri, cache).sha256 == DIGEST
    assert ranges(origin) == ["all", second]


def test_broken_off_after_the_last_byte(origin: Origin, cache: Cache) -> None:
    """A partial file that is whole already is recognised by the server's 416."""
    uri = origin.serve("/rf.onnx", kit.chunked(DATA, end=False), kit.file(DATA, etag=""))
    assert get(uri, cache, DIGEST).sha256 == DIGEST
    assert ranges(origin) == ["all", f"bytes={len(DATA)}-"]


def test_wrong_part(origin: Origin, cache: Cache) -> None:
    """A server that answers with another part than asked for is not believed."""

    def wrong(handler: kit.Handler) -> None:
        handler.start(206, {"Content-Range": "bytes 5-9/10", "Content-Length": "5"})
        handler.wfile.write(b"wrong")

    uri = origin.serve("/rf.onnx", kit.file(DATA, cut=CUT), wrong, kit.file(DATA))
    assert get(uri, cache, DIGEST).sha256 == DIGEST
    assert ranges(origin) == ["all", f"bytes={CUT}-", "all"]


def test_damaged_note_costs_a_fresh_start(origin: Origin, cache: Cache) -> None:
    """What cannot be understood of an earlier transfer is not used."""
    uri = origin.serve("/rf.onnx", kit.file(DATA, cut=CUT), kit.status(500))
    with pytest.raises(errors.SourceUnreachable):
        get(uri, cache, DIGEST)
    (note,) = cache.root.glob("partial/*.json")
    note.write_text('{"half')
    origin.serve("/rf.onnx", kit.file(DATA))
    get(uri, cache, DIGEST)
    assert ranges(origin)[-1] == "all"


def test_parts_that_never_fit_end_in_a_mismatch(origin: Origin, cache: Cache) -> None:
    """A server that breaks off and changes the file for ever gets one fresh start, no more."""
    cut = kit.file(DATA, etag="", cut=CUT)
    uri = origin.serve("/rf.onnx", cut, kit.file(OTHER, etag=""), cut, kit.file(OTHER, etag=""))
    with pytest.raises(errors.DigestMismatch):
        get(uri, cache, OTHER_DIGEST)
    assert ranges(origin) == ["all", f"bytes={CUT}-"] * 2
    assert kept(cache) == []


def test_sizes_beyond_reason(origin: Origin, cache: Cache) -> None:
    """Numbers that no file has are ignored, not tripped over."""
    length = {"Content-Length": "9" * 5000, "Retry-After": "9" * 5000}
    uri = origin.serve("/rf.onnx", kit.status(503, length), kit.file(DATA, headers=length))
    assert get(uri, cache).sha256 == DIGEST
