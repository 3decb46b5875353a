"""Suggestions for words that are not known."""

import pytest

from midstream.problems import closest

KNOWN = ["champion", "challengers", "wait", "timeoutSeconds", "hashKey", "inputs"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("timeout", "timeoutSeconds"),
        ("timeout_seconds", "timeoutSeconds"),
        ("challenger", "challengers"),
        ("hash_key", "hashKey"),
        ("time", "timeoutSeconds"),
        ("tim", None),
        ("cha", None),
        ("weights", None),
    ],
)
def test_the_word_that_was_meant_is_found(given: str, meant: str | None) -> None:
    """One that is nearly the same, or the only one that begins so; nothing for a few letters."""
    assert closest(given, KNOWN) == meant
