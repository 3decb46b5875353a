"""What applying a manifest would do, found out without doing it.

Resolves the manifest (so its models are in the cache afterwards), has the revision inspected, and compares with what a
running engine reports. Changes nothing in the engine.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from midstream import blame, changes, manifest, models, observe, problems, resolve
from midstream_artifacts.cache import Cache

DEFAULT_URL = "http://127.0.0.1:8080"

_NO_ANSWER_CHANGES = "golden rows or sources differ, and nothing that changes an answer"


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
    problems: list[str] = field(default_factory=list)
    """Why no engine could load it, with file, line, column and field."""


def plan(args: argparse.Namespace) -> int:
    """Print the plan; exit code 1 when the manifest cannot be used, or would be refused."""
    try:
        loaded = manifest.load(args.manifest)
        resolved = resolve.resolve(loaded, Cache(args.cache))
        schema, faults = observe.inspect(resolved, args.cache)
        running = observe.look(args.against or DEFAULT_URL, required=args.against is not None)
    except (manifest.ManifestError, resolve.ResolveError, observe.ObserveError) as error:
        if args.json:
            _say(json.dumps({"error": str(error)}))
        else:
            sys.stderr.write(f"{error}\n")
        return 1
    found = [_told(loaded, resolved, one) for one in faults]
    refused = Verdict("refused", problems=found)
    verdict = refused if found else judge(resolved, schema, running)
    where = args.against or DEFAULT_URL
    if args.json:
        _say(json.dumps(_as_json(resolved, schema, where, running, verdict), indent=2))
    else:
        for line in verdict.problems:
            sys.stderr.write(f"{line}\n")
        for line in describe(resolved, schema, where, running, verdict):
            _say(line)
    return 1 if verdict.action == "refused" else 0


def _told(loaded: manifest.Manifest, resolved: resolve.Resolved, fault: observe.Fault) -> str:
    found = blame.problem(loaded, resolved, fault.reason, fault.message)
    return problems.at(loaded.path, found or loaded.problem(("spec", "steps"), fault.message))


def judge(
    resolved: resolve.Resolved, schema: observe.Schema, running: observe.Running | None
) -> Verdict:
    """Decide what an engine would do with the revision. Pure."""
    if running is None or running.pipeline != resolved.pipeline:
        return Verdict("start", loads=len({one.model.sha256 for one in resolved.models}))
    if running.revision == resolved.revision:
        return Verdict("nothing")
    said = changed_steps(running.models, resolved) + rules(running, resolved)
    schema_changes = [
        *differences(running.inputs, schema.inputs, "input"),
        *lost(running.optional, schema),
        *differences(running.outputs, schema.outputs, "output"),
    ]
    loaded = {model["sha256"] for model in running.models}
    loads = len({one.model.sha256 for one in resolved.models} - loaded)
    refused = schema_changes and not resolved.allow_schema_change
    return Verdict("refused" if refused else "swap", said, schema_changes, loads)


def changed_steps(before: Sequence[dict[str, Any]], resolved: resolve.Resolved) -> list[str]:
    """Return a sentence for each model that is new, gone or another one, and for steps that moved."""
    old = {models.title(model["step"], model.get("variant")): model for model in before}
    new = {one.title: one.model for one in resolved.models}
    said = [
        f"step {title} is gone (model {was['name']})"
        for title, was in old.items()
        if title not in new
    ]
    for title, model in new.items():
        if title not in old:
            said.append(f"step {title} is new (model {_named(model.name, model.version)})")
            continue
        was = old[title]
        had, has = _named(was["name"], was["version"]), _named(model.name, model.version)
        if had != has:
            said.append(f"step {title}: model {had} becomes {has}")
        if was["sha256"] != model.sha256:
            said.append(
                f"step {title}: the bytes change, {_short(was['sha256'])} becomes {_short(model.sha256)}"
            )
    steps = list(dict.fromkeys(model["step"] for model in before))
    after = [step.name for step in resolved.document.steps]
    if [step for step in steps if step in after] != [step for step in after if step in steps]:
        said.append(f"the order of the steps becomes {', '.join(after)}")
    return said


def rules(running: observe.Running, resolved: resolve.Resolved) -> list[str]:
    """Return sentences on what changes beside the models: who gets which rows, settings, what is checked."""
    if running.content is None:
        # An engine by itself tells its models alone, and whether the version is another one.
        if running.version == resolved.version:
            return [_NO_ANSWER_CHANGES]
        if changed_steps(running.models, resolved):
            return []
        return [
            "the same models; inputs, splits or validations differ, which this engine does not list"
        ]
    said = changes.between(running.content, resolved.content()).sentences("step ")
    return said or ([_NO_ANSWER_CHANGES] if running.version == resolved.version else [])


def differences(
    before: observe.Fields | None, after: observe.Fields | None, what: str
) -> list[str]:
    """Return sentences on what callers would notice: names, types and known lengths of a row. Pure.

    None is what only running it tells: nothing is known to differ between two of these, nor to be the same as before
    where one side is declared.
    """
    if before is None or after is None:
        if before is not None:
            return [f"{what}s {observe.list_fields(before)} were declared, and are not any more"]
        if after is not None:
            return [f"{what}s were not declared, and are now: {observe.list_fields(after)}"]
        return []
    old, new = ({one["name"]: one for one in fields} for fields in (before, after))
    said = [f"{what} {observe.say_field(old[name])} is gone" for name in old if name not in new]
    said += [f"{what} {observe.say_field(new[name])} is new" for name in new if name not in old]
    for name in old:
        if name in new and not observe.is_alike(old[name], new[name]):
            said.append(
                f"{what} {observe.say_field(old[name])} becomes {observe.say_field(new[name])}"
            )
    return said


def lost(before: Sequence[str], after: observe.Schema) -> list[str]:
    """Return a sentence for each field that callers could send, because a split looked at it, and may not now. Pure."""
    if after.inputs is None:
        return []
    taken = {*(one["name"] for one in after.inputs), *after.optional}
    return [
        f"input {name!r}, which a split looked at, is gone" for name in before if name not in taken
    ]


def describe(
    resolved: resolve.Resolved,
    schema: observe.Schema,
    url: str,
    running: observe.Running | None,
    verdict: Verdict,
) -> list[str]:
    """Return the plan as lines for people, without the problems. Pure."""
    lines = [f"pipeline {resolved.pipeline}, version {resolved.version}"]
    for one in resolved.models:
        got = "in the cache" if one.from_cache else "fetched"
        got = got if one.path is not None else "in the manifest"
        name = _named(one.model.name, one.model.version)
        lines.append(
            f"  step {one.title}: {name}, sha256 {_short(one.model.sha256)}, {_size(one.model.size)}, {got}"
        )
    if schema.inputs != []:
        lines += [f"  takes {_listed(schema.inputs)}", f"  gives {_listed(schema.outputs)}"]
    lines += [f"  {doubt}" for doubt in schema.doubts]
    if running is None:
        lines.append(f"no Midstream serves at {url}; name another address with --against URL")
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
    resolved: resolve.Resolved,
    schema: observe.Schema,
    url: str,
    running: observe.Running | None,
    verdict: Verdict,
) -> dict[str, Any]:
    return {
        "pipeline": resolved.pipeline,
        "version": resolved.version,
        "revision": resolved.revision,
        "models": [
            {
                "step": one.step,
                "variant": one.variant,
                "name": one.model.name,
                "version": one.model.version,
                "sha256": one.model.sha256,
                "size": one.model.size,
                "fromCache": one.from_cache,
            }
            for one in resolved.models
        ],
        "inputs": schema.inputs,
        "optionalInputs": list(schema.optional),
        "doubts": list(schema.doubts),
        "outputs": schema.outputs,
        "against": {"url": url, "pipeline": running.pipeline, "version": running.version}
        if running
        else None,
        "action": verdict.action,
        "problems": verdict.problems,
        "changes": verdict.changes,
        "schemaChanges": verdict.schema_changes,
        "loads": verdict.loads,
    }


def _listed(fields: observe.Fields | None) -> str:
    return "what only running it tells" if fields is None else observe.list_fields(fields)


def _named(name: str, version: str | None) -> str:
    return f"{name} {version}" if version else name


def _short(sha256: str) -> str:
    return f"{sha256[:12]}…"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _count(models: int) -> str:
    return "1 model" if models == 1 else f"{models} models"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
