"""Ways in which a client sends a request, and goes away."""

import random
import socket
import struct

from kit.raw import Raw, chunked
from midstream_engine.dataplane import Answer
from reference.wire import Sent

ANSWERED = ("whole", "pieces", "chunks", "expecting", "twice")
"""Ways after which an answer comes."""

GONE = ("cut", "cut off", "unheard")
"""Ways after which nobody waits for one."""


def head(sent: Sent, *framing: str) -> bytes:
    """The head of a request; framing: lines that say where its body ends."""
    first = [f"POST {sent.path} HTTP/1.1", "Host: localhost", *framing]
    lines = [*first, *(f"{name}: {value}" for name, value in sent.headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def whole(sent: Sent) -> bytes:
    return head(sent, f"Content-Length: {len(sent.body)}") + sent.body


def answers(connection: Raw, sent: Sent, manner: str, rng: random.Random) -> list[Answer]:
    """Send it in one of the ways of `ANSWERED`; what comes back."""
    match manner:
        case "pieces":
            data = whole(sent)
            places = sorted(rng.randrange(len(data)) for _ in range(rng.randrange(1, 6)))
            for start, end in zip([0, *places], [*places, len(data)], strict=True):
                connection.send(data[start:end])
        case "chunks":
            at = rng.randrange(len(sent.body) + 1)
            parts = [part for part in (sent.body[:at], sent.body[at:]) if part]
            connection.send(head(sent, "Transfer-Encoding: chunked"), chunked(*parts))
        case "expecting":
            length = f"Content-Length: {len(sent.body)}"
            connection.send(head(sent, length, "Expect: 100-continue"), sent.body)
        case "twice":
            connection.send(whole(sent) * 2)
            first = _final(connection)
            closes = b"connection: close" in first.headers
            return [first] if closes else [first, _final(connection)]
        case _:
            connection.send(whole(sent))
    return [_final(connection)]


def go(connection: Raw, sent: Sent, manner: str, rng: random.Random) -> None:
    """Send it, or a part of it, in one of the ways of `GONE`, and close."""
    data = whole(sent)
    connection.send(data if manner == "unheard" else data[: rng.randrange(len(data))])
    if manner == "cut off":
        # A reset in the place of a proper end.
        linger = struct.pack("ii", 1, 0)
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.close()


def _final(connection: Raw) -> Answer:
    """The next answer that is none of `100 Continue`."""
    while True:
        found = connection.answer()
        if found.status != 100:
            lines = "".join(f"{name}: {value}\r\n" for name, value in found.headers.items())
            return Answer(found.status, lines.encode(), found.body)
