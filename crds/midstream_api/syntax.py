"""The tree of a validation's expression, and its canonical text.

Values only: how a text becomes a tree is `midstream_api.expression`'s, what a tree means is the engine's. Two trees are
equal when they mean the same, wherever they stood in their texts.
"""

import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

COMPARISONS = ("<=", ">=", "==", "!=", "<", ">")

PLAIN_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:[.:][A-Za-z0-9_]+)*")
"""A field's name that needs no quotes. What is an operator elsewhere (- and /) is not in it."""

Root = Literal["in", "out", "steps", "model"]


class ExpressionError(ValueError):
    """A text that is no expression, or one that does not fit its pipeline."""

    def __init__(self, message: str, column: int) -> None:
        super().__init__(f"column {column}: {message}")
        self.message = message
        self.column = column
        """In the text, from 1."""


@dataclass(frozen=True, slots=True)
class Number:
    value: int | float
    """An int when it is whole and has at most 64 bits, however it was written."""
    column: int = dataclasses.field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Text:
    value: str
    column: int = dataclasses.field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Boolean:
    value: bool
    column: int = dataclasses.field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Reference:
    """A field's value in one row, or a part of it."""

    root: Root
    name: str
    """Of the step or model; empty for `in` and `out`."""
    field: str | int
    """The field's name, or its position among the outputs."""
    indexes: tuple[int, ...] = ()
    column: int = dataclasses.field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Unary:
    operator: Literal["-", "not"]
    operand: "Node"
    column: int = dataclasses.field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Binary:
    """A comparison or a calculation. `column` is the operator's."""

    operator: str
    left: "Node"
    right: "Node"
    column: int = dataclasses.field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Logic:
    """Two or more conditions joined by the same word. `column` is that of the first such word."""

    operator: Literal["and", "or"]
    operands: tuple["Node", ...]
    column: int = dataclasses.field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Call:
    function: str
    arguments: tuple["Node", ...]
    column: int = dataclasses.field(default=0, compare=False)


Node = Number | Text | Boolean | Reference | Unary | Binary | Logic | Call


@dataclass(frozen=True, slots=True)
class Expression:
    """A condition. `str()` gives its one canonical text, which parses to an equal expression."""

    root: Node
    text: str = dataclasses.field(default="", compare=False)
    """As it was written; columns count in it."""

    def __str__(self) -> str:
        return printed(self.root)

    def references(self) -> list[Reference]:
        """What it reads, from left to right; the same may come twice."""
        return [node for node in walk(self.root) if isinstance(node, Reference)]


def walk(node: Node) -> Iterator[Node]:
    """The node and all below it, from left to right."""
    yield node
    for child in children(node):
        yield from walk(child)


def children(node: Node) -> tuple[Node, ...]:
    match node:
        case Unary():
            return (node.operand,)
        case Binary():
            return (node.left, node.right)
        case Logic():
            return node.operands
        case Call():
            return node.arguments
        case _:
            return ()


# How strongly a node's parts hold together.
_OR, _AND, _NOT, _COMPARISON, _SUM, _PRODUCT, _VALUE = range(7)


def printed(node: Node, least: int = _OR) -> str:
    """The canonical text of a node, in parentheses when its parts hold less together than `least`."""
    match node:
        case Unary(operator="-"):
            text, strength = f"-{printed(node.operand, _VALUE)}", _VALUE
        case Unary():
            text, strength = f"not {printed(node.operand, _NOT)}", _NOT
        case Logic():
            strength = _OR if node.operator == "or" else _AND
            parts = (printed(operand, strength + 1) for operand in node.operands)
            text = f" {node.operator} ".join(parts)
        case Binary():
            text, strength = _printed_binary(node)
        case _:
            return _printed_value(node)
    return text if strength >= least else f"({text})"


def _printed_binary(node: Binary) -> tuple[str, int]:
    if node.operator in COMPARISONS:
        # They do not chain, so neither side may be one.
        strength, left = _COMPARISON, _SUM
    else:
        strength = left = _SUM if node.operator in "+-" else _PRODUCT
    right = strength + 1
    return f"{printed(node.left, left)} {node.operator} {printed(node.right, right)}", strength


def _printed_value(node: Number | Text | Boolean | Reference | Call) -> str:
    match node:
        case Number():
            return repr(node.value)
        case Text():
            return _quoted(node.value)
        case Boolean():
            return "true" if node.value else "false"
        case Call():
            return f"{node.function}({', '.join(printed(each) for each in node.arguments)})"
        case Reference(field=int()):
            own = f"[{node.field}]"
        case Reference(field=str() as name):
            own = f".{name}" if PLAIN_FIELD.fullmatch(name) else f"[{_quoted(name)}]"
    start = {"model": f"{node.name}.outputs", "steps": f"steps.{node.name}.out"}
    indexes = "".join(f"[{index}]" for index in node.indexes)
    return start.get(node.root, node.root) + own + indexes


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
