"""The operator as a whole hears of what happens, and of what it missed, and ends with an error when a part dies.

Needs KUBECONFIG and kubectl only: it runs in this process, each test in a namespace of its own.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from kit.cluster.faults import (
    LONGEST,
    Heard,
    config_map,
    nothing,
    pipeline,
    proxied,
    refusing,
    values,
)
from midstream_operator import main
from midstream_operator.cluster import PIPELINE, SERVICE_ACCOUNT, Cluster
from midstream_operator.events import Events
from midstream_operator.metrics import Metrics
from midstream_operator.queue import Key
from midstream_operator.settings import Settings
from midstream_operator.store import Store


class Look:
    """Stands in for the reconciler: notes what the store holds of each pipeline that it is asked to look at."""

    def __init__(
        self, cluster: Cluster, store: Store, settings: Settings, events: Events, metrics: Metrics
    ) -> None:
        del cluster, settings, events, metrics
        self.store = store
        self.heard = Heard()
        self.closed = False

    async def __call__(self, key: Key) -> float | None:
        return await self.heard(key)

    def tags(self) -> dict[str, str]:
        found = (self.store.get(PIPELINE, *key) for key in self.store.keys(PIPELINE))
        return {each["metadata"]["name"]: each["spec"]["tags"][0] for each in found if each}

    async def close(self) -> None:
        self.closed = True


def serving(
    namespace: str,
    port: int,
    script: Callable[[Look], Coroutine[Any, Any, None]],
    *,
    sweep: float = 1,
) -> Coroutine[Any, Any, int]:
    """Run the operator with a script beside it, and end it by a signal."""
    settings = Settings(
        "engine", "lb", namespaces=(namespace,), host="127.0.0.1", port=port, workers=2, sweep=sweep
    )
    made: asyncio.Queue[Look] = asyncio.Queue()

    def make(
        cluster: Cluster, store: Store, settings: Settings, events: Events, metrics: Metrics
    ) -> Look:
        look = Look(cluster, store, settings, events, metrics)
        made.put_nowait(look)
        return look

    async def run() -> int:
        operator = asyncio.create_task(main.serve(settings, make))
        look = await made.get()
        scripted = asyncio.create_task(script(look))
        await asyncio.wait([operator, scripted], return_when=asyncio.FIRST_COMPLETED)
        if operator.done():
            scripted.cancel()
        else:
            os.kill(os.getpid(), signal.SIGTERM)
        code = await operator
        if not scripted.cancelling():
            await scripted
        assert look.closed
        return code

    return run()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def test_pipelines_are_heard_and_what_was_missed_is_found(
    namespace: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Through kopf at once; in a gap by the list that follows, deletes included; the object bears no mark of it."""

    async def run() -> None:
        async with proxied(monkeypatch, tmp_path) as (direct, _, proxy):
            port = free_port()

            async def script(look: Look) -> None:
                for name in ("changed", "deleted", "same"):
                    await direct.create(pipeline(namespace, name))
                await look.heard.until(lambda: len(look.tags()) == 3)
                proxy.cut = True
                proxy.throw_out()
                await direct.delete(PIPELINE, namespace, "deleted")
                second = {"spec": {"tags": ["second"]}}
                await direct.merge(PIPELINE, namespace, "changed", second)
                await direct.create(pipeline(namespace, "made"))
                proxy.cut = False
                await look.heard.until(
                    lambda: look.tags() == {"changed": "second", "made": "first", "same": "first"}
                )
                same = await direct.get(PIPELINE, namespace, "same")
                assert same is not None
                assert not {"finalizers", "annotations", "labels"} & same["metadata"].keys()
                async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
                    for path, expected in (("/healthz", "ok"), ("/readyz", "ok")):
                        async with session.get(path) as answer:
                            assert (answer.status, (await answer.text()).strip()) == (200, expected)
                    async with session.get("/metrics") as answer:
                        assert "midstream_pipelines 3.0" in await answer.text()

            assert await serving(namespace, port, script) == 0

    asyncio.run(run())


def test_a_pipeline_that_the_garbage_collector_knows_to_be_gone_is_not_revived(
    namespace: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """kopf alone is deaf: when owned objects vanish the pipeline is asked for before they are made again."""

    async def run() -> None:
        async with proxied(monkeypatch, tmp_path) as (direct, _, proxy):
            deaf = asyncio.Event()

            def deafen(request: web.Request) -> web.Response | None:
                if "kopf" not in request.headers.get("User-Agent", ""):
                    return None
                deaf.set()
                return web.json_response({"kind": "Status", "code": 503}, status=503)

            async def script(look: Look) -> None:
                made = await direct.create(pipeline(namespace, "one"))
                await look.heard.until(lambda: len(look.tags()) == 1)
                owned = config_map(namespace, "one-engine")
                owned["metadata"]["ownerReferences"] = [
                    {
                        "apiVersion": PIPELINE.api_version,
                        "kind": PIPELINE.kind,
                        "name": "one",
                        "uid": made["metadata"]["uid"],
                        "controller": True,
                    }
                ]
                await direct.apply(owned)
                await look.heard.until(lambda: len(values(look.store, namespace)) == 1)
                proxy.fault = deafen
                proxy.throw_out("kopf")
                async with asyncio.timeout(LONGEST):
                    await deaf.wait()
                revivals: list[Key] = []
                look.heard.looks = revivals
                await direct.delete(PIPELINE, namespace, "one")
                await look.heard.until(lambda: bool(revivals))
                assert look.tags() == {}, "the first look after it already knows"

            assert await serving(namespace, free_port(), script, sweep=3600) == 0

    asyncio.run(run())


def test_nothing_is_looked_at_before_everything_is_listed(
    namespace: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """While one kind cannot be listed the operator is alive, not ready, says which, and touches nothing."""

    async def run() -> None:
        async with proxied(monkeypatch, tmp_path) as (direct, _, proxy):
            port = free_port()
            await direct.create(pipeline(namespace, "there"))
            refused = asyncio.Event()

            def no_accounts(request: web.Request) -> web.Response | None:
                if not request.path.endswith(SERVICE_ACCOUNT.plural):
                    return None
                if sum(SERVICE_ACCOUNT.plural in each for each in proxy.seen) > 1:
                    refused.set()
                return refusing(403, "Forbidden")(request)

            proxy.fault = no_accounts

            async def script(look: Look) -> None:
                async with asyncio.timeout(LONGEST):
                    await refused.wait()
                async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
                    async with session.get("/readyz") as answer:
                        assert answer.status == 503
                        assert "serviceaccounts" in await answer.text()
                    async with session.get("/healthz") as answer:
                        assert answer.status == 200
                assert look.heard.looks == []
                proxy.fault = nothing
                await look.heard.until(lambda: look.tags() == {"there": "first"})

            assert await serving(namespace, port, script) == 0

    asyncio.run(run())


def test_the_process_ends_with_an_error_when_a_part_dies(
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Half an operator is worse than a new one: whoever runs it starts it again."""

    async def run() -> None:
        async with proxied(monkeypatch, tmp_path) as (_, _, proxy):

            def unusable(request: web.Request) -> web.Response | None:
                kopf = "kopf" in request.headers.get("User-Agent", "")
                return (
                    web.json_response({"kind": "Status", "code": 415}, status=415) if kopf else None
                )

            proxy.fault = unusable

            async def script(_look: Look) -> None:
                await asyncio.Event().wait()

            assert await serving(namespace, free_port(), script) == 1

    asyncio.run(run())
    assert "kopf ended" in caplog.text
