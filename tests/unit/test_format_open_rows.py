"""Rows whose fields nobody has declared: types are found in the values, or the body is refused."""

import json
import math
from typing import Any

import hypothesis
import numpy as np
import orjson
import pytest
from hypothesis import strategies as st

from midstream_engine.batch import Batch
from midstream_engine.errors import BadInput
from midstream_engine.formats.columns import MAX_ROWS
from midstream_engine.formats.open_rows import MAX_FIELDS, OpenReader


def read(body: Any, keys: tuple[str, ...] = ()) -> Batch:
    text = body if isinstance(body, str) else json.dumps(body)
    return OpenReader(keys).read(text.encode())


COLUMNS: dict[str, tuple[list[Any], str, list[Any]]] = {
    "whole numbers": ([1, -2], "int64", [1, -2]),
    "the largest whole numbers": ([2**63 - 1, -(2**63)], "int64", [2**63 - 1, -(2**63)]),
    "whole numbers beyond int64": ([2**64 - 1, 0], "uint64", [2**64 - 1, 0]),
    "whole numbers of both kinds": ([2**64 - 1, -1], "float64", [2.0**64, -1.0]),
    "floats": ([1.5, 2.0], "float64", [1.5, 2.0]),
    "floats and whole numbers": ([1, 2.5], "float64", [1.0, 2.5]),
    "booleans": ([True, False], "bool", [True, False]),
    "strings": (["a", "é"], "object", ["a", "é"]),
    "strings and null": (["a", None], "object", ["a", None]),
    "lists": ([[1, 2], [3, 4]], "int64", [[1, 2], [3, 4]]),
    "lists of lists": ([[[1.5], [2]]], "float64", [[[1.5], [2.0]]]),
    "lists of strings": ([["a", None]], "object", [["a", None]]),
    "lists of booleans": ([[True]], "bool", [[True]]),
    "empty lists": ([[], []], "float64", [[], []]),
    "lists of empty lists": ([[[], []]], "float64", [[[], []]]),
}


@pytest.mark.parametrize("what", COLUMNS)
@pytest.mark.parametrize("columnar", [False, True])
def test_the_type_of_a_column_is_found_in_its_values(what: str, columnar: bool) -> None:
    """The same from rows and from columns."""
    sent, dtype, wanted = COLUMNS[what]
    batch = read({"a": sent} if columnar else [{"a": value} for value in sent])
    assert batch.fields["a"].dtype == np.dtype(dtype)
    assert batch.fields["a"].tolist() == wanted
    assert batch.rows == len(sent)


def test_null_among_numbers_is_nan() -> None:
    """As pandas has it; NaN, which some libraries write, is the same."""
    for body in ('[{"a":1},{"a":null}]', '[{"a":1},{"a":NaN}]', '{"a":[1,null]}'):
        array = read(body).fields["a"]
        assert array.dtype == np.float64
        assert array[0] == 1
        assert math.isnan(array[1])
    assert np.isnan(read('[{"a":null}]').fields["a"]).all()
    assert np.isnan(read('[{"a":[1,null]}]').fields["a"]).tolist() == [[False, True]]


def test_columns_stand_in_the_order_of_the_first_row() -> None:
    """Later rows may have another."""
    batch = read('[{"b":1,"a":2,"c":3},{"a":4,"c":5,"b":6}]')
    assert {name: array.tolist() for name, array in batch.fields.items()} == {
        "b": [1, 6],
        "a": [2, 4],
        "c": [3, 5],
    }
    assert list(batch.fields) == ["b", "a", "c"]


ECHOED = (
    '[{"a":1.50,"b":"x"}]',
    ' [ {"a" : 1, "b":"},{"} , {"a":2,"b":"\\"" } ] ',
    '[{"a":1,"b":"x"},{"b":"y","a":2e0}]',
    '[{"a":true,"b":null}]',
    '[{"a":1,"a":2,"b":"x"}]',
    '[{"{":1},{"{":2}]',
)


@pytest.mark.parametrize("body", ECHOED)
def test_rows_are_echoed(body: str) -> None:
    """As they were sent, or as they were parsed where a name was sent twice."""
    batch = read(body)
    assert batch.echo is not None
    assert [orjson.loads(part) for part in batch.echo] == orjson.loads(body)
    if '"a":1,"a"' not in body and '"}' not in body:
        assert all(part in body.encode() for part in batch.echo)


def test_keys_may_be_left_out_and_reach_the_code_as_well() -> None:
    """They are columns like others, with null where a row has none; without any there is no column."""
    body = '[{"a":1},{"a":2,"session":"s"}]'
    batch = read(body, ("session", "tier"))
    assert batch.fields["session"].tolist() == [None, "s"]
    assert batch.keys == {"session": [None, "s"], "tier": [None, None]}
    assert list(batch.fields) == ["a", "session"]
    batch = read('{"a":[1],"tier":[7]}', ("session", "tier"))
    assert batch.keys == {"session": [None], "tier": [7]}


REFUSED: dict[str, tuple[str, str, str]] = {
    "nothing": ("", "EmptyBody", "empty"),
    "an empty list": ("[]", "NoRows", "at least one"),
    "an empty object": ("{}", "NotRecords", "an object"),
    "a number": ("1", "NotRecords", "a number"),
    "a row without fields": ("[{}]", "WrongFields", "row 0 has no fields"),
    "a list for a row": ("[[1]]", "NotRecords", "row 0 is a list"),
    "null for a later row": ('[{"a":1},null]', "NotRecords", "row 1 is null"),
    "a missing field": ('[{"a":1,"b":2},{"a":1}]', "WrongFields", "row 1 misses field 'b'"),
    "a further field": (
        '[{"a":1},{"a":1,"b":2}]',
        "WrongFields",
        "row 1 has field 'b', which row 0",
    ),
    "another field": (
        '[{"a":1},{"b":1}]',
        "WrongFields",
        "row 1 misses field 'a' and has field 'b'",
    ),
    "a string among numbers": (
        '[{"a":1},{"a":"1"}]',
        "WrongType",
        "row 1, field 'a': expected a number as before",
    ),
    "true among numbers": (
        '[{"a":1},{"a":true}]',
        "WrongType",
        "row 1, field 'a': expected a number as before, got true",
    ),
    "a number among booleans": (
        '[{"a":true},{"a":0}]',
        "WrongType",
        "expected a boolean as before, got 0",
    ),
    "a string in a list of numbers": (
        '[{"a":[1,"x"]}]',
        "WrongType",
        "field 'a'[1]: expected a number",
    ),
    "null among booleans": (
        '[{"a":true},{"a":null}]',
        "MissingValue",
        "row 1, field 'a': null is not a boolean",
    ),
    "an object": ('[{"a":{"b":1}}]', "WrongType", "row 0, field 'a': expected a value or a list"),
    "an object in a list": (
        '[{"a":[{"b":1}]}]',
        "WrongType",
        "field 'a'[0]: expected an object as before",
    ),
    "a list among numbers": (
        '[{"a":[1]},{"a":1}]',
        "WrongType",
        "row 1, field 'a': expected a list",
    ),
    "null among lists": (
        '[{"a":[1]},{"a":null}]',
        "WrongType",
        "row 1, field 'a': expected a list",
    ),
    "lists of different lengths": (
        '[{"a":[1]},{"a":[1,2]}]',
        "RaggedRows",
        "row 1, field 'a': [2] after [1]",
    ),
    "a ragged list": ('[{"a":[[1],[1,2]]}]', "RaggedRows", "row 0, field 'a': ragged list"),
    "a deep nest": ('[{"a":' + "[" * 9 + "]" * 9 + "}]", "WrongShape", "nested 9 deep; at most 8"),
    "a very deep nest": ('[{"a":' + "[" * 900 + "]" * 900 + "}]", "WrongShape", "nested 900 deep"),
    "Infinity": ('[{"a":1},{"a":-Infinity}]', "NotFinite", "row 1, field 'a'"),
    "columns of different lengths": ('{"a":[1],"b":[]}', "RaggedRows", "field 'b' has 0 values"),
    "a number for a column": ('{"a":1}', "NotRecords", "one value for each row"),
    "too many rows": ("[" + ",".join(["{}"] * (MAX_ROWS + 1)) + "]", "TooManyRows", "at most"),
    "too many fields": (
        json.dumps([{f"f{n}": 1 for n in range(MAX_FIELDS + 1)}]),
        "WrongFields",
        f"{MAX_FIELDS + 1} fields; at most {MAX_FIELDS}",
    ),
    "a list for a key": (
        '[{"a":1,"session":[1]}]',
        "WrongType",
        "field 'session': expected a single value",
    ),
    "a long name": (
        json.dumps([{"n" * 10_000: [1]}, {"n" * 10_000: 1}]),
        "WrongType",
        "expected a list",
    ),
    "a long value": (json.dumps([{"a": 1}, {"a": "v" * 10_000}]), "WrongType", "…"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_one_type_is_refused(what: str) -> None:
    """With the field, the row and what was there before."""
    body, reason, said = REFUSED[what]
    with pytest.raises(BadInput) as caught:
        read(body, ("session",))
    assert caught.value.reason == reason
    assert said in caught.value.message
    assert len(caught.value.message) < 500
    assert len(caught.value.field or "") <= 60


leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats(allow_infinity=False)
    | st.text(max_size=3)
)
trees = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3), max_leaves=6)
columns = st.one_of(
    *(
        st.lists(one, min_size=1, max_size=4)
        for one in (leaves, trees, st.integers(-9, 9), st.text(max_size=2), st.booleans())
    )
)


@hypothesis.settings(max_examples=400)
@hypothesis.given(columns, st.booleans(), st.booleans())
def test_any_column_is_read_or_refused(column: list[Any], columnar: bool, ascii_only: bool) -> None:
    """What is read has as many rows, and the values that the json module finds."""
    sent: Any = {"a": column} if columnar else [{"a": value} for value in column]
    body = json.dumps(sent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    try:
        batch = OpenReader().read(body)
    except BadInput as error:
        orjson.dumps({"error": error.message, "field": error.field})
        return
    array = batch.fields["a"]
    assert len(array) == batch.rows == len(column)
    for got, wanted in zip(_flat(array.tolist()), _flat(column), strict=True):
        if got is not None and (wanted is None or wanted != wanted):  # noqa: PLR0124 - NaN
            assert math.isnan(got)
        elif isinstance(got, float):
            assert got == float(wanted)
        else:
            assert got == wanted
            assert type(got) is type(wanted)


def _flat(value: Any) -> list[Any]:
    return [leaf for item in value for leaf in _flat(item)] if isinstance(value, list) else [value]
