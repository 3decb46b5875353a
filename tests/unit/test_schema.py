"""What callers would notice of a swap."""

import pytest

from midstream_engine.schema import Field, differences, list_fields, lost

PRICE = Field("variable", "float32", (1,))


def test_equal_schemas_have_no_differences() -> None:
    """Also in another order, because requests and answers go by name."""
    other = Field("score", "float64", ())
    assert [] == differences((PRICE, other), (other, PRICE), "output")


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ((), ["output 'variable' (float32[1]) is gone"]),
        (
            (PRICE, Field("score", "float64", ())),
            ["output 'score' (float64) is new"],
        ),
        (
            (Field("price", "float32", (1,)),),
            ["output 'variable' (float32[1]) is gone", "output 'price' (float32[1]) is new"],
        ),
        (
            (Field("variable", "float64", (1,)),),
            ["output 'variable' (float32[1]) became 'variable' (float64[1])"],
        ),
        (
            (Field("variable", "float32", (2,)),),
            ["output 'variable' (float32[1]) became 'variable' (float32[2])"],
        ),
        (
            (Field("variable", "float32", (1, 1)),),
            ["output 'variable' (float32[1]) became 'variable' (float32[1, 1])"],
        ),
    ],
)
def test_each_difference_is_a_sentence(new: tuple[Field, ...], said: list[str]) -> None:
    """It names the field, and what it was and is."""
    assert said == differences((PRICE,), new, "output")


def test_an_unknown_length_is_no_difference() -> None:
    """A model that does not say how long a row is does not contradict one that does."""
    unknown = Field("variable", "float32", (None,))
    assert [] == differences((PRICE,), (unknown,), "output")
    assert [] == differences((unknown,), (PRICE,), "output")


def test_what_is_declared_on_one_side_only_is_a_difference() -> None:
    """Nobody can tell whether callers would notice; where neither side is declared nothing is compared."""
    score = Field("score", "float64", ())
    assert [
        "outputs 'variable' (float32[1]), 'score' (float64) were declared, and are not any more"
    ] == (differences((PRICE, score), None, "output"))
    assert ["inputs were not declared, and are now: 'variable' (float32[1])"] == (
        differences(None, (PRICE,), "input")
    )
    assert [] == differences(None, None, "output")


def test_a_field_that_only_a_split_looked_at_may_be_missed() -> None:
    """Unless a model takes it now, or nothing tells what is taken."""
    assert ["input 'customer', which a split looked at, is gone"] == (
        lost(("customer", "session"), (PRICE,), ("session",))
    )
    assert [] == lost(("variable",), (PRICE,), ("session",))
    assert [] == lost(("customer",), None, ())


def test_batch_and_missing_are_not_a_part_of_the_schema() -> None:
    """They decide which requests are taken, not what the fields are."""
    assert [] == differences(
        (PRICE,), (Field("variable", "float32", (1,), batch=4, allow_missing=True),), "input"
    )


def test_fields_are_listed_for_people() -> None:
    """Names, types and shapes; unknown lengths as a question mark; none at all in words."""
    assert "'a' (int64), 'b' (float32[?, 3])" == list_fields(
        [Field("a", "int64", ()), Field("b", "float32", (None, 3))]
    )
    assert "nothing" == list_fields([])


@pytest.mark.parametrize(
    ("shape", "fits"), [((3,), True), ((4,), False), ((), False), ((3, 1), False)]
)
def test_a_row_fits_its_field(shape: tuple[int, ...], fits: bool) -> None:
    """Known lengths must be equal."""
    assert fits is Field("a", "float32", (3,)).accepts(shape)
    assert Field("a", "float32", (None,)).accepts((7,))
