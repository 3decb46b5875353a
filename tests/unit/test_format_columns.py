"""JSON beyond lists of numbers: columns, strings, and the fields that only splits look at."""

import json
import random
from typing import Any

import numpy as np
import orjson
import pytest

from kit.records import COUNT, FLAG, HALF, HOLES, LIST, ONE, PAIR, SINGLE, TENSOR, values
from midstream_engine.batch import Batch
from midstream_engine.errors import BadInput
from midstream_engine.formats.columns import MAX_ROWS
from midstream_engine.formats.records import Reader
from midstream_engine.schema import Field

WORD = Field("word", "string", ())
WORDS = Field("words", "string", (2,))
ONE_WORD = Field("word", "string", (1,))
ANY = Field("x", "float32", (), ranked=False)


def read(fields: Field | tuple[Field, ...], body: Any, keys: tuple[str, ...] = ()) -> Batch:
    """A body that is taken."""
    text = body if isinstance(body, str) else json.dumps(body)
    return Reader(fields if isinstance(fields, tuple) else (fields,), keys).read(text.encode())


def lists(batch: Batch) -> dict[str, Any]:
    return {name: array.tolist() for name, array in batch.fields.items()}


# Columns

COLUMNS: dict[str, tuple[Field | tuple[Field, ...], str, dict[str, Any]]] = {
    "one column of lists": (
        TENSOR,
        '{"tensor": [[1,2,3],[4,5,6]]}',
        {"tensor": [[1, 2, 3], [4, 5, 6]]},
    ),
    "numbers for lists of one": (ONE, '{"x":[1,2]}', {"x": [[1], [2]]}),
    "single numbers": (SINGLE, '{"x":[1.5]}', {"x": [1.5]}),
    "integers to the last digit": (
        COUNT,
        '{"x":[[9007199254740993,-1]]}',
        {"x": [[2**53 + 1, -1]]},
    ),
    "flags": (FLAG, '{"x":[[true,false]]}', {"x": [[True, False]]}),
    "halves": (HALF, '{"x":[0.5]}', {"x": [0.5]}),
    "two columns in any order": (
        PAIR,
        '{"b":[[3],[4]],"a":[[1,2],[5,6]]}',
        {"a": [[1, 2], [5, 6]], "b": [[3], [4]]},
    ),
    "strings": (WORD, '{"word":["a","true"]}', {"word": ["a", "true"]}),
}


@pytest.mark.parametrize("what", COLUMNS)
def test_columns_are_read_as_rows_are(what: str) -> None:
    """The same arrays as from a list of rows; there is no text of rows to echo."""
    fields, body, wanted = COLUMNS[what]
    batch = read(fields, body)
    assert lists(batch) == wanted
    assert batch.echo is None
    table = json.loads(body)
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    again = read(fields, rows)
    assert lists(again) == wanted
    assert again.rows == batch.rows == len(rows)


BAD_COLUMNS: dict[str, tuple[Field | tuple[Field, ...], str, str, str]] = {
    "a missing column": (PAIR, '{"a":[[1,2]]}', "WrongFields", "the body misses field 'b'"),
    "an unknown column": (
        SINGLE,
        '{"x":[1],"inputs":[2]}',
        "WrongFields",
        "unknown field 'inputs'; expected fields: 'x' (float32)",
    ),
    "columns of different lengths": (
        PAIR,
        '{"a":[[1,2]],"b":[[1],[2]]}',
        "RaggedRows",
        "field 'b' has 2 values, field 'a' has 1",
    ),
    "a number for a column": (SINGLE, '{"x":1}', "NotRecords", "one value for each row"),
    "an object for a column": (SINGLE, '{"x":{"0":1}}', "NotRecords", "got an object"),
    "columns without rows": (SINGLE, '{"x":[]}', "NoRows", "no rows"),
    "too many rows": (
        SINGLE,
        json.dumps({"x": [1] * (MAX_ROWS + 1)}),
        "TooManyRows",
        f"at most {MAX_ROWS}",
    ),
    "one row without its list": (
        TENSOR,
        '{"tensor":[1,2,3]}',
        "WrongShape",
        "row 0, field 'tensor': wrong shape, expected [3], got a single value",
    ),
    "a string among numbers": (
        SINGLE,
        '{"x":[1,"2"]}',
        "WrongType",
        "row 1, field 'x': expected a",
    ),
    "true among numbers": (SINGLE, '{"x":[1,true]}', "WrongType", "row 1, field 'x': expected a"),
    "null": (SINGLE, '{"x":[1,null]}', "MissingValue", "row 1, field 'x': null"),
}


@pytest.mark.parametrize("what", BAD_COLUMNS)
def test_columns_that_do_not_fit_are_refused(what: str) -> None:
    """With the field, the row where there is one, and what would be right."""
    fields, body, reason, said = BAD_COLUMNS[what]
    with pytest.raises(BadInput) as caught:
        read(fields, body)
    assert caught.value.reason == reason
    assert said in caught.value.message
    assert len(caught.value.message) < 500


# Strings

STRINGS: dict[str, tuple[Field, str, Any]] = {
    "a string": (WORD, '[{"word":"a"}]', ["a"]),
    "what reads like other values": (
        WORD,
        values("1", "null", "NaN", name="word"),
        ["1", "null", "NaN"],
    ),
    "quotes and braces": (WORD, values('a"b', "},{", "\\", name="word"), ['a"b', "},{", "\\"]),
    "all of Unicode": (WORD, '[{"word":"é\\ud83d\\ude00\\u0000"}]', ["é😀\0"]),
    "an empty string": (WORD, values("", name="word"), [""]),
    "a string for a list of one": (ONE_WORD, values("a", "b", name="word"), [["a"], ["b"]]),
    "a list of one": (ONE_WORD, values(["a"], name="word"), [["a"]]),
    "lists of strings": (
        WORDS,
        values(["a", "bb"], ["", "d"], name="words"),
        [["a", "bb"], ["", "d"]],
    ),
    "empty lists": (Field("word", "string", (None,)), values([], [], name="word"), [[], []]),
}


@pytest.mark.parametrize("what", STRINGS)
def test_strings_are_taken_as_they_are(what: str) -> None:
    """Each element is a `str`; the row is echoed as it was sent."""
    field, body, wanted = STRINGS[what]
    batch = read(field, body)
    array = batch.fields[field.name]
    assert array.tolist() == wanted
    assert array.dtype == np.dtype(object)
    assert all(type(item) is str for item in array.ravel())
    assert batch.echo is not None
    assert [orjson.loads(part) for part in batch.echo] == orjson.loads(body)


BAD_STRINGS: dict[str, tuple[Field, str, str, str]] = {
    "a number": (
        WORD,
        values("a", 1, name="word"),
        "WrongType",
        "row 1, field 'word': expected a string, got 1",
    ),
    "a boolean": (WORD, values(True, name="word"), "WrongType", "expected a string, got true"),
    "null": (WORD, values(None, name="word"), "MissingValue", "null is not a value of string"),
    "a list": (WORD, values(["a"], name="word"), "WrongShape", "expected a single value, got [1]"),
    "an object": (WORD, values({"a": "b"}, name="word"), "WrongType", "got an object"),
    "a string for a list": (
        WORDS,
        values("ab", name="words"),
        "WrongShape",
        "expected [2], got a single value",
    ),
    "a number in a list": (
        WORDS,
        values(["a", 2], name="words"),
        "WrongType",
        "'words'[1]: expected a string",
    ),
    "too few": (WORDS, values(["a"], name="words"), "WrongShape", "expected [2], got [1]"),
    "ragged lists": (
        Field("words", "string", (None,)),
        values(["a"], ["b", "c"], name="words"),
        "RaggedRows",
        "row 1, field 'words': [2] after [1]",
    ),
    "a ragged list": (
        Field("words", "string", (None,)),
        values(["a", ["b"]], name="words"),
        "RaggedRows",
        "ragged list",
    ),
    "a deep nest": (
        WORD,
        '[{"word":' + "[" * 500 + '"a"' + "]" * 500 + "}]",
        "WrongShape",
        "nested 500 deep",
    ),
}


@pytest.mark.parametrize("what", BAD_STRINGS)
def test_what_is_no_string_is_refused(what: str) -> None:
    """A number is not written as a string for the caller."""
    field, body, reason, said = BAD_STRINGS[what]
    with pytest.raises(BadInput) as caught:
        read(field, body)
    assert caught.value.reason == reason
    assert said in caught.value.message


def test_a_field_of_any_shape_takes_lists_of_any_depth_but_not_without_end() -> None:
    """A model that does not say its dimensions gets what is sent, up to what arrays can hold."""
    assert read(ANY, values(1, 2)).fields["x"].shape == (2,)
    assert read(ANY, values([[1, 2]], [[3, 4]])).fields["x"].shape == (2, 1, 2)
    for inner in ("1", '"a"'):
        with pytest.raises(BadInput) as caught:
            read(ANY, f'[{{"x":{"[" * 900}{inner}{"]" * 900}}}]')
        assert caught.value.reason == "WrongShape"
        assert "at most 32 deep" in caught.value.message


# Keys

KEYS = ("session", "tier")


def test_keys_are_kept_beside_the_fields_and_echoed() -> None:
    """Any single value, or nothing at all; the model's fields are none the wiser."""
    body = (
        '[{"tensor":[1,2,3],"session":"a b"},{"session":7,"tensor":[4,5,6],"tier":true},'
        ' {"tensor":[7,8,9]},{"tensor":[1,1,1],"session":null,"tier":2.5}]'
    )
    batch = read(TENSOR, body, KEYS)
    assert list(batch.fields) == ["tensor"]
    assert batch.keys == {"session": ["a b", 7, None, None], "tier": [None, True, None, 2.5]}
    assert batch.echo is not None
    assert [json.loads(part) for part in batch.echo] == json.loads(body)


def test_keys_may_come_as_columns() -> None:
    """A key that is left out is null in every row."""
    batch = read(TENSOR, '{"session":["a",null],"tensor":[[1,2,3],[4,5,6]]}', KEYS)
    assert batch.keys == {"session": ["a", None], "tier": [None, None]}
    assert batch.fields["tensor"].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_a_key_that_a_model_takes_is_a_field() -> None:
    """It must be there, of the field's type, and stands among the fields only."""
    batch = read((SINGLE,), '[{"x":1}]', ("x", "session"))
    assert list(batch.fields) == ["x"]
    assert list(batch.keys) == ["session"]


def test_missing_and_unknown_names_are_found_beside_keys() -> None:
    """Keys excuse no other name, and the message lists them."""
    for body, said in (
        ('[{"session":"a"}]', "row 0 misses field 'tensor'"),
        ('[{"tensor":[1,2,3],"sesion":"a"}]', "has the unknown field 'sesion'"),
        (
            '[{"tensor":[1,2,3]},{"tensor":[1,2,3],"tier":1,"z":1}]',
            "row 1 has the unknown field 'z'",
        ),
        ('[{"tensor":[1,2,3],"session":"a"},7]', "row 1 is a number"),
        ('{"tensor":[[1,2,3]],"z":[1]}', "the body has the unknown field 'z'"),
    ):
        with pytest.raises(BadInput) as caught:
            read(TENSOR, body, KEYS)
        assert said in caught.value.message
        if caught.value.reason == "WrongFields":
            assert "may have fields 'session', 'tier'" in caught.value.message


def test_a_key_is_a_single_value() -> None:
    """Lists and objects say nothing to choose by."""
    for value, said in (("[1]", "a list"), ('{"a":1}', "an object")):
        for body in (
            f'[{{"tensor":[1,2,3]}},{{"tensor":[1,2,3],"tier":{value}}}]',
            f'{{"tensor":[[1,2,3],[1,2,3]],"tier":[1,{value}]}}',
        ):
            with pytest.raises(BadInput) as caught:
                read(TENSOR, body, KEYS)
            assert (caught.value.reason, caught.value.field, caught.value.row) == (
                "WrongType",
                "tier",
                1,
            )
            assert caught.value.message.endswith(f"got {said}")


def test_nan_is_no_key() -> None:
    """It is equal to nothing, not to itself either: it counts as left out."""
    assert read(HOLES, '[{"x":[1,2],"tier":NaN}]', KEYS).keys["tier"] == [None]


PIECES = ("a", '"', "\\", "{", "}", "},{", "}, {", "true", "é", "\n", "")


def test_the_echo_survives_strings_made_to_break_it() -> None:
    """Strings that look like the text between two rows: each row comes back as it was parsed."""
    chance = random.Random(11)  # noqa: S311 - repeatable, not secret
    fields = (LIST, WORD)
    for _ in range(1500):
        rows = []
        for _ in range(chance.randint(1, 4)):
            entries = [
                ("x", chance.choice(["[1,2]", "[ 1 , 2 ]"])),
                ("word", json.dumps("".join(chance.choices(PIECES, k=2)), ensure_ascii=False)),
            ]
            if chance.random() < 0.5:
                entries.append(("tier", chance.choice(['"},{"', "1", "null", "true", '"x"'])))
            if chance.random() < 0.2:
                entries.insert(0, ("word", chance.choice(['"},{"', "7", "{}"])))
            chance.shuffle(entries)
            if not isinstance({k: json.loads(v) for k, v in entries}["word"], str):
                continue
            rows.append("{" + ",".join(f'"{name}":{text}' for name, text in entries) + "}")
        if not rows:
            continue
        body = "[" + chance.choice([",", ", ", " ,", "\n,"]).join(rows) + "]"
        batch = Reader(fields, KEYS).read(body.encode())
        assert batch.echo is not None
        assert [orjson.loads(part) for part in batch.echo] == orjson.loads(body)
