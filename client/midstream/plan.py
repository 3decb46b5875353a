"""What applying a manifest would do, found out without doing it.

Resolves the manifest (so its models are in the cache afterwards), asks the engine's own inspection for inputs and
outputs, and compares with what a running engine reports. Changes nothing in the engine, and imports none of it:
only an engine process may load a model.
"""

import argparse
import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from midstream import manifest, resolve
from midstream_api.engineconfig import ResolvedModel
from midstream_artifacts.cache import Cache

DEFAULT_URL = "http://127.0.0.1:8080"
TIMEOUT_S = 5.0
MAX_STATUS_BYTES = 16 << 20
INSPECT_TIMEOUT_S = 600.0

Fields = list[dict[str, Any]]
"""`{"name", "dtype", "shape"}` of one row each, as the engine reports them."""


class PlanError(Exception):
    """The plan cannot be made: no engine where one was named, or one that does not answer as an engine does."""


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
class Verdict:
    """What applying would do."""

    action: str
    """`start`, `swap`, `nothing` or `refused`."""
    changes: list[str] = field(default_factory=list)
    """Sentences on steps and models."""
    schema_changes: list[str] = field(default_factory=list)
    loads: int = 0
    """Models that are not loaded yet."""


def plan(args: argparse.Namespace) -> int:
    """Print the plan; exit code 1 when the manifest cannot be used, or would be refused."""
    try:
        resolved = resolve.resolve(manifest.load(args.manifest), Cache(args.cache))
        schema, faults = inspect(resolved)
        running = look(args.against or DEFAULT_URL, required=args.against is not None)
    except (manifest.ManifestError, resolve.ResolveError, PlanError) as error:
        if args.json:
            _say(json.dumps({"error": str(error)}))
        else:
            sys.stderr.write(f"{error}\n")
        return 1
    verdict = Verdict("refused", faults) if faults else judge(resolved, schema, running)
    where = args.against or DEFAULT_URL
    if args.json:
        _say(json.dumps(_as_json(resolved, schema, where, running, verdict), indent=2))
    else:
        for line in describe(resolved, schema, where, running, verdict):
            _say(line)
    return 1 if verdict.action == "refused" else 0


def judge(resolved: resolve.Resolved, schema: Schema, running: Running | None) -> Verdict:
    """Decide what an engine would do with the revision. Pure."""
    if running is None or running.pipeline != resolved.pipeline:
        return Verdict("start", loads=len({one.model.sha256 for one in resolved.models}))
    if running.revision == resolved.revision:
        return Verdict("nothing")
    changes = changed_steps(running.models, resolved)
    schema_changes = [
        *differences(running.inputs, schema.inputs, "input"),
        *differences(running.outputs, schema.outputs, "output"),
    ]
    loaded = {model["sha256"] for model in running.models}
    loads = len({one.model.sha256 for one in resolved.models} - loaded)
    refused = schema_changes and not resolved.allow_schema_change
    return Verdict("refused" if refused else "swap", changes, schema_changes, loads)


def changed_steps(before: Sequence[dict[str, Any]], resolved: resolve.Resolved) -> list[str]:
    """Return a sentence for each step that is new, gone, moved or has another model."""
    old = {model["step"]: model for model in before}
    new = {one.step: one.model for one in resolved.models}
    said = [f"step {step} is gone (model {old[step]['name']})" for step in old if step not in new]
    for step, model in new.items():
        if step not in old:
            said.append(f"step {step} is new (model {_named(model.name, model.version)})")
            continue
        was = old[step]
        had, has = _named(was["name"], was["version"]), _named(model.name, model.version)
        if had != has:
            said.append(f"step {step}: model {had} becomes {has}")
        if was["sha256"] != model.sha256:
            said.append(
                f"step {step}: the bytes change, {_short(was['sha256'])} becomes {_short(model.sha256)}"
            )
    kept = [step for step in old if step in new]
    if kept != [step for step in new if step in old]:
        said.append(f"the order of the steps becomes {', '.join(new)}")
    return said or ["the same models; inputs, golden rows or sources differ"]


def differences(before: Fields, after: Fields, what: str) -> list[str]:
    """Return sentences on what callers would notice: names, types and known lengths of a row. Pure."""
    old, new = ({one["name"]: one for one in fields} for fields in (before, after))
    said = [f"{what} {_field(old[name])} is gone" for name in old if name not in new]
    said += [f"{what} {_field(new[name])} is new" for name in new if name not in old]
    for name in old:
        if name in new and not _alike(old[name], new[name]):
            said.append(f"{what} {_field(old[name])} becomes {_field(new[name])}")
    return said


def _alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    lengths = one["shape"], other["shape"]
    return (
        one["dtype"] == other["dtype"]
        and len(lengths[0]) == len(lengths[1])
        and all(a is None or b is None or a == b for a, b in zip(*lengths, strict=True))
    )


def inspect(resolved: resolve.Resolved) -> tuple[Schema, list[str]]:
    """Return the pipeline's inputs and outputs, and sentences on models that cannot be loaded.

    Runs the engine's inspection as a process of its own: a model that kills it kills nothing else.
    """
    paths = list(dict.fromkeys(str(one.path) for one in resolved.models))
    command = [sys.executable, "-m", "midstream_engine", "inspect", *paths]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=INSPECT_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise PlanError(f"the models were not inspected within {INSPECT_TIMEOUT_S:g} s") from error
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return Schema([], []), [f"a model ended the process that inspected it ({name})"]
    try:
        reports = json.loads(done.stdout)
    except ValueError as error:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise PlanError(f"the models cannot be inspected: {last}") from error
    return compose(resolved, {path: reports[path] for path in paths})


def compose(resolved: resolve.Resolved, reports: dict[str, Any]) -> tuple[Schema, list[str]]:
    """Return what callers see of a chain of models, and what keeps it from being one. Pure."""
    faults: list[str] = []
    inputs: list[Fields] = []
    outputs: list[Fields] = []
    for one in resolved.models:
        report = reports[str(one.path)]
        if "error" in report:
            faults.append(f"step {one.step}: {report['error']}")
            continue
        try:
            inputs.append(_renamed(one.model, report["inputs"]))
        except ValueError as error:
            faults.append(f"step {one.step}: {error}")
        outputs.append(report["outputs"])
    if faults:
        return Schema([], []), faults
    for one, given, taken in zip(resolved.models[1:], outputs, inputs[1:], strict=False):
        offered = {each["name"]: each for each in given}
        faults += [
            f"step {one.step} takes {_field(each)}, the step before it gives {_fields(given)}"
            for each in taken
            if each["name"] not in offered or not _alike(offered[each["name"]], each)
        ]
    return Schema(inputs[0], outputs[-1]), faults


def _renamed(model: ResolvedModel, own: Fields) -> Fields:
    if model.inputs is None:
        return own
    if len(model.inputs) != len(own):
        raise ValueError(
            f"inputs lists {len(model.inputs)} names, the model has {len(own)}: {_fields(own)}"
        )
    places = {each["name"]: position for position, each in enumerate(own)}
    renamed: dict[int, dict[str, Any]] = {}
    for position, each in enumerate(model.inputs):
        place = position if each.tensor is None else places.get(each.tensor)
        if place is None:
            raise ValueError(
                f"inputs names the tensor {each.tensor!r}, the model has {_fields(own)}"
            )
        if place in renamed:
            raise ValueError(f"inputs has two entries for the model's {own[place]['name']!r}")
        renamed[place] = {**own[place], "name": each.name}
    return [renamed[place] for place in sorted(renamed)]


def look(url: str, *, required: bool) -> Running | None:
    """Ask an engine what it serves; None when none answers, or when it serves nothing yet.

    Raises PlanError when `required` and there is no engine.
    """
    try:
        report = _get(url.rstrip("/") + "/status")
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
            raise PlanError(f"nothing answers at {url}: {error.strerror or error}") from error
    except (http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        if required:
            raise PlanError(f"what answers at {url} is not a Midstream engine") from error
    return None


def _get(url: str) -> Any:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise PlanError(f"{url!r} is not the address of an engine; write http://host:port")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", parts.path, headers={"Accept": "application/json"})
        return json.loads(connection.getresponse().read(MAX_STATUS_BYTES))
    finally:
        connection.close()


def describe(
    resolved: resolve.Resolved, schema: Schema, url: str, running: Running | None, verdict: Verdict
) -> list[str]:
    """Return the plan as lines for people. Pure."""
    lines = [f"pipeline {resolved.pipeline}, version {resolved.version}"]
    for one in resolved.models:
        got = "in the cache" if one.from_cache else "fetched"
        name = _named(one.model.name, one.model.version)
        lines.append(
            f"  step {one.step}: {name}, sha256 {_short(one.model.sha256)}, {_size(one.model.size)}, {got}"
        )
    if schema.inputs:
        lines += [f"  takes {_fields(schema.inputs)}", f"  gives {_fields(schema.outputs)}"]
    if running is None:
        lines.append(f"nothing is running at {url}")
    elif running.pipeline != resolved.pipeline:
        lines.append(f"{url} serves another pipeline, {running.pipeline}")
    else:
        lines.append(f"{url} serves version {running.version}")
    lines += [f"  {text}" for text in [*verdict.changes, *verdict.schema_changes]]
    return [*lines, _conclusion(resolved, verdict)]


def _conclusion(resolved: resolve.Resolved, verdict: Verdict) -> str:
    match verdict.action:
        case "nothing":
            return "applying it would change nothing"
        case "start":
            return f"running it would load {_count(verdict.loads)}"
        case "swap":
            return f"applying it would load {_count(verdict.loads)} and swap while requests go on"
        case _ if verdict.schema_changes:
            return "applying it would be refused; spec.rollout.allowSchemaChange: true allows it"
    return f"applying it would be refused: {resolved.pipeline} cannot be loaded"


def _as_json(
    resolved: resolve.Resolved, schema: Schema, url: str, running: Running | None, verdict: Verdict
) -> dict[str, Any]:
    return {
        "pipeline": resolved.pipeline,
        "version": resolved.version,
        "revision": resolved.revision,
        "models": [
            {
                "step": one.step,
                "name": one.model.name,
                "version": one.model.version,
                "sha256": one.model.sha256,
                "size": one.model.size,
                "fromCache": one.from_cache,
            }
            for one in resolved.models
        ],
        "inputs": schema.inputs,
        "outputs": schema.outputs,
        "against": {"url": url, "pipeline": running.pipeline, "version": running.version}
        if running
        else None,
        "action": verdict.action,
        "changes": verdict.changes,
        "schemaChanges": verdict.schema_changes,
        "loads": verdict.loads,
    }


def _named(name: str, version: str | None) -> str:
    return f"{name} {version}" if version else name


def _short(sha256: str) -> str:
    return f"{sha256[:12]}…"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _count(models: int) -> str:
    return "1 model" if models == 1 else f"{models} models"


def _field(one: dict[str, Any]) -> str:
    shape = ", ".join("?" if length is None else str(length) for length in one["shape"])
    return f"{one['name']!r} ({one['dtype']}{f'[{shape}]' if shape else ''})"


def _fields(fields: Fields) -> str:
    return ", ".join(_field(one) for one in fields) or "nothing"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
