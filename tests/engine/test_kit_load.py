"""The load generator counts what goes wrong: a load that hides failures would make every promise look kept."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import orjson
import pytest

from kit import load, wire

ROW = {"tensor": [1.0, 2.0]}
REQUEST = wire.records("/pipelines/p", [ROW])
ANSWER = orjson.dumps(
    [
        {
            "time": 1,
            "in": ROW,
            "out": {"variable": [3.0]},
            "anomaly": {"count": 0},
            "metadata": {"pipeline_version": "v", "last_model": "{}", "elapsed": [1, 2]},
        }
    ]
)
CUT = b"<cut>"
"""At the end of an answer: close the connection instead of this."""


def http(status: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nX-Midstream-Version: v\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@contextlib.contextmanager
def server(behaviour: Callable[[int], bytes]) -> Iterator[int]:
    """A server on loopback that answers its n-th request with `behaviour(n)`; gives its port."""
    lock = threading.Lock()
    count = 0

    def serve(connection: socket.socket) -> None:
        nonlocal count
        with connection, contextlib.suppress(ConnectionError):
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
                while received.startswith(REQUEST.raw):
                    received = received[len(REQUEST.raw) :]
                    with lock:
                        number, count = count, count + 1
                    answer = behaviour(number)
                    connection.sendall(answer.removesuffix(CUT))
                    if answer.endswith(CUT):
                        return

    def accept() -> None:
        with contextlib.suppress(OSError):  # the listener is shut down
            while True:
                connection, _ = listener.accept()
                thread = threading.Thread(target=serve, args=(connection,))
                thread.start()
                threads.append(thread)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads = [threading.Thread(target=accept)]
        threads[0].start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def record_of(behaviour: Callable[[int], bytes], answers: int = 100) -> load.Record:
    """What a closed loop with 4 clients sees of a behaviour, until the server has answered so often."""
    enough = threading.Event()

    def counting(number: int) -> bytes:
        if number >= answers:
            enough.set()
        return behaviour(number)

    with server(counting) as port, load.closed(port, [REQUEST], clients=4) as running:
        assert enough.wait(30)
        return running.stop()


def test_good_answers_are_read_and_kept_once() -> None:
    """Of many answers that say the same, one is kept, with how often and when it came."""
    record = record_of(lambda _: http("200 OK", ANSWER))

    assert (record.failed, len(record.answers)) == (0, 1)
    assert record.answers[0].version == "v"
    assert record.answers[0].rows == (load.Row("v", "{}", b'{"variable":[3.0]}', echoed=True),)
    assert record.counts() == [len(record)]
    assert len(record) > 100
    assert all(a <= b for a, b in zip(record.sent, record.ended, strict=True))


def test_other_statuses_count_as_failed() -> None:
    """One 503 among a hundred answers is one failure, with what it said."""
    busy = http("503 Service Unavailable", b"busy")

    record = record_of(lambda n: busy if n == 50 else http("200 OK", ANSWER))

    assert record.failures() == {"503 busy": 1}


@pytest.mark.parametrize(
    "answer", [CUT, http("200 OK", ANSWER)[:-5] + CUT], ids=["no answer", "half an answer"]
)
def test_cut_connections_count_as_failed(answer: bytes) -> None:
    """A connection that ends before its answer is complete is one failure, and is made anew."""
    record = record_of(lambda n: answer if n in (50, 60) else http("200 OK", ANSWER))

    assert record.failed == 2
    assert all(key.startswith("cut closed by the server") for key in record.failures())
    assert len(record) > 100


def test_unreadable_answers_count_as_failed() -> None:
    """An answer with status 200 that is not records is a failure."""
    record = record_of(lambda n: http("200 OK", b"[{}]" if n == 50 else ANSWER))

    assert [key.split(":")[0] for key in record.failures()] == ["cut unreadable answer"]


def test_a_server_that_cuts_everything_does_not_end_the_load() -> None:
    """The load goes on, counts every cut, and still hands over its record."""
    cut = threading.Event()

    def behaviour(number: int) -> bytes:
        if number >= 50:
            cut.set()
        return CUT if cut.is_set() else http("200 OK", ANSWER)

    with server(behaviour) as port, load.closed(port, [REQUEST], clients=4) as running:
        assert cut.wait(30)
        record = running.stop()

    assert 1 <= record.failed <= len(record) - 50


def test_an_open_loop_answers_for_every_request_that_was_due() -> None:
    """Requests that found no free connection are sent later, and none is dropped."""
    enough = threading.Event()

    def behaviour(number: int) -> bytes:
        if number >= 200:
            enough.set()
        return http("200 OK", ANSWER)

    with (
        server(behaviour) as port,
        load.open_loop(port, [REQUEST], rate=2000, connections=2) as running,
    ):
        assert enough.wait(30)
        record = running.stop()

    assert record.failed == 0
    assert len(record) == len(record.late)
    assert all(
        a <= b <= c for a, b, c in zip(record.scheduled, record.sent, record.ended, strict=True)
    )
