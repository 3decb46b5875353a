"""The line of talk between the supervisor and a worker: real sockets, on asyncio and on uvloop."""

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest
import uvloop

from midstream_engine.channel import (
    MAX_LINE_BYTES,
    MAX_UNSENT_BYTES,
    Channel,
    ChannelClosed,
    ChannelError,
    Handler,
)

Scenario = Callable[[], Awaitable[None]]
Run = Callable[[Scenario], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a scenario to its end on one of the two event loops; it must leave no task behind."""
    factory = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}[request.param]

    def _run(scenario: Scenario) -> None:
        async def limited() -> None:
            async with asyncio.timeout(20):
                await scenario()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(limited())

    return _run


@contextlib.asynccontextmanager
async def pair(
    left: Mapping[str, Handler], right: Mapping[str, Handler]
) -> AsyncIterator[tuple[Channel, Channel]]:
    """Two channels that are each other's peer; the second is opened by its number, as a worker does."""
    ours, theirs = socket.socketpair()
    async with (
        await Channel.open(ours, left) as first,
        await Channel.open(theirs.detach(), right) as second,
    ):
        yield first, second


@contextlib.asynccontextmanager
async def facing(handlers: Mapping[str, Handler]) -> AsyncIterator[tuple[Channel, socket.socket]]:
    """A channel and the bare socket at its other end."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    with theirs:
        async with await Channel.open(ours, handlers) as channel:
            yield channel, theirs


def test_notifications_arrive_in_order(run: Run) -> None:
    """Notifications reach the peer's handler complete and in the order they were sent."""

    async def scenario() -> None:
        got: list[int] = []
        done = asyncio.Event()

        def event(params: dict[str, Any]) -> None:
            got.append(params["n"])
            if params["n"] == 999:
                done.set()

        async with pair({}, {"event": event}) as (channel, _):
            for n in range(1000):
                channel.notify("event", {"n": n, "text": "ü\n" * 50})
            await done.wait()

        assert list(range(1000)) == got

    run(scenario)


def test_both_ends_call_at_once(run: Run) -> None:
    """Each end answers the other's calls, with plain functions and with coroutines."""

    async def scenario() -> None:
        async def slow(params: dict[str, Any]) -> Any:
            await asyncio.sleep(0)
            return {"slow": params["n"]}

        async with pair({"plain": lambda params: params["n"]}, {"slow": slow}) as (left, right):
            answers = await asyncio.gather(
                *(left.call("slow", {"n": n}) for n in range(50)),
                *(right.call("plain", {"n": n}) for n in range(50)),
            )

        assert [{"slow": n} for n in range(50)] + list(range(50)) == answers

    run(scenario)


def test_a_large_message_passes(run: Run) -> None:
    """A message of many megabytes arrives as it was sent."""

    async def scenario() -> None:
        body = "x" * (20 * 1024 * 1024)
        async with pair({}, {"echo": lambda params: params["body"]}) as (left, _):
            assert body == await left.call("echo", {"body": body})

    run(scenario)


def test_a_failing_handler_answers_with_its_error(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller learns what went wrong, the channel lives on, and the failure is logged where it happened."""

    async def scenario() -> None:
        def plain(_params: dict[str, Any]) -> None:
            raise ValueError("no such thing")

        async def later(_params: dict[str, Any]) -> None:
            raise OSError("disk gone")

        handlers: dict[str, Handler] = {"plain": plain, "later": later, "odd": lambda _: {1, 2}}
        async with pair({}, handlers) as (left, _):
            with pytest.raises(ChannelError, match="ValueError: no such thing"):
                await left.call("plain", {})
            with pytest.raises(ChannelError, match="OSError: disk gone"):
                await left.call("later", {})
            with pytest.raises(ChannelError, match="odd: the answer is not JSON"):
                await left.call("odd", {})
            with pytest.raises(ChannelError, match="unknown method 'nobody'"):
                await left.call("nobody", {})

    with caplog.at_level(logging.ERROR):
        run(scenario)

    assert ["channel_handler_failed method=plain", "channel_handler_failed method=later"] == [
        record.getMessage() for record in caplog.records
    ]


def test_a_call_without_an_answer_times_out(run: Run) -> None:
    """A call is over after its time-out, and the late answer disturbs nobody."""

    async def scenario() -> None:
        release = asyncio.Event()

        async def stuck(_params: dict[str, Any]) -> str:
            await release.wait()
            return "late"

        async with pair({}, {"stuck": stuck, "fine": lambda _: "fine"}) as (left, _):
            with pytest.raises(TimeoutError):
                await left.call("stuck", {}, timeout=0.01)
            release.set()
            assert await left.call("fine", {}) == "fine"

    run(scenario)


def test_the_end_of_the_peer_ends_the_channel(run: Run) -> None:
    """When the peer goes away, waiting calls fail at once, later ones fail too, and notifying does nothing."""

    async def scenario() -> None:
        async with facing({}) as (channel, peer):
            waiting = asyncio.ensure_future(channel.call("status", {}))
            await asyncio.get_running_loop().run_in_executor(None, peer.recv, 1)
            peer.close()
            with pytest.raises(ChannelClosed):
                await waiting
            await channel.closed.wait()
            with pytest.raises(ChannelClosed, match="cannot call status"):
                await channel.call("status", {})
            channel.notify("event", {})

    run(scenario)


def test_closing_cancels_running_handlers(run: Run) -> None:
    """A handler that still waits when the channel closes is cancelled, not leaked."""

    async def scenario() -> None:
        started, cancelled = asyncio.Event(), asyncio.Event()

        async def forever(_params: dict[str, Any]) -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        async with pair({}, {"forever": forever}) as (left, right):
            left.notify("forever", {})
            await started.wait()
            await right.close()
            assert cancelled.is_set()

    run(scenario)


def test_a_handler_may_close_its_own_channel(run: Run) -> None:
    """A handler that closes the channel it was called on finishes."""

    async def scenario() -> None:
        finished = asyncio.Event()

        async def leave(_params: dict[str, Any]) -> None:
            await right.close()
            finished.set()

        async with pair({}, {"leave": leave}) as (left, right):
            left.notify("leave", {})
            await finished.wait()
            await left.closed.wait()

    run(scenario)


def test_what_was_notified_before_closing_arrives(run: Run) -> None:
    """Closing sends what is unsent first: a worker's last word is heard."""

    async def scenario() -> None:
        got: list[int] = []
        async with pair({}, {"event": lambda params: got.append(len(params["text"]))}) as (
            left,
            right,
        ):
            left.notify("event", {"text": "x" * 3_000_000})
            left.notify("event", {"text": "last"})
            await left.close()
            await right.closed.wait()

        assert [3_000_000, 4] == got

    run(scenario)


def test_a_peer_that_does_not_read_bounds_the_buffer(run: Run) -> None:
    """Towards a peer that does not read, the newest notification of each kind is kept and older ones are dropped."""

    async def scenario() -> None:
        async with facing({}) as (channel, peer):
            filler = "x" * 1_000_000
            for n in range(40):
                channel.notify("status", {"n": n, "filler": filler})
            channel.notify("event", {"n": 40})

            def read() -> list[dict[str, Any]]:
                with peer.makefile("rb") as lines:
                    messages = []
                    for line in lines:
                        messages.append(json.loads(line))
                        if messages[-1]["method"] == "event":
                            return messages
                return []

            messages = await asyncio.get_running_loop().run_in_executor(None, read)
            numbers = [message["params"]["n"] for message in messages]

            assert [39, 40] == numbers[-2:]
            assert len(numbers) < 40
            assert len(numbers) * len(filler) < 2 * MAX_UNSENT_BYTES
            assert sorted(numbers) == numbers

    run(scenario)


def test_closing_towards_a_peer_that_does_not_read_ends(run: Run) -> None:
    """A peer that never reads cannot keep this end from closing."""

    async def scenario() -> None:
        async with facing({}) as (channel, _peer):
            channel.notify("status", {"filler": "x" * 10_000_000})
            await channel.close()
            assert channel.closed.is_set()

    run(scenario)


@pytest.mark.parametrize(
    "garbage", [b"not json\n", b"[1]\n", b"\xff\xfe\n", b"x" * (MAX_LINE_BYTES + 1)]
)
def test_what_is_not_a_message_ends_the_channel(
    run: Run, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Garbage and endless lines end the channel and are logged, rather than be guessed at."""

    async def scenario() -> None:
        async with facing({}) as (channel, peer):

            def send() -> None:
                with contextlib.suppress(ConnectionError):
                    peer.sendall(garbage)

            await asyncio.get_running_loop().run_in_executor(None, send)
            await channel.closed.wait()

    with caplog.at_level(logging.ERROR):
        run(scenario)

    assert "channel_broken" in caplog.text


def test_a_message_that_is_too_long_is_not_sent(run: Run) -> None:
    """Too long a call fails on the caller's side and too long a notification is dropped; the channel lives on."""

    async def scenario() -> None:
        handlers: dict[str, Handler] = {"echo": len, "grow": lambda _: "x" * MAX_LINE_BYTES}
        async with pair({}, handlers) as (left, _):
            with pytest.raises(ChannelError, match="at most"):
                await left.call("echo", {"body": "x" * MAX_LINE_BYTES})
            with pytest.raises(ChannelError, match="grow: the answer is too long"):
                await left.call("grow", {})
            left.notify("echo", {"body": "x" * MAX_LINE_BYTES})
            assert await left.call("echo", {"body": 1}) == 1

    run(scenario)


def test_the_socket_is_not_inherited_further(run: Run) -> None:
    """Children of the process do not get the channel's socket, so its end is seen by the peer."""

    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        theirs.set_inheritable(True)
        number = theirs.detach()
        async with await Channel.open(ours, {}), await Channel.open(number, {}):
            assert not os.get_inheritable(number)

    run(scenario)
