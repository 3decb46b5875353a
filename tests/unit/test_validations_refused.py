"""Validations that do not fit their pipeline: refused when a revision is loaded, in words that help."""

import pytest

from kit.expressions import ANSWER, INPUTS, SCOPE
from midstream_api.validation import Validation
from midstream_engine.errors import LoadError
from midstream_engine.expressions.scope import Scope, StepScope
from midstream_engine.validations import compile_validations

REFUSED = {
    "out.variable[0] < ": (
        19,
        "expected a value, found the end",
    ),
    # Names.
    "in.price < 1": (
        1,
        (
            "the pipeline takes 'tensor' (float32[3]), 'user-id' (int64), 'kind' (string), "
            "'words' (string[2]), 'flags' (bool[2]), 'loose' (float32[?]), 'none' (float64[0]), "
            "'big' (uint64), 'grid' (float16[2, 2]), 'tiny' (int8), no 'price'"
        ),
    ),
    "out.price < 1": (
        1,
        "the pipeline gives 'variable' (float32[1]), 'n' (int32[2]), no 'price'",
    ),
    "steps.prepare.out.price < 1": (
        1,
        "step 'prepare' gives 'tensor' (float32[3]), 'scale' (float32), no 'price'",
    ),
    "steps.prepare.out[2] < 1": (
        1,
        "there is no output [2]; step 'prepare' gives 'tensor' (float32[3]), 'scale' (float32)",
    ),
    "steps.price.out[0] < 1": (
        1,
        "there is no step 'price'; there are prepare, code, predict, watched",
    ),
    "price.outputs[0][0] < 1": (
        1,
        "there is no model 'price'; there are anomaly-housing, shaper, rf, xgb, cnn",
    ),
    "3-rf.outputs[0][0] < 1": (
        1,
        (
            "there is no model '3-rf'; there are anomaly-housing, shaper, rf, xgb, cnn; to "
            "subtract, put spaces around -"
        ),
    ),
    "cnn-2.outputs[0][0] < 1": (
        1,
        (
            "'cnn-2' is a challenger of step 'watched', whose answer may come later; validations "
            "read the champion's, cnn"
        ),
    ),
    "rival.outputs[0][0] < 1": (
        1,
        (
            "'rival' is a challenger of step 'watched', whose answer may come later; validations "
            "read the champion's, cnn"
        ),
    ),
    "rf.outputs[0][0] < xgb.outputs[0][0]": (
        20,
        (
            "no row has an answer of 'xgb' and of another variant of step 'predict'; make it two "
            "validations"
        ),
    ),
    # Indexes.
    "in.tensor[3] < 1": (
        1,
        "in.tensor is float32[3]: there is no [3], indexes go from [0] to [2]",
    ),
    "in.none[0] < 1": (
        1,
        "in.none is float64[0]: there is no [0], it has no values",
    ),
    "in.tensor[0][0] < 1": (
        1,
        "in.tensor is float32[3]: it takes at most 1 index, not 2",
    ),
    "in.tiny[0] < 1": (
        1,
        "in.tiny is int8: it takes no index, not 1",
    ),
    "rf.outputs[0][1] < 1": (
        1,
        "rf.outputs[0] is float32[1]: there is no [1], indexes go from [0] to [0]",
    ),
    # Types.
    "in.tensor < 1": (
        11,
        (
            "in.tensor < 1 is true or false for each of several values; take one of them with an "
            "index, or write any(…) or all(…)"
        ),
    ),
    "in.tensor[0]": (
        1,
        "in.tensor[0] is float32; a validation is a condition: compare it",
    ),
    "in.tensor[0] < '1'": (
        14,
        "'<' compares values of the same type; in.tensor[0] is float32, \"1\" is text",
    ),
    "in.kind == 1": (
        9,
        "'==' compares values of the same type; in.kind is string, 1 is a whole number",
    ),
    "in.flags[0] == 1.5": (
        13,
        "'==' compares values of the same type; in.flags[0] is bool, 1.5 is a number",
    ),
    "in.kind < 'a'": (
        9,
        "'<' compares numbers; in.kind is string",
    ),
    "in.flags[0] > in.flags[1]": (
        13,
        "'>' compares numbers; in.flags[0] is bool",
    ),
    "in.kind + 1 < 2": (
        1,
        "'+' calculates with numbers; in.kind is string",
    ),
    "-in.flags[0] < 2": (
        2,
        "'-' calculates with numbers; in.flags[0] is bool",
    ),
    "not in.tiny": (
        5,
        "'not' takes a condition; in.tiny is int8",
    ),
    "in.flags[0] and in.tensor": (
        17,
        "'and' joins conditions; in.tensor is float32[3]",
    ),
    "in.flags[0] or 1": (
        16,
        "'or' joins conditions; 1 is a whole number",
    ),
    "any(in.tensor)": (
        5,
        "any takes conditions; in.tensor is float32[3]",
    ),
    "sum(in.words) < 1": (
        5,
        "sum takes numbers or conditions; in.words is string[2]",
    ),
    "max(in.flags) < 1": (
        5,
        "max takes numbers; in.flags is bool[2]",
    ),
    "isnan(in.kind)": (
        7,
        "isnan takes numbers; in.kind is string",
    ),
    "len(in.tiny) < 1": (
        5,
        "len takes a text or a list; in.tiny is int8",
    ),
    "contains(in.tensor, 'a')": (
        10,
        "contains takes a text and the part to look for; in.tensor is float32[3]",
    ),
    "any(in.tensor + 1 == in.words)": (
        19,
        (
            "'==' compares values of the same type; in.tensor + 1 is a number for each value, "
            "in.words is string[2]"
        ),
    ),
    "any(in.tensor == out.n)": (
        15,
        "lists of different lengths: in.tensor has the shape [3], out.n has [2]",
    ),
    "any(in.grid > out.n)": (
        13,
        "lists of different lengths: in.grid has the shape [2, 2], out.n has [2]",
    ),
    # What is known is checked, though the rest is not.
    "steps.code.out.x > 1 and in.kind > 1": (
        34,
        "'>' compares values of the same type; in.kind is string, 1 is a whole number",
    ),
    "steps.code.out.x > 'a'": (
        18,
        "'>' compares numbers; \"a\" is text",
    ),
}


@pytest.mark.parametrize(
    ("text", "column", "message"), [(text, *said) for text, said in REFUSED.items()]
)
def test_what_does_not_fit_is_refused_at_load(text: str, column: int, message: str) -> None:
    """The message names the validation, the place, what stands there and what there is."""
    with pytest.raises(LoadError) as refused:
        compile_validations([Validation.model_construct(name="too high", expression=text)], SCOPE)
    assert refused.value.message == f"validation 'too high', column {column} of {text!r}: {message}"
    assert refused.value.reason == "InvalidValidation"
    assert not refused.value.transient


def test_a_model_in_two_steps_is_named_by_its_step() -> None:
    """Its name alone does not say which of its answers is meant."""
    steps = [StepScope(name, ANSWER, ((None, "rf"),)) for name in ("first", "again")]
    with pytest.raises(
        LoadError, match=r"'rf' is in the steps first and again; write steps.first.out\[0\]"
    ):
        compile_validations(
            [Validation(name="a", expression="rf.outputs[0][0] < 1")], Scope(INPUTS, tuple(steps))
        )


def test_a_field_of_a_split_alone_has_nothing_to_check() -> None:
    """The message says why it is not there; where code takes whatever comes it is one field of many."""
    text = 'in.tensor[0] < 1 and in.user == "x"'
    steps = (StepScope("predict", ANSWER, ((None, "rf"),)),)
    checks = [Validation(name="a", expression=text)]
    with pytest.raises(LoadError) as caught:
        compile_validations(checks, Scope(INPUTS[:1], steps, ("session", "user")))
    assert "InvalidValidation" == caught.value.reason
    assert (
        f"validation 'a', column 22 of {text!r}: 'user' is a field that only a split looks at: its type is not known, "
        "and rows may leave it out; validations read what models take: 'tensor' (float32[3])"
    ) == caught.value.message
    assert compile_validations(checks, Scope(None, steps, ("user",)))
