"""What there is: the inputs and outputs of model files, and what a running engine serves.

Reads only. Models are inspected by the engine's own command, in a process of its own: only an engine may load a
model, and one that kills its process kills nothing else.
"""

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from midstream import syntax
from midstream.problems import FieldPath
from midstream.resolve import Resolved, StepModel
from midstream_api.engineconfig import ResolvedModel
from midstream_api.model import Batching, Framework, InputField, Missing, OutputField

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
    inputs: Fields
    outputs: Fields


@dataclass(frozen=True, slots=True)
class Schema:
    """Inputs and outputs of the pipeline as callers will see them; None where only running it tells."""

    inputs: Fields | None
    outputs: Fields | None


@dataclass(frozen=True, slots=True)
class Fault:
    """What keeps an engine from loading the pipeline, and the field of the manifest that leads to it."""

    at: FieldPath
    message: str


def inspect(resolved: Resolved) -> tuple[Schema, list[Fault]]:
    """Return the pipeline's inputs and outputs, and what keeps an engine from loading it.

    Runs the engine's inspection as a process of its own: a model that kills it kills nothing else.
    """
    paths = list(dict.fromkeys(str(one.path) for one in resolved.models if _is_opened(one)))
    if not paths:
        return compose(resolved, {})
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


def _is_opened(one: StepModel) -> bool:
    """Whether inspection tells what a model takes: code says it itself, and without batches a row has another shape."""
    return one.model.framework is Framework.ONNX and one.model.batch is Batching.ROWS


def compose(resolved: Resolved, reports: dict[str, Any]) -> tuple[Schema, list[Fault]]:
    """Return what callers see of a chain of steps, and what keeps it from being one. Pure but for reading code."""
    faults: list[Fault] = []
    ends: dict[str, list[tuple[StepModel, Schema]]] = {}
    for one in resolved.models:
        try:
            found = _ends(one, reports)
        except _Unfit as error:
            faults.append(Fault(error.at, f"step {one.title}: {error}"))
        else:
            ends.setdefault(one.step, []).append((one, found))
    if faults:
        return Schema([], []), faults
    given: Fields | None = None
    for number, models in enumerate(ends.values()):
        if number and given is not None:
            faults += [fault for one, own in models for fault in _unconnected(one, own, given)]
        (_, main), *others = models
        given = main.outputs
        if resolved.document.steps[number].split is not None:
            faults += [fault for one, own in others for fault in _unequal(one, own, main)]
    first, *_ = ends.values()
    return Schema(_united([own.inputs for _, own in first]), given), faults


class _Unfit(Exception):
    """A model that no engine would take."""

    def __init__(self, at: FieldPath, message: str) -> None:
        super().__init__(message)
        self.at = at


def _ends(one: StepModel, reports: dict[str, Any]) -> Schema:
    """What one model takes and gives, as callers name it. Raises _Unfit."""
    model = one.model
    if model.framework is Framework.PYTHON:
        code = model.inline.encode() if model.inline is not None else None
        if code is None:
            assert one.path is not None
            code = one.path.read_bytes()
        if (fault := syntax.fault(code, "the code")) is not None:
            raise _Unfit(one.source, fault.message)
        return Schema(_declared(model.inputs), _declared(model.outputs))
    if not _is_opened(one):
        return Schema(None, None)
    report = reports[str(one.path)]
    if "error" in report:
        raise _Unfit(one.source, report["error"])
    try:
        return Schema(_renamed(model, report["inputs"]), report["outputs"])
    except ValueError as error:
        raise _Unfit((*one.at, "inputs"), str(error)) from error


def _declared(fields: Sequence[InputField | OutputField] | None) -> Fields | None:
    if fields is None:
        return None
    return [
        {
            "name": one.name,
            "dtype": one.dtype,
            "shape": None
            if one.shape is None and one.dtype is None
            else [None if length < 0 else length for length in one.shape or []],
        }
        for one in fields
    ]


def _unconnected(one: StepModel, own: Schema, given: Fields) -> list[Fault]:
    offered = {each["name"]: each for each in given}
    return [
        Fault(
            one.at[:3] if one.variant is None else one.at,
            f"step {one.title} takes {say_field(each)}, the step before it gives {list_fields(given)}",
        )
        for each in own.inputs or []
        if each["name"] not in offered or not is_alike(offered[each["name"]], each)
    ]


def _unequal(one: StepModel, own: Schema, first: Schema) -> list[Fault]:
    """Variants give the same outputs: nobody behind a split knows who answered."""
    if own.outputs is None or first.outputs is None:
        return []
    expected = {each["name"]: each for each in first.outputs}
    same = len(own.outputs) == len(expected) and all(
        each["name"] in expected and is_alike(expected[each["name"]], each) for each in own.outputs
    )
    if same:
        return []
    text = f"gives {list_fields(own.outputs)}, the first variant gives {list_fields(first.outputs)}"
    return [Fault(one.at, f"step {one.title} {text}")]


def _united(several: Sequence[Fields | None]) -> Fields | None:
    """The inputs of all models of a step; None as soon as one takes whatever comes."""
    united: dict[str, dict[str, Any]] = {}
    for fields in several:
        if fields is None:
            return None
        for each in fields:
            united.setdefault(each["name"], each)
    return list(united.values())


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
    """Whether two fields have one type, and one shape, as far as both are known."""
    if None not in {one["dtype"], other["dtype"]} and one["dtype"] != other["dtype"]:
        return False
    if one["shape"] is None or other["shape"] is None:
        return True
    return len(one["shape"]) == len(other["shape"]) and all(
        a is None or b is None or a == b for a, b in zip(one["shape"], other["shape"], strict=True)
    )


def say_field(one: dict[str, Any]) -> str:
    """Write a field as the engine's messages do: `'tensor' (float32[18])`; by its name alone when no more is known."""
    if one["dtype"] is None and one["shape"] is None:
        return repr(one["name"])
    shape = ", ".join("?" if length is None else str(length) for length in one["shape"] or [])
    return f"{one['name']!r} ({one['dtype'] or 'any type'}{f'[{shape}]' if shape else ''})"


def list_fields(fields: Fields) -> str:
    """Write fields in a row; `nothing` when there are none."""
    return ", ".join(say_field(one) for one in fields) or "nothing"
