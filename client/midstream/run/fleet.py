"""What all workers together answer: status, readiness, lists. Pure functions of their status documents.

A revision counts as serving when the last worker has switched to it. Metrics are merged in `exposition`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Status = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Member:
    """One worker, as the supervisor sees it."""

    worker: int
    pid: int | None
    restarts: int
    status: Status | None
    """None: it is starting."""


def serving(members: Sequence[Member]) -> Mapping[str, str] | None:
    """Return the revision and version that every worker serves; None while they differ or one serves none."""
    served = [member.status["serving"] if member.status else None for member in members]
    first = served[0]
    return first if first is not None and all(one == first for one in served) else None


def status(
    members: Sequence[Member],
    pipeline: str,
    sequence: int,
    rollout: Mapping[str, Any] | None,
    manifest: Mapping[str, Any],
    content: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the document that `GET /status` answers with.

    `content`: the revision that is stable, and its steps and validations, without what only loads them.
    """
    common = serving(members)
    return {
        "pipeline": pipeline,
        "version": common["version"] if common else None,
        "revision": common["revision"] if common else None,
        "ready": not reasons(members),
        "sequence": sequence,
        "rollout": rollout,
        "manifest": manifest,
        "content": content,
        "workers": [
            {
                "worker": member.worker,
                "pid": member.pid,
                "restarts": member.restarts,
                **(member.status or {"ready": False, "serving": None, "revisions": []}),
            }
            for member in members
        ],
    }


def reasons(members: Sequence[Member], *, stopping: bool = False) -> list[str]:
    """Say why not every worker can answer requests; empty when every one can."""
    if stopping:
        return ["stopping: running requests are being finished"]
    found = []
    for member in members:
        if member.status is None:
            found.append(f"worker {member.worker} is starting")
        elif not member.status["ready"]:
            failed = [one for one in member.status["revisions"] if one["reason"]]
            why = f"{failed[0]['reason']}: {failed[0]['message']}" if failed else "is still loading"
            found.append(
                f"worker {member.worker}: {why}" if failed else f"worker {member.worker} {why}"
            )
    return found


def pipelines(members: Sequence[Member], pipeline: str) -> list[dict[str, Any]]:
    """Return what `GET /pipelines` lists."""
    common = serving(members)
    version = common["version"] if common else None
    return [{"id": pipeline, "version": version, "status": "Running" if version else "Error"}]


def models(members: Sequence[Member]) -> list[dict[str, Any]]:
    """Return what `GET /models` lists: the models of what every worker serves."""
    common = serving(members)
    status = members[0].status
    if common is None or status is None:
        return []
    return [
        {
            "sha": model["sha256"],
            "name": model["name"],
            "version": model["version"],
            "status": "Running",
        }
        for one in status["revisions"]
        if one["revision"] == common["revision"]
        for model in one["models"]
    ]


def logs(bodies: Sequence[str]) -> list[dict[str, Any]]:
    """Return what `POST /logs` answers: the rows of all workers, oldest first."""
    rows: list[dict[str, Any]] = [row for body in bodies for row in json.loads(body)]
    return sorted(rows, key=lambda row: float(row["time"]))
