"""Changes fields of a manifest in its text, so that comments and layout stay.

Pure. Guarantees that the new text says what was wanted and otherwise what the old one said: it is read again and
compared. Where a change cannot be made that way (a field that several places share by an anchor), it is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from midstream import yamldoc
from midstream.manifest import Manifest
from midstream.problems import FieldPath, Problem


@dataclass(frozen=True, slots=True)
class Setting:
    """What one field shall be."""

    at: FieldPath
    value: str | bool
    """A text without quotes, backslashes and control characters."""
    behind: str = ""
    """The field of the same mapping that a new one is put behind."""


class CannotRewrite(Exception):
    """The text cannot be changed so; `problem` says where."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def rewrite(manifest: Manifest, settings: Sequence[Setting]) -> str:
    """Return the manifest's text with these fields set. Raises CannotRewrite."""
    text = manifest.text
    # Steps that share a mapping by an anchor want the same edit: it is made once.
    edits = list(dict.fromkeys(_edit(manifest, setting) for setting in settings))
    # From the end, so that positions stay; of two at one position the later one stands behind.
    for start, end, new in sorted(edits, key=lambda edit: edit[0])[::-1]:
        text = text[:start] + new + text[end:]
    wanted = _data(manifest.text)
    for setting in settings:
        _set(wanted, setting)
    if _data(text) != wanted:
        raise CannotRewrite(
            manifest.problem(
                settings[0].at,
                "cannot be changed where it stands",
                "write each step's model out, without anchors (&name) and aliases (*name)",
            )
        )
    return text


def _edit(manifest: Manifest, setting: Setting) -> tuple[int, int, str]:
    """Return what to replace, from where to where, and with what."""
    text = manifest.text
    value = _written(setting.value)
    if (place := manifest.place(setting.at)) is not None:
        quote = text[place.start : place.start + 1]
        if quote in {'"', "'"} and isinstance(setting.value, str):
            value = f"{quote}{setting.value}{quote}"
        elif place.start == place.end:
            value = f" {value}"
        # A text of several lines (`|`) ends behind its line break, which stays.
        kept = text[place.start : place.end]
        return place.start, place.end, value + kept[len(kept.rstrip("\r\n")) :]
    beside = manifest.place((*setting.at[:-1], setting.behind))
    if beside is None:
        raise CannotRewrite(manifest.problem(setting.at, "cannot be put in", "write it in by hand"))
    key = str(setting.at[-1])
    if beside.in_braces:
        if text[beside.key] == '"':
            key = f'"{key}"'
            value = value if isinstance(setting.value, bool) else f'"{setting.value}"'
        return beside.last, beside.last, f", {key}: {value}"
    newline = "\r\n" if "\r\n" in text else "\n"
    at = text.find("\n", beside.last)
    if text[beside.last - 1 : beside.last] == "\n":
        at = beside.last - 1
    line = f"{' ' * beside.column}{key}: {value}{newline}"
    if at < 0:
        return len(text), len(text), newline + line.removesuffix(newline)
    return at + 1, at + 1, line


def _written(value: str | bool) -> str:
    """Return a value as it is written plainly, in quotes only where it would be taken for a number."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if _data(f"is: {value}") == [{"is": value}] else f'"{value}"'


def _data(text: str) -> Any:
    try:
        return [document.value for document in yamldoc.parse(text)]
    except yamldoc.NotYaml:
        return None


def _set(documents: Any, setting: Setting) -> None:
    holder = documents[0]
    for part in setting.at[:-1]:
        holder = holder[part]
    holder[setting.at[-1]] = setting.value
