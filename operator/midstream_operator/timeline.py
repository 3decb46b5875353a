"""When each stage of a swap was reached: `status.rollout`, worked out from plan to plan. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime

from midstream_api.status import RolloutStatus, Stage, StageTimes
from midstream_operator.conditions import MAX_MESSAGE, clipped
from midstream_operator.observed import Pod, RevisionReport
from midstream_operator.rollout import Plan


def written(seconds: float) -> str:
    """Seconds since 1970 as RFC 3339 with milliseconds, in UTC."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def begin(
    last: RolloutStatus | None,
    *,
    generation: int,
    seen: float,
    retry: str | None,
    revision: str | None = None,
) -> RolloutStatus:
    """Return the status of the change that is under way, or of one that has just been seen.

    `revision`: where it goes; None while that is not known.
    """
    if last is not None:
        asked_before = (last.generation, last.retry) == (generation, retry)
        goes_there = revision is None or last.revision in (None, revision)
        goes_on = last.revision == revision and last.reason is None and last.stage is not Stage.DONE
        if (asked_before and goes_there) or goes_on:
            return last.model_copy(update={"generation": generation, "retry": retry})
    return RolloutStatus(
        stage=Stage.RESOLVING,
        generation=generation,
        retry=retry,
        stages=StageTimes(seen=written(seen)),
    )


def advance(
    status: RolloutStatus,
    plan: Plan,
    pods: Sequence[Pod],
    *,
    revision: str,
    version: str,
    stable: str,
    now: float,
) -> RolloutStatus:
    """Return the status with the stages that have been reached by now. A stage keeps its first time."""
    reached = _reached(pods, revision, stable, now)
    known = status.stages.model_dump(exclude_none=True)
    return status.model_copy(
        update={
            "stage": plan.stage,
            "revision": revision,
            "version": version,
            "canary": plan.canary or status.canary,
            "reason": plan.failure.reason if plan.failure else None,
            "message": clipped(plan.failure.message, MAX_MESSAGE) if plan.failure else None,
            "stages": StageTimes(**{**reached, **known}),
        }
    )


def _reached(pods: Sequence[Pod], revision: str, stable: str, now: float) -> dict[str, str]:
    waited_for = [pod for pod in pods if not pod.deleting and (pod.ready or pod.report)]
    reports = [pod.report for pod in waited_for if pod.report is not None]
    reached: dict[str, str] = {}
    ready = [report for report in reports if report.ready(revision)]
    if ready:
        # The first to be ready is the canary; what came before is counted back from now.
        said = ready[0].revisions.get(revision)
        reached |= _loading(said, now) if said is not None else {}
    if any(report.serving == revision for report in reports):
        reached["canary"] = written(now)
    everybody = bool(waited_for) and len(reports) == len(waited_for)
    if everybody and len(ready) == len(reports):
        reached["prepared"] = written(now)
    if everybody and all(report.serving == revision for report in reports):
        reached["serving"] = written(now)
        if stable == revision:
            reached["promoted"] = written(now)
    return reached


def _loading(report: RevisionReport, now: float) -> dict[str, str]:
    """Count back from the moment at which the engine was seen ready, by how long each stage took there."""
    took = {name: ms / 1e3 for name, ms in report.stages.items()}
    loaded = now - took.get("warmed", 0.0) - took.get("verified", 0.0)
    verified = loaded - took.get("built", 0.0)
    fetched = verified - took.get("hashed", 0.0)
    return {
        "fetched": written(fetched),
        "verified": written(verified),
        "loaded": written(loaded),
        "warmed": written(now),
    }
