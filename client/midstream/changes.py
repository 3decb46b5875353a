"""What differs between two revisions beside the names and bytes of their models, in words. Pure.

Both are given as data, as `midstream_api.version.content` or a dump of a revision's document has them: what neither
holds is not compared. Which models are new or gone is not told here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from midstream import models, problems

Content = Mapping[str, Any]
"""`{"steps": [...], "validations": [...]}`, defaults left out."""

_IDENTITY = ("name", "version", "sha256")
_SETTINGS = ("framework", "inputs", "outputs", "batch")
_LOADING = {
    "uri": "source",
    "inline": "source",
    "insecure": "source",
    "verify": "golden rows",
}
"""What decides how the same model is brought, and whether it may serve."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Words on what differs; nothing in it: no difference was found."""

    steps: dict[str, list[str]]
    """By step, or step and variant: `hashKey customer → visitor`."""
    validations: list[str]

    def sentences(self, prefix: str = "") -> list[str]:
        """Return one sentence for each step, its name behind `prefix`, and one for each validation."""
        said = [f"{prefix}{title}: {', '.join(words)}" for title, words in self.steps.items()]
        return said + self.validations


def between(before: Content, after: Content) -> Changes:
    """Compare the steps that both have, by name, and the validations."""
    old, new = ({step["name"]: step for step in each["steps"]} for each in (before, after))
    found: dict[str, list[str]] = {}
    for name, step in new.items():
        if name not in old:
            continue
        was = dict(_models(old[name]))
        for title, model in _models(step):
            if title in was and (words := _settings(was[title], model)):
                found[title] = words
        if words := _split(old[name].get("split"), step.get("split")):
            found.setdefault(name, []).extend(words)
        if words := _shadow(old[name].get("shadow"), step.get("shadow")):
            found.setdefault(name, []).extend(words)
    checks = (each.get("validations", []) for each in (before, after))
    return Changes(found, _validations(*checks))


def _models(step: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The models of a step by their titles."""
    name = step["name"]
    if "model" in step:
        yield models.title(name, None), step["model"]
    named = list(step.get("split", {}).get("variants", []))
    if "shadow" in step:
        named += [step["shadow"]["champion"], *step["shadow"]["challengers"]]
    for each in named:
        yield models.title(name, each["name"]), each["model"]


def _settings(was: Mapping[str, Any], model: Mapping[str, Any]) -> list[str]:
    differ = [field for field in _SETTINGS if was.get(field) != model.get(field)]
    if all(was.get(field) == model.get(field) for field in _IDENTITY):
        differ += [word for field, word in _LOADING.items() if was.get(field) != model.get(field)]
    return [f"new {word}" for word in dict.fromkeys(differ)]


def _split(was: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> list[str]:
    """How a split chooses; nothing where the step has become one, or is none any more."""
    if was is None or now is None:
        return []
    said = [*_one("hashKey", was, now)]
    if now.get("key") is not None and was.get("key") is None:
        said.append(f"key {now['key']} with options {_options(now)}, default {now['default']}")
    else:
        said += _one("key", was, now)
        if now.get("key") is not None:
            said += _changed_options(was["options"], now["options"])
            said += _one("default", was, now)
    old, new = (
        [(one["name"], one.get("weight", 1)) for one in each["variants"]] for each in (was, now)
    )
    alike = {name for name, _ in old} == {name for name, _ in new}
    chance = now.get("key") is None and now.get("hashKey") is None
    became = chance and (was.get("key") or was.get("hashKey"))
    if became or (alike and dict(old) != dict(new)):
        said.append(f"weights {':'.join(str(weight) for _, weight in new)}")
    if alike and [name for name, _ in old] != [name for name, _ in new]:
        said.append(f"variants in the order {', '.join(name for name, _ in new)}")
    return said


def _one(field: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    old, new = was.get(field), now.get(field)
    if old == new:
        return []
    if new is None:
        return [f"no {field} any more"]
    return [f"{field} {new}" if old is None else f"{field} {old} → {new}"]


def _options(split: Mapping[str, Any]) -> str:
    return ", ".join(f"{value}: {variant}" for value, variant in split["options"].items())


def _changed_options(was: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    said = [f"no option {value} any more" for value in was if value not in now]
    for value, variant in now.items():
        if value not in was:
            said.append(f"option {value}: {variant}")
        elif was[value] != variant:
            said.append(f"option {value}: {was[value]} → {variant}")
    return said


def _shadow(was: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> list[str]:
    if was is None or now is None:
        return []
    said = []
    if was.get("wait", False) != now.get("wait", False):
        said.append("waits for challengers" if now.get("wait") else "waits no longer")
    if was.get("timeoutSeconds") != now.get("timeoutSeconds"):
        seconds = now.get("timeoutSeconds")
        said.append(f"timeoutSeconds {seconds}" if seconds else "the usual timeoutSeconds")
    champions = was["champion"]["name"], now["champion"]["name"]
    if champions[0] != champions[1]:
        said.append(f"champion {champions[0]} → {champions[1]}")
    return said


def _validations(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]
) -> list[str]:
    old, new = ({one["name"]: one for one in each} for each in (before, after))
    said = [f"validation {name} is gone" for name in old if name not in new]
    for name, one in new.items():
        if name not in old:
            said.append(f"validation {name} is new")
        elif old[name] != one:
            field = "expression" if "expression" in one else "failWhen"
            said.append(f"validation {name}: {field} is now {problems.quoted(one[field])}")
    if not said and list(old) != list(new):
        said.append("validations in another order")
    return said
