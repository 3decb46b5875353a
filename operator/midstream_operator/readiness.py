"""Which conditions a pipeline is in: `Available`, `Ready`, and while they are true the others. Pure.

Whoever waits for `Ready` waits for the wanted version on every replica and for nothing under way. Whatever is not
ready is either on its way (`Reconciling`: it needs nobody) or over (`Stalled`: it needs another spec).
"""

from dataclasses import replace

from midstream_api.status import ConditionType, Stage, Truth
from midstream_operator import podstatus, versions
from midstream_operator.conditions import Reason, Wanted
from midstream_operator.observed import Failure
from midstream_operator.view import Facts, of

_STAGES = {
    Stage.RESOLVING: Reason.RESOLVING,
    Stage.STARTING: Reason.STARTING,
    Stage.CANARY: Reason.ROLLING_OUT,
    Stage.PREPARING: Reason.ROLLING_OUT,
    Stage.SERVING: Reason.ROLLING_OUT,
    Stage.PROMOTING: Reason.ROLLING_OUT,
    Stage.ROLLING_BACK: Reason.ROLLING_BACK,
}


def wanted(facts: Facts) -> list[Wanted]:
    """Return the conditions to set."""
    ready = _ready(facts)
    found = [_available(facts), ready]
    if ready.status == "False":
        kind = ConditionType.STALLED if facts.stalled else ConditionType.RECONCILING
        found.append(Wanted(kind, "True", ready.reason, ready.message))
    if facts.pinned:
        said = _pinned(facts, facts.pinned)
        if (failure := facts.view.steps_failure) is not None:
            text = f"{said.message}; the steps cannot be used ({failure.reason}): {failure.message}"
            said = replace(said, message=text)
        found.append(said)
    return found


def unread(failure: Failure) -> list[Wanted]:
    """Return the conditions of a pipeline whose spec cannot be read: nothing else was looked at."""
    text = f"{failure.message}; what serves goes on serving"
    return [
        Wanted(ConditionType.AVAILABLE, "Unknown", failure.reason, text),
        _not_ready(failure.reason, text),
        Wanted(ConditionType.STALLED, "True", failure.reason, text),
    ]


def _available(facts: Facts) -> Wanted:
    """Requests are answered: a load balancer and an engine are ready."""

    def say(status: Truth, reason: str, message: str) -> Wanted:
        return Wanted(ConditionType.AVAILABLE, status, reason, message)

    view = facts.view
    if not facts.deployed:
        return say("False", Reason.UNDEPLOYED, "deployed is false; no request is answered")
    if view.index is None and not facts.alive:
        return say("False", Reason.NOT_DEPLOYED, "no engine has been started yet")
    engines = of(len(facts.ready), facts.desired, "engine")
    balancers = of(len(facts.ready_balancers), facts.desired_balancers, "load balancer")
    counts = f"{engines} and {balancers} ready"
    if not facts.ready:
        return say("False", Reason.NO_ENGINE_READY, counts + facts.trouble())
    if not facts.ready_balancers:
        return say("False", Reason.LOAD_BALANCER_NOT_READY, counts + facts.trouble())
    return say("True", Reason.ENGINES_READY, counts)


def _ready(facts: Facts) -> Wanted:
    """The wanted version serves on every replica, and nothing is under way."""
    view = facts.view
    if view.failure is not None:
        return _not_ready(view.failure.reason, f"{view.failure.message}; {_meanwhile(facts)}")
    if not facts.deployed:
        stopping = len(view.pods) + len(view.lb_pods)
        if stopping:
            text = f"{stopping} pod{'s are' if stopping > 1 else ' is'} still stopping"
            return _not_ready(Reason.UNDEPLOYING, text)
        text = f"deployed is false and nothing runs; {_of_versions(facts)}"
        return Wanted(ConditionType.READY, "True", Reason.UNDEPLOYED, text)
    way = _under_way(facts)
    if way is not None:
        return way
    return Wanted(
        ConditionType.READY,
        "True",
        Reason.SERVING,
        f"version {facts.target_version} serves on {facts.counted()}",
    )


def _under_way(facts: Facts) -> Wanted | None:
    """Return what is still to happen; None when all is done."""
    view, rollout = facts.view, facts.view.rollout
    if rollout is not None and rollout.stage is Stage.FAILED:
        reason = rollout.reason or Reason.ROLLING_BACK
        return _not_ready(reason, f"{rollout.message or reason}; {_meanwhile(facts)}")
    stage = rollout.stage if rollout is not None else Stage.STARTING
    if stage is not Stage.DONE:
        first = f" on {rollout.canary} first" if rollout is not None and rollout.canary else ""
        text = f"version {facts.target_version} serves on {facts.counted()}, stage {stage}{first}"
        if facts.target_version is None:
            text = "the models' sources are asked what they hold"
        return _not_ready(_STAGES[stage], text + facts.trouble())
    if len(facts.updated) != facts.desired or len(facts.ready) != facts.desired:
        text = f"version {facts.target_version} serves on {facts.counted()}"
        text += f"; engines ready: {len(facts.ready)}, wanted: {facts.desired}"
        return _not_ready(Reason.SCALING, text + facts.trouble())
    replacing = [each for each in view.deployments if not podstatus.is_rolled_out(each)]
    if replacing:
        named = ", ".join(each["metadata"]["name"] for each in replacing)
        return _not_ready(
            Reason.REPLACING_PODS, f"Kubernetes replaces pods of {named}{facts.trouble()}"
        )
    if len(facts.ready_balancers) < facts.desired_balancers:
        text = of(len(facts.ready_balancers), facts.desired_balancers, "load balancer")
        return _not_ready(Reason.LOAD_BALANCER_NOT_READY, f"{text} ready{facts.trouble()}")
    return None


def _not_ready(reason: str, message: str) -> Wanted:
    return Wanted(ConditionType.READY, "False", reason, message)


def _meanwhile(facts: Facts) -> str:
    """Say what callers get while the wanted version does not serve."""
    serving = facts.version
    if serving is None or not facts.ready:
        return "nothing serves"
    count = of(min(len(facts.ready), facts.desired), facts.desired, "replica")
    return f"version {serving} serves on {count}"


def _of_versions(facts: Facts) -> str:
    count = len({one.version for one in facts.view.history})
    return "no version is recorded" if not count else f"versions recorded: {count}"


def _pinned(facts: Facts, pinned: str) -> Wanted:
    latest = versions.latest(facts.view.history)
    found = versions.by_version(facts.view.history, pinned)
    said = f"spec.version holds version {pinned}"
    said += f" (revision {found.number})" if found else ", which is not recorded"
    if latest is not None:
        is_latest = latest.version == pinned
        said += (
            ", which is the latest"
            if is_latest
            else f"; the latest is {latest.version} (revision {latest.number}), and does not serve"
        )
    return Wanted(ConditionType.PINNED, "True", Reason.VERSION_PINNED, said)
