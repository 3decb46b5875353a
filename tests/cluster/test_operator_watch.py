"""What the operator hears of a real API server through a proxy that cuts, refuses and forgets.

Needs KUBECONFIG and kubectl only: the parts run in this process, each test in a namespace of its own.
"""

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from midstream_operator import cluster as cluster_module
from midstream_operator import main
from midstream_operator.cluster import CONFIG_MAP, EVENT, PIPELINE, SERVICE_ACCOUNT, Cluster, Login
from midstream_operator.errors import ClusterError
from midstream_operator.events import Events
from midstream_operator.metrics import Metrics
from midstream_operator.observed import Object
from midstream_operator.queue import Key, Queue
from midstream_operator.settings import Settings
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


@pytest.fixture(scope="module")
def kubeconfig() -> str:
    """The file that leads to the cluster."""
    file = os.environ.get("KUBECONFIG")
    if not file:
        pytest.skip("needs a cluster: set KUBECONFIG")
    return file


@pytest.fixture
def namespace(kubeconfig: str) -> Iterator[str]:  # noqa: ARG001  # kubectl reads the environment
    """A namespace that is gone afterwards."""
    name = f"watch-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    done = subprocess.run(
        ["kubectl", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


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


@pytest.mark.parametrize("then", [nothing, expired, too_old], ids=["resumed", "expired", "too-old"])
def test_what_happens_while_the_watch_is_cut_is_found(
    namespace: str,
    then: Fault,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Made, changed and deleted in the gap: whether the watch goes on or has to begin with a list."""

    async def run() -> None:
        async with (
            proxied(monkeypatch, tmp_path) as (direct, through, proxy),
            watching(through, namespace) as (store, heard, _),
        ):
            for name in ("changed", "deleted", "same"):
                await direct.apply(config_map(namespace, name))
            await heard.until(lambda: len(values(store, namespace)) == 3)
            proxy.cut = True
            proxy.throw_out()
            await direct.delete(CONFIG_MAP, namespace, "deleted")
            await direct.apply(config_map(namespace, "changed", "2"))
            await direct.apply(config_map(namespace, "made"))
            proxy.fault = once(then)
            proxy.cut = False
            await heard.until(
                lambda: values(store, namespace) == {"changed": "2", "made": "1", "same": "1"}
            )
            # And it still listens.
            await direct.delete(CONFIG_MAP, namespace, "same")
            await heard.until(lambda: "same" not in values(store, namespace))

    asyncio.run(run())


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, "Unauthorized"), (403, "Forbidden"), (429, "TooManyRequests"), (500, "InternalError")],
)
def test_a_watch_that_is_refused_tries_again(
    namespace: str,
    status: int,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """However it is refused it goes on asking, and says so once."""
    caplog.set_level("INFO")

    async def run() -> None:
        async with proxied(monkeypatch, tmp_path) as (direct, through, proxy):
            await direct.apply(config_map(namespace, "there"))
            refuse, refused = refusing(status, reason), asyncio.Event()

            def three_times(request: web.Request) -> web.Response | None:
                if sum("limit" in each for each in proxy.seen) > 3:
                    refused.set()
                    return None
                return refuse(request)

            proxy.fault = three_times
            async with watching(through, namespace) as (store, _, _):
                assert refused.is_set()
                assert values(store, namespace) == {"there": "1"}

    asyncio.run(run())
    said = [record.getMessage() for record in caplog.records if "configmaps" in record.getMessage()]
    assert len(said) == 2
    assert f"{reason}, said (status {status})" in said[0]
    assert said[1].startswith("heard again")


def test_a_service_account_is_let_in_as_far_as_its_role_goes(
    namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token is sent with every call and watch; a role that is bound later takes effect by itself."""
    kubectl("create", "serviceaccount", "ear", "-n", namespace)
    token = kubectl("create", "token", "ear", "-n", namespace).strip()

    async def run() -> None:
        direct = await Cluster.connect()
        login = await direct.login()
        file = tmp_path / "token.kubeconfig"
        write_kubeconfig(file, login.server, {"token": token}, login.ca_file)
        with monkeypatch.context() as patch:
            patch.setenv("KUBECONFIG", str(file))
            account = await Cluster.connect()
        with pytest.raises(ClusterError, match=f"serviceaccount:{namespace}:ear") as refused:
            await account.list(CONFIG_MAP, namespace)
        assert (refused.value.status, refused.value.reason) == (403, "Forbidden")
        scope = Scope(CONFIG_MAP, namespace)
        store, heard = Store([scope]), Heard()
        queue = Queue[Key]()
        watch = asyncio.create_task(Watch(account, Feed(store, queue), scope).run())
        working = asyncio.create_task(queue.run(heard, 1))
        role = ("-n", namespace, "--verb=list,watch", "--resource=configmaps")
        kubectl("create", "role", "ear", *role)
        kubectl(
            "create",
            "rolebinding",
            "ear",
            "-n",
            namespace,
            "--role=ear",
            f"--serviceaccount={namespace}:ear",
        )
        async with asyncio.timeout(LONGEST):
            await store.synced()
        await direct.apply(config_map(namespace, "there"))
        await heard.until(lambda: values(store, namespace) == {"there": "1"})
        for task in (watch, working):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await account.close()
        await direct.close()

    asyncio.run(run())


def test_calls_do_what_they_say(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Get, apply, annotate, list in pages, create, delete; and each error with its status."""

    async def run(cluster: Cluster) -> None:
        written: list[str] = []
        cluster.written = lambda obj: written.append(obj["metadata"]["name"])
        assert await cluster.get(CONFIG_MAP, namespace, "a") is None
        first = await cluster.apply(config_map(namespace, "a"))
        assert "managedFields" not in first["metadata"]
        again = await cluster.apply(config_map(namespace, "a"))
        assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        noted = await cluster.annotate(CONFIG_MAP, namespace, "a", {"x": "1", "y": "2"})
        assert noted["metadata"]["annotations"] == {"x": "1", "y": "2"}
        noted = await cluster.annotate(CONFIG_MAP, namespace, "a", {"x": None})
        assert noted["metadata"]["annotations"] == {"y": "2"}
        for name in ("b", "c", "d", "e"):
            await cluster.create(config_map(namespace, name))
        assert written == ["a", "a", "a", "a", "b", "c", "d", "e"]
        with pytest.raises(ClusterError) as refused:
            await cluster.create(config_map(namespace, "b"))
        assert (refused.value.status, refused.value.reason) == (409, "AlreadyExists")
        monkeypatch.setattr(cluster_module, "PAGE", 2)
        found, version = await cluster.list(
            CONFIG_MAP, namespace, "app.kubernetes.io/managed-by=midstream"
        )
        assert [each["metadata"]["name"] for each in found] == ["a", "b", "c", "d", "e"]
        assert {(each["apiVersion"], each["kind"]) for each in found} == {("v1", "ConfigMap")}
        assert int(version) >= int(found[-1]["metadata"]["resourceVersion"])
        with pytest.raises(ClusterError) as refused:
            await cluster.delete(CONFIG_MAP, namespace, "b", uid="another")
        assert refused.value.status == 409
        await cluster.delete(CONFIG_MAP, namespace, "b", uid=found[1]["metadata"]["uid"])
        await cluster.delete(CONFIG_MAP, namespace, "b")
        with pytest.raises(
            ClusterError, match=f"apply ConfigMap A in namespace {namespace}: .*"
        ) as refused:
            await cluster.apply(config_map(namespace, "A"))
        assert (refused.value.status, refused.value.transient) == (422, False)
        with pytest.raises(ClusterError) as refused:
            await cluster.apply_status({**pipeline(namespace, "none"), "spec": {}, "status": {}})
        assert not refused.value.transient

    async def connected() -> None:
        cluster = await Cluster.connect()
        try:
            await run(cluster)
        finally:
            await cluster.close()

    asyncio.run(connected())


def test_a_call_without_an_answer_is_transient(
    namespace: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Cut off, hung or gone: status 0, and worth trying again."""

    async def run() -> None:
        calls: list[tuple[str, int]] = []
        async with proxied(monkeypatch, tmp_path) as (_, through, proxy):
            through.observe = lambda verb, status, _seconds: calls.append((verb, status))
            assert await through.get(CONFIG_MAP, namespace, "none") is None
            proxy.cut = True
            with pytest.raises(ClusterError, match="get ConfigMap none in namespace") as cut:
                await through.get(CONFIG_MAP, namespace, "none")
            assert (cut.value.status, cut.value.transient) == (0, True)
            proxy.cut = False
            proxy.fault = lambda _: web.Response(status=502, text="<html>bad gateway</html>")
            with pytest.raises(ClusterError, match="bad gateway") as refused:
                await through.get(CONFIG_MAP, namespace, "none")
            assert (refused.value.status, refused.value.transient) == (502, True)
            proxy.fault = lambda _: web.Response(text="not JSON")
            with pytest.raises(ClusterError):
                await through.get(CONFIG_MAP, namespace, "none")
        assert calls == [("get", 404), ("get", 0), ("get", 502), ("get", 200)]

    asyncio.run(run())


def test_events_are_posted_once(namespace: str) -> None:
    """The same words about the same generation are one event, which kubectl shows with its object."""

    async def run() -> list[Object]:
        cluster = await Cluster.connect()
        made = await cluster.apply(pipeline(namespace, "one"))
        events = Events(cluster)
        poster = asyncio.create_task(events.run())
        for _ in range(5):
            events.post(
                made, "Warning", "SourceNotFound", "no such model: " + "é" * 1000, "Resolve"
            )
        events.post(made, "Normal", "Serving", "version 1 serves", "Rollout")
        await events.drain()
        poster.cancel()
        found, _ = await cluster.list(EVENT, namespace)
        await cluster.close()
        return found

    found = asyncio.run(run())
    assert sorted(each["reason"] for each in found) == ["Serving", "SourceNotFound"]
    assert {each["regarding"]["name"] for each in found} == {"one"}
    assert "SourceNotFound" in kubectl("describe", "pipeline", "one", "-n", namespace)


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
