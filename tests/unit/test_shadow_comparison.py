"""How far a challenger's outputs are from the champion's, and what is counted of it."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstream_engine.schema import NUMPY_TYPES, Array
from midstream_engine.shadow.comparison import (
    MAX_TALLIES,
    MAX_VARIABLES,
    REST,
    Difference,
    Outcome,
    ShadowCounts,
    VariableTally,
    compare,
    size_of,
)

NAN, INF = math.nan, math.inf


def floats(*values: Any, dtype: str = "float32") -> Array:
    """A column of numbers, one or several for each row."""
    return np.array(values, dtype=dtype)


def texts(*values: Any) -> Array:
    """A column of strings."""
    return np.array(values, dtype=object)


def ragged(*rows: Array) -> Array:
    """A column whose rows have different shapes."""
    column = np.empty(len(rows), dtype=object)
    column[:] = list(rows)
    return column


CASES: dict[str, tuple[Array, Array, tuple[int, int, int, float]]] = {
    "equal numbers": (floats(1, 2), floats(1, 2), (2, 0, 2, 0.0)),
    "one number apart": (floats(1, 2), floats(1, 4.5), (2, 1, 2, 2.5)),
    "differences count in both directions": (floats(1, 2), floats(3, 0), (2, 2, 2, 4.0)),
    "a row is unequal once": (floats([1, 2], [3, 4]), floats([2, 3], [3, 4]), (2, 1, 4, 2.0)),
    "NaN equals NaN and is no number to compare": (
        floats(NAN, 1),
        floats(NAN, 2),
        (2, 1, 1, 1.0),
    ),
    "NaN beside a number is unequal": (floats(NAN, 1), floats(5, 1), (2, 1, 1, 0.0)),
    "infinities are left out of the mean": (
        floats(INF, -INF, INF, 2),
        floats(INF, INF, 1, 3),
        (4, 3, 1, 1.0),
    ),
    "a difference beyond float64 is left out": (
        floats(1.7e308, 1, dtype="float64"),
        floats(-1.7e308, 2, dtype="float64"),
        (2, 2, 1, 1.0),
    ),
    "integers": (
        floats(1, 250, dtype="uint8"),
        floats(2, 0, dtype="uint8"),
        (2, 2, 2, 251.0),
    ),
    "numbers of different types": (
        floats(1, 2, dtype="int64"),
        floats(1, 2.5, dtype="float32"),
        (2, 1, 2, 0.5),
    ),
    "half floats do not overflow": (
        floats(60000, 1, dtype="float16"),
        floats(-60000, 1, dtype="float16"),
        (2, 1, 2, 120000.0),
    ),
    "bools are equal or not": (
        floats(1, 0, 1, dtype="bool"),
        floats(1, 1, 0, dtype="bool"),
        (3, 2, 0, 0.0),
    ),
    "strings are equal or not": (texts("a", "b"), texts("a", "c"), (2, 1, 0, 0.0)),
    "rows of strings": (
        texts(["a", "b"], ["c", "d"]),
        texts(["a", "b"], ["c", "x"]),
        (2, 1, 0, 0.0),
    ),
    "strings beside numbers": (texts("1", "2"), floats(1, 2), (2, 2, 0, 0.0)),
    "rows of another shape": (floats([1, 2], [3, 4]), floats(1, 2), (2, 2, 0, 0.0)),
    "ragged rows, each with its counterpart": (
        ragged(floats(1, 2), floats(3), floats(5)),
        ragged(floats(1, 4), floats(3, 4), floats(5)),
        (3, 2, 3, 2.0),
    ),
    "ragged rows beside even ones": (
        ragged(floats(1, 2), floats(3)),
        floats([1, 3], [3, 4]),
        (2, 2, 2, 1.0),
    ),
    "ragged strings": (
        ragged(texts("a"), texts("b", "c")),
        ragged(texts("a"), texts("b")),
        (2, 1, 0, 0.0),
    ),
    "values without a number in them": (np.zeros((2, 0)), np.zeros((2, 0)), (2, 0, 0, 0.0)),
    "no rows": (np.zeros((0, 3)), np.zeros((0, 3)), (0, 0, 0, 0.0)),
    "no rows of strings": (np.empty(0, dtype=object), np.empty(0, dtype=object), (0, 0, 0, 0.0)),
}


@pytest.mark.parametrize("case", CASES)
def test_differences(case: str) -> None:
    """Rows, unequal rows, finite numbers compared, and the sum of their differences."""
    champion, challenger, (rows, unequal, values, absolute) = CASES[case]
    assert [Difference("v", rows, unequal, values, absolute)] == compare(
        {"v": champion}, {"v": challenger}
    )


def test_only_variables_of_the_same_name_are_compared() -> None:
    """A challenger may give more than the champion, less, or something else; the champion's order counts."""
    one = {"b": floats(1), "a": floats(2), "only": floats(3)}
    other = {"a": floats(2), "other": floats(0), "b": floats(5)}
    assert ["b", "a"] == [found.name for found in compare(one, other)]
    assert [] == compare(one, {})


def test_large_outputs_are_summed_as_small_ones() -> None:
    """The mean of a million numbers is as exact as that of ten."""
    zeros = np.zeros((1000, 1000), np.float32)
    (found,) = compare({"v": zeros}, {"v": zeros + np.float32(0.5)})
    assert Difference("v", 1000, 1000, 1_000_000, 500_000.0) == found


_any = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-(2**70), 2**70)


@given(
    st.lists(st.tuples(_any, _any), min_size=1, max_size=20), st.sampled_from(sorted(NUMPY_TYPES))
)
def test_any_values_compare(pairs: list[tuple[float, float]], dtype: str) -> None:
    """Whatever two models give, a comparison ends, is symmetric, and stays finite."""
    with np.errstate(all="ignore"):
        one, other = (
            np.array(side, dtype=object)
            if dtype == "string"
            else np.array(side, dtype="float64").astype(dtype)
            for side in zip(*pairs, strict=True)
        )
    (found,) = compare({"v": one}, {"v": other})
    assert compare({"v": other}, {"v": one}) == [found]
    assert 0 <= found.unequal <= found.rows == len(pairs)
    assert 0 <= found.values <= len(pairs)
    assert math.isfinite(found.absolute)
    (same,) = compare({"v": one}, {"v": one.copy()})
    assert (0, 0.0) == (same.unequal, same.absolute)


def test_tallies_add_up() -> None:
    """A tally is the sum of what was compared, variable by variable, and goes by names that survive swaps."""
    counts = ShadowCounts()
    tally = counts.of("predict", "xgb")
    tally.answered(3, 1000)
    tally.answered(4, 500)
    tally.compared([Difference("a", 3, 1, 3, 1.5), Difference("b", 3, 0)])
    tally.compared([Difference("a", 4, 4, 2, 0.5)])
    assert tally is counts.of("predict", "xgb")
    assert tally is not counts.of("other", "xgb")
    assert (2, 7, 1500) == (tally.outcomes[Outcome.ANSWERED], tally.rows, tally.run_ns)
    assert {"a": VariableTally(7, 5, 5, 2.0), "b": VariableTally(3, 0, 0, 0.0)} == tally.variables
    assert set(Outcome) == set(tally.outcomes)


def test_size_counts_what_arrays_keep() -> None:
    """Strings and ragged rows count with what they hold, not as pointers alone; None among strings holds nothing."""
    assert 24 == size_of({"a": floats(1, 2)}, {"b": floats(1, 2, dtype="float64")})
    assert size_of({"a": texts("x" * 1000, "y" * 1000)}) > 2000
    assert size_of({"a": ragged(np.zeros(1000), np.zeros(500))}) > 12_000
    assert size_of({"a": ragged(texts("x" * 1000), texts("y" * 1000, "z"))}) > 2000
    assert size_of({"a": texts("x" * 1000, None)}) == size_of({"a": texts("x" * 1000, "")}) - 50
    assert 0 == size_of()


def test_variables_are_counted_by_name_up_to_a_number() -> None:
    """Names that a caller made up do not grow without bound: what is beyond, or long, is counted as one."""
    tally = ShadowCounts().of("predict", "xgb")
    odd = [Difference(name, 1, 1) for name in ("n" * 129, "\ud800", "a\0b")]
    tally.compared([Difference("y", 2, 0), *odd])
    for number in range(10 * MAX_VARIABLES):
        tally.compared([Difference("y", 2, 1, 2, 0.5), Difference(f"made-up-{number}", 1, 0)])
    assert len(tally.variables) <= MAX_VARIABLES + 1
    assert tally.variables["y"] == VariableTally(2 + 20 * MAX_VARIABLES, 1000, 2000, 500.0)
    named = sum(name.startswith("made-up") for name in tally.variables)
    assert tally.variables[REST].rows == 3 + 10 * MAX_VARIABLES - named


def test_challengers_that_are_long_gone_are_not_counted_any_more() -> None:
    """Each swap may bring new names; the newest are kept."""
    counts = ShadowCounts()
    for number in range(2 * MAX_TALLIES):
        counts.of("predict", f"c{number}").answered(1, 1)
    assert len(counts.tallies) == MAX_TALLIES
    assert counts.of("predict", f"c{2 * MAX_TALLIES - 1}").rows == 1
