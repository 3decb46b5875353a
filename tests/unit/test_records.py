"""Good bodies become arrays, rows are echoed as sent, arrays become answers."""

import json
import math
import random
from typing import Any

import numpy as np
import orjson
import pytest

from kit.records import (
    BIG,
    BYTE,
    COUNT,
    DOUBLE,
    FLAG,
    GRID,
    HALF,
    HOLES,
    LIST,
    ONE,
    PAIR,
    SINGLE,
    TENSOR,
    answer,
    f32,
    refusal,
    values,
)
from midstream_engine.batch import Batch
from midstream_engine.formats.records import Reader
from midstream_engine.schema import NUMPY_TYPES, Field


def read(fields: Field | tuple[Field, ...], body: bytes | str) -> dict[str, Any]:
    """The arrays of a good body as lists; their types and shapes are checked on the way."""
    fields = fields if isinstance(fields, tuple) else (fields,)
    data = body if isinstance(body, bytes) else body.encode()
    batch = Reader(fields).read(data)
    arrays, rows = batch.fields, batch.rows
    assert rows == len(batch.echo or ())
    for field in fields:
        assert arrays[field.name].dtype == NUMPY_TYPES[field.dtype]
        assert arrays[field.name].shape[0] == rows
        assert field.accepts(arrays[field.name].shape[1:])
    return {name: array.tolist() for name, array in arrays.items()}


def echoed(batch: Batch) -> list[bytes]:
    """The rows as they were sent."""
    assert batch.echo is not None
    return list(batch.echo)


# Bodies that are taken

GOOD: dict[str, tuple[Field | tuple[Field, ...], str, dict[str, Any]]] = {
    "floats": (TENSOR, '[{"tensor":[1.5,-2,3e2]}]', {"tensor": [[1.5, -2.0, 300.0]]}),
    "a number for a list of one": (ONE, values(1, 2), {"x": [[1], [2]]}),
    "a list of one for a list of one": (ONE, values([1], [2]), {"x": [[1], [2]]}),
    "a number for a list of any length": (LIST, values(1, 2), {"x": [[1], [2]]}),
    "a single number": (SINGLE, values(1.25), {"x": [1.25]}),
    "lists of any length": (LIST, values([1, 2], [3, 4]), {"x": [[1, 2], [3, 4]]}),
    "an empty list of any length": (LIST, values([], []), {"x": [[], []]}),
    "a list of no length": (Field("x", "float32", (0,)), values([]), {"x": [[]]}),
    "empty integers of any length": (BIG, values([]), {"x": [[]]}),
    "no flags at all": (Field("x", "bool", (None,)), values([], []), {"x": [[], []]}),
    "a grid": (GRID, values([[1, 2], [3, 4]]), {"x": [[[1, 2], [3, 4]]]}),
    "empty parts of a grid": (
        Field("x", "float32", (None, None)),
        values([[], []]),
        {"x": [[[], []]]},
    ),
    "flags": (FLAG, values([True, False], [False, False]), {"x": [[True, False], [False, False]]}),
    "integers": (COUNT, values([-(2**63) + 1, 2**63 - 1]), {"x": [[-(2**63) + 1, 2**63 - 1]]}),
    "the smallest integer": (COUNT, values([-(2**63), 0]), {"x": [[-(2**63), 0]]}),
    "integers written as floats": (COUNT, '[{"x":[3.0,4e2]}]', {"x": [[3, 400]]}),
    "a large integer beside a float": (COUNT, values([2**62 + 1, 3.0]), {"x": [[2**62 + 1, 3]]}),
    "unsigned integers": (BIG, values([2**64 - 1, 0]), {"x": [[2**64 - 1, 0]]}),
    "a large unsigned integer beside a float": (BIG, values([2**63, 1.0]), {"x": [[2**63, 1]]}),
    "bytes": (BYTE, values(0, 255), {"x": [0, 255]}),
    "small signed integers": (Field("x", "int8", ()), values(-128, 127), {"x": [-128, 127]}),
    "doubles keep all their digits": (DOUBLE, values([0.1, 1e300]), {"x": [[0.1, 1e300]]}),
    "halves": (HALF, values(0.5, 65504), {"x": [0.5, 65504]}),
    "a number larger than 64 bits": (
        DOUBLE,
        values([2**70, -(2**80)]),
        {"x": [[2.0**70, -(2.0**80)]]},
    ),
    "two fields in any order": (
        PAIR,
        '[{"a":[1,2],"b":[3]},{"b":4.0,"a":[5,6]}]'.replace("4.0", "[4.0]"),
        {"a": [[1, 2], [5, 6]], "b": [[3], [4]]},
    ),
    "the last of two equal names": (
        TENSOR,
        '[{"tensor":"x","tensor":[1,2,3]}]',
        {"tensor": [[1, 2, 3]]},
    ),
    "a name written with escapes": (TENSOR, '[{"\\u0074ensor":[1,2,3]}]', {"tensor": [[1, 2, 3]]}),
    "a name with quotes": (Field('a"b', "float32", ()), '[{"a\\"b":1}]', {'a"b': [1]}),
    "a name that is empty": (Field("", "float32", ()), '[{"":1},{"":2}]', {"": [1, 2]}),
}


@pytest.mark.parametrize("what", GOOD)
def test_good_bodies_become_arrays(what: str) -> None:
    """Values, types and shapes are those of the fields."""
    fields, body, expected = GOOD[what]
    assert read(fields, body) == expected


def test_missing_allow_makes_nan_of_null_and_nan() -> None:
    """Only where it is set, and Python's own spelling of NaN is taken as well."""
    for body in ('[{"x":[null,1]}]', '[{"x":[NaN,1]}]', '[{"x":[null,1]},{"x":[2,NaN]}]'):
        batch = Reader((HOLES,)).read(body.encode())
        assert math.isnan(batch.fields["x"][0, 0])
        assert batch.fields["x"][0, 1] == 1
        assert orjson.loads(echoed(batch)[0]) == {"x": [None, 1]}


def test_a_name_that_reads_like_a_boolean_hides_none() -> None:
    """The words true and false in a field's name change nothing."""
    field = Field("is_true_or_false", "float32", ())
    assert read(field, '[{"is_true_or_false":1},{"is_true_or_false":2}]') == {field.name: [1, 2]}
    assert refusal(field, '[{"is_true_or_false":true}]').reason == "WrongType"
    assert refusal(field, '[{"is_\\u0074rue_or_false":true}]').reason == "WrongType"


# The echo

SPACED = (
    '[{"x":[1,2]},{"x":[3,4]},{"x":[5,6]}]',
    '[{"x": [1, 2]}, {"x": [3, 4]}, {"x": [5, 6]}]',
    '[{"x":[1,2]}, {"x":[3,4]},{"x":[5,6]}]',
    '[{"x":[1,2]},{"x":[3,4]}, {"x":[5,6]}]',
    '[{"x":[1,2]} ,{"x":[3,4]}\n,\t{"x":[5,6]}]',
    ' \r\n[ { "x" : [ 1.0 , 2e0 ] } , { "x" : [3,4] },\n\n{"x":[5,6.000]\n} ]\n ',
)


@pytest.mark.parametrize("field", [LIST, BIG, DOUBLE], ids=lambda field: field.dtype)
@pytest.mark.parametrize("body", SPACED)
def test_rows_are_echoed_exactly_as_sent(body: str, field: Field) -> None:
    """Each row's own text, whatever stands between the rows."""
    batch = Reader((field,)).read(body.encode())
    echo = echoed(batch)
    assert batch.rows == 3
    assert all(part in body.encode() for part in echo)
    assert all(part[:1] == b"{" and part[-1:] == b"}" for part in echo)
    assert [orjson.loads(part) for part in echo] == orjson.loads(body)


def test_one_row_is_echoed_exactly_as_sent() -> None:
    """Also its digits, which the model's type may not hold."""
    batch = Reader((TENSOR,)).read(b' [ {"tensor": [1.000, 0.1234567890123456789 ,-0.0]} ] ')
    assert echoed(batch) == [b'{"tensor": [1.000, 0.1234567890123456789 ,-0.0]}']


def test_flags_are_echoed_exactly_as_sent() -> None:
    """Booleans take the slow way in, and the same way out."""
    batch = Reader((FLAG,)).read(b'[{"x": [true,  false]},{"x":[false,false]}]')
    assert echoed(batch) == [b'{"x": [true,  false]}', b'{"x":[false,false]}']


NAMES = ("x", "a},{b", '"', "\\", "{", "}", "},{", "a}, {", "\\u007d,{", '"},{"', "é", "\n", "")
TEXTS = ("[1,2]", "[ 1 , 2 ]", "[1,2]\n")


def keyed(name: str, *, escaped: bool) -> str:
    return '"' + "".join(f"\\u{ord(c):04x}" for c in name) + '"' if escaped else json.dumps(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_echo_survives_names_made_to_break_it(name: str) -> None:
    """Names that look like the text between two rows: as many rows come back, each as it was parsed."""
    field = Field(name, "float32", (2,))
    chance = random.Random(7)  # noqa: S311 - repeatable, not secret
    for _ in range(200):
        rows = []
        for _ in range(chance.randint(1, 4)):
            key = keyed(name, escaped=chance.random() < 0.3)
            text = chance.choice(TEXTS)
            twice = chance.random() < 0.2
            again = chance.choice(['"},{"', '"x"', "{}", '{"a":1}', "[]"])
            rows.append(f"{{{key}:{again},{key}:{text}}}" if twice else f"{{{key}:{text}}}")
        body = "[" + chance.choice([",", ", ", " ,", "\n,"]).join(rows) + "]"
        batch = Reader((field,)).read(body.encode())
        answered = answer((SINGLE,), batch.echo, np.zeros(batch.rows, np.float32))
        assert [row["in"] for row in answered] == orjson.loads(body)


def test_a_nest_in_a_value_that_is_overwritten_is_not_echoed() -> None:
    """A repeated name hides a value from the checks; it must not come back."""
    deep = "[" * 1000 + "]" * 1000
    batch = Reader((SINGLE,)).read(f'[{{"x":{deep},"x":1}}]'.encode())
    assert echoed(batch) == [b'{"x":1}']


# Answers


def test_an_answer_has_the_documented_form() -> None:
    """Every key of the format, in its order, with the values of this request."""
    (row,) = answer((Field("variable", "float32", (1,)),), [b'{"x":1}'], f32([[718013.75]]))
    assert row == {
        "time": 1_700_000_000_123,
        "in": {"x": 1},
        "out": {"variable": [718013.75]},
        "anomaly": {"count": 0},
        "metadata": {
            "last_model": '{"model_name":"rf","model_sha":"' + "ab" * 32 + '"}',
            "pipeline_version": "v-1",
            "elapsed": [5, 7],
            "dropped": [],
            "partition": 'a "name"',
        },
    }
    assert list(row) == ["time", "in", "out", "anomaly", "metadata"]


OUTPUTS: dict[str, Any] = {
    "a column of floats": f32([[1.5], [2.5]]),
    "a number for each row": f32([1.5, 2.5]),
    "integers": np.array([[1, -(2**63)], [3, 4]], np.int64),
    "an integer for each row": np.array([7, 8], np.int64),
    "flags": np.array([[True], [False]]),
    "a flag for each row": np.array([True, False]),
    "bytes": np.array([[0], [255]], np.uint8),
    "doubles": np.array([[0.1], [1e300]]),
    "grids": np.arange(12, dtype=np.float32).reshape(2, 3, 2),
    "boxes": np.arange(16, dtype=np.float32).reshape(2, 2, 2, 2),
    "nothing in each row": np.zeros((2, 0), np.float32),
    "grids of no width": np.zeros((2, 3, 0), np.float32),
    "grids of no height": np.zeros((2, 0, 3), np.float32),
    "columns that are not in C order": np.asfortranarray(
        np.arange(6, dtype=np.float32).reshape(2, 3)
    ),
    "every other column": np.arange(12, dtype=np.float32).reshape(2, 6)[:, ::2],
}


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("what", OUTPUTS)
def test_outputs_come_out_row_by_row(what: str, rows: int) -> None:
    """Each row carries its own part of the array, of any shape and type."""
    array = OUTPUTS[what][:rows]
    answered = answer((Field("out", "float32", ()),), [b'{"x":1}'] * rows, array)
    assert [row["out"]["out"] for row in answered] == array.tolist()


def test_several_outputs_stand_side_by_side() -> None:
    """Every row has every output, each in its own type."""
    fields = (
        Field("total", "float32", (1,)),
        Field("largest", "int64", ()),
        Field('"', "bool", ()),
    )
    answered = answer(
        fields,
        [b'{"x":1}', b'{"x":2}'],
        f32([[1.5], [2.5]]),
        np.array([3, 4], np.int64),
        np.array([True, False]),
    )
    assert [row["out"] for row in answered] == [
        {"total": [1.5], "largest": 3, '"': True},
        {"total": [2.5], "largest": 4, '"': False},
    ]
    assert [row["in"] for row in answered] == [{"x": 1}, {"x": 2}]


def test_what_is_not_finite_comes_out_as_null() -> None:
    """JSON has no NaN and no Infinity."""
    for array in (f32([[np.nan], [np.inf]]), f32([np.nan, -np.inf])):
        answered = answer((SINGLE,), [b"{}", b"{}"], array)
        assert [row["out"]["x"] for row in answered] in ([[None], [None]], [None, None])
