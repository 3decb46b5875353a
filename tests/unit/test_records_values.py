"""Values that do not fit their field are refused with reason, field, row and index."""

import sys

import orjson
import pytest

from kit.records import (
    BIG,
    BYTE,
    COUNT,
    FLAG,
    GRID,
    HALF,
    HOLES,
    LIST,
    ONE,
    PAIR,
    SINGLE,
    TENSOR,
    refusal,
    values,
)
from midstream_engine.errors import BadInput
from midstream_engine.formats.jsontext import dumps
from midstream_engine.schema import Field

WRONG_VALUES: dict[str, tuple[Field, str, str, int, str]] = {
    # shapes
    "too few numbers": (
        TENSOR,
        values([1, 2], name="tensor"),
        "WrongShape",
        0,
        "expected [3], got [2]",
    ),
    "too many numbers": (
        TENSOR,
        values([1, 2, 3], [1, 2, 3, 4], name="tensor"),
        "WrongShape",
        1,
        "expected [3], got [4]",
    ),
    "an empty list": (TENSOR, values([], name="tensor"), "WrongShape", 0, "expected [3], got [0]"),
    "a list in a list": (
        TENSOR,
        values([[1, 2, 3]], name="tensor"),
        "WrongShape",
        0,
        "expected [3], got [1, 3]",
    ),
    "a text for a list": (
        TENSOR,
        values("1,2,3", name="tensor"),
        "WrongType",
        0,
        'expected a list of 3 values (float32), got "1,2,3"',
    ),
    "a number for a list": (
        TENSOR,
        values(1, name="tensor"),
        "WrongShape",
        0,
        "expected [3], got a single value",
    ),
    "a list for a number": (
        SINGLE,
        values([1]),
        "WrongShape",
        0,
        "expected a single value, got [1]",
    ),
    "a flat list for a grid": (
        GRID,
        values([1, 2, 3, 4]),
        "WrongShape",
        0,
        "expected [2, 2], got [4]",
    ),
    "a number for a list of any length": (
        Field("x", "float32", (None, 2)),
        values(1),
        "WrongShape",
        0,
        "expected [?, 2], got a single value",
    ),
    "a deep nest": (
        SINGLE,
        values(1).replace("1", "[" * 1000 + "1" + "]" * 1000),
        "WrongShape",
        0,
        "got lists nested 1000 deep",
    ),
    "a deep nest of integers": (
        BYTE,
        values(1).replace("1", "[" * 1000 + "1" + "]" * 1000),
        "WrongShape",
        0,
        "got lists nested 1000 deep",
    ),
    "a deep nest with a string": (
        SINGLE,
        values(1).replace("1", "[" * 1000 + '"a"' + "]" * 1000),
        "WrongShape",
        0,
        "got lists nested 1000 deep",
    ),
    "a ragged grid": (GRID, values([[1, 2], [3]]), "RaggedRows", 0, "ragged"),
    "a grid with a number in it": (GRID, values([[1, 2], 3]), "RaggedRows", 0, "ragged"),
    "a list with a list in it": (LIST, values([1, [2]]), "RaggedRows", 0, "ragged"),
    "a ragged grid of integers": (
        Field("x", "int64", (2, 2)),
        values([[1, 2], [3]]),
        "RaggedRows",
        0,
        "ragged",
    ),
    "rows of two lengths where any length fits": (
        LIST,
        values([1, 2], [1, 2], [3]),
        "RaggedRows",
        2,
        "[1] after [2] in row 0",
    ),
    "integers of two lengths where any length fits": (
        BIG,
        values([1, 2], [3]),
        "RaggedRows",
        1,
        "[1] after [2] in row 0",
    ),
    "a number beside a list of one": (
        ONE,
        values(1, [2]),
        "RaggedRows",
        1,
        "[1] after a single value in row 0",
    ),
    # strings
    "a word for a number": (
        SINGLE,
        values("high"),
        "WrongType",
        0,
        'a number (float32), got "high"',
    ),
    "a numeric string": (SINGLE, values("1.5"), "WrongType", 0, 'got "1.5"'),
    "a numeric string in the second row": (SINGLE, values(1, "2"), "WrongType", 1, 'got "2"'),
    "a numeric string in a list": (
        TENSOR,
        values([1, 2, 3], [1, "2", 3], name="tensor"),
        "WrongType",
        1,
        "field 'tensor'[1]: expected a number (float32), got \"2\"",
    ),
    "a numeric string for an integer": (BYTE, values("7"), "WrongType", 0, 'got "7"'),
    "a numeric string among integers": (COUNT, values([1, 2], ["3", 4]), "WrongType", 1, 'got "3"'),
    "the word NaN in quotes": (HOLES, values(["NaN", 1]), "WrongType", 0, 'got "NaN"'),
    "the word Infinity in quotes": (HOLES, values(["Infinity", 1]), "WrongType", 0, "[0]"),
    "a long string, cut": (SINGLE, values("a" * 1_000_000), "WrongType", 0, 'got "aaa'),
    "one long string among many rows": (
        BYTE,
        values("a" * 100_000, *range(200)),
        "WrongType",
        0,
        "expected a number (uint8)",
    ),
    "an object for a number": (SINGLE, values({"y": 1}), "WrongType", 0, "got an object"),
    "an object without names": (SINGLE, values({}), "WrongType", 0, "got an object"),
    "an object for a list": (TENSOR, values({}, name="tensor"), "WrongType", 0, "got an object"),
    "a list with an object": (TENSOR, values([1, {}, 3], name="tensor"), "WrongType", 0, "[1]"),
    # booleans
    "true for a number": (SINGLE, values(True), "WrongType", 0, "got true"),
    "false among numbers": (
        TENSOR,
        values([1, False, 2], name="tensor"),
        "WrongType",
        0,
        "got false",
    ),
    "true in the second row": (SINGLE, values(1, True), "WrongType", 1, "got true"),
    "true for an integer": (BYTE, values(True), "WrongType", 0, "got true"),
    "true among integers": (COUNT, values([1, 2], [True, 1]), "WrongType", 1, "got true"),
    "a number for a flag": (
        FLAG,
        values([True, 1]),
        "WrongType",
        0,
        "expected true or false, got 1",
    ),
    "numbers for flags": (FLAG, values([0, 1]), "WrongType", 0, "expected true or false, got 0"),
    "a string for a flag": (FLAG, values([True, "true"]), "WrongType", 0, 'got "true"'),
    "null for a flag": (
        FLAG,
        values([True, None]),
        "MissingValue",
        0,
        "null is not a value of bool",
    ),
    # what is not a finite number
    "null": (
        SINGLE,
        values(None),
        "MissingValue",
        0,
        "null is not a value of float32; set `missing",
    ),
    "null in a list": (
        TENSOR,
        values([1, 2, 3], [1, None, 3], name="tensor"),
        "MissingValue",
        1,
        "row 1, field 'tensor'[1]: null",
    ),
    "null for a list": (TENSOR, values(None, name="tensor"), "MissingValue", 0, "null"),
    "null for an integer": (
        COUNT,
        values([1, None]),
        "MissingValue",
        0,
        "null is not a value of int64",
    ),
    "NaN": (
        SINGLE,
        '[{"x": NaN}]',
        "MissingValue",
        0,
        "NaN is not a value of float32; set `missing",
    ),
    "NaN in a list": (
        TENSOR,
        '[{"tensor":[1,2,3]},{"tensor":[1,2,NaN]}]',
        "MissingValue",
        1,
        "row 1, field 'tensor'[2]: NaN",
    ),
    "NaN in a grid": (GRID, '[{"x":[[1,2],[NaN,4]]}]', "MissingValue", 0, "field 'x'[1][0]: NaN"),
    "NaN for an integer": (
        COUNT,
        '[{"x":[1,NaN]}]',
        "MissingValue",
        0,
        "NaN is not a value of int64",
    ),
    "NaN for a flag": (FLAG, '[{"x":[true,NaN]}]', "MissingValue", 0, "NaN"),
    "Infinity": (SINGLE, '[{"x": Infinity}]', "NotFinite", 0, "Infinity"),
    "minus Infinity in a list": (
        TENSOR,
        '[{"tensor":[1,-Infinity,3]}]',
        "NotFinite",
        0,
        "field 'tensor'[1]",
    ),
    "Infinity where holes are allowed": (HOLES, '[{"x":[NaN,Infinity]}]', "NotFinite", 0, "[1]"),
    "Infinity for an integer": (COUNT, '[{"x":[1,Infinity]}]', "NotFinite", 0, "[1]"),
    # ranges
    "beyond float32": (SINGLE, values(1e300), "OutOfRange", 0, "1e+300 does not fit in float32"),
    "beyond float32 below zero": (
        TENSOR,
        values([1, -4e38, 2], name="tensor"),
        "OutOfRange",
        0,
        "[1]",
    ),
    "beyond float32 where holes are allowed": (HOLES, values([None, 1e39]), "OutOfRange", 0, "[1]"),
    "beyond float16": (HALF, values(70000), "OutOfRange", 0, "70000 does not fit in float16"),
    "a huge integer for float16": (HALF, '[{"x":' + "9" * 300 + "}]", "OutOfRange", 0, "float16"),
    "a huge integer beside NaN": (
        SINGLE,
        '[{"x":' + "9" * 300 + '},{"x":NaN}]',
        "OutOfRange",
        0,
        "does not fit in float32",
    ),
    "256 for uint8": (BYTE, values(256), "OutOfRange", 0, "256 does not fit in uint8"),
    "256.0 for uint8": (BYTE, values(256.0), "OutOfRange", 0, "256.0 does not fit in uint8"),
    "-1 for uint8": (BYTE, values(3, -1), "OutOfRange", 1, "-1 does not fit in uint8"),
    "-1 for uint64": (BIG, values([2**64 - 1, -1]), "OutOfRange", 0, "-1 does not fit"),
    "2**63 for int64": (COUNT, values([0, 2**63]), "OutOfRange", 0, "9223372036854775808"),
    "2**64 for uint64": (BIG, values([2**64]), "OutOfRange", 0, "does not fit in uint64"),
    "-2**63-1 for int64": (COUNT, values([0, -(2**63) - 1]), "OutOfRange", 0, "exact"),
    "2**31 for int32": (Field("x", "int32", ()), values(2**31), "OutOfRange", 0, "int32"),
    "a float that is not exact": (
        COUNT,
        values([0, 1e17]),
        "OutOfRange",
        0,
        "too large to be exact",
    ),
    "a part of a whole": (
        COUNT,
        values([1, 2.5]),
        "WrongType",
        0,
        "a whole number (int64), got 2.5",
    ),
}


@pytest.mark.parametrize("what", WRONG_VALUES)
def test_wrong_values_are_refused_with_their_place(what: str) -> None:
    """The refusal names reason, field, row and index, and shows the value; nothing of it is long."""
    field, body, reason, row, said = WRONG_VALUES[what]
    error = refusal(field, body)
    assert (error.reason, error.field, error.row) == (reason, field.name, row)
    assert said in error.message
    assert f"row {row}, field {field.name!r}" in error.message
    assert len(error.message) < 300
    assert orjson.loads(dumps({"error": error.message, "field": error.field}))


def test_strings_are_found_where_the_count_of_quotes_is_made_to_fit() -> None:
    """A row without its name cannot pay for the quotes of another row's string."""
    assert refusal(SINGLE, '[{"x":"1"},{}]').reason == "WrongFields"
    assert refusal(SINGLE, '[{},{"x":"1"}]').reason == "WrongFields"
    assert refusal(PAIR, '[{"a":["1",2]},{"a":[1,2],"b":3}]').row == 0


@pytest.mark.parametrize("depth", [10, 60, 70, 250, 260, 400, 900, 990, 1010, 1020, 1023, 1030])
@pytest.mark.parametrize("leaf", ["1", "NaN", '"a"', "true", "null", ""])
def test_no_depth_of_nesting_is_too_much(depth: int, leaf: str) -> None:
    """A deep body is refused with a sentence, from whatever depth of the caller's own stack."""
    body = ('[{"x":' + "[" * depth + leaf + "]" * depth + "}]").encode()

    def below(frames: int) -> BadInput:
        return refusal(HOLES, body) if frames == 0 else below(frames - 1)

    for frames in (0, sys.getrecursionlimit() // 2):
        assert below(frames).reason in {"WrongShape", "NotJSON"}
