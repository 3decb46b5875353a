"""What there is: the inputs and outputs of model files, and what a running engine serves.

Reads only. Models are inspected by the engine's own command, in a process of its own: only an engine may load a
model, and one that kills its process kills nothing else.
"""

import http.client
import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from midstream.problems import FieldPath
from midstream.resolve import Resolved
from midstream_api.engineconfig import ResolvedModel
from midstream_api.model import Missing

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
    """`{"step", "name", "version", "sha256"}` in the order of the steps."""
    inputs: Fields
    outputs: Fields


@dataclass(frozen=True, slots=True)
class Schema:
    """Inputs and outputs of the pipeline as callers will see them."""

    inputs: Fields
    outputs: Fields


@dataclass(frozen=True, slots=True)
class Fault:
    """What keeps an engine from loading the pipeline, and the field of the manifest that leads to it."""

    at: FieldPath
    message: str


def inspect(resolved: Resolved) -> tuple[Schema, list[Fault]]:
    """Return the pipeline's inputs and outputs, and what keeps an engine from loading it.

    Runs the engine's inspection as a process of its own: a model that kills it kills nothing else.
    """
    paths = list(dict.fromkeys(str(one.path) for one in resolved.models))
    # -P: what lies in the folder where the user stands must not shadow a library.
    command = [sys.executable, "-P", "-m", "midstream_engine", "inspect", *paths]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=INSPECT_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise ObserveError(
            f"the models were not inspected within {INSPECT_TIMEOUT_S:g} s"
        ) from error
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        text = f"a model ended the process that inspected it ({name})"
        return Schema([], []), [Fault(("spec", "steps"), text)]
    try:
        reports = json.loads(done.stdout)
    except ValueError as error:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ObserveError(f"the models cannot be inspected: {last}") from error
    return compose(resolved, {path: reports[path] for path in paths})


def compose(resolved: Resolved, reports: dict[str, Any]) -> tuple[Schema, list[Fault]]:
    """Return what callers see of a chain of models, and what keeps it from being one. Pure."""
    faults: list[Fault] = []
    inputs: list[Fields] = []
    outputs: list[Fields] = []
    for index, one in enumerate(resolved.models):
        model: FieldPath = ("spec", "steps", index, "model")
        report = reports[str(one.path)]
        if "error" in report:
            text = f"step {one.step}: {report['error']}"
            faults.append(Fault((*model, "source", "uri"), text))
            continue
        try:
            inputs.append(_renamed(one.model, report["inputs"]))
        except ValueError as error:
            faults.append(Fault((*model, "inputs"), f"step {one.step}: {error}"))
        outputs.append(report["outputs"])
    if faults:
        return Schema([], []), faults
    following = enumerate(zip(resolved.models[1:], outputs, inputs[1:], strict=False), 1)
    for index, (one, given, taken) in following:
        offered = {each["name"]: each for each in given}
        faults += [
            Fault(
                ("spec", "steps", index),
                f"step {one.step} takes {say_field(each)}, the step before it gives {list_fields(given)}",
            )
            for each in taken
            if each["name"] not in offered or not is_alike(offered[each["name"]], each)
        ]
    return Schema(inputs[0], outputs[-1]), faults


def _renamed(model: ResolvedModel, own: Fields) -> Fields:
    if model.inputs is None:
        return own
    if len(model.inputs) != len(own):
        raise ValueError(
            f"inputs lists {len(model.inputs)} names, the model has {len(own)}: {list_fields(own)}"
        )
    places = {each["name"]: position for position, each in enumerate(own)}
    renamed: dict[int, dict[str, Any]] = {}
    for position, each in enumerate(model.inputs):
        place = position if each.tensor is None else places.get(each.tensor)
        if place is None:
            raise ValueError(
                f"inputs names the tensor {each.tensor!r}, the model has {list_fields(own)}"
            )
        if place in renamed:
            raise ValueError(f"inputs has two entries for the model's {own[place]['name']!r}")
        if each.missing is Missing.ALLOW and not own[place]["dtype"].startswith("float"):
            raise ValueError(
                f"input {each.name!r} has `missing: Allow`, which needs a float; "
                f"the model takes {own[place]['dtype']}"
            )
        renamed[place] = {**own[place], "name": each.name}
    return [renamed[place] for place in sorted(renamed)]


def look(url: str, *, required: bool) -> Running | None:
    """Ask an engine what it serves; None when none answers, or when it serves nothing yet.

    Raises ObserveError when `required` and there is no engine.
    """
    try:
        report = _get(url.rstrip("/") + "/status")
        # One engine speaks for itself, a supervisor for its workers; those serve the same, or soon will.
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
            inputs=own["inputs"],
            outputs=own["outputs"],
        )
    except OSError as error:
        if required:
            raise ObserveError(f"nothing answers at {url}: {error.strerror or error}") from error
    except (http.client.HTTPException, ValueError, KeyError, TypeError) as error:
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
