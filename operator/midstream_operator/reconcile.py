"""One pipeline, looked at as a whole: observe, decide, apply, report. The same function serves every trigger.

Level-based: nothing is remembered from call to call but what a restart may forget. The order of writing is what keeps
requests safe: documents before the engines are told of them, and the ConfigMap awaited before any annotation.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from midstream_api import names, version
from midstream_api.pipeline import PipelineSpec
from midstream_api.status import Stage
from midstream_operator import configured, drift, metadata, objects
from midstream_operator.cluster import (
    CONFIG_MAP,
    DEPLOYMENT,
    PIPELINE,
    POD,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    Cluster,
    Kind,
)
from midstream_operator.configured import Configured
from midstream_operator.engines import Engines
from midstream_operator.errors import ClusterError
from midstream_operator.events import Events
from midstream_operator.look import Look
from midstream_operator.metrics import Metrics
from midstream_operator.observed import Failure, Object, Pod
from midstream_operator.queue import Key
from midstream_operator.report import Reporter
from midstream_operator.resolve import Resolver, Unresolved, secrets_of
from midstream_operator.rollout import Nudge, Plan, Situation, decide
from midstream_operator.settings import Settings
from midstream_operator.store import Store
from midstream_operator.wanted import Attempts, Wanted

_OWNED: Mapping[str, Kind] = {
    kind.kind: kind for kind in (CONFIG_MAP, DEPLOYMENT, SERVICE, SERVICE_ACCOUNT)
}
_REFUSALS = (400, 403, 409, 422)
"""What the API server says of an object that it will not have."""
_WATCH_SECONDS = 15.0
"""Between two looks at a pipeline with which all is well: engines may have news that no pod shows."""


@dataclass(slots=True)
class _Memory:
    """What a restart may forget of one pipeline."""

    attempts: Attempts = field(default_factory=Attempts)
    logins: str | None = None
    """Digest of the registry logins that were applied last."""
    generation: int = 0
    seen: float = 0.0
    """When that generation was seen first."""


class Reconciler:
    """Brings what is there to what is wanted, one pipeline at a time."""

    def __init__(
        self, cluster: Cluster, store: Store, settings: Settings, events: Events, metrics: Metrics
    ) -> None:
        self._cluster = cluster
        self._store = store
        self._images = objects.Images(
            settings.engine_image, settings.engine_lb_image, settings.pull_policy
        )
        self._engines = Engines()
        self._wanted = Wanted(cluster, store, Resolver(settings.size_limit))
        self._reporter = Reporter(cluster, store, events, metrics)
        self._memories: dict[Key, _Memory] = {}

    async def __call__(self, key: Key) -> float | None:
        """Do what is next for one pipeline; return in how many seconds to ask again.

        Raises ClusterError where the API server does; the queue backs off.
        """
        pipeline = self._store.get(PIPELINE, key.namespace, key.name)
        if pipeline is None or "deletionTimestamp" in pipeline["metadata"]:
            # What it owned goes by owner references, also while nobody runs here.
            self._memories.pop(key, None)
            return None
        memory = self._memories.setdefault(key, _Memory())
        now, generation = time.time(), pipeline["metadata"]["generation"]
        if memory.generation != generation:
            memory.generation, memory.seen = generation, now
        look = Look.at(pipeline, now=now, seen=memory.seen)
        spec = look.spec()
        if isinstance(spec, Failure):
            await self._reporter.tell(look, spec=None, problem=spec)
            return None
        target, problem = await self._wanted.find(look, spec, memory.attempts)
        waits = [_WATCH_SECONDS]
        if problem is not None and problem.transient:
            waits.append(max(0.1, memory.attempts.again - time.monotonic()))
        history = self._wanted.history(look)
        if not spec.deployed:
            await self._undeploy(look, memory)
            await self._reporter.tell(
                look,
                spec=spec,
                history=history,
                target=target,
                problem=problem,
                pods=[Pod.of(pod) for pod in self._engine_pods(look)],
            )
            return min(waits) if problem is not None else None
        told = configured.read(self._config_map(look), history)
        if target is not None:
            wanted = configured.entry_of(target)
            told.documents[wanted.document] = version.dump(target)
        elif told.index is not None:
            wanted = told.index.stable
        else:
            await self._reporter.tell(look, spec=spec, history=history, problem=problem)
            return min(waits)
        pods = await self._pods(look)
        plan = decide(
            Situation(
                pipeline=key.name,
                uid=look.owner.uid,
                target=wanted,
                index=told.index,
                proven=told.proven,
                pods=pods,
                desired=spec.deployment.replicas,
                allow_schema_change=spec.rollout.allow_schema_change,
                rejected=_rejected(look, wanted.revision),
                now=now,
            )
        )
        refused = await self._apply(look, spec, memory, told, plan, pods)
        problem = problem or refused
        await self._reporter.tell(
            look,
            spec=spec,
            history=history,
            target=target,
            problem=problem,
            index=plan.index or told.index,
            pods=pods,
            plan=plan,
        )
        return min(waits if plan.after is None else [*waits, plan.after])

    async def close(self) -> None:
        """Close the connections to engines."""
        await self._engines.close()

    # What is there

    def _config_map(self, look: Look) -> Object | None:
        name = f"{look.owner.name}{names.ENGINE_SUFFIX}"
        return self._store.get(CONFIG_MAP, look.owner.namespace, name)

    def _engine_pods(self, look: Look) -> list[Object]:
        return [
            pod
            for pod in self._store.owned(POD, look.owner.namespace, look.owner.name)
            if pod["metadata"]["labels"].get("app.kubernetes.io/name") == metadata.ENGINE
        ]

    async def _pods(self, look: Look) -> list[Pod]:
        """Return the engine pods with what they say of themselves."""
        found = self._engine_pods(look)
        alive = [
            ip for pod in found if (ip := _ip(pod)) and "deletionTimestamp" not in pod["metadata"]
        ]
        reports = await self._engines.ask(alive)
        return [Pod.of(pod, reports.get(_ip(pod))) for pod in found]

    # What is written

    async def _apply(
        self,
        look: Look,
        spec: PipelineSpec,
        memory: _Memory,
        told: Configured,
        plan: Plan,
        pods: Sequence[Pod],
    ) -> Failure | None:
        """Write what differs; return what the API server refuses for good, or until somebody changes something."""
        await self._apply_logins(look, spec, memory)
        index = plan.index or told.index
        if index is not None and (plan.index is not None or plan.proven != told.proven):
            data = {entry.document: told.documents[entry.document] for entry in index.entries()}
            made = objects.config_map(look.owner, index, data)
            if plan.proven is not None:
                made["metadata"]["annotations"][names.PROVEN_ANNOTATION] = plan.proven
            await self._cluster.apply(made)
        if plan.assignments:
            told_now = [pod for pod in pods if pod.name in plan.assignments]
            await asyncio.gather(*(self._assign(look, pod, plan) for pod in told_now))
        refused: Failure | None = None
        for made in objects.desired(look.owner, spec, self._images):
            kind = _OWNED[made["kind"]]
            found = self._store.get(kind, look.owner.namespace, made["metadata"]["name"])
            if drift.differs(made, found) is None:
                continue
            try:
                await self._cluster.apply(made)
            except ClusterError as error:
                if error.status not in _REFUSALS:
                    raise
                # Quotas and admission may change their mind, so it is tried again with every look.
                message = f"{made['kind']} {made['metadata']['name']}: {error.message}"
                refused = refused or Failure("", "ApplyRefused", message, transient=True)
        return refused

    async def _assign(self, look: Look, pod: Pod, plan: Plan) -> None:
        said = plan.assignments[pod.name]
        annotations = {
            names.ASSIGNMENT_ANNOTATION: version.dump(said).decode(),
            names.NUDGE_ANNOTATION: Nudge.of(pod).next(time.time(), same=pod.assignment == said),
        }
        try:
            await self._cluster.annotate(POD, look.owner.namespace, pod.name, annotations)
        except ClusterError as error:
            if error.status != 404:  # else it has gone meanwhile
                raise

    async def _apply_logins(self, look: Look, spec: PipelineSpec, memory: _Memory) -> None:
        """Give the engines the logins of the registries that their models come from."""
        if not secrets_of(spec):
            return
        try:
            logins = await self._wanted.logins(look, spec)
        except Unresolved:
            return  # told where the source is resolved; engines keep the logins they have
        made = objects.registry_secret(look.owner, list(logins.values()))
        digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
        if made is not None and digest != memory.logins:
            await self._cluster.apply(made)
            memory.logins = digest

    async def _undeploy(self, look: Look, memory: _Memory) -> None:
        namespace, name = look.owner.namespace, look.owner.name
        for kind in _OWNED.values():
            for each in self._store.owned(kind, namespace, name):
                if "deletionTimestamp" not in each["metadata"]:
                    await self._cluster.delete(kind, namespace, each["metadata"]["name"])
        if memory.logins != "":
            await self._cluster.delete(SECRET, namespace, f"{name}{names.ENGINE_SUFFIX}")
            memory.logins = ""


def _ip(pod: Object) -> str:
    return (pod.get("status") or {}).get("podIP") or ""


def _rejected(look: Look, revision: str) -> Failure | None:
    """Return why the target has failed for good, as the last status tells."""
    last = look.previous.rollout
    if (
        last is None
        or last.reason is None
        or last.stage not in (Stage.FAILED, Stage.ROLLING_BACK)
        or (last.revision, last.generation, last.retry) != (revision, *look.request)
    ):
        return None
    return Failure(revision, last.reason, last.message or "", transient=False)
