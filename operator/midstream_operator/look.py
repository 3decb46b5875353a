"""One look at one pipeline: what every part of the reconcile is given. Pure."""

import json
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

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

    def spec(self) -> tuple[PipelineSpec | None, Failure | None]:
        """Return the validated spec, or why there is none.

        Both, when only steps or validations are wrong: the rest of the spec counts, and what serves goes on serving as
        it would if a source were away. A rule that the API server cannot check comes here, such as the syntax of an
        expression; and whatever is newer than this operator.
        """
        given: dict[str, Any] = self.pipeline["spec"]
        try:
            return PipelineSpec.model_validate_json(json.dumps(given)), None
        except ValidationError as error:
            failure = Failure("", "InvalidSpec", _told(error.errors()[0]), transient=False)
        around = {**given, "steps": [], "validations": [], "deployed": False}
        try:
            spec = PipelineSpec.model_validate_json(json.dumps(around))
        except ValidationError:
            return None, failure
        return spec.model_copy(update={"deployed": given.get("deployed", True)}), failure


def _told(error: ErrorDetails) -> str:
    """Say what is wrong and where, as people write it: `spec.steps[0].model.name`."""
    path, context = ["spec", *error["loc"]], error.get("ctx", {})
    if "field" in context:
        path.append(context["field"])
    elif "list" in context:
        path += [context["list"], context["index"]]
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    said = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        said = "this operator does not know the field; upgrade it"
    return f"{text.removeprefix('.')}: {said}"


def _clipped(retry: str | None) -> str | None:
    """Return what the status can hold of a text that may be anything."""
    return None if retry is None else retry[:_LONGEST_RETRY]


def _status(pipeline: Object) -> PipelineStatus:
    try:
        return PipelineStatus.model_validate_json(json.dumps(pipeline.get("status") or {}))
    except ValidationError:
        # Of a newer operator, or by hand: what is seen now replaces it.
        return PipelineStatus()
