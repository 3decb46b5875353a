"""Bodies that are no list of rows, or whose rows have other names than the fields."""

import pytest

from kit.records import PAIR, TENSOR, refusal
from midstream_engine.formats.columns import MAX_ROWS
from midstream_engine.formats.jsontext import dumps
from midstream_engine.schema import Field

# Bodies that are refused

NOT_RECORDS: dict[str, tuple[bytes | str, str, str]] = {
    "nothing at all is an empty body": (b"", "EmptyBody", "the body is empty"),
    "spaces and new lines are an empty body": (b" \n\t ", "EmptyBody", "the body is empty"),
    "half a body says where it ends": ('[{"tensor":[1,2', "NotJSON", "line 1, column 16"),
    "the line of the mistake is named": ('[\n{"tensor":[1,2,x]}]', "NotJSON", "line 2"),
    "two documents are not one": ("[] []", "NotJSON", "after document"),
    "single quotes are not JSON": ("[{'tensor':[1,2,3]}]", "NotJSON", "not JSON"),
    "bytes that are no UTF-8 are refused": (b'[{"tensor":"\xff"}]', "NotJSON", "not JSON"),
    "a byte order mark is refused": (b"\xef\xbb\xbf[]", "NotJSON", "byte order mark"),
    "a NUL after the end is refused": (b"[]\0", "NotJSON", "not JSON"),
    "an Arrow file is recognised": (
        b"ARROW1\0\0\xff\xff\xff\xff",
        "NotJSON",
        "looks like an Arrow file: send it with Content-Type: application/vnd.apache.arrow.file",
    ),
    "an Arrow stream is recognised": (
        b"\xff\xff\xff\xff\x10\0\0\0",
        "NotJSON",
        "looks like an Arrow stream: send it with Content-Type: application/vnd.apache.arrow.stream",
    ),
    "gzip is recognised": (b"\x1f\x8b\x08\x00abc", "NotJSON", "looks compressed"),
    "a form is refused": ("tensor=1&x=2", "NotJSON", "not JSON"),
    "nesting without end is refused": ("[" * 100_000, "NotJSON", "not JSON"),
    "nesting with NaN in it is refused": ("[" * 100_000 + "NaN", "NotJSON", "not JSON"),
    "half a body with NaN in it is refused": ('[{"tensor":[NaN', "NotJSON", "not JSON"),
    "UTF-16 with NaN in it is refused": ("[NaN]".encode("utf-16"), "NotJSON", "not JSON"),
    "a number beyond double is refused": ('[{"tensor":[1e999,2,3]}]', "NotJSON", "infinity"),
    "an empty object is not a list of rows": ("{}", "NotRecords", "is an object"),
    "an object of values holds no columns": ('{"tensor":1}', "NotRecords", "got a number"),
    "a string is not a list of rows": ('"x"', "NotRecords", "is a string"),
    "a number is not a list of rows": ("12", "NotRecords", "is a number"),
    "true is not a list of rows": ("true", "NotRecords", "is a boolean"),
    "null is not a list of rows": ("null", "NotRecords", "is null"),
    "NaN is not a list of rows": ("NaN", "NotRecords", "is a number"),
    "a list without rows is refused": (" [ ] ", "NoRows", "at least one"),
    "a row that is a list is refused": ("[[1,2,3]]", "NotRecords", "row 0 is a list"),
    "a row that is a number is refused": ("[7]", "NotRecords", "row 0 is a number"),
    "a row that is null is refused": (
        '[{"tensor":[1,2,3]},null]',
        "NotRecords",
        "row 1 is null",
    ),
    "a row that is a string is refused": ('["tensor"]', "NotRecords", "row 0 is a string"),
    "too many rows are refused": (
        "[" + ",".join(["{}"] * (MAX_ROWS + 1)) + "]",
        "TooManyRows",
        f"{MAX_ROWS + 1} rows; at most {MAX_ROWS}",
    ),
}


@pytest.mark.parametrize("what", NOT_RECORDS)
def test_a_body_that_is_no_list_of_rows_is_refused(what: str) -> None:
    """The refusal says what came and what would be right."""
    body, reason, said = NOT_RECORDS[what]
    error = refusal(TENSOR, body)
    assert error.reason == reason
    assert said in error.message
    assert len(error.message) < 500


WRONG_NAMES: dict[str, tuple[str, str, int, str]] = {
    "an empty row misses the field": ("[{}]", "tensor", 0, "misses field 'tensor'"),
    "a wrong name is both missing and unknown": (
        '[{"tensr":[1,2,3]}]',
        "tensor",
        0,
        "misses field 'tensor' and has the unknown field 'tensr'",
    ),
    "one name too many is unknown": (
        '[{"tensor":[1,2,3],"id":4}]',
        "id",
        0,
        "has the unknown field 'id'",
    ),
    "the second row is looked at, too": (
        '[{"tensor":[1,2,3]},{"dense":[1,2,3]}]',
        "tensor",
        1,
        "row 1 misses",
    ),
    "an extra name in the last of three rows is found": (
        '[{"tensor":[1,2,3]},{"tensor":[1,2,3]},{"tensor":[1,2,3],"z":1}]',
        "z",
        2,
        "row 2 has the unknown field 'z'",
    ),
    "names differ by their case": ('[{"Tensor":[1,2,3]}]', "tensor", 0, "unknown field 'Tensor'"),
    "a long name is cut": (
        '[{"tensor":[1,2,3],"' + "n" * 10_000 + '":1}]',
        "n" * 60,
        0,
        "unknown field 'nnn",
    ),
    "many names are cut": (
        '[{"tensor":[1,2,3],' + ",".join(f'"n{i}":1' for i in range(1000)) + "}]",
        "n0",
        0,
        "unknown fields 'n0', 'n1', 'n2', 'n3', 'n4', …",
    ),
}


@pytest.mark.parametrize("what", WRONG_NAMES)
def test_wrong_names_are_refused_with_those_expected(what: str) -> None:
    """The refusal names the field, the row and the fields that the pipeline has."""
    body, field, row, said = WRONG_NAMES[what]
    error = refusal(TENSOR, body)
    assert (error.reason, error.field, error.row) == ("WrongFields", field, row)
    assert said in error.message
    assert error.message.endswith("expected fields: 'tensor' (float32[3])")
    assert len(error.message) < 500


def test_all_missing_fields_are_named() -> None:
    """Two fields are missing, so two are named, and both are listed with type and shape."""
    error = refusal(PAIR, "[{}]")
    assert error.message == (
        "row 0 misses fields 'a', 'b'; expected fields: 'a' (float32[2]), 'b' (int64[1])"
    )


def test_a_lone_surrogate_never_reaches_a_message() -> None:
    """Text that cannot be written as UTF-8 is refused by the parser, also in a body with NaN in it."""
    for body in (
        '[{"tensor":[1,2,NaN],"\\ud800":1}]',
        '[{"tensor":[1,2,3],"\\ud800":NaN}]',
        '[{"tensor":["\\ud800",2,NaN]}]',
        '[{"tensor":"\\ud800"}]',
    ):
        error = refusal(Field("tensor", "float32", (3,), allow_missing=True), body)
        assert error.reason == "NotJSON"
        dumps({"error": error.message, "field": error.field})
