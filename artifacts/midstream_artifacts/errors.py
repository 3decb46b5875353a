"""What can go wrong between an address and a verified file, one class for each reason.

Callers branch on `reason` and `transient`, never on the text; the text names the address and what would be
right. Secrets that stand in an address are replaced by `***` before they reach a text (`redacted`).

    ArtifactError
    ├── SourceError                   the place the bytes come from
    │   ├── InvalidSource             the address is not one
    │   │   └── UnsupportedScheme     an address of a kind that cannot be fetched
    │   ├── SourceNotFound            nothing is there (also: dangling or circular symbolic link, HTTP 404, 410)
    │   ├── SourceIsADirectory
    │   ├── SourceNotAFile            a FIFO, socket or device
    │   ├── SourceDenied              no permission (also: HTTP 401, 403)
    │   ├── SourceRefused             the server answered in a way that repeating does not mend
    │   ├── SourceTooLarge            larger than the size limit
    │   ├── SourceUnreachable         no answer, a broken transfer, or a failing server    (transient)
    │   └── SourceTimeout             not done in time                                     (transient)
    ├── DigestMismatch                the bytes are not the ones that were promised
    │   └── CacheDamaged              a cached copy has changed; it was removed            (transient)
    ├── CacheError                    the folder the bytes are kept in
    │   ├── NotCached                 no copy with this digest                             (transient)
    │   ├── CacheUnreadable           a copy is there and cannot be read                   (transient)
    │   ├── CacheUnwritable           read-only, no permission, or no folder               (transient)
    │   └── NoSpace                   disk or quota full                                   (transient)
    └── FetchCancelled                the caller gave up                                   (transient)

`transient` means: the same fetch may succeed later though nobody edits the manifest.
"""

import re
from typing import ClassVar
from urllib.parse import urlsplit, urlunsplit

_MAX_TEXT = 256
"""Characters of foreign text (addresses, server answers) that a message repeats."""


class ArtifactError(Exception):
    """Base of all errors of this package; never raised itself."""

    transient: ClassVar[bool] = False

    @property
    def reason(self) -> str:
        """A constant in CamelCase: the name of the class."""
        return type(self).__name__


class SourceError(ArtifactError):
    """Base of what concerns the place the bytes come from; never raised itself."""


class InvalidSource(SourceError):
    """The address cannot be understood."""


class UnsupportedScheme(InvalidSource):
    """The address is of a kind that this version does not fetch."""


class SourceNotFound(SourceError):
    """Nothing is at the address."""


class SourceIsADirectory(SourceError):
    """The address is a folder; a model is one file."""


class SourceNotAFile(SourceError):
    """The address is a FIFO, a socket or a device."""


class SourceDenied(SourceError):
    """Something may be there, and this process may not read it."""


class SourceRefused(SourceError):
    """The server's answer is final and is not the file."""


class SourceTooLarge(SourceError):
    """The file is larger than the size limit."""


class SourceUnreachable(SourceError):
    """No connection, a broken transfer, or a server that fails for now."""

    transient = True

    def __init__(self, text: str, after_s: float = 0.0) -> None:
        super().__init__(text)
        self.after_s = after_s
        """Seconds that the server asks to wait before it is asked again."""


class SourceTimeout(SourceError):
    """The transfer was not done in the time it had."""

    transient = True


class DigestMismatch(ArtifactError):
    """The bytes do not have the promised SHA-256; none of them were kept."""


class CacheDamaged(DigestMismatch):
    """A cached copy no longer has its SHA-256. It was removed, so the next fetch brings a new one."""

    transient = True


class CacheError(ArtifactError):
    """Base of what concerns the cache folder; never raised itself."""

    transient = True


class NotCached(CacheError):
    """The cache has no copy with this digest: fetch it first."""


class CacheUnreadable(CacheError):
    """A copy is there, and this process may not or cannot read it."""


class CacheUnwritable(CacheError):
    """The cache folder cannot be written to."""


class NoSpace(CacheError):
    """The disk, or this user's share of it, is full."""


class FetchCancelled(ArtifactError):
    """The caller gave up while the bytes were on their way."""

    transient = True


def redacted(uri: str) -> str:
    """Return the address without user name, password, query values and fragment, cut to 256 characters."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return shortened(uri.partition(":")[0] + "://***")  # no URL, yet it may hold a secret
    if not parts.scheme or parts.scheme == "file":
        return shortened(uri)
    netloc = "***@" + parts.netloc.rpartition("@")[2] if "@" in parts.netloc else parts.netloc
    path = parts.path if netloc or "@" not in parts.path else "***@" + parts.path.rpartition("@")[2]
    query = re.sub(r"=[^&;]*", "=***", parts.query)
    if query and "=" not in query:
        query = "***"
    fragment = "***" if parts.fragment else ""
    return shortened(urlunsplit((parts.scheme, netloc, path, query, fragment)))


def shortened(text: str) -> str:
    """Return foreign text on one line without control characters, cut to 256 characters."""
    clean = "".join(c if c.isprintable() else "�" for c in text)
    return clean if len(clean) <= _MAX_TEXT else clean[: _MAX_TEXT - 1] + "…"
