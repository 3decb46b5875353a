"""What users' code gets and gives: the JSON of `wallaroo_json`, and which results are outputs."""

import json
from typing import Any

import numpy as np
import pytest

from midstream_engine.sidekicks.values import BadOutput, as_json, from_document, outputs
from midstream_engine.sidekicks.wire import Array


def test_the_document_has_the_fields_in_order_and_one_list_for_each_row() -> None:
    """Every type of input becomes what JSON has for it."""
    ragged = np.empty(2, object)
    ragged[:] = [np.array([1, 2]), np.array([3])]
    inputs: dict[str, Array] = {
        "z": np.array([1.5, np.nan], np.float64),
        "a": np.array([1, 2], np.int8),
        "b": np.array([True, False]),
        "s": np.array(["é", "x"], object),
        "m": np.array([[1, 2], [3, np.inf]], np.float32),
        "r": ragged,
    }
    document = json.loads(as_json(inputs))
    assert ["z", "a", "b", "s", "m", "r"] == document["colnames"]
    assert [
        [1.5, 1, True, "é", [1.0, 2.0], [1, 2]],
        [None, 2, False, "x", [3.0, float("inf")], [3]],
    ] == document["query"]


def test_a_document_of_no_rows_has_no_rows() -> None:
    """The names are still there."""
    assert {"colnames": ["x"], "query": []} == json.loads(as_json({"x": np.zeros((0, 3))}))


@pytest.mark.parametrize(
    ("value", "dtype", "want"),
    [
        ([1, 2], "int64", [1, 2]),
        ([1, 2.5], "float64", [1.0, 2.5]),
        ([[1.0], [2.0]], "float64", [[1.0], [2.0]]),
        ([True, False], "bool", [True, False]),
        (["a", "é\0"], "object", ["a", "é\0"]),
        ([[["a"]], [["b"]]], "object", [[["a"]], [["b"]]]),
        ((1, 2), "int64", [1, 2]),
        ([2**63, 2**63 + 1], "uint64", [2**63, 2**63 + 1]),
        ([np.float32(1), np.float32(2)], "float32", [1.0, 2.0]),
        (np.array(["a", "b"]), "object", ["a", "b"]),
        (np.array([1, 2], np.float16), "float16", [1.0, 2.0]),
    ],
)
def test_lists_and_arrays_become_the_type_they_hold(
    value: Any, dtype: str, want: list[Any]
) -> None:
    """As numpy infers it, and text stays text."""
    array = outputs({"y": value}, 2)["y"]
    assert dtype == array.dtype.name
    assert want == array.tolist()


def test_none_among_numbers_is_not_a_number() -> None:
    """As missing values are everywhere else."""
    array = outputs({"y": [1, None]}, 2)["y"]
    assert "float64" == array.dtype
    assert 1.0 == array[0]
    assert np.isnan(array[1])


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([[1], [2, 3]], "ragged"),
        ([1, "a"], "a str mixed with numbers"),
        (["a", None], "None"),
        ([True, None], "a bool"),
        ([{"k": 1}, {"k": 2}], "a dict"),
        ([b"a", b"b"], "a bytes"),
        (["\ud800", "a"], "not Unicode"),
        ([2**70, 1], "64 bits"),
        ([1j, 2], "complex128"),
        (np.array(["2020", "2021"], "datetime64[Y]"), "datetime64"),
        (np.zeros(2, np.longdouble), "the type"),
        (7, "single value"),
        (None, "single value"),
        ("text", "single value"),
        ({"a": 1}, "a dict"),
        ([1, 2, 3], "as many rows"),
        ([], "as many rows"),
    ],
)
def test_what_is_no_output_is_refused_by_name(value: Any, why: str) -> None:
    """The message says what came."""
    with pytest.raises(BadOutput, match=why) as bad:
        outputs({"price": value}, 2)
    assert "'price'" in str(bad.value)


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (None, "it returned None"),
        ([1], "it returned a list"),
        ({}, "no output"),
        ({1: [1]}, "named 1"),
        ({"": [1]}, "named ''"),
    ],
)
def test_process_must_return_a_dict_of_names(result: Any, why: str) -> None:
    """Anything else is told."""
    with pytest.raises(BadOutput, match=why):
        outputs(result, 1)


def test_tensor_fields_name_the_outputs() -> None:
    """What they do not name is left out; a text of JSON will do, too."""
    result = {"tensor_fields": ["b", "a"], "a": [1], "b": [2.5], "c": "not an output"}
    assert ["b", "a"] == list(from_document(result, 1))
    assert [2.5] == from_document(json.dumps(result), 1)["b"].tolist()


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (None, "it returned None"),
        ("{", "not JSON"),
        ("[1]", "it returned a list"),
        ({"y": [1]}, r"'tensor_fields' names the outputs; it has 'y'"),
        ({"tensor_fields": "y", "y": [1]}, "a list of names, it is a str"),
        ({"tensor_fields": []}, "an empty list"),
        ({"tensor_fields": ["z"], "y": [1]}, "names 'z', which is not in the dict"),
        ({"tensor_fields": [["y"]], "y": [1]}, r"names \['y'\]"),
        ({"tensor_fields": ["y"], "y": [[1], [2, 3]]}, "ragged"),
    ],
)
def test_wallaroo_json_must_return_named_outputs(result: Any, why: str) -> None:
    """Anything else is told."""
    with pytest.raises(BadOutput, match=why):
        from_document(result, 2)
