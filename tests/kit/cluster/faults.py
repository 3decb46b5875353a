"""A proxy before the API server that cuts, refuses and forgets, and what listens to the cluster through it."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from midstream_operator.cluster import CONFIG_MAP, PIPELINE, Cluster, Login
from midstream_operator.observed import Object
from midstream_operator.queue import Key, Queue
from midstream_operator.store import Scope, Store
from midstream_operator.watch import Feed, Watch

LABELS = {"app.kubernetes.io/managed-by": "midstream", "midstream.dev/pipeline": "one"}
LONGEST = 45
"""Seconds that anything may take; a test that works never waits so long."""
EXPIRED = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}

Fault = Callable[[web.Request], web.Response | None]


def nothing(_request: web.Request) -> web.Response | None:
    """Let the request pass."""
    return None


def config_map(namespace: str, name: str, value: str = "1") -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace, "labels": LABELS},
        "data": {"value": value},
    }


def pipeline(namespace: str, name: str, tag: str = "first") -> Object:
    model = {"name": "m", "source": {"uri": "https://models.invalid/m.onnx"}}
    return {
        "apiVersion": PIPELINE.api_version,
        "kind": PIPELINE.kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"steps": [{"name": "predict", "model": model}], "tags": [tag]},
    }


class Proxy:
    """Stands before the API server, on plain HTTP, and lets pass what it is told to."""

    def __init__(self, login: Login) -> None:
        self._login = login
        self._open: dict[asyncio.Transport, str] = {}
        """With the name of the client."""
        self.cut = False
        """Nobody gets through."""
        self.fault: Fault = nothing
        """What to answer instead of the API server."""
        self.seen: list[str] = []
        """Method, path and query of each request."""
        self.port = 0

    @asynccontextmanager
    async def run(self) -> AsyncIterator["Proxy"]:
        context = ssl.create_default_context(cafile=self._login.ca_file)
        if self._login.certificate_file:
            context.load_cert_chain(self._login.certificate_file, self._login.key_file)
        app = web.Application(client_max_size=1 << 24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]
        connector = aiohttp.TCPConnector(ssl=context)
        async with aiohttp.ClientSession(
            connector=connector, auto_decompress=False
        ) as self._session:
            yield self
            self.throw_out()
            await runner.cleanup()

    def throw_out(self, client: str = "") -> None:
        """End every connection that is open, as a machine does that dies; or only those of one client."""
        for transport, name in list(self._open.items()):
            if client in name:
                transport.abort()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(f"{request.method} {request.path_qs}")
        transport = request.transport
        assert transport is not None
        if self.cut:
            transport.abort()
            return web.Response()
        refused = self.fault(request)
        if refused is not None:
            return refused
        headers = {
            name: value
            for name, value in request.headers.items()
            if name in {"Accept", "Content-Type", "Authorization"}
        }
        self._open[transport] = request.headers.get("User-Agent", "")
        try:
            async with self._session.request(
                request.method,
                self._login.server + request.path_qs,
                headers=headers,
                data=await request.read() or None,
            ) as answer:
                through = web.StreamResponse(status=answer.status)
                through.content_type = answer.content_type
                with suppress(ConnectionError, aiohttp.ClientError):
                    await through.prepare(request)
                    async for chunk in answer.content.iter_any():
                        await through.write(chunk)
                return through
        finally:
            self._open.pop(transport, None)


class Heard:
    """Wakes whoever waits for the world to be as wanted, at each look at a pipeline."""

    def __init__(self) -> None:
        self._looked = asyncio.Condition()
        self.looks: list[Key] = []

    async def __call__(self, key: Key) -> float | None:
        async with self._looked:
            self.looks.append(key)
            self._looked.notify_all()
        return None

    async def until(self, wanted: Callable[[], bool]) -> None:
        async with asyncio.timeout(LONGEST), self._looked:
            await self._looked.wait_for(wanted)


@asynccontextmanager
async def proxied(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[tuple[Cluster, Cluster, Proxy]]:
    """Yield a direct connection, one through a proxy, and the proxy; KUBECONFIG leads to the proxy."""
    direct = await Cluster.connect()
    async with Proxy(await direct.login()).run() as proxy:
        file = tmp_path / "proxied.kubeconfig"
        write_kubeconfig(file, f"http://127.0.0.1:{proxy.port}", {})
        monkeypatch.setenv("KUBECONFIG", str(file))
        through = await Cluster.connect()
        try:
            yield direct, through, proxy
        finally:
            await through.close()
            await direct.close()


def write_kubeconfig(file: Path, server: str, user: Object, ca_file: str | None = None) -> None:
    entry: Object = {"server": server}
    if ca_file:
        entry["certificate-authority"] = ca_file
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "it",
        "clusters": [{"name": "it", "cluster": entry}],
        "users": [{"name": "it", "user": user}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    }
    file.write_text(json.dumps(config))


@asynccontextmanager
async def watching(through: Cluster, namespace: str) -> AsyncIterator[tuple[Store, Heard, Watch]]:
    """Watch the config maps of a namespace."""
    scope = Scope(CONFIG_MAP, namespace)
    store, queue, heard = Store([scope]), Queue[Key](), Heard()
    watch = Watch(through, Feed(store, queue), scope)
    tasks = [asyncio.create_task(watch.run()), asyncio.create_task(queue.run(heard, 1))]
    try:
        async with asyncio.timeout(LONGEST):
            await store.synced()
        yield store, heard, watch
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def values(store: Store, namespace: str) -> dict[str, str]:
    return {
        each["metadata"]["name"]: each["data"]["value"]
        for each in store.owned(CONFIG_MAP, namespace, "one")
    }


def once(fault: Fault) -> Fault:
    """Answer so to the first request that it applies to, and let the rest pass."""
    left = [fault]

    def answer(request: web.Request) -> web.Response | None:
        said = left[0](request) if left else None
        if said is not None:
            left.clear()
        return said

    return answer


def expired(request: web.Request) -> web.Response | None:
    """Say that a watch asks for too old a resource version."""
    if "watch" not in request.query:
        return None
    return web.Response(text=json.dumps({"type": "ERROR", "object": EXPIRED}) + "\n")


def too_old(request: web.Request) -> web.Response | None:
    """Say the same as an API server does that knows it before it begins to stream."""
    return web.json_response(EXPIRED, status=410) if "watch" in request.query else None


def refusing(status: int, reason: str) -> Fault:
    """Refuse lists."""

    def answer(request: web.Request) -> web.Response | None:
        if "limit" not in request.query:
            return None
        said = {"kind": "Status", "code": status, "reason": reason, "message": f"{reason}, said"}
        return web.json_response(said, status=status)

    return answer
