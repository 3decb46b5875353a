"""Validations: what is refused when a revision is loaded, and what each means for a row."""

from typing import Any

import numpy as np
import pytest

from kit.expressions import ANSWER, INPUTS, SCOPE, failed_rows
from midstream_api.validation import Validation
from midstream_engine.expressions.scope import Scope, StepScope
from midstream_engine.schema import Array, Field
from midstream_engine.validations import Validator, compile_validations


def single(**of: Any) -> dict[str, Array]:
    """One row of the pipeline's inputs."""
    row: dict[str, Any] = {
        "tensor": [1.5, -2.0, 0.1],
        "user-id": 9007199254740993,
        "kind": "flat",
        "words": ["one", "three"],
        "flags": [True, False],
        "loose": [5.0, 7.0],
        "none": [],
        "big": 2**64 - 1,
        "grid": [[1, 2], [3, 4]],
        "tiny": 100,
        **of,
    }
    return {field.name: np.array([row[field.name]], field.numpy_dtype) for field in INPUTS}


def validator(*expressions: str, fail_when: bool = False, scope: Scope = SCOPE) -> Validator:
    field = "fail_when" if fail_when else "expression"
    given = [
        Validation.model_validate({"name": f"v{number}", field: text})
        for number, text in enumerate(expressions)
    ]
    compiled = compile_validations(given, scope)
    assert compiled is not None
    return compiled


def answer(variable: list[float]) -> dict[str, Array]:
    return {
        "variable": np.array([[value] for value in variable], np.float32),
        "n": np.array([[1, 2]] * len(variable), np.int32),
    }


def outputs(code: dict[str, Array] | None = None) -> dict[str, dict[str, Array]]:
    """One row of each step's outputs."""
    return {
        "prepare": {
            "tensor": np.array([[4, 5, 6]], np.float32),
            "scale": np.array([0.5], np.float32),
        },
        "code": code or {},
        "predict": answer([350.5]),
        "watched": answer([99.0]),
    }


def judged(
    text: str, *, fail_when: bool = False, code: dict[str, Array] | None = None, **row: Any
) -> bool:
    """Whether one row fails; alone and as each of three rows of a batch, which must agree."""
    compiled = validator(text, fail_when=fail_when)
    inputs, of_steps = single(**row), outputs(code)
    picked = {"predict": np.zeros(1, np.intp)}
    alone = failed_rows(compiled, inputs, of_steps, of_steps["watched"], 1, picked)
    assert alone.shape == (1, 1)

    def thrice(table: dict[str, Array]) -> dict[str, Array]:
        return {name: np.concatenate([array] * 3) for name, array in table.items()}

    of_steps = {name: thrice(table) for name, table in of_steps.items()}
    together = failed_rows(
        compiled,
        thrice(inputs),
        of_steps,
        of_steps["watched"],
        3,
        {"predict": np.zeros(3, np.intp)},
    )
    assert together.tolist() == [[alone.item()] * 3]
    return bool(alone.item())


HOLDS = [
    # What is named.
    "in.tensor[0] == 1.5",
    'in["user-id"] == 9007199254740993',
    "out.variable[0] < 100",
    "steps.prepare.out[0][2] == 6",
    "steps.prepare.out.scale == 0.5",
    "anomaly-housing.outputs[0][1] == 5",
    "anomaly-housing.outputs[1][0] == 0.5",
    "anomaly-housing.outputs[1] == 0.5",
    "control.outputs[0][0] == 350.5",
    "rf.outputs[0][0] == 350.5",
    "predict.outputs[0][0] == 350.5",
    "cnn.outputs[0][0] == 99",
    "champion.outputs[0][0] == 99",
    # Whole numbers are compared exactly, and with floats as floats.
    'in["user-id"] != 9007199254740992',
    'in["user-id"] + 0 == 9007199254740992',
    "in.big == 18446744073709551615",
    'in.big > in["user-id"]',
    "in.tiny < 300",
    "in.tiny < 18446744073709551615",
    "in.tiny > -18446744073709551615",
    "in.tiny == 100.0",
    "in.tiny + in.tiny == 200",
    "in.tiny * 1e30 > 1e31",
    'in["user-id"] == in["user-id"] + 0',
    # A float32 is compared as what it is, not as it is written.
    "in.tensor[2] != 0.1",
    "in.tensor[2] > 0.1",
    "in.tensor[2] < 0.1000001",
    "in.tensor[2] * in.tensor[2] * in.tensor[2] < 0.0010000001",
    # Calculations.
    "in.tensor[0] + in.tensor[1] * 2 == -2.5",
    "in.tensor[0] / in.tensor[1] == -0.75",
    "-in.tensor[0] % 1 == 0.5",
    "in.tensor[1] % 3 == 1",
    "in.tiny / 0 > 1e308",
    "isnan((in.tiny - in.tiny) / 0)",
    "isnan(in.tiny % 0)",
    "not isfinite(-in.tiny / 0)",
    "isfinite(in.tiny)",
    # Texts and conditions.
    'in.kind == "flat"',
    "in.kind != 'house'",
    'contains(in.kind, "la")',
    'not contains("flats", in.words[0])',
    "len(in.kind) == 4",
    "in.flags[0] and not in.flags[1]",
    "in.flags[0] == true",
    "in.flags[0] != in.flags[1]",
    "in.flags[1] or in.flags[0] or in.flags[1]",
    # Lists.
    "all(in.tensor < 2) and not all(in.tensor > 0)",
    "any(in.tensor == -2) and not any(in.tensor == 7)",
    "any(in.flags) and not all(in.flags)",
    "any(in.tensor > 1 and in.tensor < 2)",
    "all(in.tensor < 1 or in.flags[0])",
    "all(not isnan(in.tensor))",
    "any(in.words == 'three')",
    "all(contains(in.words, 'e'))",
    "all(contains('ones and threes', in.words))",
    "sum(in.loose) == 12",
    "mean(in.loose) == 6",
    "min(in.loose) == 5 and max(in.loose) == 7",
    "max(in.loose[0], 6, in.tiny) == 100 and min(in.loose[0], 6) == 5",
    "any(max(in.tensor, 1) == 1.5) and all(max(in.tensor, 1) >= 1)",
    "abs(in.tensor[1]) == 2 and sum(abs(in.tensor)) > 3.59",
    "len(in.loose) == 2 and len(in.tensor) == 3 and len(in.none) == 0 and len(in.words) == 2",
    "len(in.grid) == 2 and len(in.grid[0]) == 2",
    "sum(in.grid) == 10 and sum(in.grid[1]) == 7 and in.grid[1][0] == 3",
    "any(in.grid > 3) and all(in.grid == in.grid)",
    "sum(in.tensor > 0) == 2 and mean(in.flags) == 0.5",
    "all(in.tensor == in.tensor) and all(in.tensor - in.tensor == 0)",
    "sum(in.tensor[0]) == 1.5 and min(in.tiny) == 100 and any(in.flags[0])",
    "sum(2) + max(3) == 5 and in.tiny > 0",
    # Nothing is in a list.
    "sum(in.none) == 0 and all(in.none > 1) and not any(in.none > 1)",
    "isnan(mean(in.none)) and isnan(min(in.none)) and isnan(max(in.none))",
    # What is decided is not looked at again.
    "len(in.loose) < 3 or in.loose[2] > 0",
    "not (len(in.loose) > 2 and in.loose[2] > 0)",
]


@pytest.mark.parametrize("text", HOLDS)
def test_it_holds(text: str) -> None:
    """An expression passes the row, and fails it as `failWhen`."""
    assert not judged(text)
    assert judged(text, fail_when=True)


@pytest.mark.parametrize(
    "text",
    [
        "in.loose[0] < 1",
        "in.loose[0] == 0",
        "in.loose[0] >= 0",
        "in.loose[0] - 1 < 5",
        "min(in.loose) < 9",
    ],
)
def test_nan_fails_every_comparison_but_unequal(text: str) -> None:
    """So an expression fails, and `failWhen` does not."""
    assert judged(text, loose=[np.nan])
    assert not judged(text, fail_when=True, loose=[np.nan])
    assert not judged("in.loose[0] != in.loose[0]", loose=[np.nan])
    assert not judged("isnan(max(in.loose[0], 1)) and isnan(max(in.loose))", loose=[np.nan])


@pytest.mark.parametrize(
    "text",
    [
        "in.kind != 'flat'",
        "len(in.kind) == 0",
        "not contains(in.kind, '') and not contains('flat', in.kind)",
    ],
)
def test_text_that_is_not_there_is_no_text(text: str) -> None:
    """Null in a field that nobody has declared is equal to no text, contains none, and has no characters."""
    assert not judged(text, kind=None)
    assert judged(text, fail_when=True, kind=None)
    compiled = validator(text)
    inputs = {name: np.concatenate([each, each]) for name, each in single(kind=None).items()}
    assert [[False, False]] == failed_rows(compiled, inputs, {}, answer([1, 1]), 2, {}).tolist()


@pytest.mark.parametrize(
    "text",
    [
        "in.loose[2] > 0",
        "in.tiny > 0 and in.loose[2] > 0",
        "in.loose[2] > 0 or in.tiny > 0",
        "not (in.loose[2] > 0)",
        "any(in.loose == in.tensor)",
        "all(in.loose < in.tensor and in.tiny < 0)",
        "any(in.loose[2] > 0)",
        "sum(in.loose) == in.loose[2]",
    ],
)
def test_what_cannot_be_told_has_failed(text: str) -> None:
    """A list that is too short, or as long as no other: both an expression and `failWhen` fail the row."""
    assert judged(text)
    assert judged(text, fail_when=True)


def test_each_row_of_a_batch_is_judged_by_itself() -> None:
    """Rows with an answer, NaN and a short list: each validation has one line, each row one column."""
    compiled = validator(
        "out.variable[0] < 100", "in.flags[0] and in.loose[2] > 0", "in.kind == 'flat'"
    )
    rows = [single(), single(flags=[False, True], kind="house"), single(kind="")]
    inputs = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    failed = failed_rows(compiled, inputs, {}, answer([99, 101, np.nan]), 3, {})
    assert failed.tolist() == [[False, True, True], [True, True, True], [False, True, True]]
    assert failed.dtype == np.bool_


def test_a_guard_keeps_rows_from_what_cannot_be_told() -> None:
    """Whether the list is long enough does not matter for rows whose flag decides, beside others for which it does."""
    compiled = validator(
        "in.flags[0] or in.flags[1] and in.loose[2] > 0",
        "(in.flags[0] and in.loose[2] > 0) == true",
    )
    flags = [[True, True], [False, True], [False, False]]
    rows = [single(flags=each) for each in flags]
    inputs = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    wanted = [[False, True, True], [True, True, True]]
    assert failed_rows(compiled, inputs, {}, answer([1, 1, 1]), 3, {}).tolist() == wanted
    alone = [failed_rows(compiled, row, {}, answer([1]), 1, {}) for row in rows]
    assert np.concatenate(alone, axis=1).tolist() == wanted


def test_no_rows_have_no_failures() -> None:
    """A batch of nothing has an answer of nothing."""
    inputs = {name: array[:0] for name, array in single().items()}
    compiled = validator("out.variable[0] < sum(in.loose)", "all(in.tensor < 1)", "in.kind == 'a'")
    assert failed_rows(compiled, inputs, {}, answer([]), 0, {}).shape == (3, 0)


def test_a_model_of_a_split_is_judged_where_it_answered() -> None:
    """Rows that another variant answered pass; the step's own name means all of them."""
    compiled = validator(
        "rf.outputs[0][0] < 0",
        "xgb.outputs[0][0] < 0",
        "third.outputs[0][0] < 0",
        "predict.outputs[0][0] < 0",
        "third.outputs[0][0] < 0 and xgb.outputs[0][0] < 0",
    )
    assert compiled.steps == ("predict",)
    picked = {"predict": np.array([0, 1, 2], np.intp)}
    failed = failed_rows(compiled, {}, {"predict": answer([1, 2, 3])}, {}, 3, picked)
    wanted = [
        [True, False, False],
        [False, True, True],
        [False, False, True],
        [True, True, True],
        [False, False, True],
    ]
    assert failed.tolist() == wanted
    for row, variant in enumerate(picked["predict"]):
        alone = {"predict": np.array([variant], np.intp)}
        one = failed_rows(compiled, {}, {"predict": answer([1])}, {}, 1, alone)
        assert one[:, 0].tolist() == [line[row] for line in wanted]


def ragged(*rows: list[float]) -> Array:
    """As a model without a batch dimension gives them."""
    array = np.empty(len(rows), object)
    for number, row in enumerate(rows):
        array[number] = np.array(row, np.float32)
    return array


def test_lists_may_have_their_own_length_in_each_row() -> None:
    """Each row is judged by its own list, alone and in a batch."""
    compiled = validator(
        "out.found[1] > 0",
        "sum(out.found) == 3",
        "len(out.found) == 1 and in.flag",
        "all(out.found > 0)",
        scope=Scope(
            (Field("flag", "bool", ()),),
            (StepScope("detect", (Field("found", "float32", (None,)),), ((None, "cnn"),)),),
        ),
    )
    found = ragged([1, 2], [3], [], [3, -1, 1])
    flags = np.array([False, True, True, True])
    wanted = [
        [False, True, True, True],
        [False, False, True, False],
        [True, False, True, True],
        [False, False, False, True],
    ]
    failed = failed_rows(compiled, {"flag": flags}, {}, {"found": found}, 4, {})
    assert failed.tolist() == wanted
    for row in range(4):
        one = failed_rows(
            compiled, {"flag": flags[row : row + 1]}, {}, {"found": found[row : row + 1]}, 1, {}
        )
        assert one[:, 0].tolist() == [line[row] for line in wanted]


@pytest.mark.parametrize(
    ("text", "code", "fails"),
    [
        ("steps.code.out.x[1] > 1", {"x": np.array([[1.0, 2.0]])}, False),
        ("steps.code.out.x[1] > 1", {"x": np.array([[1, 2]], np.int8)}, False),
        ("steps.code.out.x[1] > 1", {"x": np.array([[1.0]])}, True),
        ("steps.code.out.x[1] > 1", {"x": np.array([1.0])}, True),
        ("steps.code.out.x[1] > 1", {"x": np.array([["a", "b"]], object)}, True),
        ("steps.code.out.x[1] > 1", {"y": np.array([[1.0, 2.0]])}, True),
        ("steps.code.out.x > 1", {"x": np.array([[1.0, 2.0]])}, True),
        ("steps.code.out.x > 1", {"x": np.array([2 + 1j])}, True),
        ("steps.code.out.x", {"x": np.array([True])}, False),
        ("steps.code.out.x == 'a'", {"x": np.array(["a"], object)}, False),
        ("contains(steps.code.out.x, 'b')", {"x": np.array(["abc"])}, False),
        ("steps.code.out[1] == 2", {"x": np.array([1]), "y": np.array([2])}, False),
        ("shaper.outputs[1][0] == 2", {"x": np.array([1]), "y": np.array([2])}, False),
        ("shaper.outputs[2][0] == 2", {"x": np.array([1]), "y": np.array([2])}, True),
        ("sum(steps.code.out.x) + sum(in.tensor) > 5", {"x": ragged([1.0, 6.0])}, False),
        ("any(steps.code.out.x == in.tensor)", {"x": np.array([[1.5, 0.0, 0.0]])}, False),
        ("any(steps.code.out.x == in.tensor)", {"x": np.array([[1.5, 0.0]])}, True),
        ("isnan(steps.code.out.x) or steps.code.out.x > 1", {"x": np.array([2.0])}, False),
        (
            "len(steps.code.out.x) > 1 and abs(-steps.code.out.x[1]) % 2 == 1",
            {"x": np.array([[0, 3]])},
            False,
        ),
    ],
)
def test_outputs_that_code_does_not_declare_are_checked_when_they_are_there(
    text: str, code: dict[str, Array], *, fails: bool
) -> None:
    """What turns out not to fit fails the row, and nothing else."""
    assert judged(text, code=code) is fails


def test_many_shapes_of_undeclared_outputs_do_not_pile_up() -> None:
    """What was compiled for types that came once is let go."""
    compiled = validator("any(steps.code.out.x > 1)")
    for dimensions in range(1, 9):
        for dtype in "bhilBHILfd":
            array = np.ones((1,) * dimensions, dtype)
            failed = failed_rows(compiled, {}, {"code": {"x": array * 2}}, {}, 1, {})
            assert not failed.any()
            (check,) = compiled._checks  # noqa: SLF001 - nothing outside shows it
            assert len(check.compiled) <= 32


def test_a_models_name_goes_before_a_variants_and_a_steps() -> None:
    """The older API knows models only."""
    compiled = validator(
        "a.outputs[0][0] == 1",
        scope=Scope(
            (),
            (
                StepScope("a", ANSWER, ((None, "x"),)),
                StepScope("b", ANSWER, (("a", "y"),)),
                StepScope("c", ANSWER, ((None, "a"),)),
            ),
        ),
    )
    assert compiled.steps == ("c",)


def test_failures_are_written_as_answers_show_them() -> None:
    """The value that was a failure, and the canonical text."""
    given = [
        Validation(name="price too high", expression="anomaly-housing.outputs[0][0] < 100.0"),
        Validation(name="odd", fail_when="in.tiny%2==1"),
    ]
    compiled = compile_validations(given, SCOPE)
    assert compiled is not None
    assert compiled.names == ("price too high", "odd")
    assert compiled.failures == (
        {"False": {"expr": "anomaly-housing.outputs[0][0] < 100"}},
        {"True": {"expr": "in.tiny % 2 == 1"}},
    )


def test_a_field_that_is_not_there_is_told_of_once() -> None:
    """With the fields that there are: nothing had declared them, so the expression was taken as it is."""
    told: list[dict[str, Any]] = []
    given = [
        Validation(name="low", expression="out.bond > 0"),
        Validation(name="first", expression="x.outputs[2] > 0"),
        Validation(name="good", expression="out.band > 0"),
    ]
    scope = Scope(None, (StepScope("a", None, ((None, "x"),)),))
    compiled = compile_validations(given, scope, lambda event, **of: told.append({event: of}))
    assert compiled is not None
    gives = {"band": np.array([1.0, -1.0]), "price": np.array([1.0, 1.0])}
    for _ in range(2):
        failed = failed_rows(compiled, {}, {"a": gives}, gives, 2, {})
        assert failed.tolist() == [[True, True], [True, True], [False, True]]
    said = "gives 'band', 'price'; rows without it fail it"
    low = {
        "validation": "low",
        "field": "bond",
        "message": f"it reads 'bond', and the pipeline {said}",
    }
    first = {
        "validation": "first",
        "field": 2,
        "message": f"it reads output number 2, and 'x' {said}",
    }
    assert told == [{"validation_blind": low}, {"validation_blind": first}]


def test_no_validations_are_no_validator() -> None:
    """So that pipelines without them pay nothing."""
    assert compile_validations([], SCOPE) is None


def test_a_sum_does_not_depend_on_the_batch() -> None:
    """Numbers whose sum depends on the order of adding give the same verdict alone and among others."""
    generator = np.random.default_rng(7)
    rows = generator.normal(size=(50, 301)) * 10.0 ** generator.integers(-12, 12, (50, 301))
    fields = (Field("x", "float64", (301,)),)
    sums = [float(np.add.accumulate(row)[-1]) for row in rows]
    compiled = validator(
        *(f"sum(in.x) == {value!r}" for value in sums[:10]),
        scope=Scope(fields, (StepScope("a", fields, ((None, "m"),)),)),
    )
    for batch in (rows, np.asfortranarray(rows), rows[:, ::-1][:, ::-1]):
        failed = failed_rows(compiled, {"x": batch}, {}, {}, 50, {})
        assert (~failed[:, :10]).tolist() == np.eye(10, dtype=bool).tolist()
        for row in range(10):
            alone = failed_rows(compiled, {"x": batch[row : row + 1]}, {}, {}, 1, {})
            assert alone[:, 0].tolist() == failed[:, row].tolist()
