"""YAML text becomes plain data that remembers where everything stood.

The one doorway to PyYAML. Builds strings, numbers, booleans, null, lists and mappings and nothing else: no tag makes
an object. Scalars mean what they mean to `kubectl`, so a file says the same here and in a cluster: `yes` and `on`
are true, `0x10` is 16, a date is a string; unlike PyYAML's own rules, `1e-6` is a number.

Guarantees for hostile text: nesting is limited while reading; anchors cannot multiply a text beyond a small multiple of
its size; what cannot be JSON (NaN, duplicate keys, keys that are not strings) is a problem, not a surprise.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml import composer, parser, reader, resolver, scanner

from midstream import problems
from midstream.problems import FieldPath, Problem

MAX_DEPTH = 64
"""Nesting limit of mappings and lists."""

_TAG = "tag:yaml.org,2002:"
_INT64 = range(-(2**63), 2**63)
_TRUE = frozenset({"true", "True", "TRUE", "yes", "Yes", "YES", "y", "Y", "on", "On", "ON"})
_FALSE = frozenset({"false", "False", "FALSE", "no", "No", "NO", "n", "N", "off", "Off", "OFF"})
_INT = re.compile(r"[-+]?(?:[0-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+|0b[01]+)")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_NULL = re.compile(r"(?:~|null|Null|NULL|)")

_BARE_MARK = re.compile(r":\s+!(?!!)")
_HALF_QUOTED = re.compile(r""":\s+("[^"]*"|'[^']*')\s*[^\s,}\]#]""")
_QUOTE_MARK = "put a text that begins with ! in quotes, as in failWhen: '!in.flag'"


class NotYaml(Exception):
    """The text is not YAML; `problem` says where."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Place:
    """Where a field's key and value stand in a text, as positions of characters."""

    key: int
    column: int
    """Of the key, from 0."""
    start: int
    end: int
    """Behind the value; for one of several lines this may be behind comments that follow it."""
    last: int
    """Behind the last character of the value that is no bracket, or behind its closing bracket."""
    in_braces: bool
    """The mapping around the field is written as `{…}`."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a text: its data, and where each field of it stands."""

    value: Any
    """Plain data; null where a problem is."""
    problems: tuple[Problem, ...]
    """What is YAML, but cannot be data of a manifest."""
    _root: yaml.Node = field(repr=False, compare=False)

    def locate(self, path: FieldPath) -> tuple[int, int]:
        """Return line and column, from 1, of a field; of the nearest one around it when it is not there."""
        place, _ = self._walk(path)
        return _position(place)

    def written(self, path: FieldPath) -> str | None:
        """Return the characters of an unquoted plain value as they stand in the text."""
        _, node = self._walk(path)
        if isinstance(node, yaml.ScalarNode) and node.style is None:
            return str(node.value)
        return None

    def place(self, path: FieldPath) -> Place | None:
        """Return where the field of a mapping stands; None when it is not there."""
        key, value = self._walk(path)
        _, around = self._walk(path[:-1])
        if value is None or not isinstance(around, yaml.MappingNode):
            return None
        return Place(
            key=key.start_mark.index,
            column=key.start_mark.column,
            start=value.start_mark.index,
            end=value.end_mark.index,
            last=_last(value),
            in_braces=bool(around.flow_style),
        )

    def _walk(self, path: FieldPath) -> tuple[yaml.Node, yaml.Node | None]:
        """Return the node to point at (a key, or an entry of a list) and the value, None when it is not there."""
        place = node = self._root
        for part in path:
            if isinstance(node, yaml.MappingNode):
                entry = _entries(node).get(str(part))
                if entry is None:
                    return place, None
                place, node = entry
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
                if part >= len(node.value):
                    return place, None
                place = node = node.value[part]
            else:
                return place, None
        return place, node


def parse(text: str) -> list[Document]:
    """Return the documents of a text; those that hold nothing are left out.

    Raises NotYaml.
    """
    try:
        roots = list(_compose(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
        what = error.problem or error.context or "it cannot be parsed"
        lines = text.splitlines()
        there = lines[mark.line] if mark and mark.line < len(lines) else ""
        raise NotYaml(Problem(line, column, "", f"not YAML: {what}", _hint(what, there))) from error
    except reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, error.position - before.rfind("\n")
        what = f"the character U+{ord(text[error.position]):04X} is not allowed"
        raise NotYaml(Problem(line, column, "", f"not YAML: {what}")) from error
    return [_Builder(root, 10_000 + 2 * len(text)).document() for root in roots]


def _hint(problem: str, line: str) -> str | None:
    """What would be right; `line` is the one with the problem."""
    if _BARE_MARK.search(line):
        return _QUOTE_MARK
    if _HALF_QUOTED.search(line):
        return "put quotes of the other kind around a whole text that begins with a quoted one"
    if r"'\t'" in problem:
        return "indent with spaces, not tabs"
    if "<stream end>" in problem:
        return "a bracket, a brace or a quote is not closed"
    if "expected ',' or '}'" in problem:
        return "put quotes around a text with a comma, a bracket, a quote or ': ' in it"
    if "mapping values are not allowed" in problem:
        return "check the indentation; put quotes around a text that has ': ' in it"
    if "expected <block end>" in problem or "could not find expected ':'" in problem:
        return "check the indentation and the quotes above this line"
    return None


class _Resolver(resolver.BaseResolver):
    """What a plain scalar means."""

    def resolve(self, kind: type[yaml.Node], value: str | None, implicit: Any) -> str:
        if kind is not yaml.ScalarNode or value is None or not implicit[0]:
            return str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]
        if value in _TRUE or value in _FALSE:
            return f"{_TAG}bool"
        if value == "<<":
            return f"{_TAG}merge"
        for name, pattern in (("null", _NULL), ("int", _INT), ("float", _FLOAT)):
            if pattern.fullmatch(value):
                return _TAG + name
        return f"{_TAG}str"


class _Loader(reader.Reader, scanner.Scanner, parser.Parser, composer.Composer, _Resolver):
    """Text to nodes."""

    def __init__(self, text: str) -> None:
        reader.Reader.__init__(self, text)
        scanner.Scanner.__init__(self)
        parser.Parser.__init__(self)
        composer.Composer.__init__(self)
        _Resolver.__init__(self)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"nested more than {MAX_DEPTH} levels deep",
                problem_mark=self.peek_event().start_mark,  # type: ignore[no-untyped-call]
            )
        start = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(start, "tag", None) == "!":
            # YAML would leave the mark out, and turn a condition round.
            raise yaml.MarkedYAMLError(
                problem="a '!' by itself is not supported", problem_mark=start.start_mark
            )
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _compose(text: str) -> Iterator[yaml.Node]:
    loader = _Loader(text)
    while loader.check_node():
        node = loader.get_node()
        if node is not None and node.tag != f"{_TAG}null":
            yield node


def _position(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _last(node: yaml.Node) -> int:
    """Return the position behind the last thing in a node; the end of a block is only known from what is in it."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        entry = node.value[-1]
        node = entry[1] if isinstance(node, yaml.MappingNode) else entry
    return int(node.end_mark.index)


def _entries(node: yaml.MappingNode) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    """Return the nodes of each string key and its value; other keys are left out."""
    return {key.value: (key, value) for key, value in node.value if key.tag == f"{_TAG}str"}


class _Builder:
    """Nodes to data. `room` is how many values may be made before anchors are taken for an attack."""

    def __init__(self, root: yaml.Node, room: int) -> None:
        self._root = root
        self._room = room
        self._open: set[int] = set()
        self._problems: list[Problem] = []

    def document(self) -> Document:
        value = self._build(self._root, ())
        return Document(value, tuple(self._problems), self._root)

    def _problem(
        self, node: yaml.Node, path: FieldPath, message: str, suggestion: str | None = None
    ) -> None:
        self._problems.append(Problem(*_position(node), problems.dotted(path), message, suggestion))

    def _build(self, node: yaml.Node, path: FieldPath) -> Any:
        self._room -= 1
        if self._room <= 0:
            if self._room == 0:
                self._problem(node, path, "its anchors expand to too much", "write it out")
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._open:
            return self._problem(node, path, "an anchor that holds itself", "write it out")
        if node.tag not in {f"{_TAG}map", f"{_TAG}seq"}:
            return self._problem(
                node, path, f"the tag {_shown(node.tag)} is not supported", "leave it out"
            )
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            return [self._build(child, (*path, i)) for i, child in enumerate(node.value)]
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: FieldPath) -> dict[str, Any]:
        first: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            shown = problems.quoted(key.value) if isinstance(key, yaml.ScalarNode) else "this one"
            if key.tag == f"{_TAG}merge":
                self._problem(key, path, "'<<' is not supported", "write the fields out")
            elif key.tag != f"{_TAG}str":
                self._problem(
                    key, path, f"a key must be a string, {shown} is not", "put it in quotes"
                )
            elif key.value in first:
                line = first[key.value].start_mark.line + 1
                remedy = f"remove one of them; the first is in line {line}"
                self._problem(key, (*path, key.value), f"{shown} is given twice", remedy)
            else:
                first[key.value] = key
        return {
            self._scalar(key, path): self._build(value, (*path, name))
            for name, (key, value) in _entries(node).items()
        }

    def _scalar(self, node: yaml.Node, path: FieldPath) -> Any:
        build = _SCALARS.get(node.tag)
        if build is None:
            own = node.tag.startswith("!")  # what others write is a text, what YAML has is a type
            remedy = _QUOTE_MARK if own else "leave it out"
            return self._problem(node, path, f"the tag {_shown(node.tag)} is not supported", remedy)
        try:
            return build(node.value)
        except ValueError as error:
            return self._problem(node, path, str(error))


def _shown(tag: str) -> str:
    return problems.quoted(tag.replace(_TAG, "!!"))


def _string(text: str) -> str:
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError(f"{problems.quoted(text)} has a character that no text can hold")
    return text


def _bool(text: str) -> bool:
    if text not in _TRUE | _FALSE:
        raise ValueError(f"{problems.quoted(text)} is neither true nor false")
    return text in _TRUE


def _null(text: str) -> None:
    if not _NULL.fullmatch(text):
        raise ValueError(f"{problems.quoted(text)} is not null")


def _int(text: str) -> int:
    if not _INT.fullmatch(text):
        raise ValueError(f"{problems.quoted(text)} is not a whole number")
    plain = text.replace("_", "")
    digits = plain.lstrip("-+")
    if len(digits) > 1 and digits[0] == "0" and digits.isdigit():
        raise ValueError(
            f"{problems.quoted(text)} is a number that some read as octal; leave out the leading 0, "
            "or put a text in quotes"
        )
    value = int(plain, 0) if len(plain) < 100 else _INT64.stop
    if value not in _INT64:
        raise ValueError(
            f"{problems.quoted(text)} is a number of more than 64 bits; write it with a '.0', "
            "or put a text in quotes"
        )
    return value


def _float(text: str) -> float:
    if not _FLOAT.fullmatch(text):
        raise ValueError(f"{problems.quoted(text)} is not a number")
    plain = text.replace("_", "").lower()
    value = float(plain.replace(".inf", "inf").replace(".nan", "nan"))
    if not math.isfinite(value):
        raise ValueError(
            f"{problems.quoted(text)} is not a finite number, and JSON has no other; put a text in quotes"
        )
    return value


_SCALARS: dict[str, Callable[[str], Any]] = {
    f"{_TAG}str": _string,
    f"{_TAG}bool": _bool,
    f"{_TAG}null": _null,
    f"{_TAG}int": _int,
    f"{_TAG}float": _float,
}
