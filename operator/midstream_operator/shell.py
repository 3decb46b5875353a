"""kopf, as a shell: it logs in, watches pipelines and reconnects. The only module that knows it.

Only its `on.event` is used: no finalizers, no annotations, no state of its own on a user's object. What its watch loses
is found by the sweep.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import kopf

from midstream_operator.cluster import PIPELINE, Cluster
from midstream_operator.watch import Feed

_ENOUGH_SECONDS = 1.0
"""For kopf to end its tasks."""

_logger = logging.getLogger(__name__)


class _Backoffs:
    """Seconds between attempts at a call that failed: quick at first, and without an end."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.2, 0.5, 1, 2)
        while True:
            yield 3


async def run(
    cluster: Cluster, feed: Feed, namespaces: Sequence[str], started: Callable[[], None]
) -> None:
    """Watch pipelines in these namespaces (none: in all) until cancelled.

    `started` is called when kopf has taken the signals for itself, so that the caller can take them back.
    Raises what kopf cannot go on with.
    """
    # Not kopf.operator(): at its end that waits five seconds for every task of the process that is not its own.
    tasks = await kopf.spawn_tasks(
        registry=_registry(cluster, feed),
        settings=_settings(),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=list(namespaces),
    )
    started()
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ended, _ = await asyncio.wait(tasks, timeout=_ENOUGH_SECONDS)
        for task in ended:
            # Looked at, or the collector would report it at some later time, in the middle of whatever else.
            _ = task.cancelled() or task.exception()
    for task in done:
        task.result()


class _Connection(kopf.ConnectionInfo):
    """A login that takes the authorities that `Cluster` takes, on every Python."""

    def as_ssl_context(self) -> ssl.SSLContext:
        """Return kopf's context, as strict as it was before Python 3.13."""
        context = super().as_ssl_context()
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


def _registry(cluster: Cluster, feed: Feed) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def _login(**_: Any) -> kopf.ConnectionInfo:
        login = await cluster.login()
        return _Connection(
            server=login.server,
            ca_path=login.ca_file,
            ca_data=login.ca_data,
            insecure=login.insecure,
            scheme="Bearer" if login.token else None,
            token=login.token,
            certificate_path=login.certificate_file,
            private_key_path=login.key_file,
        )

    group, version = PIPELINE.api_version.split("/")

    @kopf.on.event(group, version, PIPELINE.plural, registry=registry)
    async def _pipeline(event: Any, **_: Any) -> None:
        # A copy, for kopf keeps its own; one level deep is enough to leave out a field of the metadata.
        metadata = {k: v for k, v in event["object"]["metadata"].items() if k != "managedFields"}
        pipeline = {**event["object"], "metadata": metadata}
        if event["type"] == "DELETED":
            feed.gone(PIPELINE, pipeline)
            return
        feed.seen(PIPELINE, pipeline)
        if event["type"] is None:
            feed.missed()  # kopf began anew with a list, and says nothing of what is not on it

    return registry


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 3
    settings.networking.error_backoffs = _Backoffs()
    settings.watching.connect_timeout = 3
    settings.watching.server_timeout = 50
    settings.watching.inactivity_timeout = 60
    settings.watching.chunk_size = 500
    settings.queueing.idle_timeout = 0.5
    settings.queueing.exit_timeout = 0.5
    settings.process.ultimate_exiting_timeout = None
    return settings
