"""Options of splits by key: what can never match is refused, what may match is not."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from midstream_api.engineconfig import ResolvedModel, ResolvedStep
from midstream_engine.errors import LoadError
from midstream_engine.schema import NUMPY_TYPES, Field
from midstream_engine.split import canonical, keys_of
from midstream_engine.steps.options import check_options, text_for

MODEL = ResolvedModel(name="rf", uri="file:///rf.onnx", sha256="a" * 64, size=1)
NUMBERS = [name for name in NUMPY_TYPES if name != "string"]


def split(*options: str) -> list[ResolvedStep]:
    """A pipeline of one split by `kind`."""
    variants = [{"name": name, "model": MODEL} for name in "ab"]
    chosen = dict.fromkeys(options, "a")
    fields = {"variants": variants, "key": "kind", "options": chosen, "default": "b"}
    return [ResolvedStep.model_validate({"name": "predict", "split": fields})]


def refused(option: str, field: Field) -> str:
    """Why an option is."""
    with pytest.raises(LoadError) as caught:
        check_options(split(option), [field])
    assert "InvalidOptions" == caught.value.reason
    return caught.value.message


@pytest.mark.parametrize(
    ("dtype", "option", "wanted"),
    [
        ("int64", "1.0", "1"),
        ("int64", " 1", "1"),
        ("int64", "01", "1"),
        ("int64", "+1", "1"),
        ("int64", "1e2", "100"),
        ("int64", "-0", "0"),
        ("uint64", "018446744073709551615", "18446744073709551615"),
        ("float32", "1.0", "1"),
        ("float32", "0.10", "0.1"),
        ("float32", "16777217", "16777216"),
        ("float16", ".1", "0.1"),
        ("float64", "1E-7", "1e-07"),
        ("bool", "True", "true"),
        ("bool", "0", "false"),
    ],
)
def test_another_spelling_is_refused_with_the_one_that_matches(
    dtype: str, option: str, wanted: str
) -> None:
    """The message names step, option, field and type."""
    assert (
        f"step 'predict': the option {option!r} of the split never matches, "
        f"because no value of 'kind' ({dtype}) has this text; write {wanted!r}"
    ) == refused(option, Field("kind", dtype, ()))


@pytest.mark.parametrize(
    ("dtype", "option", "texts"),
    [
        ("bool", "yes", "'true' and 'false'"),
        ("uint8", "256", "'7'"),
        ("uint8", "-1", "'7'"),
        ("int64", "1.5", "'7'"),
        ("int64", "true", "'7'"),
        ("float32", "nan", "'7' and '0.5'"),
        ("float32", "-Infinity", "'7' and '0.5'"),
        ("float16", "1e9", "'7' and '0.5'"),
        ("float64", "1" + "0" * 400, "'7' and '0.5'"),
        ("float64", "eu", "'7' and '0.5'"),
    ],
)
def test_what_the_type_cannot_be_is_refused_with_what_it_can(
    dtype: str, option: str, texts: str
) -> None:
    """There is nothing to write in its place."""
    message = refused(option, Field("kind", dtype, ()))
    assert message.endswith(f"has this text; its texts are such as {texts}")


@pytest.mark.parametrize(
    ("field", "option", "hint"),
    [
        (Field("kind", "int64", (1,)), "1", "write '[1]'"),
        (Field("kind", "int64", (2,)), "[1, 2.0]", "write '[1,2]'"),
        (Field("kind", "float32", (None,)), "[1.0,0.10]", "write '[1,0.1]'"),
        (Field("kind", "float32", (2,), allow_missing=True), "[1, null]", "write '[1,null]'"),
        (Field("kind", "bool", (1,)), "True", "its texts are lists in JSON without spaces"),
        (Field("kind", "bool", (1,)), "true", "write '[true]'"),
        (Field("kind", "string", (1,)), '["é" ]', "write '[\"é\"]'"),
        (Field("kind", "string", (1,)), "eu", "its texts are lists in JSON without spaces"),
        (Field("kind", "float32", (2,)), "[1,null]", "its texts are lists"),
        (Field("kind", "int64", (2,)), "[1]", "its texts are lists"),
        (Field("kind", "int64", (1,)), "[" * 100_000, "its texts are lists"),
        (Field("kind", "int64", (2, 2)), "[[1],[2,3]]", "its texts are lists"),
        (Field("kind", "int64", (1,)), '[{"a":1}]', "its texts are lists"),
    ],
)
def test_lists_have_the_text_of_json(field: Field, option: str, hint: str) -> None:
    """A field of the shape [1] is a list of one value."""
    assert hint in refused(option, field)


@pytest.mark.parametrize("option", ["01", "1.0", "True", " 1", ""])
def test_text_may_be_spelt_in_any_way(option: str) -> None:
    """Of a text field, of one that no model takes, and of one whose dimensions are not known."""
    check_options(split(option), [Field("kind", "string", ())])
    check_options(split(option), [Field("other", "int64", ())])
    check_options(split(option), None)
    check_options(split(option), [Field("kind", "int64", (), ranked=False)])


def test_other_steps_are_not_looked_at() -> None:
    """Splits without options, and steps of one model."""
    weighed = {"variants": [{"name": "a", "model": MODEL}], "hashKey": "kind"}
    steps = [
        ResolvedStep(name="one", model=MODEL),
        ResolvedStep.model_validate({"name": "two", "split": weighed}),
    ]
    check_options(steps, [Field("kind", "int64", ())])


@given(data=st.data())
def test_the_text_of_a_value_is_never_refused(data: st.DataObject) -> None:
    """Whatever a request can bring of a type, of single values and of lists."""
    dtype = data.draw(st.sampled_from(NUMBERS))
    shape = data.draw(st.sampled_from([(), (1,), (3,), (2, 2), (0,)]))
    finite: dict[str, Any] = (
        {"elements": {"allow_nan": False, "allow_infinity": False}}
        if dtype.startswith("float")
        else {}
    )
    array = data.draw(arrays.arrays(np.dtype(dtype), (1, *shape), **finite))
    text = canonical(keys_of(array)[0])
    assert text is not None
    assert text == text_for(text, Field("kind", dtype, shape))
