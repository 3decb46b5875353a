"""Clients that are slow, vanish or want too much, and the end of an engine that still has some."""

import contextlib
import select
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.engine import EngineProcess
from kit.http import ABSOLUTE, check, check_clean, http_engine, request
from kit.memory import MIB, pss
from kit.raw import Raw, chunked, eventually, get, head, metric, post, raw

BODY = b'[{"tensor":[0,5]}]'
HALF = 7


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """An engine with little patience and small limits."""
    options = ("--receive-seconds", "1", "--max-buffered", "500000", "--max-connections", "20")
    with http_engine(tmp_path_factory.mktemp("clients"), *options) as running:
        yield running
        assert running.stop() == 0
        assert running.stderr == ""


@pytest.fixture
def running(shared: EngineProcess) -> Iterator[EngineProcess]:
    """The engine, with a look afterwards."""
    yield shared
    check_clean(shared)


def half(path: str = "/infer") -> bytes:
    """A request up to the middle of its body."""
    return head(path, f"Content-Length: {len(BODY)}") + BODY[:HALF]


@contextlib.contextmanager
def connected(running: EngineProcess, count: int) -> Iterator[list[Raw]]:
    """Some connections, all closed at the end."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(raw(running)) for _ in range(count)]


def can_connect(running: EngineProcess) -> bool:
    try:
        Raw(running.port).close()
    except OSError:
        return False
    return True


# Slow clients

SLOW: dict[str, bytes] = {
    "half a line": b"POST /in",
    "half a head": head("/infer")[:-2],
    "a head alone": head("/infer", "Content-Length: 18"),
    "half a body": half(),
    "half a body on uvicorn's way": half(ABSOLUTE),
    "half a body behind other requests": request("hot", 1) + request("get", 2) + half(),
    "half a body behind a batch": request("thread", 1) + half(),
    "chunks without an end": head("/infer", "Transfer-Encoding: chunked") + chunked(BODY)[:-5],
    "half a body behind an offer of HTTP/2": request(
        "hot", 1, "Connection: Upgrade", "Upgrade: h2c"
    )[:-3],
}


def test_requests_that_do_not_arrive_are_408(running: EngineProcess) -> None:
    """What came before them is answered; then the connection is closed. All at once, to wait only once."""
    before = {
        "half a body behind other requests": ("hot", "get"),
        "half a body behind a batch": ("thread",),
    }
    with connected(running, len(SLOW)) as connections:
        for connection, what in zip(connections, SLOW, strict=True):
            connection.send(SLOW[what])
        for connection, what in zip(connections, SLOW, strict=True):
            for number, kind in enumerate(before.get(what, ()), 1):
                check(kind, number, connection.answer())
            answer = connection.answer()
            assert (what, answer.status, answer.reason) == (what, 408, "TooSlow")
            assert connection.end() == b""


def test_a_body_that_nobody_waits_for_ends_quietly(running: EngineProcess) -> None:
    """The request is answered already; its body does not come; there is nothing more to say."""
    with raw(running) as connection:
        connection.send(b"PUT /status HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc")
        assert connection.answer().reason == "MethodNotAllowed"
        assert connection.end() == b""


def test_a_client_that_takes_nothing_is_cut_off(running: EngineProcess) -> None:
    """It sends and does not read: what is kept for it has an end, and so has the connection."""
    with raw(running) as connection:
        stall(connection, get("/openapi.json") * 1000)
        connection.socket.setblocking(True)
        eventually(lambda: _is_cut(connection), "the connection is cut")


def _is_cut(connection: Raw) -> bool:
    try:
        connection.socket.send(b"\r\n", socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return False


def stall(connection: Raw, data: bytes, most: int = 256 * MIB) -> int:
    """Send, and never read, until the other side takes no more. The number of bytes it took."""
    connection.socket.setblocking(False)
    taken = 0
    while taken < most:
        try:
            taken += connection.socket.send(data)
        except BlockingIOError:
            if not select.select([], [connection.socket], [], 0.2)[1]:
                return taken
        except (ConnectionResetError, BrokenPipeError):
            return taken
    raise AssertionError(f"{taken} bytes were taken")


def test_clients_that_send_thousands_and_never_read_are_bounded(tmp_path: Path) -> None:
    """After what the sockets hold no more requests are taken, and memory stays where it is."""
    kinds = ("hot", "get", "asgi", "bad", "missing", "thread")
    with http_engine(tmp_path) as running:
        check_clean(running)
        before = pss(running.process.pid)
        with connected(running, 2 * len(kinds)) as connections:
            for connection, kind in zip(connections, kinds * 2, strict=True):
                stall(connection, request(kind, 1) * (1 if kind == "thread" else 2000))
            assert pss(running.process.pid) < before + 150 * MIB
        check_clean(running)
        assert running.stop() == 0
        assert running.stderr == ""


def test_a_queue_behind_a_batch_is_bounded(running: EngineProcess) -> None:
    """Some hundred requests wait their turn; the rest is for another connection."""
    with raw(running) as connection:
        connection.send(request("thread", 0) + b"".join(request("get", n) for n in range(2000)))
        check("thread", 0, connection.answer())
        answered = 0
        while True:
            answer = connection.answer()
            check("get", 0, answer)
            answered += 1
            if answer.headers.get("connection") == "close":
                break
        assert 200 <= answered < 2000
        assert connection.end() == b""


# Vanished clients


def vanish(connection: Raw, *, reset: bool) -> None:
    """Go away in the middle, politely or not."""
    if reset:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("path", ["/infer", ABSOLUTE])
def test_a_client_that_vanishes_in_a_body_leaves_nothing(
    running: EngineProcess, path: str, *, reset: bool
) -> None:
    """What was kept of its body is given back."""
    connection = Raw(running.port)
    connection.send(head(path, "Content-Length: 60000") + b" " * 50_000)
    eventually(lambda: metric(running, "buffered_bytes") == 50_000, "the body is counted")
    vanish(connection, reset=reset)
    eventually(lambda: metric(running, "buffered_bytes") == 0, "the body is forgotten")


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("behind", [b"", request("hot", 1), request("get", 1) * 10])
def test_a_client_that_vanishes_while_its_batch_runs_leaves_nothing(
    running: EngineProcess, behind: bytes, *, reset: bool
) -> None:
    """The batch runs to its end for nobody; thread, bytes and lease are given back."""
    connection = Raw(running.port)
    connection.send(request("thread", 1) + behind)
    eventually(lambda: metric(running, "queued_batches") == 1, "the batch runs")
    assert metric(running, "buffered_bytes") > 0
    vanish(connection, reset=reset)
    eventually(lambda: metric(running, "queued_batches") == 0, "the batch is over")
    assert metric(running, "buffered_bytes") == 0


def test_many_clients_that_vanish_anywhere_leave_nothing(running: EngineProcess) -> None:
    """At every place of a request, by hundreds."""
    for data in (request("hot", 1), request("asgi", 1)):
        for cut in range(len(data)):
            connection = Raw(running.port)
            connection.send(data[:cut])
            vanish(connection, reset=cut % 2 == 0)


# Limits


def test_one_connection_too_many_is_503(running: EngineProcess) -> None:
    """With Retry-After; as soon as another one ends there is room again."""
    eventually(lambda: metric(running, "buffered_bytes") == 0, "others are gone")
    held = [Raw(running.port) for _ in range(20)]
    for connection in held[:19]:
        connection.send(request("get", 1))
        check("get", 1, connection.answer())
    with raw(running) as connection:
        connection.send(request("hot", 1))
        answer = connection.answer()
        assert (answer.status, answer.reason) == (503, "Overloaded")
        assert answer.headers["retry-after"] == "1"
        assert connection.end() == b""
    for connection in held:
        connection.close()
    eventually(lambda: _is_served(running), "there is room again")


def _is_served(running: EngineProcess) -> bool:
    with raw(running) as connection:
        connection.send(request("get", 1))
        return connection.answer().status == 200


@pytest.mark.parametrize("path", ["/infer", ABSOLUTE])
def test_one_body_too_many_is_503(running: EngineProcess, path: str) -> None:
    """The bodies that arrive already are read to their end."""
    with raw(running) as first, raw(running) as second:
        data = BODY.ljust(400_000)
        first.send(head("/infer", f"Content-Length: {len(data)}") + data[:-10])
        eventually(lambda: metric(running, "buffered_bytes") == 399_990, "most of it is there")
        second.send(head(path, "Content-Length: 200000") + b" " * 199_999)
        answer = second.answer()
        assert (answer.status, answer.reason) == (503, "Overloaded")
        assert answer.headers["retry-after"] == "1"
        first.send(data[-10:])
        check("hot", 5, first.answer())


# The end


def test_a_stop_answers_what_has_begun(tmp_path: Path) -> None:
    """Half a head, half a body, a batch in a thread: answered. Idle connections and new ones: not. Exit code 0."""
    with http_engine(tmp_path) as running, connected(running, 6) as connections:
        idle, heads, bodies, asgi, batch, queue = connections
        for connection in connections:
            connection.send(request("hot", 1))
            check("hot", 1, connection.answer())
        heads.send(request("hot", 2)[:20])
        bodies.send(half())
        asgi.send(half(ABSOLUTE))
        eventually(lambda: metric(running, "buffered_bytes") == 2 * HALF, "two bodies arrive")
        batch.send(request("thread", 3))
        queue.send(request("thread", 4) + request("get", 5) + request("hot", 6))
        eventually(lambda: metric(running, "queued_batches") == 2, "two batches run")
        running.process.send_signal(signal.SIGTERM)
        assert idle.end() == b""
        eventually(lambda: not can_connect(running), "no more connections are taken")
        heads.send(request("hot", 2)[20:])
        bodies.send(BODY[HALF:])
        asgi.send(BODY[HALF:])
        for connection, kind, number in (
            (heads, "hot", 2),
            (bodies, "hot", 5),
            (asgi, "asgi", 5),
            (batch, "thread", 3),
        ):
            answer = connection.answer()
            check(kind, number, answer)
            if (
                connection is not batch
            ):  # it may have been answered before the engine heard of its end
                assert answer.headers["connection"] == "close"
            assert connection.end() == b""
        for kind, number in (("thread", 4), ("get", 5), ("hot", 6)):
            check(kind, number, queue.answer())
        assert queue.end() == b""
        assert running.stop() == 0
        assert running.stderr == ""


def test_a_stop_does_not_wait_for_clients_for_ever(tmp_path: Path) -> None:
    """Nor for requests that do not arrive, for answers that nobody takes, or for a model that does not come back."""
    unfinished = ("half a body", "half a body on uvicorn's way", "half a head")
    kinds = ("hot", "get", "thread")
    options = ("--drain-seconds", "1", "--threads", "2")
    with (
        http_engine(tmp_path, *options) as running,
        connected(running, 3) as slow,
        connected(running, 3) as greedy,
        raw(running) as stuck,
    ):
        for connection, what in zip(slow, unfinished, strict=True):
            connection.send(SLOW[what])
        for connection, kind in zip(greedy, kinds, strict=True):
            stall(connection, request(kind, 1) * 100)
        stuck.send(post([{"tensor": [1e15, 0]}] + [{"tensor": [0, 0]}] * 999))
        eventually(lambda: metric(running, "queued_batches") >= 1, "the batch runs")
        eventually(lambda: metric(running, "buffered_bytes") >= 2 * HALF, "the bodies arrive")
        assert running.stop() == 0
