"""One look at one pipeline: what every part of the reconcile is given. Pure."""

import json
from dataclasses import dataclass

from pydantic import ValidationError

from midstream_api import names
from midstream_api.pipeline import PipelineSpec
from midstream_api.status import PipelineStatus
from midstream_operator.metadata import Owner
from midstream_operator.observed import Failure, Object

_LONGEST_RETRY = 253
"""Characters; the contract's limit."""


@dataclass(frozen=True, slots=True)
class Look:
    """A pipeline as it was found."""

    pipeline: Object
    owner: Owner
    generation: int
    retry: str | None
    """What its user last wrote to ask for another try."""
    previous: PipelineStatus
    """What was told last."""
    now: float
    """Seconds since 1970."""
    seen: float
    """When this generation was seen first, in seconds since 1970."""

    @classmethod
    def at(cls, pipeline: Object, *, now: float, seen: float) -> "Look":
        metadata = pipeline["metadata"]
        annotations = metadata.get("annotations") or {}
        return cls(
            pipeline=pipeline,
            owner=Owner(metadata["name"], metadata["namespace"], metadata["uid"]),
            generation=metadata["generation"],
            retry=_clipped(annotations.get(names.RETRY_ANNOTATION)),
            previous=_status(pipeline),
            now=now,
            seen=seen,
        )

    @property
    def request(self) -> tuple[int, str | None]:
        """What somebody asked for: another one is worth another try."""
        return self.generation, self.retry

    def spec(self) -> PipelineSpec | Failure:
        """Return the validated spec, or why there is none: an operator that is older than the CRD."""
        try:
            return PipelineSpec.model_validate_json(json.dumps(self.pipeline["spec"]))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, ("spec", *first["loc"])))
            return Failure("", "InvalidSpec", f"{where}: {first['msg']}", transient=False)


def _clipped(retry: str | None) -> str | None:
    """Return what the status can hold of a text that may be anything."""
    return None if retry is None else retry[:_LONGEST_RETRY]


def _status(pipeline: Object) -> PipelineStatus:
    try:
        return PipelineStatus.model_validate_json(json.dumps(pipeline.get("status") or {}))
    except ValidationError:
        # Of a newer operator, or by hand: what is seen now replaces it.
        return PipelineStatus()
