"""What a revision takes and gives, and whether it can be loaded at all: found out by loading it, in this process.

`midstream plan` asks in a process of its own, so that a model which ends it ends nothing else. Nothing is served.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from midstream_api.engineconfig import RevisionDocument
from midstream_artifacts.cache import Cache
from midstream_artifacts.errors import ArtifactError
from midstream_engine.errors import LoadError
from midstream_engine.revisions.loader import Loader
from midstream_engine.schema import Field
from midstream_engine.sessions import SessionPool
from midstream_engine.sidekicks.pool import Sidekicks
from midstream_engine.steps.connect import place_of, routing_fields

Report = dict[str, Any]

_DOUBT = "the code failed on a row of zeros ({}); golden rows in `verify` would prove it before it serves"

_SECONDS = 120.0
"""The longest that one model may take for a row."""


def inspect(path: Path, cache: Path) -> int:
    """Print the report on the revision document in a file; its models have to be in the cache.

    `{"inputs": […] | null, "optionalInputs": [name], "outputs": […] | null, "doubts": [sentence]}`, where null is what
    only answers tell, or `{"reason", "message"}`. doubts: on code that would serve, though it failed when it was tried.
    """
    try:
        document = RevisionDocument.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        sys.stderr.write(f"{path} is no revision document: {error}\n")
        return 1
    sys.stdout.write(json.dumps(asyncio.run(report(document, Cache(cache)))) + "\n")
    return 0


async def report(document: RevisionDocument, cache: Cache) -> Report:
    """Load a revision, golden rows included, and give it back. Says what `inspect` prints."""
    sidekicks = Sidekicks()
    loader = Loader(
        pool=SessionPool(),
        sidekicks=sidekicks,
        verified_path=cache.verified_path,
        partition="",
        memory_limit=None,
        warm_up_seconds=_SECONDS,
    )
    try:
        return await asyncio.to_thread(_loaded, loader, document)
    finally:
        await sidekicks.close()


def _loaded(loader: Loader, document: RevisionDocument) -> Report:
    doubts: list[str] = []

    def tell(event: str, **of: Any) -> None:
        if event == "unproven":
            doubts.append(
                f"{place_of(of['step'], of.get('variant'))}: {_DOUBT.format(of['error'])}"
            )

    try:
        loaded = loader.load(document, {}, tell)
    except LoadError as error:
        return {"reason": error.reason, "message": error.message}
    except ArtifactError as error:
        return {"reason": error.reason, "message": str(error)}
    found = {
        "inputs": _fields(loaded.inputs),
        "optionalInputs": list(routing_fields(loaded.steps)),
        "outputs": _fields(loaded.outputs),
        "doubts": doubts,
    }
    loader.free(loaded)
    return found


def _fields(fields: tuple[Field, ...] | None) -> list[dict[str, object]] | None:
    return None if fields is None else [field.report() for field in fields]
