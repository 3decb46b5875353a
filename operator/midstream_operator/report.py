"""What is told of a pipeline: its status, written when it changes, and Events for what a person cares about."""

from collections.abc import Sequence

from midstream_api import names
from midstream_api.engineconfig import Index, RevisionDocument
from midstream_api.pipeline import PipelineSpec
from midstream_api.status import PipelineStatus, RolloutStatus, Stage
from midstream_api.version import revision_id
from midstream_operator import timeline
from midstream_operator.cluster import DEPLOYMENT, PIPELINE, POD, Cluster
from midstream_operator.conditions import MAX_MESSAGE, clipped
from midstream_operator.events import Events
from midstream_operator.look import Look
from midstream_operator.metadata import ENGINE_LB
from midstream_operator.metrics import Metrics
from midstream_operator.observed import Failure, Pod
from midstream_operator.rollout import Plan
from midstream_operator.status import describe
from midstream_operator.store import Store
from midstream_operator.versions import Recorded
from midstream_operator.view import View


class Reporter:
    """Writes status and Events."""

    def __init__(self, cluster: Cluster, store: Store, events: Events, metrics: Metrics) -> None:
        self._cluster = cluster
        self._store = store
        self._events = events
        self._metrics = metrics

    async def tell(
        self,
        look: Look,
        *,
        spec: PipelineSpec | None,
        history: Sequence[Recorded] = (),
        target: RevisionDocument | None = None,
        problem: Failure | None = None,
        steps_problem: Failure | None = None,
        index: Index | None = None,
        pods: Sequence[Pod] = (),
        plan: Plan | None = None,
    ) -> None:
        """Write what has changed since the last time.

        `problem`: why there is no target, or what the API server refuses. `steps_problem`: why the steps lead to no
        revision, while another one is pinned.
        """
        owner = look.owner
        failure = plan.failure if plan is not None else None
        if failure is None or (problem is not None and failure.transient):
            failure = problem or failure
        view = View(
            name=owner.name,
            namespace=owner.namespace,
            generation=look.generation,
            spec=spec,
            previous=look.previous,
            history=tuple(history),
            index=index,
            target=target,
            pods=tuple(pods),
            lb_pods=tuple(
                Pod.of(pod)
                for pod in self._store.owned(POD, owner.namespace, owner.name)
                if pod["metadata"]["labels"].get("app.kubernetes.io/name") == ENGINE_LB
            ),
            rollout=_rollout(look, target, problem, index, pods, plan),
            failure=failure,
            steps_failure=steps_problem,
            now=timeline.written(look.now),
            deployments=self._store.owned(DEPLOYMENT, owner.namespace, owner.name),
        )
        status = describe(view)
        self._post(look, status)
        self._post_problem(look, steps_problem if plan is None else problem or steps_problem)
        body = status.model_dump(mode="json", by_alias=True, exclude_none=True)
        if body == look.pipeline.get("status"):
            return
        now = self._store.get(PIPELINE, owner.namespace, owner.name)
        if now is None or now["metadata"]["uid"] != owner.uid:
            return  # deleted meanwhile; one that was made again has not been looked at yet
        await self._cluster.apply_status(
            {
                "apiVersion": names.API_VERSION,
                "kind": names.PIPELINE_KIND,
                "metadata": {"name": owner.name, "namespace": owner.namespace},
                "status": body,
            }
        )

    def _post_problem(self, look: Look, problem: Failure | None) -> None:
        """Tell of what is wrong beside the rollout, once for each generation."""
        if problem is not None:
            text = clipped(problem.message, MAX_MESSAGE)
            self._events.post(look.pipeline, "Warning", problem.reason, text, "Reconcile")

    def _post(self, look: Look, status: PipelineStatus) -> None:
        now, before = status.rollout, look.previous.rollout
        if now is None or _told(now) == _told(before):
            return
        if now.reason is not None:
            self._events.post(look.pipeline, "Warning", now.reason, now.message or "", "Rollout")
            if now.stage is Stage.FAILED:
                self._metrics.rolled_back(now.reason)
        elif now.stage is Stage.CANARY:
            said = f"version {now.version} goes to pod {now.canary} first"
            self._events.post(look.pipeline, "Normal", "SwapStarted", said, "Rollout")
        elif now.stage is Stage.DONE:
            said = f"version {now.version} serves on every replica"
            self._events.post(look.pipeline, "Normal", "Serving", said, "Rollout")
            self._metrics.swapped(now)


def _told(status: RolloutStatus | None) -> tuple[object, ...] | None:
    if status is None:
        return None
    return status.stage, status.reason, status.revision, status.generation, status.retry


def _rollout(
    look: Look,
    target: RevisionDocument | None,
    problem: Failure | None,
    index: Index | None,
    pods: Sequence[Pod],
    plan: Plan | None,
) -> RolloutStatus | None:
    last = look.previous.rollout
    if problem is not None and (target is None or plan is None):
        begun = timeline.begin(last, generation=look.generation, seen=look.seen, retry=look.retry)
        stage = Stage.RESOLVING if problem.transient else Stage.FAILED
        # No revision: where it goes is not known, and none has failed.
        told = {
            "stage": stage,
            "reason": problem.reason,
            "message": clipped(problem.message, MAX_MESSAGE),
            "revision": None,
        }
        return begun.model_copy(update=told)
    if target is None or plan is None or index is None:
        return last
    revision = revision_id(target)
    if last is not None and last.revision == revision:
        settled = plan.stage in (Stage.DONE, Stage.STARTING) and last.stage is Stage.DONE
        if settled:
            return last  # only replicas come and go
    begun = timeline.begin(
        last, revision=revision, generation=look.generation, seen=look.seen, retry=look.retry
    )
    return timeline.advance(
        begun,
        plan,
        pods,
        revision=revision,
        version=target.version,
        stable=index.stable.revision,
        now=look.now,
    )
