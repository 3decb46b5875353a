"""What all connections of a listener share: limits, counts, and which URLs are for inference.

Knows no protocol: `protocol` and `server` ask it.
"""

from urllib.parse import unquote

from midstream_engine.dataplane import DataPlane
from midstream_engine.oip.paths import parse_target
from midstream_engine.request import Protocol, Target
from midstream_engine.settings import Settings

_PREFIX = b"/pipelines/"
_OIP = b"/v2/"


class Gate:
    """What all connections of a listener share: limits, and what is counted for them."""

    def __init__(self, plane: DataPlane, settings: Settings) -> None:
        self.plane = plane
        self.settings = settings
        self.counts = plane.counts
        self._targets: dict[bytes, Target] = {b"/infer": Target(None)}
        self._defaults: list[tuple[bytes, bytes]] | None = None
        self._default_bytes = b""

    def target(self, url: bytes) -> Target | None:
        """What an inference path leads to; None for all other paths."""
        known = self._targets.get(url)
        if known is not None:
            return known
        path, _, query = url.partition(b"?")
        target = _target(path, query)
        if target is not None and len(self._targets) < 100 and len(url) < 200:
            self._targets[url] = target
        return target

    def default_headers(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """uvicorn's own headers (date, server) as bytes; uvicorn makes a new list once a second."""
        if headers is not self._defaults:
            self._defaults = headers
            self._default_bytes = b"".join(b"%b: %b\r\n" % pair for pair in headers)
        return self._default_bytes


def _target(path: bytes, query: bytes) -> Target | None:
    if path == b"/infer":
        return Target(None, query=query)
    if path.startswith(_PREFIX):
        name = unquote(path[len(_PREFIX) :].decode("latin-1"))
        return Target(name, query=query) if name and "/" not in name else None
    found = parse_target(path) if path.startswith(_OIP) else None
    if found is None:
        return None
    name, version = found
    return Target(name, Protocol.OIP, version, query)
