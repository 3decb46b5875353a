"""Answers say the same of a row in every format."""

import json

import numpy as np
import pyarrow as pa

from midstream_engine.batch import Batch, Choice, Facts, Result, VariantRef
from midstream_engine.formats.answers import ColumnarWriter, RecordsWriter
from midstream_engine.formats.arrow_answers import ArrowWriter

VARIANTS = tuple(VariantRef(name, f"model-{name}", None, name * 64) for name in "ab")
FACTS = Facts("p", "v", "e", "model-a", "a" * 64, splits=("s",), split_last=True)


def test_the_last_model_is_the_variant_that_answered() -> None:
    """Of each row, as JSON rows, as columns and in Arrow."""
    picked = np.array([1, 0, 1])
    outputs = {"y": np.arange(3.0)}
    result = Result(Batch({}, 3), outputs, 1, [2], choices=(Choice("s", VARIANTS, picked),))
    rows = json.loads(RecordsWriter(["y"], FACTS).write(result))
    columns = json.loads(ColumnarWriter(FACTS).write(result))
    found = [
        [row["metadata"]["last_model"] for row in rows],
        columns["metadata.last_model"],
    ]
    for file in (True, False):
        opened = pa.ipc.open_file if file else pa.ipc.open_stream
        table = opened(ArrowWriter(FACTS, file=file).write(result)).read_all()
        found.append([row["last_model"] for row in table["metadata"].to_pylist()])
    names = [[json.loads(text)["model_name"] for text in texts] for texts in found]
    assert names == [["model-b", "model-a", "model-b"]] * 4
