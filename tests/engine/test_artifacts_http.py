"""Downloads from a real server on loopback that behaves well, badly, and differently each time."""

import hashlib
import logging
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit import certificate
from kit import origin as kit
from kit.origin import Origin
from midstream_artifacts import errors
from midstream_artifacts.cache import Artifact, Cache
from midstream_artifacts.fetch import fetch
from midstream_artifacts.patience import Patience
from midstream_artifacts.pins import measure
from midstream_artifacts.progress import Progress
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


def get(uri: str, cache: Cache, sha256: str | None = None, patience: Patience = QUICK) -> Artifact:
    """Fetch an address."""
    return fetch(Source.parse(uri), cache, sha256=sha256, patience=patience)


def kept(cache: Cache) -> list[str]:
    """Return every file in the cache's folder."""
    found = (path for path in cache.root.rglob("*") if not path.is_dir())
    return sorted(str(path.relative_to(cache.root)) for path in found)


def ranges(origin: Origin) -> list[str]:
    """Return which bytes each request asked for."""
    return [request.headers.get("range", "all") for request in origin.requests]


# What works


@pytest.mark.parametrize("sha256", [None, DIGEST], ids=["mutable", "pinned"])
def test_download(origin: Origin, cache: Cache, sha256: str | None) -> None:
    """The bytes arrive, are hashed, kept, and asked for without compression."""
    artifact = get(origin.serve("/rf.onnx", kit.file(DATA)), cache, sha256)
    assert (artifact.sha256, artifact.size) == (DIGEST, len(DATA))
    assert cache.verified_path(DIGEST).read_bytes() == DATA
    assert origin.requests[0].headers["accept-encoding"] == "identity"
    assert not [name for name in kept(cache) if name.startswith(("partial", "locks", "tmp"))]


def test_answer_of_unknown_length(origin: Origin, cache: Cache) -> None:
    """A server may leave the length to the end of the chunks."""
    uri = origin.serve("/rf.onnx", kit.chunked(DATA[:7], DATA[7:]))
    assert get(uri, cache).sha256 == DIGEST


def test_known_digest_asks_nobody(origin: Origin, cache: Cache) -> None:
    """With a digest that is in the cache there is no request at all."""
    uri = origin.serve("/rf.onnx", kit.file(DATA))
    get(uri, cache)
    assert get(origin.url("/gone"), cache, DIGEST).sha256 == DIGEST
    assert len(origin.requests) == 1


def test_unchanged_address_is_not_transferred_again(origin: Origin, cache: Cache) -> None:
    """An address without a digest is asked again, and its bytes come only if they changed."""
    uri = origin.serve("/rf.onnx", kit.file(DATA))
    first = get(uri, cache)
    assert get(uri, cache) == first
    assert origin.requests[1].headers["if-none-match"] == kit.etag_of(DATA)
    origin.serve("/rf.onnx", kit.file(OTHER))
    assert get(uri, cache).sha256 == OTHER_DIGEST


def test_unchanged_address_whose_copy_is_gone(origin: Origin, cache: Cache) -> None:
    """A note on bytes that are no longer in the cache is not relied on."""
    uri = origin.serve("/rf.onnx", kit.file(DATA))
    get(uri, cache).path.unlink()
    assert get(uri, cache).sha256 == DIGEST
    assert "if-none-match" not in origin.requests[1].headers


def test_progress(origin: Origin, cache: Cache) -> None:
    """The last report has all bytes, after a resumed transfer, too."""
    uri = origin.serve("/rf.onnx", kit.file(DATA, cut=CUT), kit.file(DATA))
    reports: list[Progress] = []
    fetch(Source.parse(uri), cache, progress=reports.append, patience=QUICK)
    assert (reports[-1].done, reports[-1].total) == (len(DATA), len(DATA))


def test_redirects_are_followed(origin: Origin, cache: Cache) -> None:
    """Absolute and relative redirects lead to the file."""
    origin.serve("/b/rf.onnx", kit.file(DATA))
    origin.serve("/b/c", kit.status(307, {"Location": "rf.onnx"}))
    uri = origin.serve("/a", kit.status(302, {"Location": origin.url("/b/c")}))
    assert get(uri, cache).sha256 == DIGEST


def test_password_in_the_address(origin: Origin, cache: Cache) -> None:
    """User and password are sent to their own server, and not to where it redirects."""
    with Origin().running() as other:
        there = other.serve("/rf.onnx", kit.file(DATA))
        uri = origin.serve("/rf.onnx", kit.status(302, {"Location": there}))
        get(uri.replace("//", "//ann:p%40ss@"), cache)
        assert origin.requests[0].headers["authorization"] == "Basic YW5uOnBAc3M="
        assert "authorization" not in other.requests[0].headers


def test_proxy(origin: Origin, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy of the environment is asked for the whole address."""
    monkeypatch.setenv("http_proxy", origin.url(""))
    origin.serve("http://models.invalid/rf.onnx", kit.file(DATA))
    assert get("http://models.invalid/rf.onnx", cache).sha256 == DIGEST
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert get(origin.serve("/rf.onnx", kit.file(OTHER)), cache).sha256 == OTHER_DIGEST


# What is retried, and what is not


@pytest.mark.parametrize("code", [500, 502, 503, 504, 429, 408])
def test_failing_server_is_asked_again(origin: Origin, cache: Cache, code: int) -> None:
    """A server that fails for now gets another chance; how long it may ask to wait has a limit."""
    uri = origin.serve("/rf.onnx", kit.status(code, {"Retry-After": "3600"}), kit.file(DATA))
    assert get(uri, cache).sha256 == DIGEST


@pytest.mark.parametrize(
    "bad",
    [
        kit.status(503),
        kit.raw(b""),
        kit.raw(b"garbage\r\n\r\n"),
        kit.file(DATA[:5], headers={"Content-Length": "9"}),
    ],
    ids=["503", "no answer", "no HTTP", "too short"],
)
def test_server_that_keeps_failing(origin: Origin, cache: Cache, bad: kit.Answer) -> None:
    """The number of attempts is bounded, and the error says that it may heal."""
    with pytest.raises(errors.SourceUnreachable) as caught:
        get(origin.serve("/rf.onnx", bad), cache)
    assert caught.value.transient
    assert origin.url("/rf.onnx") in str(caught.value)
    assert len(origin.requests) == QUICK.attempts


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (404, "SourceNotFound"),
        (410, "SourceNotFound"),
        (401, "SourceDenied"),
        (403, "SourceDenied"),
        (400, "SourceRefused"),
        (204, "SourceRefused"),
        (206, "SourceRefused"),
        (304, "SourceRefused"),
        (300, "SourceRefused"),
    ],
)
def test_final_answers(origin: Origin, cache: Cache, code: int, reason: str) -> None:
    """An answer that repeating does not change ends the fetch at once, for good."""
    with pytest.raises(errors.SourceError, match=f"answers {code}") as caught:
        get(origin.serve("/rf.onnx", kit.status(code)), cache)
    assert (caught.value.reason, caught.value.transient) == (reason, False)
    assert len(origin.requests) == 1
    assert kept(cache) == []


def test_nobody_listens(cache: Cache) -> None:
    """A refused connection names host and port."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(
            errors.SourceUnreachable, match=f"{address}/rf.onnx: Connection refused"
        ):
            get(f"http://{address}/rf.onnx", cache)


def test_wrong_digest_keeps_nothing(origin: Origin, cache: Cache) -> None:
    """The error names address, promise and finding; the bytes are not asked for twice."""
    uri = origin.serve("/rf.onnx", kit.file(DATA))
    with pytest.raises(errors.DigestMismatch) as caught:
        get(uri, cache, OTHER_DIGEST)
    assert all(part in str(caught.value) for part in (uri, DIGEST, OTHER_DIGEST))
    assert not caught.value.transient
    assert len(origin.requests) == 1
    assert kept(cache) == []


def test_packed_answer_is_refused(origin: Origin, cache: Cache) -> None:
    """Packed bytes would have another digest than the file."""
    uri = origin.serve("/rf.onnx", kit.file(DATA, headers={"Content-Encoding": "gzip"}))
    with pytest.raises(errors.SourceRefused, match="'gzip'"):
        get(uri, cache)


@pytest.mark.parametrize(
    "answer", [kit.file(DATA), kit.chunked(DATA)], ids=["announced", "found out"]
)
def test_size_limit(origin: Origin, cache: Cache, answer: kit.Answer) -> None:
    """Too many bytes are refused, whether the server announces them or just sends them."""
    uri = origin.serve("/rf.onnx", answer)
    with pytest.raises(errors.SourceTooLarge, match="limit is 1000 bytes"):
        fetch(Source.parse(uri), cache, size_limit=1000, patience=QUICK)
    assert kept(cache) == []


def test_disk_too_small(origin: Origin, cache: Cache) -> None:
    """What does not fit on the disk is refused before it is transferred."""
    size = str(1 << 60)
    uri = origin.serve("/rf.onnx", kit.file(DATA, headers={"Content-Length": size}))
    with pytest.raises(errors.NoSpace, match=size):
        fetch(Source.parse(uri), cache, size_limit=1 << 62, patience=QUICK)
    assert kept(cache) == []


def test_redirect_loop(origin: Origin, cache: Cache) -> None:
    """Redirects without end are cut off, with the last address in the message."""
    uri = origin.serve("/a", kit.status(302, {"Location": "/a"}))
    with pytest.raises(errors.SourceRefused, match="more than 5 times"):
        get(uri, cache)
    assert len(origin.requests) == QUICK.redirects + 1


@pytest.mark.parametrize("where", ["file:///etc/passwd", "ftp://models/x", "http://[::1/x"])
def test_redirect_elsewhere(origin: Origin, cache: Cache, where: str) -> None:
    """A server cannot lead us to anything but http and https."""
    with pytest.raises(errors.SourceRefused, match="redirects to"):
        get(origin.serve("/a", kit.status(302, {"Location": where})), cache)


# Certificates


@pytest.fixture
def tls(tmp_path: Path) -> Path:
    """Return a certificate that no system trusts, and its key."""
    return certificate.write(tmp_path / "tls.pem")


@pytest.fixture
def secure(tls: Path) -> Iterator[Origin]:
    """Return a running https server with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls)
    with Origin(context).running() as server:
        yield server


def test_certificate_is_checked(secure: Origin, cache: Cache) -> None:
    """An unknown certificate is refused for good, with the way to trust it."""
    with pytest.raises(errors.SourceRefused, match="SSL_CERT_FILE") as caught:
        get(secure.serve("/rf.onnx", kit.file(DATA)), cache)
    assert not caught.value.transient


def test_private_authority(
    secure: Origin, cache: Cache, tls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An authority that the environment names is trusted, and broken transfers are resumed."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tls))
    uri = secure.serve("/rf.onnx", kit.file(DATA, cut=CUT), kit.file(DATA))
    assert get(uri, cache).sha256 == DIGEST


def test_downgrade_is_refused(
    secure: Origin, origin: Origin, cache: Cache, tls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A redirect from https to http is not followed."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tls))
    uri = secure.serve("/a", kit.status(302, {"Location": origin.serve("/b", kit.file(DATA))}))
    with pytest.raises(errors.SourceRefused, match="from https to http"):
        get(uri, cache)
    assert origin.requests == []


# Time


def test_server_that_says_nothing(origin: Origin, cache: Cache) -> None:
    """The read time-out ends the waiting for an answer."""
    uri = origin.serve("/rf.onnx", kit.silent(origin.free))
    with pytest.raises(errors.SourceTimeout, match="sent nothing") as caught:
        get(uri, cache, patience=Patience(read_s=0.05, attempts=1))
    assert caught.value.transient


def test_server_that_stops_midway_is_resumed(origin: Origin, cache: Cache) -> None:
    """A transfer that stalls is given up after the read time-out and resumed."""
    uri = origin.serve("/rf.onnx", kit.file(DATA, cut=CUT, until=origin.free), kit.file(DATA))
    assert get(uri, cache, patience=Patience(read_s=0.5, backoff_s=0.001)).sha256 == DIGEST
    assert ranges(origin)[-1].startswith("bytes=")


def test_deadline_ends_a_stalled_transfer(origin: Origin, cache: Cache) -> None:
    """The deadline holds even while a read would wait longer."""
    uri = origin.serve("/rf.onnx", kit.file(DATA, cut=CUT, until=origin.free))
    with pytest.raises(errors.SourceTimeout, match=r"not here after 0\.3 s"):
        get(uri, cache, patience=Patience(total_s=0.3, read_s=600))


def test_cancelling_ends_a_stalled_transfer(origin: Origin, cache: Cache) -> None:
    """Whoever gives up does not wait for the server; what came stays to be resumed."""
    stalled = threading.Event()
    uri = origin.serve("/rf.onnx", kit.file(DATA, cut=CUT, stall=stalled, until=origin.free))
    with pytest.raises(errors.FetchCancelled):
        fetch(
            Source.parse(uri),
            cache,
            sha256=DIGEST,
            cancelled=stalled.is_set,
            patience=Patience(read_s=600),
        )
    assert [name for name in kept(cache) if name.startswith("partial")]


def test_cancelling_ends_the_wait_between_attempts(origin: Origin, cache: Cache) -> None:
    """A long wait for a failing server can be left."""
    uri = origin.serve("/rf.onnx", kit.status(503, {"Retry-After": "600"}))
    with pytest.raises(errors.FetchCancelled):
        fetch(
            Source.parse(uri),
            cache,
            cancelled=lambda: bool(origin.requests),
            patience=Patience(retry_after_limit_s=600),
        )


# Secrets


def test_secrets_are_in_no_message_and_no_log(
    origin: Origin, cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    """Passwords and query values stay out of errors, their causes, and logs on every level."""
    caplog.set_level(logging.DEBUG)
    origin.serve("/a?token=geheim", kit.status(302, {"Location": "/b?token=geheim"}))
    origin.serve("/b?token=geheim", kit.status(500), kit.status(404))
    said = []
    for _ in range(2):
        with pytest.raises(errors.SourceError) as caught:
            get(origin.url("/a?token=geheim").replace("//", "//ann:geheim@"), cache)
        cause: BaseException | None = caught.value
        while cause is not None:
            said.append(str(cause))
            cause = cause.__cause__ or cause.__context__
    assert "token=***" in said[0]
    assert "geheim" not in "".join(said) + caplog.text + "".join(kept(cache))
    written = [path.read_bytes() for path in cache.root.rglob("*") if path.is_file()]
    assert not any(b"geheim" in data for data in written)


def test_measure_stops_at_the_byte_that_is_too_many(origin: Origin) -> None:
    """A server that does not tell its length is cut off."""
    uri = origin.serve("/rf.onnx", kit.chunked(b"a" * 100, b"b" * 100))
    with pytest.raises(errors.SourceTooLarge):
        measure(Source.parse(uri), 150, patience=QUICK)
