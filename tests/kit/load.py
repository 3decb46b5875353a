"""Load on a server, from a process of its own, with a record of every answer.

Two shapes of load:

* `closed`: N clients, each sends its next request when the last one is answered. For correctness under pressure: every
  answer is read, and identical answers are kept once.
* `open_loop`: requests are sent at fixed times, whatever the server does, and latency counts from the *scheduled*
  time, so that a stall of the server is charged to every request that should have been sent meanwhile.

Both run one thread over epoll in a separate process, so that they share neither the server's loop nor the tester's
interpreter. Nothing is retried: a request that is not answered with 200 counts as failed.
"""

import contextlib
import ctypes
import math
import multiprocessing
import os
import select
import time
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from typing import Any, NamedTuple

import orjson

from kit.wire import Connection, Reply, Request

VERSION_HEADER = b"x-midstream-version"
CUT = 0
"""The status recorded for a request whose connection was cut, refused or never answered."""
_GRACE = 30.0  # seconds that requests under way are given after `stop`


class Row(NamedTuple):
    """What one row of an answer says."""

    version: str
    last_model: str
    out: bytes
    """The JSON of `out`."""
    echoed: bool
    """`in` is the row that was sent."""


class Answer(NamedTuple):
    """One distinct answer: what stays when the times in it are left out."""

    request: int
    """Index of the request among those given to the load."""
    status: int
    version: str
    """The header `x-midstream-version`."""
    rows: tuple[Row, ...] = ()
    problem: str = ""
    """Why there is no readable answer."""


@dataclass(slots=True)
class Record:
    """Everything that a load saw. The arrays are parallel, one entry for each request, in order of completion.

    Times are seconds of `time.monotonic`; `epoch` added to one gives seconds since 1970.
    """

    answers: list[Answer] = field(default_factory=list)
    kind: "array[int]" = field(default_factory=lambda: array("l"))
    """Index into `answers`."""
    scheduled: "array[float]" = field(default_factory=lambda: array("d"))
    """When the request was to be sent; in a closed loop, when it was sent."""
    sent: "array[float]" = field(default_factory=lambda: array("d"))
    ended: "array[float]" = field(default_factory=lambda: array("d"))
    late: "array[float]" = field(default_factory=lambda: array("d"))
    """Open loop only: by how many seconds the load itself noticed too late that a request was due; the error of the
    instrument. A request that found no free connection is sent later than that, and that is the server's doing."""
    epoch: float = 0.0
    cpu_seconds: float = 0.0
    """CPU time of the load's own process."""

    def __len__(self) -> int:
        return len(self.kind)

    def counts(self) -> list[int]:
        """How often each of `answers` was seen."""
        counts = [0] * len(self.answers)
        for kind in self.kind:
            counts[kind] += 1
        return counts

    @property
    def failed(self) -> int:
        """Requests not answered with 200."""
        return sum(
            count
            for answer, count in zip(self.answers, self.counts(), strict=True)
            if answer.status != 200
        )

    def failures(self) -> dict[str, int]:
        """Status and problem of what failed, and how often."""
        found: dict[str, int] = {}
        for answer, count in zip(self.answers, self.counts(), strict=True):
            if answer.status != 200:
                key = f"{answer.status or 'cut'} {answer.problem}".strip()
                found[key] = found.get(key, 0) + count
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    host: str
    port: int
    requests: tuple[Request, ...]
    connections: int
    rate: float = 0.0
    """Requests a second; 0: closed loop."""
    read_answers: bool = True
    """Keep what the rows of an answer say; otherwise only its status and version."""
    core: int | None = None
    """CPU that the load's process is pinned to."""
    realtime: bool = False


class Running:
    """A load under way. `stop` ends it and gives its record."""

    def __init__(self, process: multiprocessing.process.BaseProcess, pipe: Pipe) -> None:
        self._process = process
        self._pipe = pipe

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def wait_until_answering(self, timeout: float = 30.0) -> None:
        """Return when as many requests were answered as there are connections. Raises `TimeoutError`."""
        if not self._pipe.poll(timeout):
            raise TimeoutError(f"the load had no answers for {timeout} s")
        self._receive()

    def stop(self) -> Record:
        """Send no more requests, wait for the answers under way, and hand over the record."""
        with contextlib.suppress(BrokenPipeError):  # the reason is in what is received below
            self._pipe.send("stop")
        while True:
            message = self._receive()
            if isinstance(message, Record):
                self._process.join()
                return message

    def _receive(self) -> Any:
        try:
            message = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(
                f"the load's process ended with exit code {self._process.exitcode}"
            ) from None
        if isinstance(message, BaseException):
            raise message
        return message


@contextlib.contextmanager
def closed(
    port: int,
    requests: Sequence[Request],
    *,
    clients: int = 16,
    host: str = "127.0.0.1",
    core: int | None = None,
) -> Iterator[Running]:
    """N clients, each with one request under way at any time, that go through `requests` in turn."""
    plan = _Plan(host=host, port=port, requests=tuple(requests), connections=clients, core=core)
    with _running(plan) as running:
        yield running


@contextlib.contextmanager
def open_loop(
    port: int,
    requests: Sequence[Request],
    *,
    rate: float,
    connections: int = 64,
    host: str = "127.0.0.1",
    core: int | None = None,
    realtime: bool = True,
    read_answers: bool = False,
) -> Iterator[Running]:
    """`rate` requests a second at fixed times.

    A request that finds no free connection waits for one, and the wait counts. `realtime` asks for a real-time
    priority, so that a late answer is the server's doing and not the load's; where that is not permitted, it goes on
    without. `read_answers` keeps what the rows of each answer say, too.
    """
    plan = _Plan(
        host=host,
        port=port,
        requests=tuple(requests),
        connections=connections,
        rate=rate,
        read_answers=read_answers,
        core=core,
        realtime=realtime,
    )
    with _running(plan) as running:
        yield running


@contextlib.contextmanager
def _running(plan: _Plan) -> Iterator[Running]:
    context = multiprocessing.get_context("spawn")  # a fork would copy the tester's threads' locks
    ours, theirs = context.Pipe()
    process = context.Process(target=_main, args=(plan, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Running(process, ours)
    finally:
        ours.close()
        if process.is_alive():
            process.terminate()
        process.join()
        process.close()


def _main(plan: _Plan, pipe: Pipe) -> None:
    if plan.core is not None:
        os.sched_setaffinity(0, {plan.core})
    if plan.realtime:
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    try:
        record = (_OpenLoop if plan.rate else _Loop)(plan, pipe).run()
    except Exception as error:  # noqa: BLE001 - handed to the tester, who raises it
        pipe.send(error)
    else:
        pipe.send(record)


class _Loop:
    """The closed loop, and what both loops share."""

    def __init__(self, plan: _Plan, pipe: Pipe) -> None:
        self.plan = plan
        self.pipe = pipe
        self.record = Record(epoch=time.time() - time.monotonic())
        self.epoll = select.epoll()
        self.connections: dict[int, Connection] = {}
        self.next = 0
        self.missing = 0
        """Connections that are to be made again."""
        self.stopping = math.inf
        self._kinds: dict[Answer, int] = {}
        self._announced = False

    def run(self) -> Record:
        cpu = time.process_time()
        self.epoll.register(self.pipe.fileno(), select.EPOLLIN)
        self.start()
        while self.under_way() if self.stopping < math.inf else True:
            for fd, event in self.epoll.poll(0.1):
                self.handle(fd, event)
            if self.missing:
                self.reconnect()
            if time.monotonic() > self.stopping + _GRACE:
                self.abandon()
                break
        for connection in self.connections.values():
            connection.close()
        self.epoll.close()
        self.record.answers = list(self._kinds)
        self.record.cpu_seconds = time.process_time() - cpu
        return self.record

    def start(self) -> None:
        for _ in range(self.plan.connections):
            self.send_next(self.connect())

    def under_way(self) -> bool:
        return bool(self.connections)

    def abandon(self) -> None:
        problem = f"no answer within {_GRACE} s"
        for connection in self.connections.values():
            if connection.busy:
                self.note(connection, Answer(connection.request, CUT, "", problem=problem))

    def handle(self, fd: int, event: int) -> None:
        connection = self.connections.get(fd)
        if connection is None:
            if fd == self.pipe.fileno():
                self.pipe.recv()
                self.epoll.unregister(fd)
                self.stopping = time.monotonic()
                self.on_stop()
            return
        try:
            if event & select.EPOLLOUT and connection.send_more():
                self.epoll.modify(fd, select.EPOLLIN)
            if not event & ~select.EPOLLOUT:
                return
            reply = connection.receive()
        except (ConnectionError, ValueError) as error:
            self.lost(connection, error)
            return
        if reply is not None:
            self.note(connection, self.answer(connection.request, reply))
            if reply.head.find(b"\r\nconnection: close") >= 0:
                self.replace(connection)
            else:
                self.answered(connection)

    def on_stop(self) -> None:
        """A closed loop ends by not sending the next request."""

    def answered(self, connection: Connection) -> None:
        if self.stopping == math.inf:
            self.send_next(connection)
        else:
            self.drop(connection)

    def lost(self, connection: Connection, error: Exception) -> None:
        if connection.busy:  # an idle connection may be closed by the server
            self.note(connection, Answer(connection.request, CUT, "", problem=str(error)))
        self.replace(connection)

    def replace(self, connection: Connection) -> None:
        self.drop(connection)
        self.missing += 1
        self.reconnect()

    def reconnect(self) -> None:
        """Make the missing connections, as long as there are requests for them; a refusal counts as a failure."""
        while self.missing and self.wanted():
            try:
                connection = self.connect()
            except OSError as error:
                self.refused(error)
                return
            self.missing -= 1
            self.answered(connection)

    def wanted(self) -> bool:
        return self.stopping == math.inf

    def refused(self, error: OSError) -> None:
        record = self.record
        now = time.monotonic()
        for times in (record.scheduled, record.sent, record.ended):
            times.append(now)
        answer = Answer(0, CUT, "", problem=f"cannot connect: {error}")
        record.kind.append(self._kinds.setdefault(answer, len(self._kinds)))

    def connect(self) -> Connection:
        connection = Connection(self.plan.host, self.plan.port)
        self.connections[connection.fileno()] = connection
        self.epoll.register(connection.fileno(), select.EPOLLIN)
        return connection

    def drop(self, connection: Connection) -> None:
        del self.connections[connection.fileno()]
        self.epoll.unregister(connection.fileno())
        connection.close()

    def send_next(self, connection: Connection) -> None:
        number = self.next
        self.next += 1
        self.send(connection, number, time.monotonic())

    def send(self, connection: Connection, number: int, scheduled: float) -> None:
        requests = self.plan.requests
        connection.number = number
        connection.request = number % len(requests)
        connection.scheduled = scheduled
        connection.sent = time.monotonic()
        connection.busy = True
        try:
            if not connection.send(requests[connection.request].raw):
                self.epoll.modify(connection.fileno(), select.EPOLLIN | select.EPOLLOUT)
        except ConnectionError as error:
            self.lost(connection, error)

    def note(self, connection: Connection, answer: Answer) -> None:
        record = self.record
        connection.busy = False
        record.ended.append(time.monotonic())
        record.scheduled.append(connection.scheduled)
        record.sent.append(connection.sent)
        record.kind.append(self._kinds.setdefault(answer, len(self._kinds)))
        if not self._announced and len(record.kind) >= self.plan.connections:
            self._announced = True
            self.pipe.send("answering")

    def answer(self, request: int, reply: Reply) -> Answer:
        version = reply.header(VERSION_HEADER)
        if reply.status != 200:
            return Answer(
                request, reply.status, version, problem=reply.body[:300].decode("latin-1")
            )
        if not self.plan.read_answers:
            return Answer(request, 200, version)
        try:
            rows = orjson.loads(reply.body)
            sent = self.plan.requests[request].rows
            return Answer(
                request,
                200,
                version,
                tuple(
                    Row(
                        row["metadata"]["pipeline_version"],
                        row["metadata"]["last_model"],
                        orjson.dumps(row["out"]),
                        number < len(sent) and row["in"] == sent[number],
                    )
                    for number, row in enumerate(rows)
                ),
            )
        except (ValueError, KeyError, TypeError) as error:
            return Answer(request, CUT, version, problem=f"unreadable answer: {error!r}")


class _OpenLoop(_Loop):
    """Requests at fixed times, by a periodic timer of the kernel that does not drift."""

    def start(self) -> None:
        self.free: deque[Connection] = deque()
        self.waiting: deque[int] = deque()
        for _ in range(self.plan.connections):
            self.free.append(self.connect())
        self.interval = round(1e9 / self.plan.rate) / 1e9  # what a timer can do: whole nanoseconds
        self.begin = time.monotonic() + 0.05
        self.timer = _timer(self.begin, self.interval)
        self.epoll.register(self.timer, select.EPOLLIN)

    def under_way(self) -> bool:
        return len(self.free) < len(self.connections) or self.wanted()

    def wanted(self) -> bool:
        return bool(self.waiting) or super().wanted()

    def drop(self, connection: Connection) -> None:
        super().drop(connection)
        if connection in self.free:
            self.free.remove(connection)

    def handle(self, fd: int, event: int) -> None:
        if fd != self.timer:
            super().handle(fd, event)
            return
        if self.stopping < math.inf:
            return
        now = time.monotonic()
        for _ in range(int.from_bytes(os.read(fd, 8), "little")):
            number = self.next
            self.next += 1
            self.record.late.append(now - self.begin - number * self.interval)
            if self.free:
                self.send(self.free.popleft(), number, self.begin + number * self.interval)
            else:
                self.waiting.append(number)

    def on_stop(self) -> None:
        self.epoll.unregister(self.timer)
        os.close(self.timer)

    def answered(self, connection: Connection) -> None:
        if self.waiting:
            number = self.waiting.popleft()
            self.send(connection, number, self.begin + number * self.interval)
        else:
            self.free.append(connection)


class _TimerSpec(ctypes.Structure):
    """`struct itimerspec`: the period, then the first expiry."""

    _fields_ = (
        ("period_s", ctypes.c_long),
        ("period_ns", ctypes.c_long),
        ("first_s", ctypes.c_long),
        ("first_ns", ctypes.c_long),
    )


def _timer(first: float, period: float) -> int:
    """A timerfd on `time.monotonic`'s clock (Python has one of its own from 3.13 on)."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK)
    spec = _TimerSpec(*divmod(round(period * 1e9), 10**9), *divmod(round(first * 1e9), 10**9))
    absolute = 1
    if fd < 0 or libc.timerfd_settime(fd, absolute, ctypes.byref(spec), None) < 0:
        raise OSError(ctypes.get_errno(), "timerfd")
    return fd
