"""Addresses: what a manifest's `uri` means, before anything is read.

`Source.parse` is pure. It accepts a plain path, `file:`, `http://`, `https://` and `oci://`, and refuses everything
else with a text that says what to write instead. A relative path is relative to the folder of the manifest.
It does not look whether the file is there, and never resolves symbolic links or `..`: both are the file
system's business at the moment of fetching, so that a link which is swapped later is followed anew.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

from midstream_artifacts.errors import InvalidSource, UnsupportedScheme, redacted
from midstream_artifacts.references import Reference

SUPPORTED = "a path, file:, http://, https:// or oci://"
"""The kinds of address there are, as messages list them."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_URL_CHARACTERS = re.compile(r"[!-~]+")
"""What RFC 3986 leaves after percent-encoding: printable ASCII without the space."""


@dataclass(frozen=True, slots=True, repr=False)
class Source:
    """One address, understood. Its text forms (`str`, `repr`) hide secrets."""

    absolute_uri: str
    """The complete address, secrets included: what the engine's config document carries."""
    path: Path | None
    """Absolute path of a local file; None for all others."""
    reference: Reference | None = None
    """What an `oci://` address means; None for all others."""

    @classmethod
    def parse(cls, uri: str, base: Path | None = None) -> "Source":
        """Understand `uri`; a relative path is taken from the folder `base`.

        Without `base` relative paths are refused: a config document holds absolute addresses only.
        Raises `InvalidSource` or `UnsupportedScheme`.
        """
        if not uri or uri != uri.strip() or not uri.isprintable():
            raise InvalidSource(
                f"source {redacted(uri)!r} is empty, or has control characters or spaces around it; "
                f"give {SUPPORTED}"
            )
        scheme = _SCHEME.match(uri)
        if scheme is None:
            return cls._local(uri, uri, base)
        match scheme.group().lower():
            case "http:" | "https:":
                return cls._remote(uri)
            case "oci:":
                reference = Reference.parse(uri)
                return cls(absolute_uri=str(reference), path=None, reference=reference)
            case "file:":
                return cls._local(uri, _path_of_file_url(uri), base)
            case name:
                raise UnsupportedScheme(
                    f"source {redacted(uri)!r} has the unsupported scheme {name!r}; use {SUPPORTED} "
                    "(a file whose name has a colon: put './' before it)"
                )

    @classmethod
    def _local(cls, uri: str, path: str, base: Path | None) -> "Source":
        if path.startswith("~"):
            raise InvalidSource(
                f"source {redacted(uri)!r}: '~' is not expanded; give a path from '/' or from the "
                "manifest's folder (a file whose name starts with '~': put './' before it)"
            )
        if base is None and not Path(path).is_absolute():
            raise InvalidSource(
                f"source {redacted(uri)!r} is a relative path, and there is no manifest it could be "
                "relative to; give a path from '/'"
            )
        # Path.absolute keeps '..', which only the file system can follow rightly through symbolic links.
        absolute = Path(path) if base is None else (base / path).absolute()
        return cls(absolute_uri=absolute.as_uri(), path=absolute)

    @classmethod
    def _remote(cls, uri: str) -> "Source":
        shown = redacted(uri)
        parts = _split(uri)
        if not uri[len(parts.scheme) + 1 :].startswith("//") or not parts.hostname:
            raise InvalidSource(f"source {shown!r} names no host; write {parts.scheme}://host/path")
        if not _URL_CHARACTERS.fullmatch(uri):
            raise InvalidSource(
                f"source {shown!r} has characters that a URL cannot hold; percent-encode them, "
                "a space is %20"
            )
        if "#" in uri:
            raise InvalidSource(
                f"source {shown!r} has a fragment ('#…'), which no server gets to see; leave it out, "
                "or write '%23' for a '#' in a name"
            )
        return cls(absolute_uri=parts.scheme + uri[len(parts.scheme) :], path=None)

    def __str__(self) -> str:
        return redacted(self.absolute_uri) if self.path is None else str(self.path)

    def __repr__(self) -> str:
        return f"Source({str(self)!r})"


def _split(uri: str) -> SplitResult:
    try:
        parts = urlsplit(uri)
        _ = parts.port  # raises on what is no port
    except ValueError as error:
        raise InvalidSource(
            f"source {redacted(uri)!r} is not a URL: its host or port cannot be understood; "
            "write scheme://host:port/path"
        ) from error
    return parts


def _path_of_file_url(uri: str) -> str:
    """Return the decoded path of `file:///a`, `file:/a`, `file://localhost/a`, or relative `file:a`."""
    parts = _split(uri)
    if parts.netloc not in {"", "localhost"}:
        raise InvalidSource(
            f"source {redacted(uri)!r} names the host {parts.netloc!r}, and only local files can be read; "
            f"write file:///{parts.netloc}{parts.path} for a path from '/', or "
            f"file:{parts.netloc}{parts.path} for one from the manifest's folder"
        )
    if "?" in uri or "#" in uri:
        raise InvalidSource(
            f"source {redacted(uri)!r} has a '?' or '#', which mean nothing in a file URL; "
            "write '%3F' or '%23' when they are part of the name"
        )
    decoded = unquote_to_bytes(parts.path)
    if (
        not decoded
        or re.search(rb"[\0-\x1f\x7f]", decoded)
        or decoded.count(b"/") != parts.path.count("/")
    ):
        raise InvalidSource(
            f"source {redacted(uri)!r} holds no usable path; write file:///folder/file, without encoded "
            "control characters ('%00') or slashes ('%2F')"
        )
    return os.fsdecode(decoded)
