"""Pydantic types become a Kubernetes CustomResourceDefinition.

The schema is *structural*: no references, no unions, a type everywhere. What cannot be said that way is refused
with its place, never dropped: a rule that the types have and a cluster has not would let a manifest pass in one place
and fail in the other. Rules across fields stand beside the types, as `x-kubernetes-validations` (CEL).
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from midstream_api import names
from midstream_api.pipeline import Pipeline, PipelineSpec
from midstream_api.status import PipelineStatus

Schema = dict[str, Any]

_RULES = "x-kubernetes-validations"
_INT_OR_STRING = "x-kubernetes-int-or-string"
_COPIED = frozenset({"type", "format", "enum", "minimum", "maximum"}) | {
    "minLength",
    "maxLength",
    "pattern",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
}
_NESTED = frozenset({"properties", "required", "items", "additionalProperties"})
CHEAPER = {names.FIELD_NAME: r"^[^\W\d][-.:/\w]*\b$"}
"""The same pattern in fewer characters, for an API server that counts them: fields of models of variants of steps are
many. Its `word` characters are ASCII."""
_SAID_ELSEWHERE = frozenset({"title", "description", "default"})
_JSON: Schema = {"$ref": "#/$defs/JsonValue"}


class NotStructural(Exception):
    """A type cannot be written as a structural schema; the message says which and what to do."""


def pipeline_crd() -> Schema:
    """Return the CRD of `Pipeline`, as data."""
    root = Pipeline.model_json_schema()
    schema = {
        **_described(root),
        "type": "object",
        "required": ["spec"],
        "properties": {
            # What stands in these three the API server knows itself; it lets a CRD judge only the name, by CEL.
            "apiVersion": {"type": "string", **_described(root["properties"]["apiVersion"])},
            "kind": {"type": "string", **_described(root["properties"]["kind"])},
            "metadata": {"type": "object"},
            "spec": structural(PipelineSpec),
            "status": {
                **structural(PipelineStatus),
                # Whoever waits and looks before the operator did must not take an empty status for a good one.
                "default": {"observedGeneration": -1},
            },
        },
        _RULES: root[_RULES],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names.PIPELINE_PLURAL}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "names": {
                "kind": names.PIPELINE_KIND,
                "listKind": f"{names.PIPELINE_KIND}List",
                "plural": names.PIPELINE_PLURAL,
                "singular": names.PIPELINE_KIND.lower(),
                "categories": [names.GROUP.partition(".")[0]],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": names.VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        _column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
                        _column("Reason", '.status.conditions[?(@.type=="Ready")].reason'),
                        # A column shows the first value of a path only, so it does not claim more.
                        _column(
                            "Model", ".spec.steps[0].model.name", "The model of the first step."
                        ),
                        _column("Version", ".status.version", "The version that serves."),
                        _column("Updated", ".status.replicas.updated", kind="integer", priority=1),
                        _column("Replicas", ".status.replicas.desired", kind="integer", priority=1),
                        _column("URL", ".status.url", priority=1),
                        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                    ],
                }
            ],
        },
    }


def _column(
    name: str, path: str, description: str = "", *, kind: str = "string", priority: int = 0
) -> Schema:
    column: Schema = {"name": name, "type": kind, "jsonPath": path}
    if description:
        column["description"] = description
    if priority:
        column["priority"] = priority
    return column


def structural(model: type[BaseModel]) -> Schema:
    """Return the structural schema of a pydantic model.

    Raises NotStructural.
    """
    document = model.model_json_schema()
    definitions = document.pop("$defs", {})
    return _Converter(definitions).convert(document, model.__name__)


class _Converter:
    """Holds the definitions that references point to."""

    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        self._definitions = definitions
        self._open: list[str] = []

    def convert(self, given: Schema, place: str) -> Schema:
        """Return the structural form of one schema; `place` names it in errors."""
        if "$ref" in given:
            return self._inlined(given, place)
        if given.get(_INT_OR_STRING):
            # The one union that an API server knows.
            given = {key: value for key, value in given.items() if key != "anyOf"}
            return self._plain(given, place)
        if "anyOf" in given:
            return self.convert(self._optional(given, place), place)
        if "const" in given:
            rest = {key: value for key, value in given.items() if key != "const"}
            return self.convert({**rest, "enum": [given["const"]]}, place)
        done = self._plain(given, place)
        if "type" not in done:
            raise NotStructural(f"{place}: has no type; anything may stand there")
        return self._nested(given, done, place)

    def _plain(self, given: Schema, place: str) -> Schema:
        """Copy what is said of the value itself."""
        done = _described(given)
        if not isinstance(given.get("default"), dict | list | None):
            # A default object would be written into every user's object, and say nothing.
            done["default"] = given["default"]
        for key, value in given.items():
            if key in _COPIED or key.startswith("x-kubernetes-"):
                done[key] = value
            elif key in {"exclusiveMinimum", "exclusiveMaximum"}:
                done[key.removeprefix("exclusive").lower()] = value
                done[key] = True
            elif key not in _NESTED | _SAID_ELSEWHERE:
                raise NotStructural(f"{place}: {key!r} has no place in a structural schema")
        if done.get("pattern") in names.RULES:
            # A pattern's own message repeats the pattern; this one says what to write.
            done[_RULES] = [_rule_in_words(done["pattern"]), *done.get(_RULES, [])]
        return done

    def _inlined(self, given: Schema, place: str) -> Schema:
        name = given["$ref"].rpartition("/")[2]
        if name in self._open:
            raise NotStructural(f"{place}: {name} contains itself; give it a fixed depth")
        self._open.append(name)
        # What stands beside the reference, such as the field's own description, speaks for this place.
        beside = {key: value for key, value in given.items() if key != "$ref"}
        done = self.convert({**self._definitions[name], **beside}, place)
        self._open.pop()
        return done

    def _optional(self, given: Schema, place: str) -> Schema:
        """Turn `anyOf: [X, null]` into X; a field that may be left out is simply not required."""
        others = [each for each in given["anyOf"] if each != {"type": "null"}]
        if len(others) != 1 or len(others) == len(given["anyOf"]):
            raise NotStructural(f"{place}: a union; make it optional fields and a CEL rule")
        beside = {key: value for key, value in given.items() if key != "anyOf"}
        return {**others[0], **beside}

    def _nested(self, given: Schema, done: Schema, place: str) -> Schema:
        if given.get("type") == "array":
            if "maxItems" not in given:
                raise NotStructural(f"{place}: give the list a max_length")
            done["items"] = self.convert(given["items"], f"{place}[]")
        elif given.get("type") == "object" and "properties" in given:
            done["properties"] = {
                name: self.convert(each, f"{place}.{name}")
                for name, each in given["properties"].items()
            }
            if given.get("required"):
                done["required"] = list(given["required"])
        elif given.get("type") == "object":
            values = given.get("additionalProperties")
            if values in (True, _JSON):
                done["x-kubernetes-preserve-unknown-fields"] = True
            elif isinstance(values, dict) and values.get("type") == "string":
                # Labels and annotations are such mappings everywhere in Kubernetes.
                if "maxProperties" not in given:
                    raise NotStructural(f"{place}: give the mapping a max_length")
                done["additionalProperties"] = self.convert(values, f"{place}.*")
            else:
                raise NotStructural(
                    f"{place}: a mapping of free keys; make it a list of named entries"
                )
        elif given.get("type") == "string" and not {"maxLength", "enum", "format"} & given.keys():
            raise NotStructural(f"{place}: give the string a max_length")
        return done


def _rule_in_words(pattern: str) -> Schema:
    matches = f"self.matches(r'{CHEAPER.get(pattern, pattern)}')"
    is_text = "" if pattern != names.QUANTITY else "type(self) != string || "
    return {"rule": f"{is_text}{matches}", "message": names.RULES[pattern]}


def _described(given: Schema) -> Schema:
    return {"description": " ".join(given["description"].split())} if "description" in given else {}
