"""What there is: what a revision takes and gives, and what a running engine serves.

Changes nothing. Revisions are inspected by the engine's own command, in a process of its own: its rules are not
repeated here, and a model that kills its process kills nothing else.
"""

import http.client
import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from midstream import private
from midstream.changes import Content
from midstream.resolve import Resolved

TIMEOUT_S = 5.0
MAX_STATUS_BYTES = 16 << 20
INSPECT_TIMEOUT_S = 600.0

Fields = list[dict[str, Any]]
"""`{"name", "dtype", "shape"}` of one row each, as the engine reports them."""


class ObserveError(Exception):
    """It cannot be observed: no engine where one was named, or one that does not answer as an engine does."""


@dataclass(frozen=True, slots=True)
class Running:
    """What a running engine reports about the revision that it serves."""

    pipeline: str
    version: str
    revision: str
    models: list[dict[str, Any]]
    """`{"step", "variant", "name", "version", "sha256"}` in the order of the manifest."""
    inputs: Fields | None
    """None: what only answers tell."""
    outputs: Fields | None
    optional: tuple[str, ...] = ()
    """Inputs that only splits look at."""
    content: Content | None = None
    """Its steps and validations, as `midstream run` reports them; None: an engine by itself does not."""


@dataclass(frozen=True, slots=True)
class Schema:
    """Inputs and outputs of the pipeline as callers will see them; None where only running it tells."""

    inputs: Fields | None
    outputs: Fields | None
    optional: tuple[str, ...] = ()
    """Inputs that only splits look at."""
    doubts: tuple[str, ...] = ()
    """Sentences on code that would serve, though it failed when it was tried."""


NOTHING = Schema([], [])
"""Of a pipeline that cannot be loaded."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What keeps an engine from loading the pipeline; `blame` knows the line of the manifest that leads to it."""

    reason: str
    message: str


def inspect(resolved: Resolved, cache: Path) -> tuple[Schema, list[Fault]]:
    """Return the pipeline's inputs and outputs, and what keeps an engine from loading it.

    Lets an engine load the revision from the cache, golden rows included, in a process of its own.
    """
    private.close_for([resolved.document])
    # -P: what lies in the folder where the user stands must not shadow a library.
    command = [sys.executable, "-P", "-m", "midstream_engine", "inspect", "--cache", str(cache)]
    with tempfile.TemporaryDirectory(prefix="midstream-") as folder:
        document = Path(folder, "revision.json")
        document.write_bytes(resolved.dump())
        try:
            done = subprocess.run(
                [*command, str(document)],
                capture_output=True,
                text=True,
                check=False,
                timeout=INSPECT_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as error:
            raise ObserveError(
                f"the models were not inspected within {INSPECT_TIMEOUT_S:g} s"
            ) from error
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        text = f"a model ended the process that inspected it ({name})"
        return NOTHING, [Fault("CandidateKilledEngine", text)]
    try:
        report = json.loads(done.stdout)
    except ValueError as error:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ObserveError(f"the models cannot be inspected: {last}") from error
    if "message" in report:
        return NOTHING, [Fault(report["reason"], report["message"])]
    optional, doubts = tuple(report["optionalInputs"]), tuple(report["doubts"])
    return Schema(report["inputs"], report["outputs"], optional, doubts), []


def look(url: str, *, required: bool) -> Running | None:
    """Ask an engine what it serves; None when none answers, or when it serves nothing yet.

    Raises ObserveError when `required` and there is no engine.
    """
    try:
        report = _get(url.rstrip("/") + "/status")
        # One engine speaks for itself, a supervisor for its workers; those serve the same, or soon will.
        content = report.get("content")
        report = report["workers"][0] if "workers" in report else report
        serving = report["serving"]
        if serving is None:
            return None
        known = {one["revision"]: one for one in report["revisions"]}
        own = known[serving["revision"]]
        return Running(
            pipeline=report["pipeline"],
            version=serving["version"],
            revision=serving["revision"],
            models=own["models"],
            inputs=own["inputs"] or None,
            outputs=own["outputs"] or None,
            optional=tuple(own.get("optionalInputs", ())),
            content=content if content and content["revision"] == serving["revision"] else None,
        )
    except OSError as error:
        if required:
            raise ObserveError(f"nothing answers at {url}: {error.strerror or error}") from error
    except (http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError) as error:
        if required:
            raise ObserveError(f"what answers at {url} is not a Midstream engine") from error
    return None


def _get(url: str) -> Any:
    wrong = f"{url!r} is not the address of an engine; write http://host:port"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ObserveError(wrong) from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ObserveError(wrong)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", parts.path, headers={"Accept": "application/json"})
        return json.loads(connection.getresponse().read(MAX_STATUS_BYTES))
    finally:
        connection.close()


def is_alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two fields have one type, and one shape as far as lengths are known."""
    lengths = one["shape"], other["shape"]
    return (
        one["dtype"] == other["dtype"]
        and len(lengths[0]) == len(lengths[1])
        and all(a is None or b is None or a == b for a, b in zip(*lengths, strict=True))
    )


def say_field(one: dict[str, Any]) -> str:
    """Write a field as the engine's messages do: `'tensor' (float32[18])`."""
    shape = ", ".join("?" if length is None else str(length) for length in one["shape"])
    return f"{one['name']!r} ({one['dtype']}{f'[{shape}]' if shape else ''})"


def list_fields(fields: Fields) -> str:
    """Write fields in a row; `nothing` when there are none."""
    return ", ".join(say_field(one) for one in fields) or "nothing"
