"""What a request asks of its answer."""

from dataclasses import dataclass

from midstream_engine.errors import BadInput

_MAX_DIGITS = 18


@dataclass(frozen=True, slots=True)
class AskedOutput:
    name: str
    binary: bool
    """As binary data behind the JSON, not in it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the answer has to say, and how."""

    id: str | None = None
    outputs: tuple[AskedOutput, ...] | None = None
    """In the order that they are wanted; None is all that there are."""
    binary: bool = False
    """How outputs are wanted that are not asked for by name."""


def header_length(value: bytes) -> int | None:
    """The value of `Inference-Header-Content-Length`; None when it was not sent. Raises BadInput."""
    text = value.strip()
    if not text:
        return None
    # int() alone takes signs, underscores and digits of other scripts.
    if not text.isdigit() or len(text) > _MAX_DIGITS:
        raise BadInput(
            f"the header Inference-Header-Content-Length is {value[:40].decode('latin-1')!r}; "
            "it is the number of bytes of JSON before the binary data",
            reason="WrongBinary",
        )
    return int(text)
