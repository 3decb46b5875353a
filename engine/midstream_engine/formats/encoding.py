"""Packed bodies: Content-Encoding of requests, Accept-Encoding of answers.

A body is unpacked piece by piece and no further than the limit, so that a small one cannot fill the memory. Answers are
packed only where the client asks for it and it is worth the work.
"""

import zlib
from collections.abc import Callable

from midstream_engine.errors import BadInput, BodyTooLarge, UnsupportedMediaType
from midstream_engine.formats.arrow import zstd_pack, zstd_unpack

SMALLEST = 1024
"""Bytes of an answer that is packed."""

_PIECE = 1 << 20
_TAKEN = 1 << 16
"""Bytes that are unpacked to, and given to the unpacker, at once."""

_MAX_MEMBERS = 1000
"""Of a gzip body: each costs time, however small it is."""

_PADDING = 512

_GZIP = 16 + zlib.MAX_WBITS
_LEVEL = 1

_REMEMBERED = 100
_LONGEST_REMEMBERED = 200

_chosen: dict[bytes, str] = {}


def decode(body: bytes, encoding: bytes, limit: int) -> bytes:
    """The body as it was before it was packed.

    encoding: the value of Content-Encoding, empty when there was none. limit: bytes that the result may have. Raises
    UnsupportedMediaType for an encoding that is not known, BodyTooLarge, and BadInput for a body that is not packed so.
    """
    name = encoding.decode("latin-1").strip().lower()
    if name in {"", "identity"}:
        return body
    unpack = _UNPACK.get(name.removeprefix("x-"))
    if unpack is None:
        raise UnsupportedMediaType(
            f"content encoding {name[:60]!r} is not supported; send one of {', '.join(_UNPACK)}, or none",
            reason="UnsupportedEncoding",
        )
    try:
        unpacked = unpack(body, limit)
    except (ValueError, zlib.error) as error:
        raise BadInput(
            f"the body is not {name}, as Content-Encoding says: {error}", reason="WrongEncoding"
        ) from error
    if unpacked is None:
        raise BodyTooLarge(
            f"the body unpacks to more than {limit} bytes, the most that are taken: send fewer rows"
        )
    return unpacked


def encode(body: bytes, accept: bytes) -> tuple[bytes, bytes]:
    """The body of an answer, packed where the client takes that, and complete header lines that say so.

    accept: the value of Accept-Encoding, empty when there was none.
    """
    if not accept or len(body) < SMALLEST:
        return body, b""
    name = _chosen.get(accept)
    if name is None:
        name = _choose(accept)
        if len(_chosen) < _REMEMBERED and len(accept) < _LONGEST_REMEMBERED:
            _chosen[accept] = name
    if not name:
        return body, b"vary: accept-encoding\r\n"
    packed = zstd_pack(body) if name == "zstd" else _gzip(body)
    return packed, b"content-encoding: %b\r\nvary: accept-encoding\r\n" % name.encode()


def _choose(accept: bytes) -> str:
    """`zstd` or `gzip`, whichever the client likes better, zstd of equals; empty when it takes neither."""
    wishes: dict[str, float] = {}
    for part in accept.decode("latin-1").lower().split(","):
        name, *rest = (piece.strip() for piece in part.split(";"))
        wishes[name.removeprefix("x-")] = _quality(rest)
    other = wishes.get("*", 0.0)
    zstd, gzip = wishes.get("zstd", other), wishes.get("gzip", other)
    if max(zstd, gzip) <= 0 or wishes.get("identity", 0.0) > max(zstd, gzip):
        return ""
    return "zstd" if zstd >= gzip else "gzip"


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def _gzip(body: bytes) -> bytes:
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    return packer.compress(body) + packer.flush()


def _gunzip(body: bytes, limit: int) -> bytes | None:
    """All members of a gzip body; zeros behind them are padding."""
    parts: list[bytes] = []
    place = size = 0
    for _ in range(_MAX_MEMBERS):
        place = _inflate(body, place, _GZIP, limit - size, parts)
        size = sum(map(len, parts))
        if size > limit:
            return None
        if not body[place : place + _PADDING].strip(b"\0"):
            return b"".join(parts)
    raise ValueError(f"it has more than {_MAX_MEMBERS} members")


def _undeflate(body: bytes, limit: int) -> bytes | None:
    """deflate as the standard says, in a zlib frame; some clients leave the frame out."""
    framed = (
        len(body) >= 2 and body[0] & 0x0F == zlib.DEFLATED and not (body[0] << 8 | body[1]) % 31
    )
    parts: list[bytes] = []
    place = _inflate(body, 0, zlib.MAX_WBITS if framed else -zlib.MAX_WBITS, limit, parts)
    if sum(map(len, parts)) > limit:
        return None
    if place != len(body):
        raise ValueError("there is something behind its end")
    return b"".join(parts)


def _inflate(body: bytes, place: int, bits: int, limit: int, parts: list[bytes]) -> int:
    """Add what one stream unpacks to, up to a piece more than `limit`; where it ends."""
    stream = zlib.decompressobj(bits)
    size = 0
    taken = b""
    while not stream.eof and size <= limit:
        if not taken:
            taken = body[place : place + _TAKEN]
            place += len(taken)
            if not taken:
                raise ValueError("it is cut off")
        part = stream.decompress(taken, _PIECE)
        parts.append(part)
        size += len(part)
        taken = stream.unconsumed_tail
    return place - len(stream.unused_data)


_UNPACK: dict[str, Callable[[bytes, int], bytes | None]] = {
    "gzip": _gunzip,
    "deflate": _undeflate,
    "zstd": zstd_unpack,
}
