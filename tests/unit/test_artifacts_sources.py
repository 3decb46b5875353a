"""What an address means, and what is said about one that means nothing."""

from pathlib import Path

import pytest

from midstream_artifacts.errors import ArtifactError, InvalidSource, UnsupportedScheme
from midstream_artifacts.sources import Source

BASE = Path("/manifests/house")

LOCAL = {
    "a plain path starts at the manifest's folder": (
        "models/rf.onnx",
        "/manifests/house/models/rf.onnx",
    ),
    "a path from the root stays": ("/models/rf.onnx", "/models/rf.onnx"),
    "dots are left to the file system": ("../rf.onnx", "/manifests/house/../rf.onnx"),
    "a dot folder protects a colon": ("./a:b.onnx", "/manifests/house/a:b.onnx"),
    "a colon in a later part is no scheme": ("models/a:b.onnx", "/manifests/house/models/a:b.onnx"),
    "a plain path is not decoded": ("a%20b?.onnx", "/manifests/house/a%20b?.onnx"),
    "a file URL is absolute": ("file:///models/rf.onnx", "/models/rf.onnx"),
    "a file URL is decoded": ("file:///m/a%20b%3F%C3%A4.onnx", "/m/a b?ä.onnx"),
    "a file URL may say localhost": ("file://localhost/models/rf.onnx", "/models/rf.onnx"),
    "a file URL needs no slashes for a host": ("file:/models/rf.onnx", "/models/rf.onnx"),
    "a file URL may be relative": ("file:models/rf.onnx", "/manifests/house/models/rf.onnx"),
    "a scheme may be in capitals": ("FILE:///models/rf.onnx", "/models/rf.onnx"),
}


@pytest.mark.parametrize(("uri", "path"), LOCAL.values(), ids=LOCAL)
def test_local_addresses(uri: str, path: str) -> None:
    """Paths and file URLs name the file that their reader expects."""
    assert Source.parse(uri, BASE).path == Path(path)


@pytest.mark.parametrize("uri", [uri for uri, _ in LOCAL.values()], ids=LOCAL)
def test_absolute_uri_of_a_file_means_the_same_without_a_base(uri: str) -> None:
    """What goes into a config document leads to the same file wherever it is read."""
    source = Source.parse(uri, BASE)
    assert Source.parse(source.absolute_uri) == source


def test_relative_base_is_made_absolute() -> None:
    """A manifest given as a relative path still yields absolute addresses."""
    assert Source.parse("a.onnx", Path("here")).path == Path.cwd() / "here" / "a.onnx"


def test_name_that_is_not_utf8_survives() -> None:
    """File names are bytes; a file URL can spell any of them."""
    assert Source.parse("file:///m/%FF.onnx").absolute_uri == "file:///m/%FF.onnx"


@pytest.mark.parametrize(
    ("uri", "absolute"),
    [
        ("http://models:8000/rf.onnx", "http://models:8000/rf.onnx"),
        ("https://models/rf.onnx?v=3&t=s", "https://models/rf.onnx?v=3&t=s"),
        ("HTTPS://models/rf.onnx", "https://models/rf.onnx"),
        ("http://[::1]:80/rf.onnx", "http://[::1]:80/rf.onnx"),
    ],
)
def test_remote_addresses(uri: str, absolute: str) -> None:
    """Addresses of http and https stay as they are."""
    source = Source.parse(uri, BASE)
    assert (source.path, source.absolute_uri) == (None, absolute)


INVALID = {
    "empty": ("", "give a path"),
    "spaces around it": (" rf.onnx", "spaces around it"),
    "a control character": ("rf\0.onnx", "control characters"),
    "a home folder": ("~/rf.onnx", "'~' is not expanded"),
    "a file URL of another host": ("file://models/rf.onnx", "file:models/rf.onnx"),
    "a query in a file URL": ("file:///rf.onnx?v=3", "%3F"),
    "an encoded slash": ("file:///a%2Fb.onnx", "%2F"),
    "an encoded NUL": ("file:///a%00b.onnx", "%00"),
    "an encoded line break": ("file:///a%0Ab.onnx", "control characters"),
    "a file URL of nothing": ("file://", "write file:///folder/file"),
    "no host": ("http:///rf.onnx", "names no host"),
    "no slashes": ("http:rf.onnx", "write http://host/path"),
    "a wrong port": ("http://models:eighty/rf.onnx", "host or port"),
    "a broken IPv6 address": ("http://[::1/rf.onnx", "host or port"),
    "a space in a URL": ("http://models/a b.onnx", "%20"),
    "a letter that URLs lack": ("http://models/ä.onnx", "percent-encode"),
    "a fragment": ("http://models/rf.onnx#v3", "%23"),
}


@pytest.mark.parametrize(("uri", "text"), INVALID.values(), ids=INVALID)
def test_invalid_addresses_say_what_would_be_right(uri: str, text: str) -> None:
    """An address that means nothing is refused for good, with a way out."""
    with pytest.raises(InvalidSource) as caught:
        Source.parse(uri, BASE)
    assert text in str(caught.value)
    assert (caught.value.reason, caught.value.transient) == ("InvalidSource", False)


@pytest.mark.parametrize(
    "uri", ["s3://bucket/rf.onnx", "ftp://models/rf.onnx", "models:/rf@champion", "C:\\rf.onnx"]
)
def test_unsupported_scheme_lists_the_supported_ones(uri: str) -> None:
    """A scheme that is not there is told apart from one that is misspelled: both see the list."""
    with pytest.raises(
        UnsupportedScheme, match="a path, file:, http://, https:// or oci://"
    ) as caught:
        Source.parse(uri, BASE)
    assert caught.value.reason == "UnsupportedScheme"


def test_relative_path_without_a_manifest_is_refused() -> None:
    """A config document that holds a relative path is wrong: nobody knows relative to what."""
    with pytest.raises(InvalidSource, match="give a path from '/'"):
        Source.parse("rf.onnx")


@pytest.mark.parametrize(
    "uri",
    [
        "https://ann:geheim@models/rf.onnx",
        "https://models/rf.onnx?token=geheim&v=geheim",
        "https://models/rf.onnx?geheim",
        "https://models/rf.onnx#geheim",
        "https://ann:geheim@models:x/rf.onnx",
        "https://[geheim@::1/rf.onnx?geheim",
        "https://models/a b?x=geheim",
        "s3://ann:geheim@bucket/rf.onnx",
        "s3://bucket/rf.onnx?token=geheim",
        "ann:geheim@models/rf.onnx",
    ],
)
def test_no_text_form_shows_a_secret(uri: str) -> None:
    """Neither a source nor an error about it prints what may be a password or a token."""
    try:
        shown = repr(source := Source.parse(uri)) + str(source) + f"{source}"
    except ArtifactError as error:
        shown = str(error)
    assert "geheim" not in shown
    assert "***" in shown
