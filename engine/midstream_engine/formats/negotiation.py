"""Media types: which format a request has, by its Content-Type, and which its answer should have, by its Accept.

What was parsed once is remembered, for callers send the same few values over and over; foreign ones cannot fill the
memory.
"""

import enum
from collections.abc import Callable, Mapping

from midstream_engine.errors import NotAcceptable, UnsupportedMediaType


class Format(enum.Enum):
    RECORDS = "application/json; format=pandas-records"
    """A list of rows. As a request, also an object of columns: the body tells."""
    COLUMNAR = "application/json; format=columnar"
    ARROW_FILE = "application/vnd.apache.arrow.file"
    ARROW_STREAM = "application/vnd.apache.arrow.stream"


NAMES = ", ".join(each.value for each in Format)

_REQUESTS = {
    "": Format.RECORDS,
    "application/json": Format.RECORDS,
    "application/json;format=pandas-records": Format.RECORDS,
    "application/json;format=columnar": Format.COLUMNAR,
    "application/vnd.apache.arrow.file": Format.ARROW_FILE,
    "application/vnd.apache.arrow.stream": Format.ARROW_STREAM,
}

_FORM = "application/x-www-form-urlencoded"

_REMEMBERED = 100
_LONGEST_REMEMBERED = 200

_MOST_RANGES = 50
"""Of one Accept that are looked at."""

_requests: dict[bytes, Format] = {}
_answers: dict[bytes, Format] = {}


def request_format(content_type: bytes) -> Format:
    """The format of a body; RECORDS where there is no Content-Type. Raises UnsupportedMediaType.

    Old clients send the header's name once more in its value: that is taken, too.
    """
    return _recall(_requests, content_type, _parse_request)


def answer_format(accept: bytes) -> Format:
    """The format that an answer should have; RECORDS where there is no Accept. Raises NotAcceptable."""
    return _recall(_answers, accept, _parse_answer)


def _recall(known: dict[bytes, Format], value: bytes, parse: Callable[[bytes], Format]) -> Format:
    found = known.get(value)
    if found is None:
        found = parse(value)
        if len(known) < _REMEMBERED and len(value) < _LONGEST_REMEMBERED:
            known[value] = found
    return found


def _parse_request(content_type: bytes) -> Format:
    text = content_type.decode("latin-1").lower().replace(" ", "").replace("\t", "")
    text = text.removeprefix("content-type:").replace('"', "")
    kept = [part for part in text.split(";") if part and part != "charset=utf-8"]
    found = _REQUESTS.get(";".join(kept))
    if found is None:
        hint = (
            "; curl says this of -d by itself: add -H 'Content-Type: application/json'"
            if text.startswith(_FORM)
            else ""
        )
        raise UnsupportedMediaType(
            f"content type {content_type.decode('latin-1')[:100]!r} is not supported; send one of {NAMES}{hint}"
        )
    return found


def _parse_answer(accept: bytes) -> Format:
    """The best by q; among equals what is named most exactly, then what is named first, then our own order."""
    ranges = [
        _parse_range(part, place)
        for place, part in enumerate(accept.decode("latin-1").lower().split(",")[:_MOST_RANGES])
        if part.strip()
    ]
    if not ranges:
        return Format.RECORDS
    best = Format.RECORDS
    best_rank = (0.0, 0, 0)
    for each in Format:
        matching = [rank for matches, rank in ranges if matches(each)]
        # The most exact range decides, also when it excludes.
        exactness = max((rank[1] for rank in matching), default=0)
        rank = max((rank for rank in matching if rank[1] == exactness), default=(0.0, 0, 0))
        if rank[0] > 0 and rank > best_rank:
            best, best_rank = each, rank
    if best_rank[0] == 0:
        raise NotAcceptable(
            f"the answer cannot be {accept.decode('latin-1')[:100]!r}; accept one of {NAMES}"
        )
    return best


_Rank = tuple[float, int, int]
"""q, exactness, and the later named the smaller."""


def _parse_range(text: str, place: int) -> tuple[Callable[[Format], bool], _Rank]:
    media, *rest = (part.strip() for part in text.split(";"))
    parameters = dict(part.replace(" ", "").replace('"', "").partition("=")[::2] for part in rest)
    quality = _quality(parameters.pop("q", "1"))
    parameters.pop("charset", None)
    if media == "*/*":
        exactness = 1
    elif media.endswith("/*"):
        exactness = 2
    else:
        exactness = 3 + bool(parameters)

    def matches(candidate: Format) -> bool:
        own, _, parameter = candidate.value.partition("; ")
        if exactness == 1:
            return True
        if exactness == 2:
            return own.startswith(media[:-1])
        return own == media and _fits(parameters, parameter)

    return matches, (quality, exactness, -place)


def _fits(wanted: Mapping[str, str], own: str) -> bool:
    return not wanted or wanted == dict([own.partition("=")[::2]])


def _quality(text: str) -> float:
    try:
        quality = float(text)
    except ValueError:
        return 1.0
    return quality if 0 <= quality <= 1 else 1.0
