"""The protocol: framing and order, whatever the bytes are and however they are cut."""

import asyncio
import inspect
import itertools
import json
import random
import socket
from collections.abc import Iterator

import httptools
import pytest
from uvicorn.config import Config
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import Server, ServerState

from kit.engine import EngineProcess
from kit.http import ABSOLUTE, check, check_clean, http_engine, request
from kit.raw import Raw, chunked, get, head, post, raw

KINDS = ("hot", "thread", "asgi", "get", "bad", "missing", "wrong")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """One engine for all tests, which says nothing on standard error."""
    with http_engine(tmp_path_factory.mktemp("http")) as running:
        yield running
        assert running.stop() == 0
        assert running.stderr == ""


@pytest.fixture
def running(shared: EngineProcess) -> Iterator[EngineProcess]:
    """The engine, with a look afterwards."""
    yield shared
    check_clean(shared)


def test_a_connection_is_kept(running: EngineProcess) -> None:
    """Every kind of request, twice, on one connection."""
    with raw(running) as connection:
        for number, kind in enumerate(KINDS * 2):
            connection.send(request(kind, number))
            check(kind, number, connection.answer())


SEQUENCES = [
    ("hot", "hot", "hot"),
    ("hot", "get"),
    ("get", "hot"),
    ("asgi", "hot", "get", "hot"),
    ("thread", "hot"),
    ("thread", "get", "hot", "bad"),
    ("thread", "thread", "hot"),
    ("hot", "thread", "asgi", "thread", "wrong", "hot"),
    ("bad", "thread", "missing", "bad", "hot"),
    ("get", "thread", "get"),
]


@pytest.mark.parametrize("kinds", SEQUENCES, ids="-".join)
def test_pipelined_requests_are_answered_in_order(
    running: EngineProcess, kinds: tuple[str, ...]
) -> None:
    """However long each of them takes, and whichever way it goes."""
    with raw(running) as connection:
        connection.send(b"".join(request(kind, number) for number, kind in enumerate(kinds)))
        for number, kind in enumerate(kinds):
            check(kind, number, connection.answer())
        connection.send(request("hot", 99))
        check("hot", 99, connection.answer())


@pytest.mark.parametrize("seed", range(8))
def test_any_pipeline_in_any_pieces_is_answered_in_order(running: EngineProcess, seed: int) -> None:
    """Random kinds, cut at random places, on two connections by turns."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    kinds = chance.choices(KINDS, (8, 1, 3, 3, 3, 1, 1), k=30)
    data = b"".join(request(kind, number) for number, kind in enumerate(kinds))
    cuts = [0, *sorted(chance.sample(range(1, len(data)), 40)), len(data)]
    with raw(running) as one, raw(running) as two:
        for start, stop in itertools.pairwise(cuts):
            one.send(data[start:stop])
            two.send(data[start:stop])
        for connection in (one, two):
            for number, kind in enumerate(kinds):
                check(kind, number, connection.answer())


@pytest.mark.parametrize("kind", ["hot", "asgi", "get"])
def test_a_request_may_be_cut_anywhere(running: EngineProcess, kind: str) -> None:
    """In two pieces at every place, and byte by byte."""
    data = request(kind, 3)
    with raw(running) as connection:
        for cut in range(1, len(data)):
            connection.send(data[:cut], data[cut:])
            check(kind, 3, connection.answer())
        connection.send(*(data[i : i + 1] for i in range(len(data))))
        check(kind, 3, connection.answer())


def test_empty_lines_before_a_request_are_skipped(running: EngineProcess) -> None:
    """As HTTP asks of servers."""
    with raw(running) as connection:
        connection.send(b"\r\n\r\n" + request("hot", 1) + b"\r\n" + request("hot", 2))
        check("hot", 1, connection.answer())
        check("hot", 2, connection.answer())


@pytest.mark.parametrize("kind", ["hot", "thread", "asgi", "get"])
def test_connection_close_is_obeyed(running: EngineProcess, kind: str) -> None:
    """What follows the last request gets no answer and does no harm."""
    with raw(running) as connection:
        connection.send(request(kind, 1, "Connection: close") + request("hot", 2) + b"\0garbage")
        answer = connection.answer()
        check(kind, 1, answer)
        assert answer.headers["connection"] == "close"
        assert connection.end() == b""


@pytest.mark.parametrize("kind", ["hot", "thread", "asgi", "get"])
def test_a_client_that_has_closed_its_side_is_answered(running: EngineProcess, kind: str) -> None:
    """`nc -N` and old clients say that way that they are done."""
    with raw(running) as connection:
        connection.send(request("hot", 1) + request(kind, 2))
        connection.socket.shutdown(socket.SHUT_WR)
        check("hot", 1, connection.answer())
        check(kind, 2, connection.answer())
        assert connection.end() == b""


# What is not HTTP

GARBAGE: dict[str, bytes] = {
    "zeros": b"\0" * 100,
    "a TLS greeting": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x7f" * 100,
    "an HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a word": b"hello\r\n\r\n",
    "an unknown version": b"POST /infer HTTP/9.9\r\n\r\n",
    "no target": b"POST  HTTP/1.1\r\n\r\n",
    "a target that is no path": b"POST infer HTTP/1.1\r\n\r\n",
    "a target with a NUL": b"POST /in\0fer HTTP/1.1\r\n\r\n",
    "a target that is not ASCII": b"POST /inf\xc3\xa9r HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    "a target with a bad port": b"GET http://host:port/ HTTP/1.1\r\n\r\n",
    "CONNECT": b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a length that is no number": head("/infer", "Content-Length: many"),
    "a negative length": head("/infer", "Content-Length: -1"),
    "two lengths": head("/infer", "Content-Length: 2", "Content-Length: 3") + b"[]",
    "a length too long": head("/infer", "Content-Length: " + "9" * 30),
    "a length and chunks": head("/infer", "Content-Length: 2", "Transfer-Encoding: chunked"),
    "a NUL in a header": head("/infer", "X: a\0b"),
    "a header without a name": head("/infer", ": x"),
    "a space before the colon": head("/infer", "Content-Length : 2") + b"[]",
    "a chunk without a size": head("/infer", "Transfer-Encoding: chunked") + b"xyz\r\n",
    "a chunk of endless size": head("/infer", "Transfer-Encoding: chunked") + b"f" * 30 + b"\r\n",
    "a chunk that is too long": head("/infer", "Transfer-Encoding: chunked") + b"1\r\n[]\r\n",
    "a bad chunk on uvicorn's way": head(ABSOLUTE, "Transfer-Encoding: chunked") + b"1\r\n[\r\nx",
    "a bad chunk with an upgrade": head(
        "/infer", "Transfer-Encoding: chunked", "Connection: Upgrade", "Upgrade: h2c"
    )
    + b"x\r\n",
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_is_400_and_the_end(running: EngineProcess, what: str) -> None:
    """One answer in the form of all errors, then the connection is closed."""
    with raw(running) as connection:
        connection.send(GARBAGE[what] + request("hot", 1))
        answer = connection.answer()
        assert (answer.status, answer.reason) == (400, "InvalidHTTP")
        assert answer.headers["connection"] == "close"
        assert connection.end() == b""


@pytest.mark.parametrize("kinds", [("hot",), ("thread",), ("get", "hot"), ("thread", "hot", "get")])
@pytest.mark.parametrize(
    "what", ["a word", "a bad chunk on uvicorn's way", "a target that is no path", "CONNECT"]
)
def test_garbage_waits_for_its_turn(
    running: EngineProcess, what: str, kinds: tuple[str, ...]
) -> None:
    """The requests before it are answered first; its own answer is never taken for one of theirs."""
    with raw(running) as connection:
        good = b"".join(request(kind, number) for number, kind in enumerate(kinds))
        connection.send(good + GARBAGE[what])
        for number, kind in enumerate(kinds):
            check(kind, number, connection.answer())
        assert connection.answer().reason == "InvalidHTTP"
        assert connection.end() == b""


@pytest.mark.parametrize("seed", range(20))
def test_no_bytes_are_too_strange(running: EngineProcess, seed: int) -> None:
    """Requests with some bytes changed: answers or an end, and the next client is served."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    kinds = chance.choices(KINDS, (8, 0, 3, 3, 3, 1, 1), k=6)
    data = bytearray(b"".join(request(kind, number) for number, kind in enumerate(kinds)))
    data += chunked(b"[1]", b"2")
    for _ in range(chance.randint(1, 5)):
        at = chance.randrange(len(data))
        data[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
    with raw(running) as connection:
        connection.send(bytes(data))
        connection.socket.shutdown(socket.SHUT_WR)
        answered = connection.end()
        assert answered == b"" or answered.startswith(b"HTTP/1.1 ")


def endless(connection: Raw, piece: bytes) -> None:
    """Send the same again and again, until the other side has had enough."""
    try:
        for _ in range(1000):
            connection.send(piece)
    except (BrokenPipeError, ConnectionResetError):
        return


@pytest.mark.parametrize(
    "start",
    [
        b"POST /",
        b"GET /livez HTTP/1.1\r\nX-Long: ",
        head("/infer")[:-2] + b"X-Long: ",
        head("/infer", "Transfer-Encoding: chunked") + b"2\r\n[]\r\n0\r\nX-Trailer: ",
        head(ABSOLUTE, "Transfer-Encoding: chunked") + b"2\r\n[]\r\n0\r\nX-Trailer: ",
    ],
    ids=["target", "management", "inference", "trailers", "trailers on uvicorn's way"],
)
def test_a_head_without_end_is_431(running: EngineProcess, start: bytes) -> None:
    """It is cut off where it has become longer than any real one."""
    with raw(running) as connection:
        connection.send(start)
        endless(connection, b"x" * 1000)
        answer = connection.answer()
        assert (answer.status, answer.reason) == (431, "HeadTooLarge")


def test_headers_without_end_are_431(running: EngineProcess) -> None:
    """Also when each of them is short."""
    with raw(running) as connection:
        connection.send(b"POST /infer HTTP/1.1\r\n")
        endless(connection, b"X-Some-Name: some value\r\n" * 40)
        assert connection.answer().status == 431


def test_a_large_head_is_taken(running: EngineProcess) -> None:
    """Cookies and tokens of some kilobytes are ordinary; many such requests at once are, too."""
    data = request("hot", 5, *(f"X-{n}: {'v' * 1000}" for n in range(16)))
    with raw(running) as connection:
        connection.send(data * 40)
        for _ in range(40):
            check("hot", 5, connection.answer())


# Upgrades

H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")


@pytest.mark.parametrize("kind", ["hot", "thread", "asgi", "get", "bad", "wrong"])
def test_an_offer_of_http_2_is_passed_over(running: EngineProcess, kind: str) -> None:
    """`curl --http2` offers an upgrade; it gets an HTTP/1.1 answer, body and all, and may go on."""
    data = request(kind, 1, *H2C)
    with raw(running) as connection:
        for cut in (len(data), data.index(b"\r\n\r\n") + 4, len(data) // 2, len(data) - 1):
            connection.send(data[:cut], data[cut:])
            check(kind, 1, connection.answer())
        connection.send(data + request("hot", 2) + data + request("get", 3, *H2C) + data)
        for number, each in ((1, kind), (2, "hot"), (1, kind), (3, "get"), (1, kind)):
            check(each, number, connection.answer())


def test_an_offer_of_http_2_may_close(running: EngineProcess) -> None:
    """The other words of its Connection header count."""
    with raw(running) as connection:
        connection.send(request("hot", 1, "Connection: close, upgrade", "Upgrade: h2c"))
        check("hot", 1, connection.answer())
        assert connection.end() == b""


def test_very_many_offers_are_answered(running: EngineProcess) -> None:
    """A thousand of them in one go."""
    data = get("/livez", *H2C)
    with raw(running) as connection:
        connection.send(data * 200)
        for _ in range(200):
            check("get", 0, connection.answer())


def test_a_websocket_is_answered_as_http(running: EngineProcess) -> None:
    """There are none here."""
    with raw(running) as connection:
        connection.send(get("/livez", "Connection: Upgrade", "Upgrade: websocket"))
        check("get", 0, connection.answer())


# Uvicorn


def test_uvicorn_has_what_the_protocol_is_built_on() -> None:
    """Names every private part of uvicorn and httptools in use: when one of them changes, look at `protocol.py`."""

    async def made() -> httptools_impl.HttpToolsProtocol:
        return httptools_impl.HttpToolsProtocol(
            Config(app=lambda: None, log_config=None), ServerState(), {}
        )

    protocol = asyncio.run(made())
    assert vars(protocol).keys() >= {
        *("config", "loop", "parser", "server_state", "connections", "tasks", "transport", "flow"),
        *("pipeline", "headers", "expect_100_continue", "cycle", "timeout_keep_alive_task"),
    }
    source = inspect.getsource(httptools_impl.HttpToolsProtocol)
    assert "self.pipeline.appendleft((self.cycle, app))" in source
    assert "cycle, app = self.pipeline.pop()" in source
    assert "on_response=self.on_response_complete" in source
    assert "self.cycle.response_complete" in source
    assert (
        source.count("self.pipeline = ") == 0
    )  # the queue is one and the same for its flow control
    for name in (
        *("connection_made", "connection_lost", "data_received", "eof_received", "shutdown"),
        *("on_message_begin", "on_header", "on_headers_complete", "on_body", "on_message_complete"),
        *(
            "on_response_complete",
            "pause_writing",
            "resume_writing",
            "_unset_keepalive_if_required",
        ),
    ):
        assert callable(getattr(httptools_impl.HttpToolsProtocol, name))
    cycle = inspect.getsource(httptools_impl.RequestResponseCycle)
    for name in (
        *("response_started", "response_complete", "disconnected", "keep_alive", "message_event"),
        *("more_body", "body"),
    ):
        assert f"self.{name} = " in cycle
    flow = inspect.getsource(FlowControl)
    for name in ("read_paused", "write_paused"):
        assert f"self.{name} = " in flow
    assert list(inspect.signature(FlowControl).parameters) == ["transport"]
    assert httptools_impl.STATUS_LINE[431] == b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    assert {"should_exit", "server_state"} <= vars(Server(Config(app="x", log_config=None))).keys()
    assert callable(Server.capture_signals)
    assert vars(ServerState()).keys() >= {"default_headers", "total_requests", "connections"}
    assert issubclass(httptools.HttpParserCallbackError, httptools.HttpParserError)
    assert not issubclass(httptools.HttpParserUpgrade, httptools.HttpParserError)


def test_date_is_sent_and_no_server(running: EngineProcess) -> None:
    """The same headers on both ways."""
    with raw(running) as connection:
        for kind in ("hot", "asgi", "get", "bad"):
            connection.send(request(kind, 1))
            headers = connection.answer().headers
            assert headers["date"].endswith("GMT")
            assert "server" not in headers


def test_a_body_larger_than_every_buffer_is_read(running: EngineProcess) -> None:
    """A megabyte with a length, and in chunks, on both ways."""
    data = json.dumps([{"tensor": [0, 1]}]).encode().ljust(1 << 20)
    parts = chunked(*(data[i : i + 9999] for i in range(0, len(data), 9999)))
    with raw(running) as connection:
        for path in ("/infer", ABSOLUTE):
            connection.send(post(data, path), head(path, "Transfer-Encoding: chunked") + parts)
            check("hot", 1, connection.answer())
            check("hot", 1, connection.answer())
