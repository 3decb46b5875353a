"""Media types: what a body is taken for, and what an answer is made."""

import pytest

from midstream_engine.errors import NotAcceptable, UnsupportedMediaType
from midstream_engine.formats.negotiation import Format, answer_format, request_format

R, C, F, S = Format.RECORDS, Format.COLUMNAR, Format.ARROW_FILE, Format.ARROW_STREAM
FILE, STREAM = F.value, S.value

REQUESTS = {
    "": R,
    "application/json": R,
    "Application/JSON; Charset=UTF-8": R,
    "application/json; format=pandas-records": R,
    "application/json;format=pandas-records;charset=utf-8": R,
    'application/json; format="pandas-records"': R,
    "Content-Type: application/json; format=pandas-records": R,
    "content-type:application/json": R,
    "application/json; format=columnar": C,
    FILE: F,
    STREAM: S,
    f"{STREAM};": S,
}

UNSUPPORTED = (
    "text/csv",
    "application/x-www-form-urlencoded",
    "application/json; charset=utf-16",
    "application/json; format=pandas-split",
    "application/vnd.apache.arrow",
    "application/octet-stream",
    "*/*",
    ";format=columnar",
)

ANSWERS = {
    "": R,
    "*/*": R,
    " , ": R,
    "application/*": R,
    "application/json": R,
    "application/json; charset=utf-8": R,
    "application/json; format=pandas-records": R,
    "application/json; format=columnar": C,
    "APPLICATION/JSON;FORMAT=COLUMNAR": C,
    FILE: F,
    STREAM: S,
    f"{FILE}, */*": F,
    f"*/*, {FILE}": F,
    f"*/*;q=0.5, {STREAM};q=0.4": R,
    f"application/json;q=0.5, {STREAM};q=0.9": S,
    f"application/json, {FILE}": R,
    f"{FILE}, application/json": F,
    f"{STREAM};q=0.8, {FILE};q=0.8": S,
    "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": R,
    "application/json;q=0, */*": F,
    "application/json; format=columnar, application/json;q=0.9": C,
    "text/html, application/json;q=nonsense": R,
    "application/json;q=7": R,
}

UNACCEPTABLE = (
    "text/csv",
    "text/*",
    "application/json;q=0",
    "*/*;q=0",
    "application/json; format=pandas-split",
    f"{FILE}; version=9",
    "nonsense",
)


@pytest.mark.parametrize("sent", REQUESTS)
def test_a_content_type_names_the_format_of_a_body(sent: str) -> None:
    """In any case and spacing, and also where the header's name stands in its value once more."""
    for _ in range(2):  # parsed, then remembered
        assert request_format(sent.encode()) is REQUESTS[sent]


@pytest.mark.parametrize("sent", UNSUPPORTED)
def test_other_content_types_are_refused_with_those_that_are_taken(sent: str) -> None:
    """The message shows what came and lists all formats."""
    with pytest.raises(UnsupportedMediaType) as caught:
        request_format(sent.encode())
    assert sent in caught.value.message
    assert all(each.value in caught.value.message for each in Format)


def test_what_curl_sends_by_itself_is_told_with_the_flag_that_mends_it() -> None:
    """`curl -d` says that a body is a form, whatever it is."""
    with pytest.raises(UnsupportedMediaType) as caught:
        request_format(b"application/x-www-form-urlencoded")
    assert caught.value.message.endswith("add -H 'Content-Type: application/json'")


@pytest.mark.parametrize("sent", ANSWERS)
def test_an_accept_chooses_the_format_of_an_answer(sent: str) -> None:
    """By q, then by how exactly a format is named, then by the order that it is named in, then records first."""
    for _ in range(2):
        assert answer_format(sent.encode()) is ANSWERS[sent]


@pytest.mark.parametrize("sent", UNACCEPTABLE)
def test_an_accept_that_nothing_fits_is_refused_with_what_there_is(sent: str) -> None:
    """No answer is made that the client says it cannot take."""
    with pytest.raises(NotAcceptable) as caught:
        answer_format(sent.encode())
    assert all(each.value in caught.value.message for each in Format)


def test_strange_headers_fill_no_memory_and_no_message() -> None:
    """Any number of different values is parsed anew, and long ones are cut in the message."""
    for number in range(1000):
        assert answer_format(b"*/*, a/b%d" % number) is R
    with pytest.raises(UnsupportedMediaType) as caught:
        request_format(b"x" * 60_000)
    assert len(caught.value.message) < 500
    with pytest.raises(NotAcceptable) as unacceptable:
        answer_format(b"a/b," * 10_000)
    assert len(unacceptable.value.message) < 500
