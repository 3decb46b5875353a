"""Which variant answers a row: shares, stickiness, and that a change moves no more keys than it must."""

import math
import random
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midstream_engine.errors import BadInput
from midstream_engine.split import Chooser, canonical, literal_key

DRAWS = 100_000
USERS = [f"user-{number}" for number in range(DRAWS)]
UNLIKELY = 1e-6
"""How seldom a fair split fails a chi-square test. Seeds and keys are fixed: what passes once always does."""

EQUAL = [("control", 1), ("challenger", 1)]


def chi_square_of_three(chosen: Sequence[int], weights: Sequence[int]) -> tuple[float, float]:
    """The statistic of three variants, and the value that a fair split exceeds with the probability `UNLIKELY`."""
    assert 3 == len(weights)
    expected = [len(chosen) * weight / sum(weights) for weight in weights]
    counts = np.bincount(chosen, minlength=3)
    found = sum((count - want) ** 2 / want for count, want in zip(counts, expected, strict=True))
    return found, -2 * math.log(UNLIKELY)  # exact for two degrees of freedom


def never() -> float:
    """A source of random numbers for splits that must not use it."""
    raise AssertionError("nothing was left to chance here")


def seeded(seed: int) -> Callable[[], float]:
    """The random numbers that an engine uses, the same in each run."""
    return random.Random(seed).random  # noqa: S311 - nothing here is secret


def of(numbers: Sequence[float]) -> Callable[[], float]:
    """A source of these random numbers."""
    return iter(numbers).__next__


def by_key(variants: Sequence[tuple[str, int]], keys: Sequence[Any] = USERS) -> list[str]:
    """The name of the variant of each key."""
    chooser = Chooser(variants, hash_key="user", random=never)
    return [chooser.names[each] for each in chooser.choose(len(keys), keys)]


# Random


@pytest.mark.parametrize("weights", [(1, 1, 1), (5, 3, 2), (1, 10, 100)])
def test_random_shares_are_as_the_weights_say(weights: tuple[int, ...]) -> None:
    """Chi-square on 100,000 draws."""
    variants = list(zip("abc", weights, strict=True))
    chosen = Chooser(variants, random=seeded(5)).choose(DRAWS)
    found, limit = chi_square_of_three(chosen.tolist(), weights)
    assert found < limit


def test_each_row_of_a_batch_draws_for_itself() -> None:
    """Rows of one request go to different variants, in the order of the numbers drawn."""
    chooser = Chooser(EQUAL, random=of([0.1, 0.9, 0.4, 0.6]))
    assert [0, 1, 0, 1] == chooser.choose(4).tolist()


@pytest.mark.parametrize(
    ("weights", "number", "wanted"),
    [
        ((1, 1), 0.0, 0),
        ((1, 1), 0.4, 0),
        ((1, 1), 0.5, 1),
        ((1, 1), 0.6, 1),
        ((1, 2), 0.333, 0),
        ((1, 2), 0.334, 1),
        ((1, 1, 2), 0.49, 1),
        ((1, 1, 2), 0.5, 2),
        ((1, 1), math.nextafter(1.0, 0.0), 1),
        ((0, 1, 1), 0.0, 1),
        ((1, 0, 1), 0.5, 2),
        ((1, 1, 0), math.nextafter(1.0, 0.0), 1),
        ((1000000, 1), 0.999998, 0),
    ],
)
def test_number_falls_on_cumulated_weights(
    weights: tuple[int, ...], number: float, wanted: int
) -> None:
    """A random number and the same number in the header mean the same variant; a bound belongs to the one above it."""
    variants = [(f"v{place}", weight) for place, weight in enumerate(weights)]
    assert [wanted] == Chooser(variants, random=of([number])).choose(1).tolist()
    assert [wanted] * 3 == Chooser(variants, random=never).choose(3, literal=number).tolist()


@pytest.mark.parametrize("weights", [(1, 1), (1, 2, 3), (1, 1, 0)])
def test_literal_one_is_the_last_variant(weights: tuple[int, ...]) -> None:
    """1.0, which a random number never is, belongs to the last variant that has a weight."""
    variants = [(f"v{place}", weight) for place, weight in enumerate(weights)]
    last = max(place for place, weight in enumerate(weights) if weight)
    assert [last] == Chooser(variants, random=never).choose(1, literal=1.0).tolist()


@given(
    st.lists(st.integers(0, 1_000_000), min_size=1, max_size=16).filter(any),
    st.floats(0, 1),
)
def test_what_has_no_weight_is_never_chosen_by_a_number(weights: list[int], number: float) -> None:
    """Whatever the weights and the number are, a variant with a weight is chosen."""
    variants = [(f"v{place}", weight) for place, weight in enumerate(weights)]
    (chosen,) = Chooser(variants, random=never).choose(1, literal=number)
    assert weights[chosen] > 0


@pytest.mark.parametrize("keys", [None, ["a", None, "c"]])
def test_only_variant_with_a_weight_gets_all(keys: list[str | None] | None) -> None:
    """No random number is drawn and nothing is hashed."""
    variants = [("old", 0), ("new", 7), ("off", 0)]
    for chooser in (
        Chooser(variants, random=never),
        Chooser(variants, hash_key="user", random=never),
    ):
        assert [1, 1, 1] == chooser.choose(3, keys, literal=0.0).tolist()


# Literal keys


@pytest.mark.parametrize(
    ("text", "number"),
    [("0.4", 0.4), ("0", 0.0), ("1", 1.0), ("1.0", 1.0), (" .5 ", 0.5), ("1e-3", 0.001)],
)
def test_literal_key_is_a_number_from_0_to_1(text: str, number: float) -> None:
    """Both ends belong to it."""
    assert number == literal_key(text.encode())


@pytest.mark.parametrize(
    "text", ["", "1.1", "-0.1", "nan", "inf", "1_0", "0,4", "1.0.0", ".", "ä", "x" * 1000]
)
def test_other_literal_keys_are_refused(text: str) -> None:
    """The error names the header, shows what it was, cut short, and says what would be right."""
    with pytest.raises(BadInput, match=r"from 0\.0 to 1\.0") as caught:
        literal_key(text.encode())
    assert "x-midstream-split-key" == caught.value.field
    assert text.encode().decode("latin-1")[:60] in caught.value.message
    assert len(caught.value.message) < 200


def test_literal_key_goes_before_hashed_keys() -> None:
    """A caller who sends the header gets the variant that it asks for, for all rows."""
    chooser = Chooser(EQUAL, hash_key="user", random=never)
    assert [1] * 50 == chooser.choose(50, USERS[:50], literal=0.6).tolist()


# Hashed keys


@pytest.mark.parametrize("weights", [(1, 1, 1), (5, 3, 2), (1, 10, 100)])
def test_hashed_shares_are_as_the_weights_say(weights: tuple[int, ...]) -> None:
    """Chi-square on 100,000 keys."""
    variants = list(zip("abc", weights, strict=True))
    chosen = Chooser(variants, hash_key="user", random=never).choose(DRAWS, USERS)
    found, limit = chi_square_of_three(chosen.tolist(), weights)
    assert found < limit


def test_hashed_numbers_share_as_well_as_names() -> None:
    """Keys that differ in little, such as 1, 2, 3, are spread as any others."""
    weights = (5, 3, 2)
    chooser = Chooser(list(zip("abc", weights, strict=True)), hash_key="user", random=never)
    found, limit = chi_square_of_three(chooser.choose(DRAWS, range(DRAWS)).tolist(), weights)
    assert found < limit


def test_key_is_sticky_alone_in_a_batch_and_in_another_chooser() -> None:
    """A key goes to the same variant whoever asks, with however many rows."""
    together = by_key(EQUAL, USERS[:500])
    assert together == [by_key(EQUAL, [user])[0] for user in USERS[:500]]
    assert {"control", "challenger"} == set(together)


def test_repeated_keys_in_a_batch_stay_together() -> None:
    """Each row is for itself: equal keys agree, others do not follow them."""
    keys = [USERS[number % 7] for number in range(100)]
    chosen = by_key(EQUAL, keys)
    assert chosen == [chosen[number % 7] for number in range(100)]


@pytest.mark.parametrize("new", [2, 3, 9])
def test_more_weight_moves_the_fewest_keys_and_only_towards_it(new: int) -> None:
    """From 1:1 to 1:2 a sixth of the keys moves, at most 1 % more, and none moves back."""
    before = by_key(EQUAL)
    after = by_key([("control", 1), ("challenger", new)])
    moved = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    necessary = 1 / 2 - 1 / (1 + new)
    assert {("control", "challenger")} == set(moved)
    assert necessary - 0.01 <= len(moved) / DRAWS <= necessary + 0.01


def test_weights_of_the_same_ratio_move_nothing() -> None:
    """Only the shares count, not the numbers that give them."""
    assert by_key(EQUAL) == by_key([("control", 50), ("challenger", 50)])


def test_new_variant_takes_its_share_and_nothing_else_moves() -> None:
    """A third of the keys goes to the third variant; between the two others none changes."""
    before = by_key(EQUAL)
    after = by_key([*EQUAL, ("another", 1)])
    moved = [b for a, b in zip(before, after, strict=True) if a != b]
    assert {"another"} == set(moved)
    assert abs(len(moved) / DRAWS - 1 / 3) <= 0.01


@pytest.mark.parametrize("left", [[("a", 2), ("c", 1)], [("a", 2), ("b", 0), ("c", 1)]])
def test_removed_variant_gives_its_keys_away_and_nothing_else_moves(
    left: list[tuple[str, int]],
) -> None:
    """Leaving a variant out and giving it the weight 0 are the same; its keys are shared among the others."""
    before = by_key([("a", 2), ("b", 3), ("c", 1)])
    after = by_key(left)
    gone = [(x, y) for x, y in zip(before, after, strict=True) if x != y]
    assert {"b"} == {x for x, _ in gone}
    assert before.count("b") == len(gone)
    assert abs(sum(y == "a" for _, y in gone) / len(gone) - 2 / 3) <= 0.01


def test_order_of_variants_does_not_matter_to_keys() -> None:
    """A variant keeps its keys when the list is sorted anew."""
    assert by_key([("a", 1), ("b", 2), ("c", 3)]) == by_key([("c", 3), ("a", 1), ("b", 2)])


def test_rows_without_key_are_random() -> None:
    """None and NaN are no key; a batch in which no row has one may say so with None."""
    keys = ["x", None, math.nan, np.float32("nan")]
    chooser = Chooser(EQUAL, hash_key="user", random=of([0.9, 0.1, 0.9]))
    sticky = Chooser(EQUAL, hash_key="user", random=never).choose(1, ["x"])[0]
    assert [sticky, 1, 0, 1] == chooser.choose(4, keys).tolist()
    assert [0, 1] == Chooser(EQUAL, hash_key="user", random=of([0.0, 0.7])).choose(2).tolist()


VECTORS = [
    ("control", "user-1", "570ff60b3660625b"),
    ("challenger", "user-1", "286e69da21c87a28"),
    ("control", "42", "69774c15c0e5c9a8"),
    ("challenger", "42", "ed1775620ba69ab6"),
    ("control", "Zoë", "bcd673eb66a5f5bd"),
    ("challenger", "Zoë", "e7a4ef3c3853c07c"),
]
"""Variant, key, and the hash of both as `printf 'control\\0user-1' | b2sum -l 64` prints it."""


@pytest.mark.parametrize(("variant", "key", "wanted"), VECTORS)
def test_hash_is_the_documented_one(variant: str, key: str, wanted: str) -> None:
    """BLAKE2b of 8 bytes over the variant's name, a zero byte and the key."""
    data = variant.encode() + b"\x00" + key.encode()
    assert wanted == blake2b(data, digest_size=8).hexdigest()


@pytest.mark.parametrize(
    ("key", "weights", "wanted"),
    [
        ("user-1", (1, 1), "control"),
        ("user-1", (1, 2), "challenger"),
        (42, (1, 1), "challenger"),
        (42, (30, 1), "control"),
        ("Zoë", (1, 1), "challenger"),
        ("Zoë", (5, 1), "control"),
    ],
)
def test_golden_choices(key: Any, weights: tuple[int, int], wanted: str) -> None:
    """What has once been answered stays so in every later release."""
    variants = list(zip(("control", "challenger"), weights, strict=True))
    assert [wanted] == by_key(variants, [key])


@given(
    st.lists(st.integers(0, 1000), min_size=1, max_size=6).filter(any),
    st.text(max_size=20),
)
def test_choice_is_the_highest_score_of_the_documented_formula(
    weights: list[int], key: str
) -> None:
    """-weight / ln(u), written down anew, gives the same variant."""
    variants = [(f"v{place}", weight) for place, weight in enumerate(weights)]
    scores = {}
    for name, weight in variants:
        number = int(blake2b(f"{name}\0{key}".encode(), digest_size=8).hexdigest(), 16)
        u = (number // 2**12 + 0.5) / 2**52
        scores[name] = -weight / math.log(u) if weight else 0.0
    assert [max(scores, key=scores.__getitem__)] == by_key(variants, [key])


# Canonical text


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("abc", "abc"),
        ("", ""),
        ("42", "42"),
        (42, "42"),
        (42.0, "42"),
        (-0.0, "0"),
        (2**63, "9223372036854775808"),
        (1e22, "10000000000000000000000"),
        (0.1, "0.1"),
        (1e-7, "1e-07"),
        (math.inf, "inf"),
        (True, "true"),
        (False, "false"),
        (None, None),
        (math.nan, None),
        ([], "[]"),
        ([1, 2.5, "a", None, True, [3.0]], '[1,2.5,"a",null,true,[3]]'),
        (["é", 'say "x"'], '["é","say \\"x\\""]'),
        ({"b": 1, "a": [None]}, '{"a":[null],"b":1}'),
        (np.int64(42), "42"),
        (np.uint8(7), "7"),
        (np.float64(42.0), "42"),
        (np.float32(0.1), "0.1"),
        (np.float16(0.1), "0.1"),
        (np.float64(0.1), "0.1"),
        (np.float32(16777216), "16777216"),
        (np.float32("nan"), None),
        (np.bool_(True), "true"),
        (np.array([1, 2], dtype=np.int32), "[1,2]"),
        (np.array([[0.1], [2]], dtype=np.float32), "[[0.1],[2]]"),
        (np.array(["a", None], dtype=object), '["a",null]'),
        (np.array(5), "5"),
    ],
)
def test_canonical_text(value: Any, wanted: str | None) -> None:
    """JSON's values and an array's elements that mean the same have the same text."""
    assert wanted == canonical(value)


@pytest.mark.parametrize(
    "same",
    [
        [42, 42.0, "42", np.int8(42), np.float32(42), np.array(42.0)],
        [0.1, "0.1", np.float32(0.1), np.float16(0.1)],
        [True, "true", np.bool_(True)],
        [[1, 2], np.array([1.0, 2.0]), (1, 2), "[1,2]"],
    ],
)
def test_key_is_the_same_in_every_format(same: list[Any]) -> None:
    """Neither JSON or a typed column, nor what else is in the batch, changes the variant of a key."""
    variants = [(f"v{number}", 1) for number in range(16)]
    assert 1 == len(set(by_key(variants, same)))


def test_one_and_true_are_different_keys() -> None:
    """Python takes them for equal, callers do not."""
    variants = [(f"v{number}", 1) for number in range(16)]
    alone = [by_key(variants, [key])[0] for key in (1, True)]
    assert alone[0] != alone[1]
    assert alone == by_key(variants, [1, True])


_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@given(
    st.recursive(_scalars, lambda x: st.lists(x) | st.dictionaries(st.text(), x), max_leaves=20)
    | st.text(alphabet=st.characters(categories=["Cs"]))
)
def test_any_key_is_taken(key: Any) -> None:
    """Whatever JSON can hold, and what it should not, gives a variant, the same each time."""
    chooser = Chooser(EQUAL, hash_key="user", random=lambda: 0.0)
    first, second = chooser.choose(2, [key, key])
    assert first == second
    assert first == chooser.choose(1, [key])[0]


def test_key_of_endless_lists_is_refused() -> None:
    """A body can nest lists as deep as its reader allows; what is hashed has an end before Python's stack does."""
    key: list[Any] = []
    for _ in range(5000):
        key = [key]
    with pytest.raises(BadInput, match="32 lists"):
        Chooser(EQUAL, hash_key="user").choose(1, [key])


# Split by options


COUNTRIES = {"de": "north", "fr": "south", "42": "south", "true": "north"}


def by_option(keys: Sequence[Any] | None, rows: int, **more: Any) -> list[str]:
    """The name of the variant of each row."""
    chooser = Chooser(
        [("south", 0), ("north", 5), ("rest", 0)],
        key="country",
        options=COUNTRIES,
        default="rest",
        random=never,
    )
    return [chooser.names[each] for each in chooser.choose(rows, keys, **more)]


def test_option_is_looked_up_by_canonical_text() -> None:
    """Weights do not count; other values, and rows without the field, get the default."""
    keys = ["de", "fr", "DE", 42, 42.0, True, None, math.nan, ["de"], ""]
    wanted = ["north", "south", "rest", "south", "south", "north", *["rest"] * 4]
    assert wanted == by_option(keys, len(keys))
    assert ["rest", "rest"] == by_option(None, 2)


def test_literal_key_says_nothing_to_options() -> None:
    """There is no random number that it could stand for."""
    assert ["north"] == by_option(["de"], 1, literal=0.0)


def test_option_with_one_variant() -> None:
    """A split by key with one variant needs no weight."""
    chooser = Chooser([("only", 0)], key="k", options={"x": "only"}, default="only", random=never)
    assert [0, 0] == chooser.choose(2, ["x", "y"]).tolist()


# What a chooser refuses


@pytest.mark.parametrize(
    "arguments",
    [
        {"variants": []},
        {"variants": [("a", 0)]},
        {"variants": [("a", -1), ("b", 2)]},
        {"variants": EQUAL, "hash_key": "x", "key": "y", "options": {}, "default": "control"},
        {"variants": EQUAL, "key": "y", "options": {"a": "none"}, "default": "control"},
        {"variants": EQUAL, "key": "y", "options": {}, "default": "none"},
        {"variants": EQUAL, "key": "y"},
    ],
)
def test_defects_are_refused(arguments: dict[str, Any]) -> None:
    """What a valid manifest cannot say is an error at once, not in a request."""
    with pytest.raises(ValueError, match=r"variant|weight|hash_key"):
        Chooser(**arguments)


def test_fields_and_types() -> None:
    """The field to read is known, and indexes fit for arrays of models."""
    assert "user" == Chooser(EQUAL, hash_key="user").field
    assert "c" == Chooser(EQUAL, key="c", options={}, default="control").field
    assert Chooser(EQUAL).field is None
    for chosen in (Chooser(EQUAL).choose(3), Chooser(EQUAL, hash_key="u").choose(1, ["k"])):
        assert np.intp == chosen.dtype
        assert 1 == chosen.ndim
