"""Pods as `status` lists them: state in one word, why in a few sentences, and what each engine says it serves. Pure."""

import re
from collections.abc import Iterator, Sequence

from midstream_api.status import (
    MAX_LISTED,
    EngineStatus,
    ModelState,
    ModelStatuses,
    PipelineState,
    PipelineStatuses,
    PodStatus,
    SidekickStatus,
)
from midstream_operator import metadata
from midstream_operator.conditions import clipped
from midstream_operator.objects.engine import SIDEKICK
from midstream_operator.observed import Object, Pod, SidekickReport

RUNNING, STARTING, ERROR = "Running", "Starting", "Error"

_MAX_DETAILS = 8
_MAX_TEXT = 1024
_MAX_NAME = 253
_MAX_MODELS = 64
_ID = 8
"""Characters of a digest that stand for a model's code in a name."""
_SIDEKICK_PREFIX = "engine-sidekick"
_SIDEKICK_CONTAINER = re.compile(rf"container {SIDEKICK} (\w+)")
_CONTAINER = re.compile(r"container \S+ (\w+)")
_NOT_WRONG = frozenset({"ContainerCreating", "PodInitializing", "waiting"})
"""Reasons of a container that has not run yet and has nothing to complain of."""


def alive(pods: Sequence[Pod]) -> list[Pod]:
    """Return the pods that are not going away, oldest first."""
    return sorted(
        (pod for pod in pods if not pod.deleting), key=lambda pod: (pod.created, pod.name)
    )


def plain(pods: Sequence[Pod]) -> list[PodStatus]:
    """List pods that give no report of their own."""
    return [
        PodStatus(
            ip=pod.ip,
            name=pod.name,
            status=_state(pod),
            reason=_container_reason(pod),
            details=_details(pod.details),
        )
        for pod in _listed(pods)
    ]


def engines(pods: Sequence[Pod], pipeline: str, target: str | None) -> list[EngineStatus]:
    """List engines; target: the revision whose failure is an engine's reason."""
    return [_engine(pod, pipeline, target) for pod in _listed(pods)]


def sidekicks(pods: Sequence[Pod]) -> list[SidekickStatus]:
    """List the processes of Python models, those of one model in one engine together; engines as they are given."""
    return [each for pod in pods for each in _sidekicks(pod)]


def listed(found: Sequence[SidekickStatus]) -> list[SidekickStatus]:
    """Cut the list; where there are too many, those that do not run are worth more."""
    chosen = sorted(range(len(found)), key=lambda at: found[at].status == RUNNING)[:MAX_LISTED]
    return [found[at] for at in sorted(chosen)]


def _sidekicks(pod: Pod) -> Iterator[SidekickStatus]:
    own = pod.name.rpartition(f"-{metadata.ENGINE}-")[2]
    for detail in pod.details:
        # Their container, where they have one and it does not run: what its engine says may be of before.
        said = _SIDEKICK_CONTAINER.match(detail)
        if said:
            wrong = said[1] not in _NOT_WRONG
            yield SidekickStatus(
                ip=pod.ip,
                name=_name(f"{_SIDEKICK_PREFIX}-{own}"),
                status=ERROR if wrong else STARTING,
                reason=said[1] if wrong else None,
                details=_details([detail]),
            )
    together: dict[tuple[str, str], list[SidekickReport]] = {}
    for worker in pod.report.sidekicks if pod.report is not None else ():
        together.setdefault((worker.model, worker.sha256), []).append(worker)
    for (model, sha256), workers in together.items():
        states = {worker.status for worker in workers}
        reasons = [worker.reason for worker in workers if worker.reason]
        restarts = sum(worker.restarts for worker in workers)
        lines = "".join(f"{worker.name}: {worker.status}\n" for worker in workers)
        yield SidekickStatus(
            ip=pod.ip,
            name=_name(f"{_SIDEKICK_PREFIX}-{model}-{sha256[:_ID]}-{own}"),
            # One that runs answers.
            status=next((state for state in (RUNNING, STARTING) if state in states), ERROR),
            reason=clipped(reasons[0], _MAX_TEXT) if reasons else None,
            details=[f"restarts: {restarts}"] if restarts else [],
            statuses=clipped(lines, _MAX_TEXT),
        )


def _name(text: str) -> str:
    """Return what the contract has room for, from the end: that is what differs."""
    return text[-_MAX_NAME:]


def is_rolled_out(deployment: Object) -> bool:
    """Whether Kubernetes has replaced every pod of a Deployment that it has to replace."""
    status = deployment.get("status") or {}
    replicas = (deployment.get("spec") or {}).get("replicas", 1)
    return bool(
        (status.get("observedGeneration") or 0) >= deployment["metadata"].get("generation", 0)
        and (status.get("updatedReplicas") or 0) == replicas
        and (status.get("replicas") or 0) == replicas
        # Ready for a moment, where the Deployment asks for one: until then no node may know the pod's address.
        and (status.get("availableReplicas") or 0) >= replicas
    )


def _listed(pods: Sequence[Pod]) -> list[Pod]:
    """Where there are too many, those that do not run are worth more."""
    chosen = sorted(pods, key=lambda pod: _state(pod) == RUNNING)[:MAX_LISTED]
    return [pod for pod in pods if pod in chosen]


def _state(pod: Pod) -> str:
    if pod.ready:
        return RUNNING
    return ERROR if _container_reason(pod) is not None or _failed(pod) else STARTING


def _failed(pod: Pod) -> bool:
    """It serves nothing, and says why."""
    report = pod.report
    if report is None or report.serving is not None:
        return False
    return any(one.failed for one in report.revisions.values())


def _container_reason(pod: Pod) -> str | None:
    for detail in pod.details:
        found = _CONTAINER.match(detail)
        if found and found[1] not in _NOT_WRONG:
            return found[1]
    return None


def _details(texts: Sequence[str]) -> list[str]:
    return [clipped(text, _MAX_TEXT) for text in texts[:_MAX_DETAILS]]


def _engine(pod: Pod, pipeline: str, target: str | None) -> EngineStatus:
    report = pod.report
    reason, details = _container_reason(pod), list(pod.details)
    pipelines: list[PipelineState] = []
    models: list[ModelState] = []
    if report is not None:
        said = report.revisions.get(target or "")
        if said is not None and said.failed:
            reason = said.reason
            details.append(said.message or "")
        elif not report.config_accepted and report.config_reason is not None:
            reason = report.config_reason
            details.append(report.config_message or "")
        state = RUNNING if report.serving else ERROR if _failed(pod) else STARTING
        pipelines = [PipelineState(id=pipeline, status=state, version=report.serving_version)]
        serving = report.revisions.get(report.serving or "")
        models = [
            ModelState(
                name=each["name"],
                version=each.get("version"),
                sha=each["sha256"],
                status=RUNNING,
            )
            for each in (serving.models if serving else ())[:_MAX_MODELS]
        ]
    return EngineStatus(
        ip=pod.ip,
        name=pod.name,
        status=_state(pod),
        reason=clipped(reason, _MAX_TEXT) if reason else None,
        details=_details([text for text in details if text]),
        pipeline_statuses=PipelineStatuses(pipelines=pipelines),
        model_statuses=ModelStatuses(models=models),
    )
