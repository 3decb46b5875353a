"""Which paths of the protocol are for inference."""

from urllib.parse import unquote


def parse_target(path: bytes) -> tuple[str, str | None] | None:
    """The pipeline and the version that a path asks for inference; None when it is not such a path.

    path: without the query, as sent. The version is None where the path has none.
    """
    match path.split(b"/"):
        case [b"", b"v2", b"models", name, b"infer"]:
            version = None
        case [b"", b"v2", b"models", name, b"versions", wanted, b"infer"]:
            version = _text(wanted)
            if not version:
                return None
        case _:
            return None
    pipeline = _text(name)
    return (pipeline, version) if pipeline else None


def _text(segment: bytes) -> str:
    """A segment as text; empty when it hides a further one."""
    text = unquote(segment.decode("latin-1"))
    return "" if "/" in text else text
