"""The verdict of a Kubernetes API server on an object, worked out from the CRD alone.

Defaults, structural schema (jsonschema), unknown fields (refused, as `kubectl` asks for by default), list maps, and CEL
rules, in the order in which an API server asks: rules are looked at only when everything else is right. What it does
not do: cost limits; those need the real one.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import cel
from jsonschema import Draft202012Validator

Schema = Mapping[str, Any]


def verdict(crd: Schema, given: Any) -> list[str]:
    """Return why the object is refused; empty when it is accepted."""
    spec = crd["spec"]
    version = spec["versions"][0]
    if not isinstance(given, dict):
        return ["not an object"]
    if given.get("apiVersion") != f"{spec['group']}/{version['name']}":
        return [f"no matches for apiVersion {given.get('apiVersion')}"]
    if given.get("kind") != spec["names"]["kind"]:
        return [f"no matches for kind {given.get('kind')}"]
    metadata = given.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        return ["metadata.name: required"]
    if not metadata["name"]:
        return ["metadata.name: required"]
    schema = version["schema"]["openAPIV3Schema"]
    value = _with_defaults(schema, _without_nulls(schema, given))
    found = [
        *_unknown(schema, value, ""),
        *(
            error.message
            for error in Draft202012Validator(_as_json_schema(schema)).iter_errors(value)
        ),
        *_repeated(schema, value, ""),
    ]
    return found or list(_broken_rules(schema, value, ""))


def _without_nulls(schema: Schema, value: Any) -> Any:
    """Drop null from known fields, as an API server does where null is not allowed."""
    if isinstance(value, dict) and "properties" in schema:
        return {
            key: _without_nulls(schema["properties"].get(key, {}), each)
            for key, each in value.items()
            if each is not None or key not in schema["properties"]
        }
    if isinstance(value, list) and "items" in schema:
        return [_without_nulls(schema["items"], each) for each in value]
    return value


def _with_defaults(schema: Schema, value: Any) -> Any:
    """Fill in what an object leaves out, as an API server does before it judges."""
    if isinstance(value, dict) and "properties" in schema:
        defaults = {
            key: each["default"] for key, each in schema["properties"].items() if "default" in each
        }
        return {
            key: _with_defaults(schema["properties"].get(key, {}), each)
            for key, each in {**defaults, **value}.items()
        }
    if isinstance(value, list) and "items" in schema:
        return [_with_defaults(schema["items"], each) for each in value]
    return value


def _as_json_schema(schema: Any) -> Any:
    """Write in JSON Schema's own words what a structural schema says otherwise.

    `$` in patterns means the end of the text, as it does for Go; for Python a newline may follow.
    """
    if isinstance(schema, dict):
        done = {
            key: each.replace("$", r"\Z")
            if key == "pattern" and isinstance(each, str)
            else _as_json_schema(each)
            for key, each in schema.items()
        }
        if schema.get("x-kubernetes-int-or-string") is True:
            done["type"] = ["integer", "string"]
        return done
    return [_as_json_schema(each) for each in schema] if isinstance(schema, list) else schema


def _parts(schema: Schema, value: Any, place: str) -> Iterator[tuple[Schema, Any, str]]:
    """Walk values with known schemas, outside in."""
    yield schema, value, place
    if isinstance(value, dict):
        for key, each in value.items():
            if key in schema.get("properties", {}):
                yield from _parts(schema["properties"][key], each, f"{place}.{key}")
            elif "additionalProperties" in schema:
                yield from _parts(schema["additionalProperties"], each, f"{place}[{key}]")
    elif isinstance(value, list) and "items" in schema:
        for index, each in enumerate(value):
            yield from _parts(schema["items"], each, f"{place}[{index}]")


def _unknown(schema: Schema, value: Any, place: str) -> Iterator[str]:
    for known, part, where in _parts(schema, value, place):
        if isinstance(part, dict) and "properties" in known:
            for key in part.keys() - known["properties"].keys():
                yield f"unknown field {where}.{key}"


def _repeated(schema: Schema, value: Any, place: str) -> Iterator[str]:
    for known, part, where in _parts(schema, value, place):
        if known.get("x-kubernetes-list-type") == "map" and isinstance(part, list):
            keys = [
                tuple(each.get(key) for key in known["x-kubernetes-list-map-keys"])
                for each in part
                if isinstance(each, dict)
            ]
            if len(set(keys)) != len(keys):
                yield f"{where}: duplicate entries"


def _broken_rules(schema: Schema, value: Any, place: str) -> Iterator[str]:
    for known, part, where in _parts(schema, value, place):
        for rule in known.get("x-kubernetes-validations", []):
            context = cel.Context()
            context.add_variable("self", part)
            if cel.evaluate(rule["rule"], context) is not True:
                yield f"{where}: {rule['message']}"
