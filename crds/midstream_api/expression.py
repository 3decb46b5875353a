"""The language of validations: a text becomes a tree.

A small grammar of conditions over the values of one row; `docs/validations.md` has all of it. An expression is bounded
in length, depth and size, and has no loops. Whether its names exist and its types fit is not known here: that needs a
pipeline's fields.
"""

from typing import Literal

from midstream_api.scanner import HOW, Token, tokens
from midstream_api.syntax import (
    COMPARISONS,
    Binary,
    Boolean,
    Call,
    Expression,
    ExpressionError,
    Logic,
    Node,
    Number,
    Reference,
    Root,
    Text,
    Unary,
    printed,
)

__all__ = ["FUNCTIONS", "Expression", "ExpressionError", "Reference", "parse"]

MAX_CHARACTERS = 1024
MAX_DEPTH = 32
"""Of parentheses, function calls, `not` and `-` inside each other."""
MAX_NODES = 200
"""Values and operators."""
MAX_INDEX = 2**31 - 1

FUNCTIONS = {
    "abs": (1, 1),
    "all": (1, 1),
    "any": (1, 1),
    "contains": (2, 2),
    "isfinite": (1, 1),
    "isnan": (1, 1),
    "len": (1, 1),
    "max": (1, MAX_NODES),
    "mean": (1, 1),
    "min": (1, MAX_NODES),
    "sum": (1, 1),
}
"""Fewest and most arguments of each function."""

_CONDITIONS = {"all", "any", "contains", "isfinite", "isnan"}
_WORDS = {"and", "or", "not", "true", "false"}


def parse(text: str) -> Expression:
    """The condition that a text says. Raises ExpressionError."""
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(
            f"{len(text)} characters are too many; an expression has at most {MAX_CHARACTERS}",
            MAX_CHARACTERS + 1,
        )
    root = _Parser(list(tokens(text))).whole()
    expression = Expression(root, text)
    if not expression.references():
        raise ExpressionError(f"it reads no value of a row; values are {HOW}", root.column)
    if not _may_be_condition(root):
        raise ExpressionError(
            f"{printed(root)} is a value, not a condition; compare it, as in out.variable[0] < 100",
            root.column,
        )
    return expression


def _may_be_condition(node: Node) -> bool:
    match node:
        case Binary():
            return node.operator in COMPARISONS
        case Unary():
            return node.operator == "not"
        case Call():
            return node.function in _CONDITIONS
        case _:
            return isinstance(node, Logic | Reference)


class _Parser:
    """Recursive descent, one method for each strength of binding."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self._nodes = 0

    def whole(self) -> Node:
        if len(self._tokens) == 1:
            raise ExpressionError("the expression is empty", 1)
        node = self._or()
        self._expect("", "an operator")
        return node

    @property
    def _next(self) -> Token:
        return self._tokens[self._at]

    def _take(self, *texts: str) -> Token | None:
        """The next token, when it is one of these symbols or words."""
        token = self._next
        if token.kind in {"symbol", "name"} and token.text in texts:
            self._at += 1
            return token
        return None

    def _expect(self, text: str, shown: str = "") -> None:
        token = self._next
        if token.text != text or token.kind not in {"symbol", "end"}:
            raise ExpressionError(
                f"expected {shown or repr(text)}, found {token.shown}{_hint(token)}", token.column
            )
        self._at += 1

    def _made(self, node: Node) -> Node:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise ExpressionError(
                f"more than {MAX_NODES} values and operators; make it two validations", node.column
            )
        return node

    def _deeper(self, column: int) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ExpressionError(f"more than {MAX_DEPTH} levels inside each other", column)

    def _or(self) -> Node:
        return self._joined("or", "||")

    def _joined(self, word: Literal["and", "or"], symbol: str) -> Node:
        below = self._and if word == "or" else self._not
        first = below()
        token = self._take(word, symbol)
        if token is None:
            return first
        operands = [first, below()]
        while self._take(word, symbol):
            operands.append(below())
        return self._made(Logic(word, tuple(operands), token.column))

    def _and(self) -> Node:
        return self._joined("and", "&&")

    def _not(self) -> Node:
        token = self._take("not", "!")
        if token is None:
            return self._comparison()
        self._deeper(token.column)
        operand = self._not()
        self._depth -= 1
        return self._made(Unary("not", operand, token.column))

    def _comparison(self) -> Node:
        left = self._sum()
        token = self._take(*COMPARISONS)
        if token is None:
            return left
        node = self._made(Binary(token.text, left, self._sum(), token.column))
        if again := self._take(*COMPARISONS):
            raise ExpressionError(
                "comparisons do not chain; write a < b and b < c, or put one in parentheses",
                again.column,
            )
        return node

    def _sum(self) -> Node:
        node = self._product()
        while token := self._take("+", "-"):
            node = self._made(Binary(token.text, node, self._product(), token.column))
        return node

    def _product(self) -> Node:
        node = self._minus()
        while token := self._take("*", "/", "%"):
            node = self._made(Binary(token.text, node, self._minus(), token.column))
        return node

    def _minus(self) -> Node:
        token = self._take("-")
        if token is None:
            return self._value()
        self._deeper(token.column)
        operand = self._minus()
        self._depth -= 1
        if isinstance(operand, Number):
            return Number(-operand.value, token.column)
        return self._made(Unary("-", operand, token.column))

    def _value(self) -> Node:
        token = self._next
        if self._take("("):
            self._deeper(token.column)
            node = self._or()
            self._depth -= 1
            self._expect(")")
            return node
        if isinstance(token.value, Reference):
            self._at += 1
            return self._made(self._indexed(token.value))
        if token.value is not None:
            self._at += 1
            return self._made(token.value)
        if token.text in {"not", "!"}:
            raise ExpressionError("put parentheses around not: a == (not b)", token.column)
        if token.kind == "name" and token.text not in {"and", "or"}:
            return self._word(token)
        raise ExpressionError(f"expected a value, found {token.shown}", token.column)

    def _word(self, token: Token) -> Node:
        self._at += 1
        word = token.text
        if word in {"true", "false"}:
            return self._made(Boolean(word == "true", token.column))
        if self._take("("):
            return self._call(token)
        if word in {"in", "out"}:
            root: Root = "in" if word == "in" else "out"
            return self._made(self._indexed(Reference(root, "", "", (), token.column)))
        if word in FUNCTIONS:
            raise ExpressionError(f"{word} is a function; write {word}(…)", token.column)
        hint = _hint(token) or f"; values are {HOW}"
        raise ExpressionError(f"{word!r} is not known{hint}", token.column)

    def _call(self, token: Token) -> Node:
        name = token.text
        if name not in FUNCTIONS:
            raise ExpressionError(
                f"there is no function {name!r}; there are {', '.join(FUNCTIONS)}", token.column
            )
        self._deeper(token.column)
        arguments: list[Node] = []
        if not self._take(")"):
            arguments.append(self._or())
            while self._take(","):
                arguments.append(self._or())
            self._expect(")")
        self._depth -= 1
        fewest, most = FUNCTIONS[name]
        if not fewest <= len(arguments) <= most:
            wanted = f"{fewest}" if fewest == most else f"at least {fewest}"
            raise ExpressionError(
                f"{name} takes {wanted} argument{'' if fewest == 1 else 's'}, not {len(arguments)}",
                token.column,
            )
        return self._made(Call(name, tuple(arguments), token.column))

    def _indexed(self, start: Reference) -> Reference:
        """The reference with the field and the indexes that its brackets hold."""
        field: str | int = start.field
        if field == "":
            field = self._bracketed(start)
        indexes: list[int] = []
        while self._take("["):
            indexes.append(self._index())
        return Reference(start.root, start.name, field, tuple(indexes), start.column)

    def _bracketed(self, start: Reference) -> str | int:
        shown = {"model": "<model>.outputs", "steps": f"steps.{start.name}.out"}.get(
            start.root, start.root
        )
        ways = {
            "model": f"{shown}[0]",
            "steps": f'{shown}[0], {shown}.<field> or {shown}["my-field"]',
        }
        way = ways.get(start.root, f'{shown}.<field> or {shown}["my-field"]')
        token = self._next
        if not self._take("["):
            raise ExpressionError(f"{shown} alone is no value; write {way}", token.column)
        token = self._next
        if isinstance(token.value, Text) and token.value.value and start.root != "model":
            self._at += 1
            self._expect("]")
            return token.value.value
        if start.root in {"in", "out"}:
            raise ExpressionError(
                f"{shown} goes by names, not {token.shown}; write {way}", token.column
            )
        return self._index()

    def _index(self) -> int:
        token = self._next
        value = token.value.value if isinstance(token.value, Number) else None
        if not token.text.isdigit() or not isinstance(value, int):
            raise ExpressionError(
                f"an index is a whole number that counts from 0, not {token.shown}", token.column
            )
        if value > MAX_INDEX:
            raise ExpressionError(f"the index is too large; at most {MAX_INDEX}", token.column)
        self._at += 1
        self._expect("]")
        return value


def _hint(token: Token) -> str:
    """What a word was likely meant to be."""
    word = token.text.lower()
    return f"; write {word}" if word in _WORDS and word != token.text else ""
