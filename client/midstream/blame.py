"""From what an engine says of a revision to the line of the manifest that leads to it.

Engines know steps, variants and copies of files; people know their manifest and the names of their own files. Reads
nothing but whether a cached copy is an archive.
"""

import re
import zipfile
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from midstream import problems
from midstream.manifest import Manifest
from midstream.problems import FieldPath, Problem
from midstream.resolve import Resolved, StepModel

_INLINE = "the code"
"""What code that stands in the manifest is called."""

_LINE = re.compile(rf'{_INLINE}"?, line (\d+)')


def problem(manifest: Manifest, resolved: Resolved, reason: str, message: str) -> Problem | None:
    """Return what an engine says as a problem of the manifest; None when it names no part of it.

    Files of code have their own names in it; what it says of a line of `inline` stands at that line.
    """
    at = place(resolved, reason, message)
    if at is None:
        return None
    words = _with_own_names(resolved, at, message)
    if at[-1] == "inline" and (lines := _LINE.findall(words)):
        return manifest.problem_inside(at, int(lines[-1]), words)
    return manifest.problem(at, words)


def located(manifest: Manifest, resolved: Resolved, reason: str, message: str) -> str:
    """Return what an engine says with file, line and field; as it is when it names no part of the manifest."""
    found = problem(manifest, resolved, reason, message)
    return message if found is None else problems.at(manifest.path, found)


def place(resolved: Resolved, reason: str, message: str) -> FieldPath | None:
    """Return the field that a message speaks of, as it names step and variant, or the validation."""
    for number, check in enumerate(resolved.document.validations):
        if message.startswith(f"validation {check.name!r},"):
            field = "expression" if check.expression is not None else "failWhen"
            return ("spec", "validations", number, field)
    named: list[tuple[int, int, FieldPath]] = []
    for one in resolved.models:
        step = f"step {one.step!r}"
        whole = step if one.variant is None else f"{step}, variant {one.variant!r}"
        if (found := message.find(whole)) >= 0:
            named.append((found, -len(whole), _part(one, reason)))
        if whole != step and (found := message.find(step)) >= 0:
            at = (*one.at[:4], "options") if reason == "InvalidOptions" else one.at[:3]
            named.append((found, -len(step), at))
    # Who is named first is to blame; of names that begin there, the one that says most.
    return min(named)[2] if named else None


def _part(one: StepModel, reason: str) -> FieldPath:
    """The field of a model that a reason speaks of; the model itself when it fits its neighbours badly."""
    match reason:
        case "InvalidInputs":
            return (*one.at, "inputs")
        case "VerifyFailed" | "VerifyInvalid":
            return (*one.at, "verify")
        case "NoBatchDimension" | "FixedBatch":
            return (*one.at, "batch")
        case "NamesDoNotConnect" | "VariantsDiffer":
            return one.at if one.variant is not None else one.at[:3]
        case _:
            return one.source


def _with_own_names(resolved: Resolved, at: FieldPath, message: str) -> str:
    """The same, with the user's name for code that is one file: an engine calls it `<model>/model.py`."""
    blamed = next((one for one in resolved.models if at[: len(one.at)] == one.at), None)
    own = None if blamed is None else _own_name(blamed)
    if blamed is None or own is None:
        return message
    # Code that two models share is run once, and called after either.
    sharing = {one.model.name for one in resolved.models if one.model.sha256 == blamed.model.sha256}
    for name in sharing:
        message = re.sub(rf"(?<![-\w./]){re.escape(name)}/model\.py", lambda _: own, message)
    return message


def _own_name(one: StepModel) -> str | None:
    """None for archives, whose files have names of their own, and where the address names no file."""
    if one.model.uri is None:
        return _INLINE
    if one.path is not None and zipfile.is_zipfile(one.path):
        return None
    name = PurePosixPath(unquote(urlsplit(one.model.uri).path)).name
    return name if name.endswith(".py") else None
