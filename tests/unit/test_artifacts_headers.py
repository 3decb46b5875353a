"""Headers of answers, good and bad, as values."""

import pytest

from midstream_artifacts import headers


@pytest.mark.parametrize(
    ("text", "value"),
    [("12", 12), ("", None), ("-1", None), ("1,2", None), ("9" * 5000, None), ("\u0663", None)],
)
def test_length(text: str, value: int | None) -> None:
    """A length is a sequence of digits of some reason; all else is none."""
    assert headers.length({"content-length": text}) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("bytes 5-9/10", (5, 10)),
        ("bytes 5-9/*", (5, None)),
        ("bytes */10", (None, 10)),
        ("bytes 5-/10", (None, None)),
        ("lines 5-9/10", (None, None)),
        ("", (None, None)),
    ],
)
def test_content_range(text: str, value: tuple[int | None, int | None]) -> None:
    """A part tells where it begins and how large the whole is, or it tells nothing."""
    assert headers.content_range({"content-range": text}) == value


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("7", 7, 7),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 1e9, 1e10),
        ("Fri, 01 Jan 2100 00:00:00 -0000", 1e9, 1e10),
        ("Mon, 01 Jan 2001 00:00:00 GMT", 0, 0),
        ("soon", 0, 0),
        ("-7", 0, 0),
        ("", 0, 0),
    ],
)
def test_retry_after(text: str, least: float, most: float) -> None:
    """Seconds and dates are understood; what is past or makes no sense asks for no wait."""
    assert least <= headers.retry_after_s({"retry-after": text}) <= most


DAY = "Sat, 21 Nov 2026"


@pytest.mark.parametrize(
    ("sent", "value"),
    [
        ({"etag": '"a"'}, '"a"'),
        ({"etag": 'W/"a"'}, ""),
        ({"etag": "a"}, ""),
        (
            {"last-modified": f"{DAY} 08:00:00 GMT", "date": f"{DAY} 08:00:01 GMT"},
            f"{DAY} 08:00:00 GMT",
        ),
        ({"last-modified": f"{DAY} 08:00:00 GMT", "date": f"{DAY} 08:00:00 GMT"}, ""),
        ({"last-modified": f"{DAY} 08:00:00 GMT"}, ""),
        ({"last-modified": "yesterday", "date": f"{DAY} 08:00:00 GMT"}, ""),
        ({"last-modified": f"{DAY} 08:00:00 -0000", "date": f"{DAY} 08:00:09 GMT"}, ""),
        ({}, ""),
    ],
)
def test_validator(sent: dict[str, str], value: str) -> None:
    """Only what names exactly these bytes may hold two parts of a file together."""
    assert headers.validator(sent) == value
