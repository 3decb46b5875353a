"""The words of an expression: a text cut into numbers, texts, names, symbols and what names a value.

Where a name ends is decided here: `-`, `/` and `.` are parts of some names and operators elsewhere. No backtracking, so
a hostile text costs no more than its length.
"""

import math
import re
import unicodedata
from collections.abc import Iterator
from typing import Literal, NamedTuple

from midstream_api import names
from midstream_api.syntax import PLAIN_FIELD, ExpressionError, Number, Reference, Root, Text

HOW = (
    "in.<field>, out.<field>, steps.<step>.out[0] or <model>.outputs[0][0]; "
    'a name with - or / is quoted: out["my-field"]'
)
"""How values are written, for messages."""

_SPACE = re.compile(r"[ \t\r\n]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_STRING = re.compile(
    r'"((?:[^"\\\x00-\x1f]|\\[^\x00-\x1f])*)"'
    r"|'((?:[^'\\\x00-\x1f]|\\[^\x00-\x1f])*)'"
)
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|.)")
_ESCAPES = {**{c: c for c in "\"'\\/"}, "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_FIELD_OF = re.compile(r"\.[A-Za-z_]")
_RUN = re.compile(r"[A-Za-z0-9][-._A-Za-z0-9]*")
_STEP = re.compile(r"steps\.([a-z](?:[-a-z0-9]*[a-z0-9])?)\.out(?![-A-Za-z0-9_])")
_MODEL = re.compile(names.MODEL_NAME)
_SYMBOLS = ("<=", ">=", "==", "!=", "&&", "||", *"<>+-*/%()[],!")
_MEANT = {
    "=>": "write >=",
    "=<": "write <=",
    "=": "write == to compare",
    "&": "write and",
    "|": "write or",
    "~": "write not",
    ".": 'a number has digits on both sides of its point, and an unusual name is quoted: in["a..b"]',
    ":": 'an unusual name is quoted: in["a::b"]',
}
_NAMED_ROOTS: tuple[Root, ...] = ("in", "out")


class Token(NamedTuple):
    kind: Literal["symbol", "name", "number", "text", "reference", "end"]
    text: str
    column: int
    value: Number | Text | Reference | None = None
    """A reference's `field` is empty where brackets are to say it."""

    @property
    def shown(self) -> str:
        return "the end" if self.kind == "end" else repr(self.text)


def tokens(text: str) -> Iterator[Token]:
    """The last one is the end. Raises ExpressionError."""
    at = _space(text, 0)
    while at < len(text):
        token = _token(text, at)
        yield token
        at = _space(text, at + len(token.text))
    yield Token("end", "", len(text) + 1)


def _space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _token(text: str, at: int) -> Token:
    column = at + 1
    if reference := _reference(text, at):
        return reference
    if match := _NUMBER.match(text, at):
        after = _NAME.match(text, match.end())
        if after:
            raise ExpressionError(
                f"{after[0]!r} stands directly behind a number", after.start() + 1
            )
        return Token("number", match[0], column, Number(_number(match[0], column), column))
    if match := _NAME.match(text, at):
        if match[0].startswith("out_"):
            raise ExpressionError(
                f"{match[0]!r} is in answers what a challenger gives, which may come later; validations see what the "
                "champion gives: out.<field>",
                column,
            )
        if _FIELD_OF.match(text, match.end()):
            raise ExpressionError(f"{match[0]!r} is not known; values are {HOW}", column)
        return Token("name", match[0], column)
    if text[at] in "\"'":
        return _string(text, at)
    for symbol in _SYMBOLS:
        if text.startswith(symbol, at):
            return Token("symbol", symbol, column)
    meant = _MEANT.get(text[at : at + 2]) or _MEANT.get(text[at])
    hint = f"; {meant}" if meant else ""
    raise ExpressionError(f"unexpected {_character(text[at])}{hint}", column)


def _character(character: str) -> str:
    """A character so that a look-alike is told from what it looks like."""
    if character.isascii() and character.isprintable():
        return repr(character)
    name = unicodedata.name(character, "")
    return f"character U+{ord(character):04X}" + (f" ({name})" if name else "")


def _number(text: str, column: int) -> int | float:
    value = float(text)
    if math.isinf(value):
        raise ExpressionError("the number is too large", column)
    if text.isdigit():
        if int(text) >= 2**64:
            raise ExpressionError(
                "a whole number has at most 64 bits; write a larger one as 1e20", column
            )
        return int(text)
    return int(value) if value.is_integer() and value < 2**64 else value


def _string(text: str, at: int) -> Token:
    match = _STRING.match(text, at)
    if match is None:
        raise ExpressionError(
            f"the text that begins here is not closed; end it with {text[at]} on the same line",
            at + 1,
        )
    start = at + 1

    def escaped(escape: re.Match[str]) -> str:
        code = escape[1]
        if code in _ESCAPES:
            return _ESCAPES[code]
        if len(code) > 1:
            return chr(int(code[1:], 16))
        raise ExpressionError(
            rf"'\{code}' is no escape; there are \" \' \\ \/ \b \f \n \r \t and \u0041",
            start + escape.start() + 1,
        )

    value = _ESCAPE.sub(escaped, match[1] if match[1] is not None else match[2])
    try:
        # Two escapes can be the halves of one character.
        value = value.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise ExpressionError(
            "the text holds half a character (a lone surrogate)", at + 1
        ) from None
    return Token("text", match[0], at + 1, Text(value, at + 1))


def _reference(text: str, at: int) -> Token | None:
    """What begins here and names a value, but for its brackets."""
    for root in _NAMED_ROOTS:
        if text.startswith(f"{root}.", at):
            return _field(text, at, at + len(root), Reference(root, "", "", (), at + 1))
    if text.startswith("steps.", at):
        step = _STEP.match(text, at)
        if step is None:
            raise ExpressionError(
                "a step's output is steps.<step>.out[0] or steps.<step>.out.<field>", at + 1
            )
        start = Reference("steps", step[1], "", (), at + 1)
        if text.startswith(".", step.end()):
            return _field(text, at, step.end(), start)
        return Token("reference", step[0], at + 1, start)
    run = _RUN.match(text, at)
    if run is None or not run[0].endswith(".outputs"):
        return None
    if not text.startswith("[", _space(text, run.end())):
        raise ExpressionError("an index is missing; write <model>.outputs[0][0]", run.end() + 1)
    name = run[0].removesuffix(".outputs")
    if not _MODEL.fullmatch(name):
        raise ExpressionError(f"{name!r} is no name of a model", at + 1)
    return Token("reference", run[0], at + 1, Reference("model", name, "", (), at + 1))


def _field(text: str, at: int, dot: int, start: Reference) -> Token:
    """The field whose name begins behind a dot."""
    match = PLAIN_FIELD.match(text, dot + 1)
    if match is None:
        shown = text[at:dot]
        raise ExpressionError(
            f"the name of a field is missing behind {shown + '.'!r}; one that does not begin with a letter or _ "
            f'is quoted: {shown}["1st"]',
            dot + 2,
        )
    value = Reference(start.root, start.name, match[0], (), at + 1)
    return Token("reference", text[at : match.end()], at + 1, value)
