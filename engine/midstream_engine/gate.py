"""What all connections of a listener share: limits, counts, and which URLs are for inference.

Knows no protocol: `protocol` and `server` ask it.
"""

from urllib.parse import unquote

from midstream_engine.dataplane import DataPlane
from midstream_engine.settings import Settings

_PREFIX = b"/pipelines/"


class Gate:
    """What all connections of a listener share: limits, and what is counted for them."""

    def __init__(self, plane: DataPlane, settings: Settings) -> None:
        self.plane = plane
        self.settings = settings
        self.counts = plane.counts
        self.targets: dict[bytes, str | None] = {b"/infer": None}
        self._defaults: list[tuple[bytes, bytes]] | None = None
        self._default_bytes = b""

    def target(self, url: bytes) -> tuple[bool, str | None]:
        """Whether a URL is an inference path, and the pipeline it names."""
        if url in self.targets:
            return True, self.targets[url]
        path = url.partition(b"?")[0]
        name: str | None = None
        if path != b"/infer":
            if not path.startswith(_PREFIX):
                return False, None
            name = unquote(path[len(_PREFIX) :].decode("latin-1"))
            if not name or "/" in name:
                return False, None
        if len(self.targets) < 100 and len(url) < 200:
            self.targets[url] = name
        return True, name

    def default_headers(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """uvicorn's own headers (date, server) as bytes; uvicorn makes a new list once a second."""
        if headers is not self._defaults:
            self._defaults = headers
            self._default_bytes = b"".join(b"%b: %b\r\n" % pair for pair in headers)
        return self._default_bytes
