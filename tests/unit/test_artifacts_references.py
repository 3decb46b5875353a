"""Addresses in registries, and which login belongs to one."""

import base64
import json
from pathlib import Path

import pytest

from midstream_artifacts import logins
from midstream_artifacts.errors import InvalidSource, SourceDenied
from midstream_artifacts.references import Reference
from midstream_artifacts.sources import Source

DIGEST = "ab" * 32


@pytest.mark.parametrize(
    ("uri", "registry", "repository", "wanted"),
    [
        ("oci://r/rf", "r", "rf", "latest"),
        ("oci://R.example:5000/a/b-c/d__e.f:v1.0_X", "r.example:5000", "a/b-c/d__e.f", "v1.0_X"),
        (f"oci://r/rf@sha256:{DIGEST}", "r", "rf", f"sha256:{DIGEST}"),
        (f"oci://[::1]:5000/rf:v1@sha256:{DIGEST}", "[::1]:5000", "rf", f"sha256:{DIGEST}"),
        ("OCI://r/rf:1", "r", "rf", "1"),
    ],
)
def test_addresses(uri: str, registry: str, repository: str, wanted: str) -> None:
    """Registry, repository, and what is asked for: the digest before the tag before `latest`."""
    source = Source.parse(uri)
    assert source.path is None
    assert source.reference is not None
    found = source.reference
    assert (found.registry, found.repository, found.wanted) == (registry, repository, wanted)
    assert Reference.parse(source.absolute_uri) == found


INVALID = {
    "no repository": ("oci://registry.example", "names no repository"),
    "no slashes": ("oci:registry.example/rf", "names no repository"),
    "an empty repository": ("oci://r/", "names no repository"),
    "a login": ("oci://ann:secret@r/rf", "docker login"),
    "capital letters": ("oci://r/RF:v1", "lower-case"),
    "a step up": ("oci://r/../rf", "lower-case"),
    "two slashes": ("oci://r//rf", "lower-case"),
    "an odd tag": ("oci://r/rf:-v1", "a tag has"),
    "an empty tag": ("oci://r/rf:", "a tag has"),
    "another digest": (f"oci://r/rf@sha512:{DIGEST}", "sha256: and 64"),
    "a short digest": ("oci://r/rf@sha256:abc", "sha256: and 64"),
    "an empty digest": ("oci://r/rf@", "sha256: and 64"),
    "a query": ("oci://r/rf?v=1", "'?'"),
    "a fragment": ("oci://r/rf#v1", "'#'"),
    "an odd host": ("oci://r_x%/rf", "a registry is expected"),
    "no port": ("oci://r:/rf", "a registry is expected"),
}


@pytest.mark.parametrize(("uri", "text"), INVALID.values(), ids=INVALID)
def test_invalid_addresses_say_what_would_be_right(uri: str, text: str) -> None:
    """An address that means nothing to a registry is refused for good, and shows no password."""
    with pytest.raises(InvalidSource) as caught:
        Source.parse(uri)
    assert text in str(caught.value)
    assert "secret" not in str(caught.value).replace("secretRef", "")
    assert not caught.value.transient


def auth(user: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:x:y".encode()).decode()}


@pytest.mark.parametrize(
    ("auths", "uri", "user"),
    [
        ({"r": auth("a")}, "oci://r/rf", "a"),
        ({"https://r": auth("a")}, "oci://r/rf", "a"),
        ({"https://r/v2/": auth("a")}, "oci://r/rf", "a"),
        ({"r/team": auth("a")}, "oci://r/team/rf", "a"),
        ({"r/team": auth("a")}, "oci://r/team", "a"),
        ({"r/team": auth("a")}, "oci://r/teams/rf", None),
        ({"r": auth("a"), "r/x/y": auth("b"), "r/x": auth("c")}, "oci://r/x/y/rf", "b"),
        ({"r": auth("a"), "r/x": {}}, "oci://r/x/rf", "a"),
        ({"r": auth("a")}, "oci://r:5000/rf", None),
        ({"r": {"username": "a", "password": "x:y"}}, "oci://r/rf", "a"),
        ({"https://index.docker.io/v1/": auth("a")}, "oci://docker.io/team/rf", "a"),
        ({"r": {}}, "oci://r/rf", None),
        ({"r": None, "": auth("a"), "://": auth("a")}, "oci://r/rf", None),
    ],
)
def test_login_of_a_repository(auths: object, uri: str, user: str | None, tmp_path: Path) -> None:
    """The entry with the longest path that the repository lies under; whole parts of a path count."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"auths": auths}))
    found = logins.find(config, Reference.parse(uri))
    assert (found.user if found else None) == user
    assert found is None or (found.user, found.password) == (user, "x:y")
    assert "x:y" not in repr(found)


def test_identity_token(tmp_path: Path) -> None:
    """Stands for a password at a token server."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"auths": {"r": {"identitytoken": "t"}}}))
    found = logins.find(config, Reference.parse("oci://r/rf"))
    assert found is not None
    assert (found.identity_token, found.user) == ("t", "")


@pytest.mark.parametrize("text", ["", "[", '{"auths": {"r": {"auth": "YQ=="}}}', "\0"])
def test_config_that_cannot_be_used(text: str, tmp_path: Path) -> None:
    """Is named, with the command that writes a new one; its contents are not."""
    config = tmp_path / "config.json"
    config.write_text(text)
    with pytest.raises(SourceDenied, match=f"{config}.*docker login"):
        logins.find(config, Reference.parse("oci://r/rf"))


@pytest.mark.parametrize("text", [None, "{}", "[]", '{"auths": []}', '{"auths": null}'])
def test_config_without_logins(text: str | None, tmp_path: Path) -> None:
    """A file that is not there, or has none, is no login."""
    config = tmp_path / "config.json"
    if text is not None:
        config.write_text(text)
    assert logins.find(config, Reference.parse("oci://r/rf")) is None
    assert logins.find(None, Reference.parse("oci://r/rf")) is None


def test_helper_is_noticed(tmp_path: Path) -> None:
    """So that a missing login can be explained."""
    config = tmp_path / "config.json"
    config.write_text('{"credsStore": "desktop"}')
    assert logins.helper(config)
    assert not logins.helper(tmp_path / "none.json")
