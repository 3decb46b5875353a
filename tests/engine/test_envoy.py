"""The load balancer before real engines: what gets through, and that no request is lost with an engine."""

import json
import signal
import socket
import threading
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from kit import load, models
from kit.balanced import Balanced, balanced
from kit.balancer import Upstream
from kit.engine import WAIT_SECONDS, EngineProcess, Reply, engine
from kit.folder import ConfigFolder, document, model
from kit.http import SLOW, http_engine
from kit.raw import JSON, eventually
from kit.started import ROW, started
from kit.wire import records

POST = {"Content-Type": JSON}
PATH = "/pipelines/house-price"


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EngineProcess, Balanced]]:
    """One engine that serves, and a load balancer before it."""
    with started(tmp_path_factory.mktemp("one")) as made, balanced(made.running) as front:
        yield made.running, front


@contextmanager
def two(folder: Path) -> Iterator[tuple[list[EngineProcess], Balanced]]:
    """Two engines that take a request's word for how long it runs, and a load balancer before them."""
    with ExitStack() as stack:
        engines = [stack.enter_context(http_engine(folder / name)) for name in ("a", "b")]
        yield engines, stack.enter_context(balanced(*engines))


@contextmanager
def upstreams(count: int) -> Iterator[list[Upstream]]:
    """What stands where engines stand, and answers as it is told to."""
    with ExitStack() as stack:
        made = [Upstream() for _ in range(count)]
        for each in made:
            stack.callback(each.close)
        yield made


def assert_refused(reply: Reply, status: int, reason: str) -> None:
    """It is an answer in the form of an engine's errors."""
    assert (status, "application/json") == (reply.status, reply.headers["content-type"])
    assert {"error", "reason"} == set(reply.json())
    assert reason == reply.json()["reason"]


# What gets through


@pytest.mark.parametrize("path", ["/infer", PATH])
def test_inference_is_answered_as_the_engine_answers(
    one: tuple[EngineProcess, Balanced], path: str
) -> None:
    """Status, answer and headers are the engine's; nothing is added to them."""
    running, front = one
    direct = running.post([ROW], path)
    reply = front.ask("POST", path, json.dumps([ROW]).encode(), POST)

    assert 200 == reply.status
    assert direct.json()[0]["out"] == reply.json()[0]["out"]
    assert set(direct.headers) == set(reply.headers)
    assert direct.headers["x-midstream-version"] == reply.headers["x-midstream-version"]


@pytest.mark.parametrize("path", ["/pipelines", "/models", "/livez", "/readyz"])
def test_data_paths_are_answered(one: tuple[EngineProcess, Balanced], path: str) -> None:
    """What callers may know of an engine comes from it."""
    running, front = one
    direct, reply = running.get(path), front.ask("GET", path)

    assert (direct.status, direct.json()) == (reply.status, reply.json())


def test_an_engines_own_errors_get_through(one: tuple[EngineProcess, Balanced]) -> None:
    """A wrong method, another pipeline and rows that do not fit are answered by the engine."""
    _, front = one

    assert_refused(front.ask("GET", "/infer"), 405, "MethodNotAllowed")
    assert_refused(front.ask("POST", "/pipelines/other", b"[]", POST), 404, "UnknownPipeline")
    assert 400 == front.ask("POST", "/infer", b'[{"tensor": [1]}]', POST).status


@pytest.mark.parametrize(
    "target",
    [
        *("/status", "/metrics", "/openapi.json", "/", "/logs", "/infer/", "/status?x=/infer"),
        *("/pipelines/../status", "/pipelines/%2e%2e/status", "/infer/..;/status", "//status"),
        *("/%73tatus", "/models/../metrics", "http://localhost/status", "/pipelines/a/b"),
    ],
)
def test_nothing_else_gets_through(one: tuple[EngineProcess, Balanced], target: str) -> None:
    """State and metrics are answered with 404 by the load balancer, in whatever way they are spelled."""
    running, front = one
    before = front.stat("upstream_rq_total")
    reply = front.ask("GET", target)

    assert 200 == running.get("/status").status
    assert_refused(reply, 404, "NotFound")
    assert "POST /infer" in reply.json()["error"]
    assert before == front.stat("upstream_rq_total")


def test_a_slash_in_disguise_reaches_nothing(one: tuple[EngineProcess, Balanced]) -> None:
    """`%2F` is no slash for the load balancer; the engine finds nothing there either."""
    _, front = one

    assert_refused(front.ask("GET", "/pipelines/..%2Fstatus"), 404, "NotFound")


def test_what_is_no_request_is_refused_in_the_same_form(
    one: tuple[EngineProcess, Balanced],
) -> None:
    """A head that is too large never reaches an engine."""
    _, front = one

    assert_refused(front.ask("GET", "/infer", headers={"X": "x" * 100_000}), 431, "HeadTooLarge")


def test_a_callers_wishes_to_envoy_are_not_obeyed(one: tuple[EngineProcess, Balanced]) -> None:
    """Its own headers would let a caller change time-outs and tries."""
    _, front = one
    wishes = {**POST, "x-envoy-upstream-rq-timeout-ms": "1", "x-envoy-max-retries": "0"}
    many = json.dumps([ROW] * 5000).encode()

    assert 200 == front.ask("POST", "/infer", many, wishes).status


# What is lost with an engine: nothing


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_an_engine_that_ends_loses_no_request(tmp_path: Path, number: signal.Signals) -> None:
    """Under load one of two engines is killed, or told to stop: every request is answered, some at a second try."""
    requests = [records(PATH, [{"tensor": [20_000, number]}]) for number in range(20)]
    with two(tmp_path) as (engines, front), load.closed(front.port, requests) as running:
        running.wait_until_answering()
        eventually(
            lambda: all(front.hosts()[each.port]["rq_active"] for each in engines), "both are busy"
        )
        engines[0].stop(number)
        eventually(lambda: front.stat("outlier_detection.ejections_active") == 1, "it is set aside")
        answered = front.stat("upstream_rq_completed")
        eventually(lambda: front.stat("upstream_rq_completed") > answered + 100, "the other serves")
        record = running.stop()
        retries = front.stat("upstream_rq_retry")

    assert {} == record.failures()
    assert len(record) > 100
    assert retries > 0 or number == signal.SIGTERM


def test_a_killed_engine_comes_back(tmp_path: Path) -> None:
    """When it is there again it gets requests again, without anybody's help."""
    with started(tmp_path) as first, balanced(first.running) as front:
        first.running.stop(signal.SIGKILL)
        refused = front.ask("POST", PATH, json.dumps([ROW]).encode(), POST)
        assert_refused(refused, 503, "NotReady")
        assert "1" == refused.headers["retry-after"]
        with engine(tmp_path, "--port", str(first.running.port)) as again:
            again.wait("serving")
            front.until_healthy(1)

            assert 200 == front.ask("POST", PATH, json.dumps([ROW]).encode(), POST).status


def test_the_largest_body_is_sent_again(tmp_path: Path) -> None:
    """A request of nearly 16 MiB is under way in an engine that is killed: the other one answers it."""
    rows = [{"tensor": [10 * SLOW, 7]}] + [{"tensor": [0, 0]}] * 999
    body = json.dumps(rows).encode()
    body += b" " * ((16 << 20) - len(body))
    replies: list[Reply] = []
    with two(tmp_path) as (engines, front):
        caller = threading.Thread(
            target=lambda: replies.append(front.ask("POST", "/infer", body, POST))
        )
        caller.start()
        by_port = {each.port: each for each in engines}
        eventually(lambda: bool(computing(by_port)), "an engine computes")
        computing(by_port)[0].stop(signal.SIGKILL)
        caller.join()
        retries = front.stat("upstream_rq_retry_success")

    assert [200] == [each.status for each in replies]
    said: list[dict[str, Any]] = replies[0].json()
    assert 1000 == len(said)
    assert {"variable": [10.0 * SLOW + 7]} == said[0]["out"]
    assert 1 == retries


def computing(engines: dict[int, EngineProcess]) -> list[EngineProcess]:
    """Those with a batch in a thread."""
    return [
        each
        for each in engines.values()
        if each.process.poll() is None
        and b"midstream_engine_queued_batches 1.0" in each.get("/metrics").body
    ]


# What an engine answers is an answer


def test_rows_that_a_model_cannot_take_set_no_engine_aside(tmp_path: Path) -> None:
    """One caller's failures, answered with 500, take the engine from nobody else."""
    with ExitStack() as stack:
        engines = []
        for name in ("a", "b"):
            folder = tmp_path / name
            folder.mkdir()
            serves = document(model(models.looks_up(folder / "table.onnx")))
            engines.append(stack.enter_context(started(folder, stable=serves)).running)
        front = stack.enter_context(balanced(*engines))
        bad = json.dumps([{"tensor": [1000.0, *[0.0] * 17]}]).encode()
        statuses = {front.ask("POST", PATH, bad, POST).status for _ in range(40)}
        aside = front.stat("outlier_detection.ejections_enforced_total")

    assert {500} == statuses
    assert 0 == aside


@pytest.mark.parametrize("status", [502, 504])
def test_a_request_that_a_step_dies_of_costs_itself_alone(status: int) -> None:
    """Its answer comes as it is, no other engine is given it, none is set aside, and both answer what comes next."""
    reason = json.dumps(
        {"error": "step 'prepare': Traceback …", "reason": "SidekickFailed"}
    ).encode()
    with upstreams(2) as both, balanced(*both) as front:
        replies = []
        for _ in range(40):
            replies.append(front.ask("POST", PATH, reason, {**POST, "x-answer": str(status)}))
            replies.append(front.ask("POST", PATH, b"[]", POST))
        asked = [len(each.seen) for each in both]
        retries = front.stat("upstream_rq_retry")
        ejected = front.stat("outlier_detection.ejections_enforced_total")
        front.until_healthy(2)

    assert [(status, reason), (200, b"[]")] * 40 == [(each.status, each.body) for each in replies]
    assert sum(asked) == 80
    assert min(asked) > 0
    assert (retries, ejected) == (0, 0)


def test_an_engine_that_turns_a_request_away_is_not_the_last_one_asked() -> None:
    """503 is tried again, on the other engine too, before it is the answer."""
    with upstreams(2) as both, balanced(*both) as front:
        reply = front.ask("POST", PATH, b"[]", {**POST, "x-answer": "503"})
        asked = [len(each.seen) for each in both]

    assert 503 == reply.status
    assert min(asked) > 0


# What goes along


def test_headers_that_mean_something_to_engines_get_through() -> None:
    """Those of the request as they were sent, those of the answer as the engine gave them, and a packed body unread."""
    packed = zlib.compress(b"[]" * 100, wbits=31)
    sent = {
        "content-type": "application/vnd.apache.arrow.stream",
        "accept": "application/vnd.apache.arrow.file",
        "content-encoding": "gzip",
        "accept-encoding": "zstd",
        "x-midstream-split-key": "0.4",
        "inference-header-content-length": "17",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    back = {
        "content-type": "application/octet-stream",
        "content-encoding": "zstd",
        "inference-header-content-length": "21",
        "x-midstream-version": "v",
        "vary": "accept, accept-encoding",
    }
    with upstreams(1) as (one,), balanced(one) as front:
        path = "/v2/models/house-price/infer"
        reply = front.ask("POST", path, packed, {**sent, "x-back": json.dumps(back)})

    assert (200, packed) == (reply.status, reply.body)
    assert sent.items() <= one.seen[0].items()
    assert back.items() <= reply.headers.items()


def test_a_caller_that_asks_before_it_sends_is_told_to_go_on() -> None:
    """`Expect: 100-continue`, as curl says before a large body."""
    body = b"x" * (2 << 20)
    head = f"POST {PATH} HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: {len(body)}\r\n\r\n"
    with (
        upstreams(1) as (one,),
        balanced(one) as front,
        socket.create_connection(("127.0.0.1", front.port), timeout=WAIT_SECONDS) as caller,
    ):
        caller.sendall(head.encode())
        told = caller.recv(1 << 10)
        caller.sendall(body)
        answer = caller.recv(1 << 10)

    assert told.startswith(b"HTTP/1.1 100 ")
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_an_engine_that_is_not_ready_says_why(tmp_path: Path) -> None:
    """Where no engine serves one is asked all the same: its reason is worth more than the load balancer's."""
    ConfigFolder(tmp_path / "config")
    with engine(tmp_path) as running, balanced(running, healthy=0) as front:
        reply = front.ask("POST", PATH, json.dumps([ROW]).encode(), POST)

    assert 503 == reply.status
    assert running.stderr == ""
    assert "NotReady" == reply.json()["reason"]
    assert "no engine answers" not in reply.json()["error"]
