"""Packed bodies: unpacked as far as the limit, packed where the client asks for it."""

import gzip
import random
import zlib
from collections.abc import Callable

import pytest

from midstream_engine.errors import BadInput, BodyTooLarge, UnsupportedMediaType
from midstream_engine.formats.arrow import zstd_pack
from midstream_engine.formats.encoding import SMALLEST, decode, encode

BODY = b'[{"tensor": [1.0, 2.0]}]' * 200
LIMIT = 1 << 20


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(body) + packer.flush()


PACKED = {
    "nothing said": ("", BODY),
    "identity": ("identity", BODY),
    "gzip": ("gzip", gzip.compress(BODY)),
    "gzip by its old name": ("x-gzip", gzip.compress(BODY)),
    "gzip in capitals": (" GZIP ", gzip.compress(BODY)),
    "gzip in two members": ("gzip", gzip.compress(BODY[:7]) + gzip.compress(BODY[7:])),
    "gzip with padding": ("gzip", gzip.compress(BODY) + bytes(100)),
    "deflate": ("deflate", zlib.compress(BODY)),
    "deflate without its frame": ("deflate", raw_deflate(BODY)),
    "zstd": ("zstd", zstd_pack(BODY)),
    "zstd in two frames": ("zstd", zstd_pack(BODY[:7]) + zstd_pack(BODY[7:])),
}


@pytest.mark.parametrize("what", PACKED)
def test_bodies_are_unpacked(what: str) -> None:
    """Byte for byte, also when they have exactly as many as are taken."""
    encoding, packed = PACKED[what]
    assert decode(packed, encoding.encode(), LIMIT) == BODY
    assert decode(packed, encoding.encode(), len(BODY)) == BODY


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
def test_an_empty_body_may_be_packed(encoding: str) -> None:
    """It is refused as an empty one by who reads it."""
    packed = {"gzip": gzip.compress(b""), "deflate": zlib.compress(b""), "zstd": zstd_pack(b"")}
    assert decode(packed[encoding], encoding.encode(), LIMIT) == b""


@pytest.mark.parametrize(
    "what", [name for name, (said, _) in PACKED.items() if "d" not in said[:1]]
)
def test_one_byte_more_than_the_limit_is_too_large(what: str) -> None:
    """The message names the limit."""
    encoding, packed = PACKED[what]
    if packed is BODY:
        return  # what arrives as it is has been measured on its way in
    with pytest.raises(BodyTooLarge, match=f"more than {len(BODY) - 1} bytes"):
        decode(packed, encoding.encode(), len(BODY) - 1)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
def test_a_bomb_is_not_unpacked(encoding: str) -> None:
    """64 MiB of zeros in a few kilobytes: it is put down when the limit is reached."""
    zeros = bytes(64 << 20)
    packers: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.compress,
        "deflate": zlib.compress,
        "zstd": zstd_pack,
    }
    packed = packers[encoding](zeros)
    assert len(packed) < 100_000
    with pytest.raises(BodyTooLarge):
        decode(packed, encoding.encode(), LIMIT)


def test_members_without_end_are_refused() -> None:
    """Each costs time, though none of them holds a byte."""
    with pytest.raises(BadInput, match="more than 1000 members"):
        decode(gzip.compress(b"") * 20_000, b"gzip", LIMIT)


BROKEN = {
    "no gzip": ("gzip", BODY),
    "nothing for gzip": ("gzip", b""),
    "gzip that is cut off": ("gzip", gzip.compress(BODY)[:-4]),
    "gzip with a wrong sum": ("gzip", gzip.compress(BODY)[:-8] + bytes(8)),
    "gzip with something behind": ("gzip", gzip.compress(BODY) + b"more"),
    "gzip for deflate": ("deflate", gzip.compress(BODY)),
    "deflate that is cut off": ("deflate", zlib.compress(BODY)[:-1]),
    "deflate with something behind": ("deflate", zlib.compress(BODY) + b"more"),
    "nothing for deflate": ("deflate", b""),
    "no zstd": ("zstd", BODY),
    "zstd that is cut off": ("zstd", zstd_pack(BODY)[:-4]),
    "gzip for zstd": ("zstd", gzip.compress(BODY)),
}


@pytest.mark.parametrize("what", BROKEN)
def test_bodies_that_are_not_what_they_say_are_refused(what: str) -> None:
    """The message names the encoding."""
    encoding, packed = BROKEN[what]
    with pytest.raises(BadInput, match=f"not {encoding}, as Content-Encoding says") as caught:
        decode(packed, encoding.encode(), LIMIT)
    assert caught.value.reason == "WrongEncoding"


@pytest.mark.parametrize("encoding", ["br", "compress", "gzip, zstd", "gzip;q=1", "*", "g" * 1000])
def test_unknown_encodings_are_refused_with_those_that_are_known(encoding: str) -> None:
    """Nothing is guessed from the bytes."""
    with pytest.raises(
        UnsupportedMediaType, match="send one of gzip, deflate, zstd, or none"
    ) as caught:
        decode(BODY, encoding.encode(), LIMIT)
    assert caught.value.reason == "UnsupportedEncoding"
    assert len(caught.value.message) < 300


def test_any_damage_is_refused_or_harmless() -> None:
    """Bytes changed at random: the body, another one, or one of the two refusals."""
    chance = random.Random(3)  # noqa: S311 - repeatable, not secret
    for encoding, packed in PACKED.values():
        for _ in range(100):
            damaged = bytearray(packed)
            for _ in range(chance.randint(1, 3)):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            del damaged[chance.choice([len(damaged), chance.randrange(len(damaged))]) :]
            try:
                assert len(decode(bytes(damaged), encoding.encode(), LIMIT)) <= LIMIT
            except (BadInput, BodyTooLarge):
                continue


CHOSEN = {
    "": "",
    "gzip": "gzip",
    "x-gzip": "gzip",
    "zstd": "zstd",
    "gzip, deflate": "gzip",
    "gzip, deflate, br, zstd": "zstd",
    "gzip;q=1, zstd;q=0.5": "gzip",
    "GZIP ; Q=0.5": "gzip",
    "*": "zstd",
    "*, zstd;q=0": "gzip",
    "deflate, br": "",
    "gzip;q=0": "",
    "identity": "",
    "identity, gzip;q=0.5": "",
    "gzip;q=nonsense": "",
    ",;,": "",
}


@pytest.mark.parametrize("accept", CHOSEN)
def test_an_answer_is_packed_as_the_client_likes(accept: str) -> None:
    """By q, zstd of equals; as it is where the client takes neither."""
    for _ in range(2):  # chosen, then remembered
        body, headers = encode(BODY, accept.encode())
        chosen = CHOSEN[accept]
        assert (len(body) < len(BODY)) == bool(chosen)
        assert decode(body, chosen.encode(), LIMIT) == BODY
        lines = headers.decode().split("\r\n")
        assert ("vary: accept-encoding" in lines) == bool(accept)
        assert [line for line in lines if line.startswith("content-encoding")] == (
            [f"content-encoding: {chosen}"] if chosen else []
        )
        assert headers == b"" or headers.endswith(b"\r\n")


def test_small_answers_are_not_packed() -> None:
    """It would cost more than it saves."""
    small = b"x" * (SMALLEST - 1)
    assert encode(small, b"gzip") == (small, b"")
    assert encode(small + b"x", b"gzip")[1] != b""
