"""Models in a real registry on loopback: pushed, fetched, described, refused."""

import hashlib
import json
import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit import certificate
from kit import origin as kit
from kit import registry as registries
from kit.origin import Origin
from kit.registry import Registry
from midstream_artifacts import errors, layout
from midstream_artifacts.cache import Artifact, Cache
from midstream_artifacts.fetch import fetch
from midstream_artifacts.patience import Patience
from midstream_artifacts.pins import describe, measure
from midstream_artifacts.progress import Progress
from midstream_artifacts.push import Pushed, push
from midstream_artifacts.references import Reference
from midstream_artifacts.registry import RegistryAccess
from midstream_artifacts.sources import Source

DATA = os.urandom(600_000)
OTHER = os.urandom(5_000)
DIGEST = hashlib.sha256(DATA).hexdigest()
QUICK = Patience(attempts=3, backoff_s=0.001, retry_after_limit_s=0.001)
OPEN = RegistryAccess(insecure=True)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Return a registry that is open to everybody; each test has repositories of its own."""
    registries.require()
    with registries.running(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """Return an empty cache."""
    return Cache(tmp_path / "cache")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a file to push."""
    path = tmp_path / "rf.onnx"
    path.write_bytes(DATA)
    return path


def put(model: Path, uri: str, access: RegistryAccess = OPEN) -> Pushed:
    """Push a file."""
    return push(model, Reference.parse(uri), access, patience=QUICK)


def get(
    uri: str, cache: Cache, sha256: str | None = None, access: RegistryAccess = OPEN
) -> Artifact:
    """Fetch an address."""
    return fetch(Source.parse(uri), cache, sha256=sha256, registry=access, patience=QUICK)


# What works


def test_pushed_model_is_fetched(shared: Registry, model: Path, cache: Cache) -> None:
    """By tag, by digest, and by a tag with a digest, whether its SHA-256 is known or not."""
    pushed = put(model, shared.uri("works/rf:v1"))
    assert pushed.uploaded
    assert pushed.tagged
    assert pushed.pinned.sha256 == DIGEST
    digest = pushed.pinned.manifest_digest
    for uri in (
        shared.uri("works/rf:v1"),
        shared.uri(f"works/rf@{digest}"),
        shared.uri(f"works/rf:gone@{digest}"),
        pushed.pinned.uri,
    ):
        for sha256 in (None, DIGEST):
            artifact = get(uri, Cache(cache.root / str(hash((uri, sha256)))), sha256)
            assert (artifact.path.read_bytes(), artifact.sha256) == (DATA, DIGEST)


def test_layout_is_what_other_tools_read(shared: Registry, model: Path) -> None:
    """An image manifest with the artifact's type, the empty config, and the file as its one layer."""
    digest = put(model, shared.uri("layout/rf:v1")).pinned.manifest_digest
    body = shared.blob(str(digest).removeprefix("sha256:")).read_bytes()
    assert json.loads(body) == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.midstream.model.v1",
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": f"sha256:{hashlib.sha256(b'{}').hexdigest()}",
            "size": 2,
        },
        "layers": [
            {
                "mediaType": "application/vnd.midstream.model.onnx.v1",
                "digest": f"sha256:{DIGEST}",
                "size": len(DATA),
                "annotations": {"org.opencontainers.image.title": "rf.onnx"},
            }
        ],
    }
    assert shared.blob(DIGEST).read_bytes() == DATA


def test_second_push_sends_nothing(shared: Registry, model: Path) -> None:
    """What is there is not sent again, and the address is the same."""
    first = put(model, shared.uri("twice/rf:v1"))
    written = shared.written()
    second = put(model, shared.uri("twice/rf:v1"))
    assert (second.uploaded, second.tagged) == (False, False)
    assert second.pinned == first.pinned
    assert shared.written() == written


def test_bytes_of_another_repository_are_mounted(shared: Registry, model: Path) -> None:
    """A file that the registry has elsewhere is not sent again."""
    put(model, shared.uri("mount/one:v1"))
    reports: list[Progress] = []
    pushed = push(
        model,
        Reference.parse(shared.uri("mount/two:v1")),
        OPEN,
        mount="mount/one",
        progress=reports.append,
    )
    assert (pushed.uploaded, pushed.tagged, reports) == (False, True, [])


def test_tag_moves(shared: Registry, model: Path, cache: Cache) -> None:
    """A tag names what was pushed last; the digest still names what was pushed first."""
    first = put(model, shared.uri("moves/rf:v1"))
    model.write_bytes(OTHER)
    second = put(model, shared.uri("moves/rf:v1"))
    assert second.tagged
    assert f"sha256:{second.moved_from}" == first.pinned.manifest_digest
    assert get(shared.uri("moves/rf:v1"), cache).path.read_bytes() == OTHER
    assert get(first.pinned.uri, cache).path.read_bytes() == DATA


def test_describe_reads_no_model(shared: Registry, model: Path) -> None:
    """Digest and size come from the manifest, also when the file is gone."""
    pushed = put(model, shared.uri("describe/rf:v1"))
    # Not DATA: other tests want that.
    model.write_bytes(other := os.urandom(1000))
    pushed = put(model, shared.uri("describe/rf:v1"))
    shared.blob(hashlib.sha256(other).hexdigest()).unlink()
    assert describe(Source.parse(shared.uri("describe/rf:v1")), OPEN) == pushed.pinned
    assert pushed.pinned.size == 1000


def test_progress_of_a_push(shared: Registry, tmp_path: Path) -> None:
    """The last report has all bytes."""
    path = tmp_path / "new.onnx"
    path.write_bytes(os.urandom(300_000))
    reports: list[Progress] = []
    push(path, Reference.parse(shared.uri("progress/rf:v1")), OPEN, progress=reports.append)
    assert (reports[-1].done, reports[-1].total) == (300_000, 300_000)


def test_known_digest_asks_nobody(shared: Registry, model: Path, cache: Cache) -> None:
    """With a SHA-256 that is in the cache the registry is not asked."""
    get(put(model, shared.uri("known/rf:v1")).pinned.uri, cache)
    assert get("oci://127.0.0.1:1/gone", cache, DIGEST).sha256 == DIGEST


# Logins


@pytest.mark.parametrize("login", ["password", "token"])
def test_login(login: str, tmp_path: Path, model: Path, cache: Cache) -> None:
    """The password of the Docker config is used as the registry asks for it: itself, or for a token."""
    registries.require()
    with registries.running(tmp_path / "registry", login) as server:
        config = registries.docker_config(tmp_path / "config.json", server.address)
        access = RegistryAccess(config, insecure=True)
        pushed = put(model, server.uri("team/rf:v1"), access)
        assert get(pushed.pinned.uri, cache, access=access).sha256 == DIGEST
        with pytest.raises(errors.SourceDenied, match=r"docker login.*secretRef") as caught:
            get(pushed.pinned.uri, Cache(tmp_path / "other"))
        assert not caught.value.transient
        registries.docker_config(config, server.address, "ann", "not that one")
        with pytest.raises(errors.SourceDenied, match="the login for 127") as caught:
            get(pushed.pinned.uri, Cache(tmp_path / "other"), access=access)
        assert "not that one" not in str(caught.value)
        with pytest.raises(errors.SourceDenied):
            put(model, server.uri("team/rf:v2"), access)


def test_longest_entry_wins(tmp_path: Path, model: Path) -> None:
    """An entry for a part of the registry is preferred; one for another part is not used."""
    registries.require()
    with registries.running(tmp_path / "registry", "password") as server:
        config = registries.docker_config(tmp_path / "config.json", f"{server.address}/team")
        document = json.loads(config.read_text())
        document["auths"][server.address] = {"username": "nobody", "password": "x"}
        document["auths"][f"{server.address}/te"] = {"username": "nobody", "password": "x"}
        config.write_text(json.dumps(document))
        access = RegistryAccess(config, insecure=True)
        assert put(model, server.uri("team/rf:v1"), access).uploaded
        with pytest.raises(errors.SourceDenied):
            put(model, server.uri("others/rf:v1"), access)


def test_anonymous_token(tmp_path: Path, model: Path, cache: Cache) -> None:
    """A registry with a token server may be open for reading: no login is needed then."""
    registries.require()
    with registries.running(tmp_path / "registry", "token") as server:
        config = registries.docker_config(tmp_path / "config.json", server.address)
        put(model, server.uri("open/rf:v1"), RegistryAccess(config, insecure=True))
        assert get(server.uri("open/rf:v1"), cache).sha256 == DIGEST
        with pytest.raises(errors.SourceDenied):
            put(model, server.uri("open/rf:v2"))


def test_identity_token(tmp_path: Path, model: Path, cache: Cache) -> None:
    """What some vendors' `docker login` writes in place of a password is shown to the token server."""
    registries.require()
    with registries.running(tmp_path / "registry", "token") as server:
        config = tmp_path / "config.json"
        access = RegistryAccess(config, insecure=True)
        for token, denied in ((registries.IDENTITY, False), ("somebody", True)):
            auths = {server.address: {"identitytoken": token}}
            config.write_text(json.dumps({"auths": auths}))
            if denied:
                with pytest.raises(errors.SourceDenied, match="the login for"):
                    get(server.uri("team/rf:v1"), cache, access=access)
            else:
                put(model, server.uri("team/rf:v1"), access)


@pytest.mark.parametrize("text", ["{", '{"auths": {"REGISTRY": {"auth": "?"}}}'])
def test_config_that_cannot_be_used(text: str, tmp_path: Path, cache: Cache) -> None:
    """Is named; a registry that asks for no login does not need it."""
    registries.require()
    with registries.running(tmp_path / "registry", "password") as server:
        config = tmp_path / "config.json"
        config.write_text(text.replace("REGISTRY", server.address))
        with pytest.raises(errors.SourceDenied, match=str(config)):
            get(server.uri("rf:v1"), cache, access=RegistryAccess(config, insecure=True))


# What is refused


def test_missing(shared: Registry, model: Path, cache: Cache) -> None:
    """A repository, a tag or a digest that is not there is not found."""
    put(model, shared.uri("missing/rf:v1"))
    for path in ("missing/none:v1", "missing/rf:v2", f"missing/rf@sha256:{'0' * 64}"):
        with pytest.raises(errors.SourceNotFound, match=path) as caught:
            get(shared.uri(path), cache)
        assert not caught.value.transient


def test_other_model_than_promised(shared: Registry, model: Path, cache: Cache) -> None:
    """A manifest whose model is another one is refused before anything is transferred."""
    uri = put(model, shared.uri("promised/rf:v1")).pinned.uri
    with pytest.raises(errors.DigestMismatch, match="Nothing was fetched"):
        get(uri, cache, "0" * 64)


def test_size_limit(shared: Registry, model: Path, cache: Cache) -> None:
    """A model that is too large is refused from what its manifest says."""
    uri = put(model, shared.uri("large/rf:v1")).pinned.uri
    with pytest.raises(errors.SourceTooLarge, match="600000 bytes"):
        fetch(Source.parse(uri), cache, size_limit=599_999, registry=OPEN)


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_damaged_blob(damage: str, shared: Registry, tmp_path: Path, cache: Cache) -> None:
    """Bytes that are not what the registry says are never kept."""
    path = tmp_path / "rf.onnx"
    path.write_bytes(data := os.urandom(50_000))
    pushed = put(path, shared.uri("damaged/rf:v1"))
    blob = shared.blob(pushed.pinned.sha256)
    blob.write_bytes(data[:20_000] if damage == "cut" else data[:-1] + b"?")
    with pytest.raises(errors.DigestMismatch):
        get(pushed.pinned.uri, cache)
    assert cache.get(pushed.pinned.sha256) is None


def test_plain_http_needs_the_option(shared: Registry, model: Path, cache: Cache) -> None:
    """Nothing is sent in the clear unasked; the message names the option."""
    uri = put(model, shared.uri("plain/rf:v1")).pinned.uri
    with pytest.raises(errors.SourceRefused, match=r"insecure: true.*--plain-http") as caught:
        get(uri, cache, access=RegistryAccess())
    assert not caught.value.transient


def test_file_that_is_not_what_was_promised(model: Path) -> None:
    """A push checks the digest before it asks the registry anything."""
    reference = Reference.parse("oci://127.0.0.1:1/rf:v1")
    with pytest.raises(errors.DigestMismatch, match="Nothing was pushed"):
        push(model, reference, OPEN, sha256="0" * 64)


# What may heal


def test_registry_that_is_down(tmp_path: Path, model: Path, cache: Cache) -> None:
    """May be back later: the failure is one that heals, and it does."""
    registries.require()
    with registries.running(tmp_path / "registry") as server:
        uri = put(model, server.uri("rf:v1")).pinned.uri
        server.stop()
        for ask in (
            lambda: get(uri, cache),
            lambda: put(model, server.uri("rf:v2")),
            lambda: describe(Source.parse(uri), OPEN, patience=QUICK),
        ):
            with pytest.raises(errors.SourceUnreachable) as caught:
                ask()
            assert caught.value.transient
        server.start()
        assert get(uri, cache).sha256 == DIGEST


def test_cancelled_fetch(shared: Registry, model: Path, cache: Cache) -> None:
    """Whoever gave up gets no bytes."""
    uri = put(model, shared.uri("cancelled/rf:v1")).pinned.uri
    with pytest.raises(errors.FetchCancelled):
        fetch(Source.parse(uri), cache, registry=OPEN, cancelled=lambda: True)
    with pytest.raises(errors.FetchCancelled):
        push(model, Reference.parse(shared.uri("cancelled/rf:v2")), OPEN, cancelled=lambda: True)


# Registries that answer oddly


def manifest_at(origin: Origin, body: bytes, *blobs: kit.Answer) -> str:
    """Let a server be a registry with one manifest and the blob DATA; return the manifest's address."""
    origin.serve("/v2/rf/manifests/v1", kit.file(body))
    origin.serve(f"/v2/rf/blobs/sha256:{DIGEST}", *blobs)
    return origin.url("/rf:v1").replace("http://", "oci://")


GOOD = layout.manifest(layout.Layer(DIGEST, len(DATA), "rf.onnx"))


@pytest.fixture
def origin() -> Iterator[Origin]:
    """Return a running server."""
    with Origin().running() as server:
        yield server


def test_broken_transfer_is_resumed(origin: Origin, cache: Cache) -> None:
    """A connection that breaks in the middle of a model goes on where it broke."""
    uri = manifest_at(origin, GOOD, kit.file(DATA, cut=250_000), kit.file(DATA))
    assert get(uri, cache).sha256 == DIGEST
    assert origin.requests[-1].headers["range"] == "bytes=250000-"


def test_registry_that_stops_midway(origin: Origin, cache: Cache) -> None:
    """Heals with the next fetch, which takes up what is there."""
    uri = manifest_at(origin, GOOD, kit.file(DATA, cut=250_000), kit.status(503))
    with pytest.raises(errors.SourceUnreachable):
        get(uri, cache)
    manifest_at(origin, GOOD, kit.file(DATA))
    assert get(uri, cache).sha256 == DIGEST
    assert origin.requests[-1].headers["range"] == "bytes=250000-"


def two(*titles: str) -> bytes:
    document = json.loads(GOOD)
    layer = document["layers"][0]
    document["layers"] = [
        {**layer, "annotations": {layout.TITLE: title}, "mediaType": "application/octet-stream"}
        for title in titles
    ]
    return json.dumps(document).encode()


ODD: dict[str, tuple[bytes, str]] = {
    "two models": (two("a.onnx", "b.onnx"), "holds 2 models.*a.onnx, b.onnx"),
    "no model": (two("README.md"), "holds no model.*README.md"),
    "no layer": (two(), "its layers are none"),
    "an index": (b'{"schemaVersion": 2, "manifests": []}', "index of several"),
    "not JSON": (b"<html>", "not JSON"),
    "a list": (b"[]", "not a JSON object"),
    "no layers": (b"{}", "no list of layers"),
    "another digest": (GOOD.replace(b"sha256:", b"sha512:"), "no SHA-256"),
    "far too large": (b" " * (5 << 20), "more than 4194304 bytes"),
}


@pytest.mark.parametrize(("body", "text"), ODD.values(), ids=ODD)
def test_manifest_that_is_no_model(body: bytes, text: str, origin: Origin, cache: Cache) -> None:
    """One layer is the model; everything else is refused for good, and the layers are named."""
    with pytest.raises(errors.SourceRefused, match=text) as caught:
        get(manifest_at(origin, body), cache)
    assert not caught.value.transient


def test_model_that_another_tool_pushed(origin: Origin, cache: Cache) -> None:
    """A layer without our media type is the model when it is the one whose title ends in .onnx, or else .py or .zip."""
    for titles in (("README.md", "rf.ONNX"), ("train.py", "rf.onnx"), ("README.md", "code.zip")):
        uri = manifest_at(origin, two(*titles), kit.file(DATA))
        assert get(uri, cache).sha256 == DIGEST


def test_code_has_a_media_type_of_its_own(origin: Origin, cache: Cache) -> None:
    """Two layers that say what they are, a model and code, are two models."""
    code = layout.manifest(layout.Layer(DIGEST, len(DATA), "prepare", layout.PYTHON))
    assert get(manifest_at(origin, code, kit.file(DATA)), cache).sha256 == DIGEST
    both = json.loads(code)
    both["layers"].append(json.loads(GOOD)["layers"][0])
    with pytest.raises(errors.SourceRefused, match=r"holds 2 models.*prepare, rf\.onnx"):
        get(manifest_at(origin, json.dumps(both).encode()), cache)


def test_manifest_with_another_digest(origin: Origin, cache: Cache) -> None:
    """A registry that answers with another manifest than the pinned one is not believed."""
    wanted = "0" * 64
    origin.serve(f"/v2/rf/manifests/sha256:{wanted}", kit.file(GOOD))
    uri = origin.url(f"/rf@sha256:{wanted}").replace("http://", "oci://")
    with pytest.raises(errors.DigestMismatch, match="another manifest"):
        get(uri, cache)


def test_login_does_not_leave_the_registry(origin: Origin, tmp_path: Path, cache: Cache) -> None:
    """Where a registry redirects to for the bytes, no password arrives."""
    with Origin().running() as store:
        there = store.serve("/bytes", kit.file(DATA))
        uri = manifest_at(origin, GOOD, kit.status(307, {"Location": there}))
        challenge = {"WWW-Authenticate": 'Basic realm="a, b", charset="UTF-8"'}
        origin.serve("/v2/rf/manifests/v1", kit.status(401, challenge), kit.file(GOOD))
        config = registries.docker_config(tmp_path / "config.json", uri.split("/")[2])
        get(uri, cache, access=RegistryAccess(config, insecure=True))
        assert "authorization" in origin.requests[-1].headers
        assert "authorization" not in store.requests[0].headers


def test_token_server_must_be_encrypted(
    tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry over TLS cannot have the password sent in the clear."""
    pem = certificate.write(tmp_path / "server.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with Origin(context).running() as secure, Origin().running() as plain:
        challenge = f'Bearer realm="{plain.url("/token")}",service="x"'
        secure.serve("/v2/rf/manifests/v1", kit.status(401, {"WWW-Authenticate": challenge}))
        uri = secure.url("/rf:v1").replace("https://", "oci://")
        config = registries.docker_config(tmp_path / "config.json", uri.split("/")[2])
        with pytest.raises(errors.SourceRefused, match="token server"):
            get(uri, cache, access=RegistryAccess(config))
        assert plain.requests == []


@pytest.mark.parametrize("challenge", ["", "Negotiate", "Basic", "Bearer", 'Bearer realm="'])
def test_odd_challenges(challenge: str, origin: Origin, cache: Cache) -> None:
    """A challenge that cannot be met ends the fetch for good."""
    answer = kit.status(401, {"WWW-Authenticate": challenge})
    uri = manifest_at(origin, GOOD)
    origin.serve("/v2/rf/manifests/v1", answer)
    with pytest.raises((errors.SourceDenied, errors.SourceRefused)):
        get(uri, cache)


# Addresses that are no registry


def test_measure(origin: Origin, tmp_path: Path) -> None:
    """Digest and size of what a web server sends; a broken transfer is repeated; nothing is kept."""
    uri = origin.serve("/rf.onnx", kit.file(DATA, cut=1000), kit.status(503), kit.file(DATA))
    source = Source.parse(uri)
    pinned = measure(source, 10**6, patience=QUICK)
    assert (pinned.sha256, pinned.size, pinned.uri) == (DIGEST, len(DATA), uri)
    assert pinned.manifest_digest is None
    with pytest.raises(errors.SourceTooLarge):
        measure(source, len(DATA) - 1, patience=QUICK)
    with pytest.raises(errors.DigestMismatch):
        measure(source, 10**6, sha256="0" * 64, patience=QUICK)
    with pytest.raises(errors.SourceNotFound):
        measure(Source.parse(origin.url("/none")), 10**6, patience=QUICK)
    assert list(tmp_path.iterdir()) == []
