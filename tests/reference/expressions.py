"""What validations mean, row by row in plain Python: slow, and written apart from what the engine runs.

Values of one row are bool, int, float, str and lists of these, nested as deep as the field has dimensions.
`docs/validations.md` is what both follow.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from midstream_api.syntax import (
    Binary,
    Boolean,
    Call,
    Logic,
    Node,
    Number,
    Reference,
    Text,
    Unary,
    children,
)


class CannotTell(Exception):
    """The row does not have what the expression asks for."""


@dataclass(frozen=True)
class Row:
    """One row, by reference: a field's whole value, its indexes not yet applied, and how many dimensions it has."""

    value: Callable[[Reference], Any]
    dimensions: Callable[[Reference], int]


def failed(root: Node, row: Row, *, fails_when: bool) -> bool:
    """Whether a row fails a validation: it says so, or it cannot be told."""
    try:
        return evaluate(root, row) is fails_when
    except CannotTell:
        return True


def evaluate(node: Node, row: Row) -> Any:
    match node:
        case Number() | Text() | Boolean():
            return node.value
        case Reference():
            return taken(row.value(node), node.indexes, lenient=node.root == "model")
        case Unary(operator="-"):
            return each(lambda value: -float(value), evaluate(node.operand, row))
        case Unary():
            return each(lambda value: not value, evaluate(node.operand, row))
        case Binary():
            calculate = OPERATORS[node.operator]
            return each(calculate, evaluate(node.left, row), evaluate(node.right, row))
        case Logic():
            return joined(node, row)
        case Call():
            arguments = [evaluate(argument, row) for argument in node.arguments]
            return FUNCTIONS[node.function](*arguments)


def is_list(node: Node, row: Row) -> bool:
    """Whether a node has many values in a row, be they none."""
    match node:
        case Number() | Text() | Boolean():
            return False
        case Reference():
            return row.dimensions(node) > len(node.indexes)
        case Call() if node.function in {"all", "any", "len", "mean", "sum"}:
            return False
        case Call() if node.function in {"min", "max"} and len(node.arguments) == 1:
            return False
        case _:
            return any(is_list(child, row) for child in children(node))


def taken(value: Any, indexes: tuple[int, ...], *, lenient: bool) -> Any:
    if lenient and not isinstance(value, list) and indexes == (0,):
        return value
    for index in indexes:
        if not isinstance(value, list) or index >= len(value):
            raise CannotTell
        value = value[index]
    return value


def each(function: Callable[..., Any], *values: Any) -> Any:
    """The function of single values; of lists, of every value in its place."""
    lists = [value for value in values if isinstance(value, list)]
    if not lists:
        return function(*values)
    if any(shape(value) != shape(lists[0]) for value in lists):
        raise CannotTell
    return [
        each(function, *(value[place] if isinstance(value, list) else value for value in values))
        for place in range(len(lists[0]))
    ]


def shape(value: Any) -> list[int]:
    """Lists are never ragged inside; below an empty one nothing is known or needed."""
    if not isinstance(value, list):
        return []
    return [len(value), *(shape(value[0]) if value else [])]


def flat(value: Any) -> list[Any]:
    return [item for part in value for item in flat(part)] if isinstance(value, list) else [value]


def joined(node: Logic, row: Row) -> Any:
    """What decides ends it, unless an operand is a list: then all of them are looked at."""
    decides = node.operator == "or"
    together = is_list(node, row)
    result: Any = not decides
    for operand in node.operands:
        value = evaluate(operand, row)
        result = each(lambda a, b: (a or b) if decides else (a and b), result, value)
        if result is decides and not together:
            break
    return result


def compared(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def comparison(a: Any, b: Any) -> bool:
        # Two whole numbers are compared exactly, a whole one and a float as floats.
        if isinstance(a, float) or isinstance(b, float):
            return compare(float(a), float(b))
        return compare(a, b)

    return comparison


def calculated(calculate: Callable[[float, float], float]) -> Callable[[Any, Any], float]:
    return lambda a, b: calculate(float(a), float(b))


def divided(a: float, b: float) -> float:
    if b:
        return a / b
    if a == 0 or math.isnan(a):
        return math.nan
    return math.inf if math.copysign(1, a) == math.copysign(1, b) else -math.inf


OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "<": compared(lambda a, b: a < b),
    "<=": compared(lambda a, b: a <= b),
    ">": compared(lambda a, b: a > b),
    ">=": compared(lambda a, b: a >= b),
    "==": compared(lambda a, b: a == b),
    "!=": compared(lambda a, b: a != b),
    "+": calculated(lambda a, b: a + b),
    "-": calculated(lambda a, b: a - b),
    "*": calculated(lambda a, b: a * b),
    "/": calculated(divided),
    "%": calculated(lambda a, b: a % b if b else math.nan),
}


def total(value: Any) -> float:
    result = 0.0
    for item in flat(value):
        result += float(item)
    return result


def mean(value: Any) -> float:
    return divided(total(value), float(len(flat(value))))


def extreme(better: Callable[[float, float], bool]) -> Callable[..., Any]:
    def best(numbers: list[float]) -> float:
        if not numbers or any(math.isnan(number) for number in numbers):
            return math.nan
        chosen = numbers[0]
        for number in numbers:
            if better(number, chosen):
                chosen = number
        return chosen + 0.0  # zero has no sign here

    def function(*values: Any) -> Any:
        if len(values) == 1:
            return best([float(item) for item in flat(values[0])])
        return each(lambda *items: best([float(item) for item in items]), *values)

    return function


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "abs": lambda value: each(lambda item: abs(float(item)), value),
    "all": lambda value: all(flat(value)),
    "any": lambda value: any(flat(value)),
    "contains": lambda text, part: each(lambda a, b: None not in (a, b) and b in a, text, part),
    "isfinite": lambda value: each(lambda item: math.isfinite(float(item)), value),
    "isnan": lambda value: each(lambda item: math.isnan(float(item)), value),
    "len": lambda value: 0 if value is None else len(value),
    "max": extreme(lambda a, b: a > b),
    "mean": mean,
    "min": extreme(lambda a, b: a < b),
    "sum": total,
}
