"""Which bodies are read between two other requests, and which are left for another thread."""

import gzip

import pytest

from midstream_engine.batch import Facts
from midstream_engine.codec import AT_ONCE, Codec
from midstream_engine.errors import BodyTooLarge
from midstream_engine.request import Headers, Request, Target
from midstream_engine.schema import Field
from midstream_engine.steps.flow import learned

LIMIT = 8 * AT_ONCE


@pytest.fixture
def codec() -> Codec:
    facts = Facts("numbers", "v", "here", "{}", "0" * 64)
    return Codec((Field("x", "float32", (None,)),), None, (), facts)


def body(values: int) -> bytes:
    return b'[{"x":[%b]}]' % b",".join([b"1"] * values)


def request(sent: bytes, encoding: bytes = b"") -> Request:
    return Request(
        Target(None), sent, Headers(content_type=b"application/json", content_encoding=encoding)
    )


def test_a_small_body_is_read_at_once(codec: Codec) -> None:
    """Packed or not."""
    for asked in (request(body(3)), request(gzip.compress(body(3)), b"gzip")):
        found = codec.read_at_once(asked, LIMIT)
        assert found is not None
        assert [[1, 1, 1]] == found.batch.fields["x"].tolist()


@pytest.mark.parametrize("packed", [False, True])
def test_a_large_body_is_left_for_another_thread(codec: Codec, packed: bool) -> None:
    """However small it is packed; `read` reads it."""
    plain = body(AT_ONCE)
    asked = request(gzip.compress(plain), b"gzip") if packed else request(plain)
    assert codec.read_at_once(asked, LIMIT) is None
    assert (1, AT_ONCE) == codec.read(asked, LIMIT).batch.fields["x"].shape


def test_a_body_over_a_low_limit_is_refused_at_once(codec: Codec) -> None:
    """Nothing is left to be done for it."""
    with pytest.raises(BodyTooLarge, match="more than 1000 bytes"):
        codec.read_at_once(request(gzip.compress(body(AT_ONCE)), b"gzip"), 1000)


def test_one_slow_run_of_a_row_moves_what_is_known_by_a_tenth() -> None:
    """It may not have been given the processor."""
    assert 110 == pytest.approx(learned(100, 1e9, 1, 1e6))
    assert 95 == pytest.approx(learned(100, 50, 1, 1e6))


def test_what_kept_all_others_waiting_is_believed_at_once() -> None:
    """The next batch of that size goes to a thread."""
    assert 1e6 == learned(100, 1e9, 1000, 1e6)
    assert 100 < learned(100, 3e6, 1000, 1e6) <= 110
