"""Everything that is seen of one pipeline, and what follows from it at once. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from midstream_api import version
from midstream_api.engineconfig import Index, RevisionDocument
from midstream_api.pipeline import PipelineSpec
from midstream_api.status import PipelineStatus, RolloutStatus, Stage
from midstream_operator import podstatus
from midstream_operator.observed import Failure, Object, Pod
from midstream_operator.versions import Recorded


@dataclass(frozen=True, slots=True)
class View:
    """Everything that is seen of one pipeline."""

    name: str
    namespace: str
    generation: int
    spec: PipelineSpec | None
    """None: it cannot be read, and `failure` says why."""
    previous: PipelineStatus
    """For the times at which conditions changed, and for what serves while no engine answers."""
    history: Sequence[Recorded]
    index: Index | None
    """What the engines' folder says."""
    target: RevisionDocument | None
    """What is wanted everywhere; None: not known, or nothing."""
    pods: Sequence[Pod]
    """Of engines, with their reports."""
    lb_pods: Sequence[Pod]
    rollout: RolloutStatus | None
    failure: Failure | None
    """Why the target does not serve, or cannot be known."""
    now: str
    """RFC 3339."""
    steps_failure: Failure | None = None
    """Why the steps lead to no revision, while another one is pinned."""
    deployments: Sequence[Object] = ()
    """Those of the pipeline, to see whether Kubernetes still replaces pods."""


class Facts:
    """What follows from a view."""

    def __init__(self, view: View, spec: PipelineSpec) -> None:
        self.view = view
        self.deployed = spec.deployed
        self.pinned = spec.version
        self.desired = spec.deployment.replicas if spec.deployed else 0
        self.desired_balancers = spec.deployment.engine_lb.replicas if spec.deployed else 0
        self.alive = podstatus.alive(view.pods)
        self.balancers = podstatus.alive(view.lb_pods)
        self.ready = [pod for pod in self.alive if pod.ready]
        self.ready_balancers = [pod for pod in self.balancers if pod.ready]
        self.target_revision = version.revision_id(view.target) if view.target else None
        self.updated = [pod for pod in self.ready if self._serves_target(pod)]

    @property
    def target_version(self) -> str | None:
        if self.view.target is not None:
            return self.view.target.version
        return self.pinned or None

    @property
    def version(self) -> str | None:
        """The version that serves; during a rollout the one it comes from."""
        index = self.view.index
        if not self.deployed or index is None:
            return None
        said = {pod.report.serving_version for pod in self.alive if pod.report is not None} - {None}
        if len(said) == 1:
            return said.pop()
        if said or self.view.previous.version == index.stable.version:
            return index.stable.version
        return None

    @property
    def stalled(self) -> bool:
        """Nothing more happens until the spec changes."""
        failure, rollout = self.view.failure, self.view.rollout
        if failure is not None:
            return not failure.transient
        return self.deployed and rollout is not None and rollout.stage is Stage.FAILED

    def _serves_target(self, pod: Pod) -> bool:
        index = self.view.index
        if pod.report is not None:
            return self.target_revision is not None and pod.report.serving == self.target_revision
        # It is ready and did not answer just now. Where its folder holds the target alone, it serves nothing else.
        return (
            index is not None
            and index.candidate is None
            and index.stable.revision == self.target_revision
            and (self.view.rollout is None or self.view.rollout.stage is Stage.DONE)
        )

    def counted(self) -> str:
        """`2 of 3 replicas`."""
        return of(min(len(self.updated), self.desired), self.desired, "replica")

    def trouble(self) -> str:
        """Say of a pod that is not ready why; empty when there is none, or it does not say."""
        for pod in [*self.alive, *self.balancers]:
            if not pod.ready and pod.details:
                return f"; pod {pod.name}: {pod.details[0]}"
        return ""


def of(count: int, whole: int, noun: str) -> str:
    """`2 of 3 replicas`."""
    return f"{count} of {whole} {noun}{'' if whole == 1 else 's'}"
