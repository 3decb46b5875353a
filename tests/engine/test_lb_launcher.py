"""The launcher of a load balancer, with the real Envoy: when it is ready, and how it ends."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from kit.balancer import (
    BalancerFolder,
    Upstream,
    balancer,
    balancer_folder,
    caller,
    post_once,
)
from kit.engine import WAIT_SECONDS, Reply

QUICK = ("--settle-seconds", "0.3", "--linger-seconds", "0.6", "--drain-seconds", "20")
PATIENT = ("--settle-seconds", "0.3", "--linger-seconds", "20", "--drain-seconds", "20")


@pytest.fixture
def place() -> Iterator[tuple[BalancerFolder, Upstream]]:
    with balancer_folder() as made:
        yield made


@pytest.fixture
def folder(place: tuple[BalancerFolder, Upstream]) -> BalancerFolder:
    place[0].write(place[0].routes_of("r1"))
    return place[0]


@pytest.fixture
def upstream(place: tuple[BalancerFolder, Upstream]) -> Upstream:
    return place[1]


def refused(reply: Reply) -> bool:
    return reply.status == 503


def applied(reply: Reply) -> object:
    return reply.json()["routes"]["applied"]


def test_ready_when_the_routes_on_disk_are_applied(folder: BalancerFolder) -> None:
    """It is ready with the routes on disk, and after a change of the file with the new ones."""
    with balancer(folder, *QUICK) as running:
        assert running.until_ready().body == b"serves the routes on disk\n"
        assert applied(running.ask("/status")) == "r1"
        folder.write(folder.routes_of("r2"))
        running.until("r2", lambda reply: applied(reply) == "r2", "/status")
        assert running.until_ready().body == b"serves the routes on disk\n"


def test_not_ready_with_routes_that_envoy_never_took(
    place: tuple[BalancerFolder, Upstream],
) -> None:
    """Started on routes that Envoy refuses it is live but not ready, says why, and heals with the next file."""
    folder = place[0]
    folder.write(folder.routes_of("bad", cluster="nobody"))
    with balancer(folder, *QUICK) as running:
        running.until("life", lambda reply: reply.status == 200, "/livez")
        reply = running.until("the reason", lambda reply: b"applied routes" in reply.body)
        assert reply.status == 503
        assert reply.body == b"Envoy has applied routes none, on disk are bad\n"
        folder.write(folder.routes_of("good"))
        running.until_ready()


def test_a_new_one_waits_for_its_first_engine(
    place: tuple[BalancerFolder, Upstream],
) -> None:
    """Without an engine it is not ready and says why, for a bounded time; then callers are told what is the matter."""
    folder, upstream = place
    folder.write(folder.routes_of("r1"))
    upstream.close()
    with balancer(folder, *QUICK, "--engine-seconds", "2") as running:
        reply = running.until("the reason", lambda reply: b"engine" in reply.body)
        assert (reply.status, reply.body) == (503, b"has found no engine yet\n")
        running.until_ready()


@pytest.mark.parametrize("text", ["", "{", '{"version_info": "r2"}', '{"resources": []}'])
def test_a_bad_file_keeps_the_last_good_routes(folder: BalancerFolder, text: str) -> None:
    """Routes that cannot be read take no working load balancer out of service: the last good ones serve on."""
    with balancer(folder, *QUICK) as running:
        running.until_ready()
        folder.write(text)
        running.until(
            "the news", lambda reply: reply.body == b"keeps its last good routes\n", "/readyz"
        )
        assert post_once(running.listener(), b"1").body == b"1"
        folder.write(folder.routes_of("r3"))
        running.until("r3", lambda reply: applied(reply) == "r3", "/status")
        assert running.until_ready().body == b"serves the routes on disk\n"


def test_refused_routes_keep_the_last_good_ones(folder: BalancerFolder) -> None:
    """Routes that Envoy refuses leave it ready with the last good ones, and `/status` names both versions."""
    with balancer(folder, *QUICK) as running:
        running.until_ready()
        folder.write(folder.routes_of("bad", cluster="nobody"))
        running.until("the news", lambda reply: reply.body == b"keeps its last good routes\n")
        assert running.ask("/status").json()["routes"] == {"applied": "r1", "wanted": "bad"}


def test_term_loses_no_request(folder: BalancerFolder, upstream: Upstream) -> None:
    """After SIGTERM it is not ready, requests under way and new ones are answered, and then it ends with 0."""
    with balancer(folder, *PATIENT) as running, ThreadPoolExecutor(24) as pool:
        running.until_ready()
        port = running.listener()
        begun = threading.Barrier(9)
        busy = [pool.submit(_until_told_to_leave, port, begun) for _ in range(8)]
        held = [pool.submit(post_once, port, b"held", **{"x-hold": "1"}) for _ in range(8)]
        begun.wait(WAIT_SECONDS)
        for _ in held:
            assert upstream.held.acquire(timeout=WAIT_SECONDS)
        running.signal()
        running.until("the end of readiness", refused)
        late = post_once(port, b"late")
        assert late.body == b"late"
        assert late.headers["connection"] == "close"
        assert sum(each.result(WAIT_SECONDS) for each in busy) > 0
        assert running.process.poll() is None
        upstream.release.set()
        assert [each.result(WAIT_SECONDS).body for each in held] == [b"held"] * 8
        assert running.wait("drained")["because"] == "nobody is connected"
        assert running.end() == 0


def _until_told_to_leave(port: int, begun: threading.Barrier) -> int:
    """Call on one connection until an answer asks to close it; return how many calls that were."""
    with caller(port) as kept:
        for number in range(1_000_000):
            reply = kept.post(b"%d" % number)
            assert (reply.status, reply.body) == (200, b"%d" % number)
            if number == 0:
                begun.wait(WAIT_SECONDS)
            if reply.headers.get("connection") == "close":
                return number + 1
    raise AssertionError("was never told to leave")


def test_idle_connections_do_not_hold_it_for_long(folder: BalancerFolder) -> None:
    """A connection that is open and idle is waited for, but not until the deadline of requests."""
    with balancer(folder, *QUICK) as running:
        running.until_ready()
        with caller(running.listener()) as idle:
            idle.post(b"1")
            running.signal()
            assert running.wait("drained")["because"] == "the connections are idle"
            assert running.end() == 0


def test_the_deadline_ends_it(folder: BalancerFolder, upstream: Upstream) -> None:
    """A request that never ends holds it until the deadline, and no longer."""
    options = ("--settle-seconds", "0", "--linger-seconds", "0", "--drain-seconds", "0.5")
    with balancer(folder, *options) as running, ThreadPoolExecutor(1) as pool:
        running.until_ready()
        held = pool.submit(post_once, running.listener(), b"held", **{"x-hold": "1"})
        assert upstream.held.acquire(timeout=WAIT_SECONDS)
        running.signal()
        assert running.wait("drained")["because"] == "the deadline has come"
        assert running.end() == 0
        with pytest.raises(OSError, match=r".*"):
            held.result(WAIT_SECONDS)


def test_a_second_signal_is_obeyed_at_once(folder: BalancerFolder) -> None:
    """Ctrl-C twice does not wait for anybody."""
    with balancer(folder) as running:
        running.until_ready()
        running.signal(signal.SIGINT)
        running.wait("draining")
        running.signal(signal.SIGINT)
        assert running.wait("drained")["because"] == "a second SIGINT"
        assert running.end() == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
def test_ends_with_envoy(folder: BalancerFolder, number: signal.Signals) -> None:
    """When Envoy dies the launcher ends with its exit code, so that the container is started anew."""
    with balancer(folder) as running:
        running.until_ready()
        os.kill(running.envoy, number)
        assert running.end() == 128 + number
        assert running.events[-1] == {**running.events[-1], "event": "envoy_died"}


def test_ends_with_envoy_that_cannot_start(place: tuple[BalancerFolder, Upstream]) -> None:
    """Without the route file Envoy does not start; its exit code and its message come through."""
    with balancer(place[0]) as running:
        assert running.end() == 1
        assert "paths must refer to an existing path" in "".join(running.output)


def test_not_live_when_envoy_hangs(folder: BalancerFolder) -> None:
    """An Envoy that does not answer is neither live nor ready."""
    with balancer(folder) as running:
        running.until_ready()
        os.kill(running.envoy, signal.SIGSTOP)
        assert refused(running.ask("/livez"))
        assert refused(running.ask("/readyz"))
        assert applied(running.ask("/status")) is None
        os.kill(running.envoy, signal.SIGCONT)
        running.until_ready()


def test_passes_envoys_metrics_on(folder: BalancerFolder) -> None:
    """`/metrics` is what Envoy counts, in the Prometheus text format."""
    with balancer(folder) as running:
        running.until_ready()
        post_once(running.listener(), b"1")
        reply = running.ask("/metrics")
        assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert b'envoy_cluster_upstream_rq_total{envoy_cluster_name="engine"} 1' in reply.body


def test_says_which_paths_there_are(folder: BalancerFolder) -> None:
    """Another path is answered with the list of those that exist; half a request holds nobody up."""
    with balancer(folder) as running:
        with contextlib.closing(
            socket.create_connection(("127.0.0.1", running.health_port))
        ) as half:
            half.sendall(b"GET /rea")
            reply = running.ask("/healthz")
        assert reply.status == 404
        assert reply.body == b"/healthz is none of /livez, /readyz, /status, /metrics\n"


def test_will_not_start_without_an_admin_address(folder: BalancerFolder) -> None:
    """A bootstrap that names no admin interface is refused with the file's name."""
    folder.bootstrap.write_text("{}")
    with (
        pytest.raises(AssertionError, match=r"bootstrap\.json names no admin address"),
        balancer(folder),
    ):
        pass
