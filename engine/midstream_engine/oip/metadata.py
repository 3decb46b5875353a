"""What the protocol tells of the server and of the pipeline. Pure functions of `GET /status`' document.

The document may be one engine's, or that of `midstream run`, which lists its workers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from midstream_api import __version__
from midstream_engine.oip.datatypes import DATATYPES

Status = Mapping[str, Any]
Said = tuple[int, dict[str, Any]]
"""HTTP status code, and what to answer as JSON."""

PLATFORM = "midstream"


@dataclass(frozen=True, slots=True)
class _Served:
    version: str
    inputs: Sequence[Mapping[str, Any]]
    outputs: Sequence[Mapping[str, Any]]


def server() -> dict[str, Any]:
    """What `GET /v2` says."""
    return {"name": "midstream", "version": __version__, "extensions": ["binary_tensor_data"]}


def model(status: Status, name: str, version: str | None = None) -> Said:
    """What `GET /v2/models/{name}[/versions/{version}]` says."""
    served = _find(status, name, version)
    if not isinstance(served, _Served):
        return served
    return 200, {
        "name": name,
        "versions": sorted({each.version for each in _served(status)}),
        "platform": PLATFORM,
        "inputs": [_tensor(field) for field in served.inputs],
        "outputs": [_tensor(field) for field in served.outputs],
    }


def model_ready(status: Status, name: str, version: str | None = None) -> Said:
    """What `GET /v2/models/{name}[/versions/{version}]/ready` says."""
    served = _find(status, name, version)
    if not isinstance(served, _Served):
        return served
    ready = bool(status["ready"])
    return (200 if ready else 503), {"name": name, "ready": ready}


def _find(status: Status, name: str, version: str | None) -> "_Served | Said":
    """What serves, or why it is not what was asked for."""
    pipeline = status["pipeline"]
    if pipeline is not None and name != pipeline:
        return 404, {
            "error": f"no pipeline {name[:60]!r} here; this engine serves {pipeline!r}",
            "reason": "UnknownPipeline",
        }
    served = _served(status)
    if not served:
        return 503, {
            "error": f"nothing serves yet of {name[:60]!r}; /readyz says why",
            "reason": "NotReady",
        }
    if version is None:
        return served[0]
    for each in served:
        if each.version == version:
            return each
    return 404, {
        "error": f"version {version[:60]!r} of {name!r} does not serve here, {served[0].version!r} does; "
        "leave the version out to take what serves",
        "reason": "UnknownVersion",
    }


def _served(status: Status) -> list[_Served]:
    """What serves: of each worker, where there are several."""
    return [
        _Served(revision["version"], revision["inputs"] or (), revision["outputs"] or ())
        for one in status.get("workers", [status])
        if (serving := one.get("serving"))
        for revision in one["revisions"]
        if revision["revision"] == serving["revision"]
    ]


def _tensor(field: Mapping[str, Any]) -> dict[str, Any]:
    lengths = [-1 if length is None else length for length in field["shape"]]
    return {
        "name": field["name"],
        "datatype": DATATYPES[field["dtype"]],
        "shape": [-1, *lengths],
    }
