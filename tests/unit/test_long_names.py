"""Names that a caller made up are not kept: code that declares no outputs may give them back."""

import sys

import numpy as np
import pytest

from kit.expressions import failed_rows
from kit.records import FACTS, result
from midstream_api.validation import Validation
from midstream_engine.expressions.scope import Scope, StepScope
from midstream_engine.formats.answers import AnswerWriter, ColumnarWriter, RecordsWriter
from midstream_engine.formats.arrow_answers import ArrowWriter
from midstream_engine.formats.selection import Selection
from midstream_engine.validations import compile_validations

WRITERS: dict[str, AnswerWriter] = {
    "records": RecordsWriter(None, FACTS),
    "columnar": ColumnarWriter(FACTS),
    "arrow": ArrowWriter(FACTS, file=True),
}


def _name() -> str:
    """A long one, that nobody but the caller refers to."""
    return "".join(["long"] * 1000)


@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_writers_keep_no_long_names(writer: AnswerWriter, flat: bool) -> None:
    """Whatever they keep of an answer for the next one."""
    name = _name()
    held = sys.getrefcount(name)
    selection = Selection(("*",), flat=True) if flat else None
    for number in range(3):
        found = result(None, {name: np.full(2, number, np.float32)})
        assert name.encode() in writer.write(found, selection)
        del found
        if number == 0:
            assert held == sys.getrefcount(name)


def test_validations_keep_no_long_names() -> None:
    """A field by its place has the name that a caller gave it."""
    scope = Scope(None, (StepScope("code", None, ((None, "code"),)),))
    validator = compile_validations(
        [Validation(name="low", expression="code.outputs[0] < 5")], scope
    )
    assert validator is not None
    name = _name()
    held = sys.getrefcount(name)
    table = {name: np.ones(1, np.float32)}
    assert not failed_rows(validator, {}, {"code": table}, table, 1, {}).any()
    del table
    assert held == sys.getrefcount(name)
