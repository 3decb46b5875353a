"""Problems of a manifest: plain sentences that name the field, the value and what would be right.

Turns pydantic's errors into such sentences. Knows nothing of files or YAML: where a field stands is asked of the
caller.
"""

import difflib
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from midstream_api import names
from midstream_api.pipeline import Pipeline

FieldPath = tuple[str | int, ...]
"""A field's place in a manifest: `("spec", "steps", 0, "model", "name")`."""

Locate = Callable[[FieldPath], tuple[int, int]]
"""Line and column, both from 1, of a field; of the nearest field around it when it is not there."""

_WORD = 4
"""Letters that mean a word when they begin one."""

MAX_QUOTED = 60
"""Characters of a user's value that a message repeats."""

EXAMPLES: Mapping[str, str] = {
    "apiVersion": f"apiVersion: {names.API_VERSION}",
    "kind": f"kind: {names.PIPELINE_KIND}",
    "metadata": "metadata: {name: house-price}",
    "spec": "spec: {steps: [...]}",
    "steps": "steps: [{name: predict, model: {...}}]",
    "model": "model: {name: rf-house-price, source: {uri: models/rf.onnx}}",
    "name": "name: house-price",
    "steps.name": "name: predict",
    "model.name": "name: rf-house-price",
    "inputs.name": "name: tensor",
    "source": "source: {uri: models/rf.onnx}",
    "uri": "uri: models/rf.onnx",
    "secretRef": "secretRef: {name: registry}",
    "secretRef.name": "name: registry",
    "image": "image: registry.example.com/midstream/engine:v1",
    "tags": "tags: [blue]",
    "deployment": "deployment: {replicas: 2}",
    "engine": "engine: {resources: {limits: {memory: 2Gi}}}",
    "resources": "resources: {limits: {memory: 2Gi}}",
    "requests": "requests: {cpu: 250m, memory: 512Mi}",
    "limits": "limits: {memory: 2Gi}",
    "service": "service: {type: LoadBalancer}",
    "annotations": 'annotations: {example.com/team: "homes"}',
    "inputs": "inputs: [{tensor: [4.0, 2.5]}]",
    "outputs": "outputs: [{variable: [718013.75]}]",
    "model.inputs": "inputs: [{name: tensor}]",
    "model.outputs": "outputs: [{name: total, dtype: float32}]",
    "outputs.name": "name: total",
    "dtype": "dtype: float32",
    "shape": "shape: [18]",
    "inline": "inline: |, and the code in the lines below",
    "split": "split: {variants: [{name: control, model: {...}}, {name: rival, model: {...}}]}",
    "variants": "variants: [{name: control, model: {...}}, {name: rival, model: {...}}]",
    "variants.name": "name: control",
    "hashKey": "hashKey: session_id",
    "key": "key: country",
    "options": "options: {DE: control}",
    "default": "default: control",
    "shadow": "shadow: {champion: {name: rf, model: {...}}, challengers: [{name: xgb, model: {...}}]}",
    "champion": "champion: {name: rf, model: {...}}",
    "challengers": "challengers: [{name: xgb, model: {...}}]",
    "champion.name": "name: rf",
    "challengers.name": "name: xgb",
    "validations": 'validations: [{name: price-too-high, expression: "out.variable[0] < 1500000.0"}]',
    "validations.name": "name: price-too-high",
    "expression": 'expression: "out.variable[0] < 1500000.0"',
    "failWhen": 'failWhen: "out.variable[0] >= 1500000.0"',
    "sidekick": "sidekick: {resources: {limits: {memory: 1Gi}}}",
}

KINDS: Mapping[str, str] = {
    "string_type": "a string",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "bool_type": "true or false",
    "float_type": "a number",
    "int_type": "a whole number",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, where it is, and what would be right."""

    line: int | None
    """From 1; None when the file as a whole is meant."""
    column: int | None
    field: str
    """`spec.steps[0].model.name`; empty when the file as a whole is meant."""
    message: str
    suggestion: str | None = None

    def __str__(self) -> str:
        """`12:7: spec.steps[0].model.name: message; suggestion`, without the file."""
        parts = [f"{self.line}:{self.column}"] if self.line is not None else []
        parts += [self.field] if self.field else []
        text = f"{self.message}; {self.suggestion}" if self.suggestion else self.message
        return ": ".join([*parts, text])


def at(path: Path, problem: Problem) -> str:
    """Write a problem with its file, as compilers do, so that editors can jump to it."""
    return f"{path}:{problem}" if problem.line is not None else f"{path}: {problem}"


def dotted(path: FieldPath) -> str:
    """Write a path as people do: `spec.steps[0].model.name`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[-\w]{1,64}", part):
            text += f".{part}" if text else part
        else:
            text += f"[{quoted(part)}]"
    return text


def parts(text: str) -> FieldPath:
    """Read a path that needs no quotes: `split.variants[0].model`."""
    found = re.findall(r"[^.\[\]]+", text)
    return tuple(int(part) if part.isdigit() else part for part in found)


def quoted(value: object) -> str:
    """Repeat a user's value, shortened, in quotes."""
    text = str(value)
    return repr(text if len(text) <= MAX_QUOTED else f"{text[: MAX_QUOTED - 1]}…")


def closest(given: str, known: Sequence[str]) -> str | None:
    """Return the known word that `given` most likely means, if there is one."""
    by_folded = {word.casefold(): word for word in known}
    # One wrong letter of three is a third of the word.
    cutoff = 0.65 if len(given) <= len("uri") else 0.7
    found = difflib.get_close_matches(given.casefold(), by_folded, n=1, cutoff=cutoff)
    if found:
        return by_folded[found[0]]
    # The beginning of one word alone: `timeout` for timeoutSeconds.
    longer = [word for folded, word in by_folded.items() if folded.startswith(given.casefold())]
    return longer[0] if len(longer) == 1 and len(given) >= _WORD else None


def explain(
    error: ErrorDetails, locate: Locate, written: Callable[[FieldPath], str | None]
) -> Problem:
    """Turn one of pydantic's errors into a problem.

    `written` gives the characters that stand in the file for a plain value, so that a suggestion can repeat them.
    """
    path: FieldPath = tuple(error["loc"])
    kind, context = error["type"], error.get("ctx", {})
    if "list" in context:
        path = (*path, context["list"], context["index"], *parts(context.get("below", "name")))
    elif "field" in context:
        path = (*path, context["field"])
    say = _SENTENCES.get(kind, _own_words)
    message, suggestion = say(
        _Case(path, kind, error["input"], context, error["msg"], written(path))
    )
    return Problem(*locate(path), dotted(path), message, suggestion)


@dataclass(frozen=True, slots=True)
class _Case:
    """One error of pydantic's, and what stands in the file."""

    path: FieldPath
    kind: str
    value: Any
    context: Mapping[str, Any]
    words: str
    written: str | None

    @property
    def example(self) -> str:
        last = self.path[-1]
        if isinstance(last, int):
            return "fill it, or remove the entry"
        around = next((part for part in self.path[-2::-1] if isinstance(part, str)), "")
        shown = EXAMPLES.get(f"{around}.{last}")
        return f"write {shown or EXAMPLES.get(last, f'{last}: ...')}"


_Sentence = tuple[str, str | None]


def _own_words(case: _Case) -> _Sentence:
    return case.words.removeprefix("Value error, "), None


def _missing(case: _Case) -> _Sentence:
    return f"missing field {quoted(case.path[-1])}", case.example


def _unknown(case: _Case) -> _Sentence:
    return f"unknown field {quoted(case.path[-1])}", _known_instead(case.path)


def _wrong_kind(case: _Case) -> _Sentence:
    message = f"expected {KINDS[case.kind]}, got {_what(case.value, case.written)}"
    if case.kind == "string_type":
        is_plain = isinstance(case.value, int | float) and case.written
        return message, f'write "{case.written}"' if is_plain else None
    if case.kind in {"bool_type", "float_type", "int_type"} and isinstance(case.value, str):
        return message, "leave out the quotes" if _is_plain(case.value) else None
    return message, case.example if case.path[-1] in EXAMPLES else None


def _is_plain(text: str) -> bool:
    """Whether a text would be a number or a truth value without its quotes."""
    return re.fullmatch(r"true|false|yes|no|on|off|[-+]?[0-9.]+(e[-+]?[0-9]+)?", text) is not None


def _not_one_of(case: _Case) -> _Sentence:
    expected = case.context["expected"].replace("'", "")
    return f"{quoted(case.value)} is not known here", f"write {case.path[-1]}: {expected}"


def _wrong_pattern(case: _Case) -> _Sentence:
    suggestion = _allowed_instead(case.value, case.context["pattern"])
    return f"{quoted(case.value)} is not allowed here", suggestion


def _empty_string(case: _Case) -> _Sentence:
    return "is empty", case.example


def _long_string(case: _Case) -> _Sentence:
    message = f"{quoted(case.value)} has {len(case.value)} characters"
    return message, f"at most {case.context['max_length']} are allowed"


def _one_of(*fields: str) -> "Callable[[_Case], _Sentence]":
    """The sentence for an object that has exactly one of several fields."""

    def sentence(case: _Case) -> _Sentence:
        value = case.value if isinstance(case.value, dict) else {}
        given = [field for field in fields if value.get(field) is not None]
        return case.words, "remove one" if given else f"write {EXAMPLES[fields[0]]}"

    return sentence


def _wrong_quantity(case: _Case) -> _Sentence:
    message = f"{_what(case.value, case.written)} is not a quantity"
    if isinstance(case.value, float):
        return message, f'write "{case.written or case.value}"'
    if isinstance(case.value, str):
        candidate = re.sub(r"\s|B$", "", case.value.lstrip("+-"))
        for given, meant in (
            ("MB", "M"),
            ("GB", "G"),
            ("mi", "Mi"),
            ("gi", "Gi"),
            ("mb", "M"),
            ("gb", "G"),
        ):
            candidate = re.sub(f"(?<=[0-9]){given}$", meant, candidate)
        if re.fullmatch(names.QUANTITY, candidate):
            return message, f"write {candidate}"
    return message, "write one such as 250m, 1 or 512Mi"


def _short_list(case: _Case) -> _Sentence:
    return "is empty", f"at least {_entries(case.context['min_length'])} needed"


def _long_list(case: _Case) -> _Sentence:
    return f"has {_entries(len(case.value))}", f"at most {case.context['max_length']} are allowed"


def _too_small(case: _Case) -> _Sentence:
    return f"{case.value} is too small", f"the least is {_plain(case.context['ge'])}"


def _too_large(case: _Case) -> _Sentence:
    return f"{case.value} is too large", f"the most is {_plain(case.context['le'])}"


def _plain(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


_SENTENCES: Mapping[str, Callable[[_Case], _Sentence]] = {
    "missing": _missing,
    "extra_forbidden": _unknown,
    "literal_error": _not_one_of,
    "enum": _not_one_of,
    "string_pattern_mismatch": _wrong_pattern,
    "string_too_short": _empty_string,
    "string_too_long": _long_string,
    "too_short": _short_list,
    "too_long": _long_list,
    "greater_than_equal": _too_small,
    "less_than_equal": _too_large,
    "quantity": _wrong_quantity,
    "source_kind": _one_of("uri", "inline"),
    "validation_kind": _one_of("expression", "failWhen"),
    **dict.fromkeys(KINDS, _wrong_kind),
}


def _entries(count: int) -> str:
    return "1 entry is" if count == 1 else f"{count} entries"


def _what(value: object, text: str | None) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            plain = str(value).lower()
            return f"{text}, which YAML reads as {plain}" if text and text != plain else plain
        case int() | float():
            return f"the number {text or value}"
        case str():
            return f"the string {quoted(value)}"
        case list():
            return f"a list of {len(value)}"
        case _:
            return "a mapping"


def _allowed_instead(value: str, pattern: str) -> str:
    rule = names.RULES.get(pattern, f"it must match {pattern}")
    candidate = ""
    if pattern == names.SHA256:
        if value.startswith("sha256:"):
            return f"{rule}; leave out 'sha256:'"
        candidate = value.lower()
        if len(value) != len("0" * 64):
            return f"{rule}; this has {len(value)} characters"
    elif pattern == names.DNS_LABEL:
        candidate = re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-")
    elif pattern == names.MODEL_NAME:
        candidate = re.sub(r"[^-._A-Za-z0-9]+", "-", value).strip("-._")
    elif pattern == names.OBJECT_NAME:
        candidate = re.sub(r"[^-.a-z0-9]+", "-", value.lower()).strip("-.")
    elif pattern == names.PINNED_VERSION:
        candidate = value.strip().lower()
    fits = candidate and re.fullmatch(pattern, candidate)
    return f"{rule}, as in {quoted(candidate)}" if fits else rule


def _known_instead(path: FieldPath) -> str:
    given = str(path[-1])
    known = list(_fields(_model_at(path[:-1])))
    near = closest(given, known)
    if near:
        return f"did you mean {quoted(near)}?"
    elsewhere = [place for place, name in _places(Pipeline, "") if name == given]
    if elsewhere:
        return f"it belongs to {elsewhere[0]}" if elsewhere[0] else "it belongs to the top level"
    return f"known here: {', '.join(known)}"


def _places(model: type[BaseModel], at: str) -> Iterator[tuple[str, str]]:
    """Every field of the contract as (dotted path of the type around it, name)."""
    for name, annotation in _fields(model).items():
        yield at, name
        inner = _model_in(annotation)
        if inner is not None:
            many = "[]" if _is_list(annotation) else ""
            yield from _places(inner, f"{at}.{name}{many}".lstrip("."))


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _model_at(path: FieldPath) -> type[BaseModel]:
    model: type[BaseModel] = Pipeline
    for part in path:
        if isinstance(part, str):
            model = _model_in(_fields(model).get(part)) or model
    return model


def _is_list(annotation: object) -> bool:
    return typing.get_origin(annotation) is list or any(
        _is_list(inner) for inner in typing.get_args(annotation)
    )


def _model_in(annotation: object) -> type[BaseModel] | None:
    """Return the model that an annotation holds: `X`, `X | None`, `list[X]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in typing.get_args(annotation):
        found = _model_in(inner)
        if found is not None:
            return found
    return None
