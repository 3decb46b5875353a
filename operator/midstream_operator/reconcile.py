"""One pipeline, looked at as a whole: observe, decide, apply, report. The same function serves every trigger.

Level-based: nothing is remembered from call to call but what a restart may forget. The order of writing is what keeps
requests safe: documents before the engines are told of them, and the ConfigMap awaited before any annotation.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from midstream_api import names, version
from midstream_api.engineconfig import IndexEntry, RevisionDocument
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
from midstream_operator.resolve import Resolver, Unresolved, logins_in, secrets_of
from midstream_operator.rollout import Nudge, Plan, Situation, decide
from midstream_operator.settings import Settings
from midstream_operator.store import Store
from midstream_operator.versions import Recorded
from midstream_operator.wanted import Attempts, Wanted

_OWNED: Mapping[str, Kind] = {
    kind.kind: kind for kind in (CONFIG_MAP, DEPLOYMENT, SERVICE, SERVICE_ACCOUNT)
}
_REFUSALS = (400, 403, 409, 422)
"""What the API server says of an object that it will not have."""
_WATCH_SECONDS = 15.0
"""Between two looks at a pipeline with which all is well: engines may have news that no pod shows."""
_LOGIN_SECONDS = 10.0
"""Between two looks at the Secrets, which are not watched."""


Tell = Callable[..., Awaitable[None]]
"""`Reporter.tell` with what is known of the look."""


@dataclass(slots=True)
class _Memory:
    """What a restart may forget of one pipeline."""

    uid: str
    """Of the object; one that is made again under the same name begins anew."""
    attempts: Attempts = field(default_factory=Attempts)
    logged_in: int = 0
    """Generation for which the logins at registries were looked after last."""
    login: float = 0.0
    """When to look after them again, on the monotonic clock."""
    has_secret: bool = True
    """The engines may have a Secret."""
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
        memory = self._memories.get(key)
        if memory is None or memory.uid != pipeline["metadata"]["uid"]:
            memory = self._memories[key] = _Memory(pipeline["metadata"]["uid"])
        now, generation = time.time(), pipeline["metadata"]["generation"]
        if memory.generation != generation:
            memory.generation, memory.seen = generation, now
        look = Look.at(pipeline, now=now, seen=memory.seen)
        spec, wrong = look.spec()
        if spec is None:
            await self._reporter.tell(look, spec=None, problem=wrong)
            return None
        target, problem = await self._wanted.find(look, spec, wrong, memory.attempts)
        waits = [_WATCH_SECONDS]
        if problem is not None and problem.transient:
            waits.append(max(0.1, memory.attempts.again - time.monotonic()))
        history = self._wanted.history(look)
        tell = partial(
            self._reporter.tell,
            look,
            spec=spec,
            history=history,
            target=target,
            # A pinned version is wanted whatever becomes of the steps.
            steps_problem=problem if target is not None else None,
        )
        if not spec.deployed:
            await self._undeploy(look, memory)
            pods = [Pod.of(pod) for pod in self._engine_pods(look)]
            await tell(problem=None if target is not None else problem, pods=pods)
            return min(waits) if problem is not None else None
        plan = await self._serve(look, spec, memory, history, target, problem, tell)
        return min(waits if plan is None or plan.after is None else [*waits, plan.after])

    async def _serve(
        self,
        look: Look,
        spec: PipelineSpec,
        memory: _Memory,
        history: Sequence[Recorded],
        target: RevisionDocument | None,
        problem: Failure | None,
        tell: Tell,
    ) -> Plan | None:
        """Bring the engines a step nearer to the target; None when nothing can be done."""
        told = configured.read(self._config_map(look), history)
        if target is not None:
            problem, wanted = None, configured.entry_of(target)
            told.documents[wanted.document] = version.dump(target)
        elif told.index is not None:
            wanted = told.index.stable
        else:
            await tell(problem=problem)
            return None
        pods = await self._pods(look)
        over = {pod["metadata"]["name"] for pod in self._engine_pods(look) if _is_over(pod)}
        plan = decide(
            Situation(
                pipeline=look.owner.name,
                uid=look.owner.uid,
                target=wanted,
                index=told.index,
                proven=told.proven,
                pods=[pod for pod in pods if pod.name not in over],
                desired=spec.deployment.replicas,
                allow_schema_change=spec.rollout.allow_schema_change,
                rejected=_rejected(look, wanted.revision),
                now=look.now,
                asked_again=_asked_again(look, wanted.revision),
                known=_entries(history) if told.index is None else {},
            )
        )
        seen = partial(tell, index=plan.index or told.index, pods=pods, plan=plan)
        gives_up = plan.failure is not None and not plan.failure.transient
        if gives_up and plan.index is not None:
            # First, so that whoever goes on here after an end in between knows that the candidate has failed.
            await seen(problem=problem)
        others = told.index is not None and any(
            entry.revision != wanted.revision for entry in told.index.entries()
        )
        await self._apply_logins(look, spec, memory, keep=others or bool(spec.version))
        refused = await self._apply(look, spec, told, plan, pods)
        if not (gives_up and plan.index is not None):
            await seen(problem=problem or refused)
        return plan

    async def close(self) -> None:
        """Close the connections to engines."""
        await self._engines.close()

    # What is there

    def _config_map(self, look: Look) -> Object | None:
        return self._store.get(CONFIG_MAP, look.owner.namespace, look.owner.engine)

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
            ip
            for pod in found
            if (ip := _ip(pod)) and "deletionTimestamp" not in pod["metadata"] and not _is_over(pod)
        ]
        reports = await self._engines.ask(alive)
        # The address of a pod that is over may be another one's by now.
        return [Pod.of(pod, None if _is_over(pod) else reports.get(_ip(pod))) for pod in found]

    # What is written

    async def _apply(
        self,
        look: Look,
        spec: PipelineSpec,
        told: Configured,
        plan: Plan,
        pods: Sequence[Pod],
    ) -> Failure | None:
        """Write what differs; return what the API server refuses for good, or until somebody changes something."""
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
        try:
            desired = objects.desired(look.owner, spec, self._images)
        except ValueError as error:  # a quantity that the CRD lets through and Kubernetes would not
            return Failure("", "InvalidSpec", f"spec.deployment: {error}", transient=False)
        for made in desired:
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

    async def _apply_logins(
        self, look: Look, spec: PipelineSpec, memory: _Memory, *, keep: bool
    ) -> None:
        """Give the engines the logins of the registries that their models come from.

        `keep`: those that they have stay too, for a revision that is not that of the steps may need them.
        """
        now = time.monotonic()
        if not secrets_of(spec) or (look.generation == memory.logged_in and now < memory.login):
            return
        memory.logged_in, memory.login = look.generation, now + _LOGIN_SECONDS
        try:
            logins = await self._wanted.logins(look, spec)
        except Unresolved:
            return  # told where the source is resolved; engines keep the logins they have
        found = await self._cluster.get(SECRET, look.owner.namespace, look.owner.engine)
        former = [logins_in(found)] if keep and found is not None else []
        made = objects.registry_secret(look.owner, [*logins.values(), *former])
        if made is not None and drift.differs(made, found) is not None:
            await self._cluster.apply(made)
            memory.has_secret = True

    async def _undeploy(self, look: Look, memory: _Memory) -> None:
        namespace, name = look.owner.namespace, look.owner.name
        for kind in _OWNED.values():
            for each in self._store.owned(kind, namespace, name):
                if "deletionTimestamp" not in each["metadata"]:
                    await self._cluster.delete(kind, namespace, each["metadata"]["name"])
        if memory.has_secret:
            await self._cluster.delete(SECRET, namespace, look.owner.engine)
            memory.has_secret = False


def _ip(pod: Object) -> str:
    return (pod.get("status") or {}).get("podIP") or ""


def _is_over(pod: Object) -> bool:
    """It was evicted, or has ended: it never comes back, and may stay on the list for ever."""
    return (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded")


def _entries(history: Sequence[Recorded]) -> dict[str, IndexEntry]:
    return {each.revision: configured.entry_of(each.document) for each in history}


def _asked_again(look: Look, revision: str) -> bool:
    """Whether the revision had failed for good, and somebody has changed something since."""
    last = look.previous.rollout
    return (
        last is not None
        and last.stage is Stage.FAILED
        and last.revision == revision
        and (last.generation, last.retry) != look.request
    )


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
