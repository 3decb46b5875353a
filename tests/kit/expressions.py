"""A pipeline with one step of each kind, as expressions see it, and what they say of its rows."""

from collections.abc import Mapping

from midstream_engine.batch import Choice
from midstream_engine.expressions.scope import Scope, StepScope
from midstream_engine.expressions.values import BoolArray
from midstream_engine.schema import Array, Field
from midstream_engine.validations import Picked, Validator

INPUTS = (
    Field("tensor", "float32", (3,)),
    Field("user-id", "int64", ()),
    Field("kind", "string", ()),
    Field("words", "string", (2,)),
    Field("flags", "bool", (2,)),
    Field("loose", "float32", (None,)),
    Field("none", "float64", (0,)),
    Field("big", "uint64", ()),
    Field("grid", "float16", (2, 2)),
    Field("tiny", "int8", ()),
)
PREPARED = (Field("tensor", "float32", (3,)), Field("scale", "float32", ()))
ANSWER = (Field("variable", "float32", (1,)), Field("n", "int32", (2,)))
SCOPE = Scope(
    INPUTS,
    (
        StepScope("prepare", PREPARED, ((None, "anomaly-housing"),)),
        StepScope("code", None, ((None, "shaper"),)),
        StepScope(
            "predict",
            ANSWER,
            (("control", "rf"), ("second", "xgb"), ("third", "xgb")),
        ),
        StepScope("watched", ANSWER, (("champion", "cnn"),), (("rival", "cnn-2"),)),
    ),
)


def failed_rows(
    validator: Validator,
    inputs: dict[str, Array],
    outputs: Mapping[str, dict[str, Array]],
    final: dict[str, Array],
    rows: int,
    picked: Picked,
) -> BoolArray:
    """Which validation failed for which row, shape (validations, rows). picked: by split step, each row's variant."""
    choices = [Choice(step, (), variants) for step, variants in picked.items()]
    return validator.check(inputs, outputs, final, rows, choices).failed
