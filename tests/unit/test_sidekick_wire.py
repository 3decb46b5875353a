"""Frames between engine and worker: every array comes back as it was, and no bytes do harm."""

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstream_engine.sidekicks import wire
from midstream_engine.sidekicks.wire import Array, FrameError, FrameTooLargeError


def joined(arrays: Mapping[str, Array], limit: int = wire.MAX_BYTES) -> bytes:
    return b"".join(wire.encode({"op": "call", "id": 1}, arrays, limit))


def read(frame: bytes) -> tuple[wire.Header, dict[str, Array]]:
    header_bytes, buffer_bytes = wire.sizes(frame[: wire.PREFIX_BYTES])
    rest = memoryview(frame[wire.PREFIX_BYTES :])
    assert len(rest) == header_bytes + buffer_bytes
    header = wire.header_of(rest, header_bytes)
    return header, wire.arrays_of(header, rest, header_bytes)


def sent(array: Any) -> Array:
    header, arrays = read(joined({"before": np.ones(3, np.int8), "x": array}))
    assert 1 == header["id"]
    assert [1, 1, 1] == arrays["before"].tolist()
    return arrays["x"]


@pytest.mark.parametrize("dtype", sorted(wire.NUMBERS))
@pytest.mark.parametrize("shape", [(3,), (2, 3), (0,), (0, 4), (2, 0), ()])
def test_numbers_come_back_as_they_were(dtype: str, shape: tuple[int, ...]) -> None:
    """Type, shape and every bit."""
    array = np.random.default_rng(1).integers(0, 2, shape).astype(dtype)
    came = sent(array)
    assert (array.dtype, array.shape) == (came.dtype, came.shape)
    assert array.tobytes() == came.tobytes()


def test_not_a_number_and_infinity_come_back() -> None:
    """They are bits as all others."""
    array = np.array([np.nan, np.inf, -np.inf, -0.0], np.float32)
    assert array.tobytes() == sent(array).tobytes()


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(np.arange(12).reshape(3, 4).T, id="transposed"),
        pytest.param(np.arange(12)[::-2], id="backwards"),
        pytest.param(np.arange(4).astype(">f8"), id="big-endian"),
        pytest.param(np.broadcast_to(np.int64(7), (3, 2)), id="repeated"),
    ],
)
def test_arrays_of_any_layout_come_back_equal(array: Array) -> None:
    """What lies otherwise in memory is brought into order."""
    assert array.tolist() == sent(array).tolist()


@pytest.mark.parametrize(
    "values",
    [["a", "bc", ""], ["é", "日本", "😀x"], ["\0", "a\0"], [], ["a", None, "b"], [[["x"], ["y"]]]],
)
def test_text_comes_back(values: list[Any]) -> None:
    """Any Unicode text, zeros at the end too, and None."""
    came = sent(np.array(values, dtype=object))
    assert object == came.dtype
    assert values == came.tolist()


def ragged(*rows: Any, dtype: Any = np.float32) -> Array:
    array = np.empty(len(rows), object)
    for number, row in enumerate(rows):
        array[number] = np.array(row, dtype)
    return array


@pytest.mark.parametrize(
    "array",
    [
        ragged([1, 2], [3], []),
        ragged([[1, 2]], [[3], [4]]),
        ragged(["a", "b"], ["c"], dtype=object),
        ragged(1, 2),
    ],
)
def test_ragged_rows_come_back(array: Array) -> None:
    """Each row with its own shape."""
    came = sent(array)
    assert array.shape == came.shape
    for want, got in zip(array, came, strict=True):
        assert (want.dtype, want.shape, want.tolist()) == (got.dtype, got.shape, got.tolist())


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (np.array([1, "a"], object), "not text"),
        (np.array([1 + 2j]), "complex128"),
        (np.array(["2020-01-01"], "datetime64[D]"), "datetime64"),
        (np.array(["\ud800"], object), "not Unicode"),
        (ragged([1], [[2]]), "mixes"),
    ],
)
def test_what_cannot_travel_is_refused_by_name(array: Array, why: str) -> None:
    """No frame is made."""
    with pytest.raises(FrameError, match=why):
        joined({"x": array})


def test_a_frame_beyond_the_limit_is_refused_by_writer_and_reader() -> None:
    """The reader needs its first 16 bytes for that."""
    array = {"x": np.zeros(1000)}
    with pytest.raises(FrameTooLargeError, match="at most 4000"):
        joined(array, 4000)
    with pytest.raises(FrameTooLargeError, match="at most 4000"):
        wire.sizes(joined(array)[:16], 4000)
    with pytest.raises(FrameTooLargeError):
        joined({"x" * (1 << 20): np.zeros(1)})


@given(st.binary(min_size=16, max_size=200))
def test_random_bytes_are_no_frame(data: bytes) -> None:
    """Whatever is written to the connection by mistake is told apart."""
    with pytest.raises(FrameError):
        wire.sizes(data[:16])


_ENTRIES = st.fixed_dictionaries(
    {"name": st.text(max_size=3)},
    optional={
        "dtype": st.sampled_from(["float32", "string", "bool", "object", ""]) | st.integers(),
        "shape": st.lists(st.integers(-(2**70), 2**70) | st.text(max_size=2), max_size=3)
        | st.integers(),
        "bytes": st.integers(-5, 300),
        "rows": st.integers(-5, 2**40),
        "rank": st.integers(0, 3) | st.integers(-5, 2**40),
    },
)


@given(st.lists(_ENTRIES, max_size=4) | st.none() | st.text(max_size=5), st.binary(max_size=200))
def test_a_header_that_lies_is_refused(arrays: Any, buffers: bytes) -> None:
    """Nothing beyond the frame is read, no memory is asked for that it does not have, and the error is one."""
    text = json.dumps({"op": "answer", "arrays": arrays}).encode()
    frame = struct.pack("<4sIQ", b"MSK1", len(text), len(buffers)) + text + buffers
    try:
        read(frame)
    except FrameError:
        return


def test_a_header_that_is_no_object_is_refused() -> None:
    """Also one that is no JSON, or nested without end."""
    for text in (b"[]", b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(FrameError):
            wire.header_of(memoryview(text), len(text))


def test_frames_follow_each_other_over_a_socket() -> None:
    """The reader stops where one ends, and says when the peer is gone."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            for number in range(3):
                wire.send(theirs, wire.encode({"id": number}, {"x": np.full(2, number)}))
        for number in range(3):
            came = wire.receive(ours)
            assert came is not None
            assert number == came[0]["id"]
            assert [number, number] == came[1]["x"].tolist()
        assert wire.receive(ours) is None
