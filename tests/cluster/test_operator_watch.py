"""What the operator hears of a real API server through a proxy that cuts, refuses and forgets.

Needs KUBECONFIG and kubectl only: the parts run in this process, each test in a namespace of its own.
"""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
from aiohttp import web

from kit.cluster.faults import (
    LONGEST,
    Fault,
    Heard,
    config_map,
    expired,
    nothing,
    once,
    pipeline,
    proxied,
    refusing,
    too_old,
    values,
    watching,
    write_kubeconfig,
)
from kit.cluster.kubectl import kubectl
from midstream_operator import cluster as cluster_module
from midstream_operator.cluster import CONFIG_MAP, EVENT, Cluster
from midstream_operator.errors import ClusterError
from midstream_operator.events import Events
from midstream_operator.observed import Object
from midstream_operator.queue import Key, Queue
from midstream_operator.store import Scope, Store
from midstream_operator.watch import Feed, Watch


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
    # An operator that looks after all namespaces may have its say too.
    told = [each["reason"] for each in found if each["reason"] in ("Serving", "SourceNotFound")]
    assert sorted(told) == ["Serving", "SourceNotFound"]
    assert {each["regarding"]["name"] for each in found} == {"one"}
    assert "SourceNotFound" in kubectl("describe", "pipeline", "one", "-n", namespace)
