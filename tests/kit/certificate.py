"""A certificate for 127.0.0.1 that signs itself, made anew for each test: no private key lies in the repository.

ECDSA on P-256 with SHA-256, in the fewest lines that OpenSSL takes. For tests only: it does not guard its key against
anybody who watches, and has none of the checks of a library.
"""

import base64
import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

# The curve (SEC 2, secp256r1): prime, order, first coefficient, and the point that makes all others.
_P = 2**256 - 2**224 + 2**192 + 2**96 - 1
_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_A = _P - 3
_G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)

Point = tuple[int, int] | None
"""None is the point at infinity."""

_CURVE = bytes.fromhex("06082a8648ce3d030107")
_PUBLIC_KEY = bytes.fromhex("06072a8648ce3d0201")
_ECDSA_WITH_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
_COMMON_NAME = bytes.fromhex("0603550403")
_ALTERNATIVE_NAME = bytes.fromhex("0603551d11")
_CONSTRAINTS = bytes.fromhex("0603551d13")
_TRUE = bytes.fromhex("0101ff")


def write(path: Path) -> Path:
    """Write the certificate and its key into one PEM file; return its path."""
    secret = secrets.randbelow(_N - 1) + 1
    public = _point(_times(secret, _G))
    body = _body(public)
    certificate = _sequence(body, _ECDSA_WITH_SHA256, _bits(_signature(secret, body)))
    key = _sequence(
        _integer(1), _der(0x04, secret.to_bytes(32)), _der(0xA0, _CURVE), _der(0xA1, _bits(public))
    )
    path.write_text(_pem("CERTIFICATE", certificate) + _pem("EC PRIVATE KEY", key))
    return path


def body(path: Path) -> str:
    """Return the certificate in the file that `write` wrote, as Base64 on one line."""
    lines = path.read_text().partition("-----END CERTIFICATE-----")[0].splitlines()
    return "".join(lines[1:])


def sign(path: Path, message: bytes) -> bytes:
    """Sign with the key in the file that `write` wrote; return 64 bytes, as JSON Web Tokens have them (ES256)."""
    lines = path.read_text().partition("-----BEGIN EC PRIVATE KEY-----")[2].splitlines()
    key = base64.b64decode("".join(lines[1:-1]))
    begin = key.index(b"\x02\x01\x01\x04\x20") + 5
    r, s = _numbers(int.from_bytes(key[begin : begin + 32]), message)
    return r.to_bytes(32) + s.to_bytes(32)


def _body(public: bytes) -> bytes:
    now = datetime.now(UTC)
    times = [f"{now + timedelta(days=days):%y%m%d%H%M%SZ}".encode() for days in (-1, 1)]
    name = _sequence(_der(0x31, _sequence(_COMMON_NAME, _der(0x0C, b"a test"))))
    address = _sequence(_der(0x87, IPv4Address("127.0.0.1").packed))
    extensions = _sequence(
        _sequence(_ALTERNATIVE_NAME, _der(0x04, address)),
        _sequence(_CONSTRAINTS, _TRUE, _der(0x04, _sequence(_TRUE))),
    )
    return _sequence(
        _der(0xA0, _integer(2)),
        _integer(secrets.randbits(64)),
        _ECDSA_WITH_SHA256,
        name,
        _sequence(*(_der(0x17, time) for time in times)),
        name,
        _sequence(_sequence(_PUBLIC_KEY, _CURVE), _bits(public)),
        _der(0xA3, extensions),
    )


def _signature(secret: int, message: bytes) -> bytes:
    return _sequence(*map(_integer, _numbers(secret, message)))


def _numbers(secret: int, message: bytes) -> tuple[int, int]:
    digest = int.from_bytes(hashlib.sha256(message).digest())
    once = secrets.randbelow(_N - 1) + 1
    point = _times(once, _G)
    assert point is not None
    r = point[0] % _N
    return r, pow(once, -1, _N) * (digest + r * secret) % _N


def _times(factor: int, point: Point) -> Point:
    found: Point = None
    while factor:
        if factor & 1:
            found = _plus(found, point)
        point = _plus(point, point)
        factor >>= 1
    return found


def _plus(one: Point, other: Point) -> Point:
    if one is None or other is None:
        return other if one is None else one
    (x1, y1), (x2, y2) = one, other
    if x1 == x2 and (y1 + y2) % _P == 0:
        return None
    rise, run = (3 * x1 * x1 + _A, 2 * y1) if one == other else (y2 - y1, x2 - x1)
    slope = rise * pow(run, -1, _P) % _P
    x = (slope * slope - x1 - x2) % _P
    return x, (slope * (x1 - x) - y1) % _P


def _point(point: Point) -> bytes:
    assert point is not None
    return b"\x04" + point[0].to_bytes(32) + point[1].to_bytes(32)


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = size.to_bytes((size.bit_length() + 7) // 8)
    if size >= 128:
        length = bytes([0x80 + len(length)]) + length
    return bytes([tag]) + (length or b"\0") + content


def _sequence(*parts: bytes) -> bytes:
    return _der(0x30, b"".join(parts))


def _integer(value: int) -> bytes:
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1))


def _bits(content: bytes) -> bytes:
    return _der(0x03, b"\0" + content)


def _pem(label: str, content: bytes) -> str:
    lines = base64.encodebytes(content).decode()
    return f"-----BEGIN {label}-----\n{lines}-----END {label}-----\n"
