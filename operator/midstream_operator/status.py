"""What is seen of a pipeline becomes its `status`. Pure: the same view gives the same status.

Guarantees: nothing is claimed that was not seen now, but for the times of what was seen before; every list and text
keeps within the contract's bounds.
"""

from midstream_api import names
from midstream_api.status import PipelineStatus, ReplicaStatus
from midstream_operator import conditions, podstatus, readiness, versions
from midstream_operator.observed import Failure
from midstream_operator.view import Facts, View

__all__ = ["View", "describe", "url"]


def describe(view: View) -> PipelineStatus:
    """Return the status to write."""
    if view.spec is None:
        return _unread(view)
    facts = Facts(view, view.spec)
    serving = facts.version
    latest = versions.latest(view.history)
    sidekicks = podstatus.sidekicks(facts.alive)
    return PipelineStatus(
        observed_generation=view.generation,
        url=url(view.name, view.namespace) if facts.deployed else None,
        version=serving,
        latest_version=latest.version if latest else None,
        target_version=facts.target_version,
        replicas=ReplicaStatus(
            desired=facts.desired, ready=len(facts.ready), updated=len(facts.updated)
        ),
        conditions=conditions.update(
            view.previous.conditions,
            readiness.wanted(facts),
            generation=view.generation,
            now=view.now,
        ),
        rollout=view.rollout,
        versions=versions.version_statuses(view.history, serving),
        engines=podstatus.engines(facts.alive, view.name, facts.target_revision),
        engine_count=len(facts.alive),
        engine_lbs=podstatus.plain(facts.balancers),
        sidekicks=podstatus.listed(sidekicks),
        sidekick_count=len(sidekicks) or None,
    )


def _unread(view: View) -> PipelineStatus:
    """Say that the spec cannot be read; nothing was looked at, so the rest stays as it was told last."""
    failure = view.failure or Failure("", "InvalidSpec", "the spec cannot be read", transient=False)
    update = conditions.update(
        view.previous.conditions,
        readiness.unread(failure),
        generation=view.generation,
        now=view.now,
    )
    return view.previous.model_copy(
        update={
            "observed_generation": view.generation,
            "conditions": update,
            "rollout": view.rollout,
        }
    )


def url(name: str, namespace: str) -> str:
    """Return where requests go from inside the cluster."""
    host = f"{name}{names.ENGINE_LB_SUFFIX}.{namespace}.svc"
    return f"http://{host}:{names.ENGINE_LB_PORT}/pipelines/{name}"
