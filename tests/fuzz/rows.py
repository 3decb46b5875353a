"""Rows that fit a pipeline, and values that fit nowhere."""

import copy
import random
from collections.abc import Sequence
from typing import Any

from fuzz.pipelines import Fuzzed
from reference.manifests import VALUES
from reference.values import Column

Rows = list[dict[str, Any]]

_COUNTS = (1, 1, 1, 2, 2, 3, 5, 17)

_KEYS: tuple[Any, ...] = ("a", "b", "1", "true", "", "é", None, 1, 2.5, 0.1, True, 2**60, "user-1")


class Raw(str):
    """A text that is written as it is, whatever it is."""

    __slots__ = ()


NUMBERS: tuple[Any, ...] = (
    *(
        0,
        -1,
        1,
        127,
        128,
        -129,
        255,
        256,
        65536,
        2**31,
        2**53 + 1,
        2**63,
        2**64 - 1,
        2**64,
        -(2**63) - 1,
    ),
    *(0.5, -0.0, 3.0, 1e5, 65504.0, 65520.0, 1e39, -1e39, 1e308, 5e-324, 1.0000000000000002, 0.1),
    *map(
        Raw, ("1e400", "-1e400", "1e-400", "NaN", "Infinity", "-Infinity", "9" * 400, "-0", "1E5")
    ),
)

BROKEN = tuple(
    map(
        Raw,
        (
            *(
                "01",
                "+1",
                ".5",
                "1.",
                "0x10",
                "1_000",
                "nul",
                "True",
                "None",
                "'a'",
                '"',
                '"\\',
                "nan",
            ),
            *(
                "1e",
                "--1",
                '"\\u12"',
                '"\\x41"',
                '"\t"',
                ",",
                ":",
                "{",
                "[",
                "]",
                "}",
                "/**/1",
                "undefined",
            ),
        ),
    )
)
"""What is no JSON."""

TEXTS: tuple[Any, ...] = (
    *(
        "",
        "a",
        "1",
        "1.5",
        "true",
        "null",
        "NaN",
        "tensor",
        "{}",
        "[1]",
        'q"uote',
        "\\",
        "\n\t",
        "é",
        "🎉",
    ),
    *("\x00", "a\x00b", "x" * 300, "Ω" * 50, "\u2028", "\ufeff", "},{", '"},{"'),
    *map(Raw, ('"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', '"\\/"', '"\\ud83c\\udf89"')),
)

DEEP = (
    *(Raw("[" * n + "]" * n) for n in (2, 9, 33, 65, 200, 900, 1001, 1025, 5000, 60000)),
    Raw('{"a":' * 400 + "1" + "}" * 400),
)

OTHERS: tuple[Any, ...] = (
    None,
    True,
    False,
    [],
    {},
    [[]],
    [None],
    [{}],
    [1, [2]],
    {"a": 1},
    [1] * 18,
    [0.0] * 19,
)


def anything(rng: random.Random) -> Any:
    """A value that may fit nowhere."""
    (kind,) = rng.choices((NUMBERS, TEXTS, OTHERS, BROKEN, DEEP), (30, 20, 30, 4, 5))
    return copy.deepcopy(rng.choice(kind))


def rows_for(rng: random.Random, fuzzed: Fuzzed) -> Rows:
    """Rows that fit, with or without their keys."""
    count = fuzzed.rows or rng.choice(_COUNTS)
    if fuzzed.rows is None and rng.random() < 0.01:
        count = rng.choice((200, 1000))
    shapes = [
        tuple(rng.randrange(4) if n is None else n for n in column.shape)
        for column in fuzzed.columns
    ]
    rows: Rows = [
        {
            column.name: _value(rng, column, shape)
            for column, shape in zip(fuzzed.columns, shapes, strict=True)
        }
        for _ in range(count)
    ]
    for key in fuzzed.keys:
        for row in rows:
            if rng.random() < 0.8:
                row[key.name] = rng.choice(_KEYS)
    return rows


def columns_of(fuzzed: Fuzzed, rows: Rows) -> list[Column]:
    """The rows' fields with their types."""
    return [*fuzzed.columns, *(key for key in fuzzed.keys if any(key.name in row for row in rows))]


def _value(rng: random.Random, column: Column, shape: Sequence[int]) -> Any:
    if shape:
        return [_value(rng, column, shape[1:]) for _ in range(shape[0])]
    if column.missing and rng.random() < 0.2:
        return None
    if column.dtype in ("float32", "float64") and rng.random() < 0.1:
        return round(rng.uniform(-100, 100), rng.randrange(6))
    return rng.choice(VALUES[column.dtype])
