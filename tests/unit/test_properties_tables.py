"""Tables that are at the edge of what there can be."""

import pyarrow as pa
import pytest

from midstream_engine.formats.arrow_rows import ArrowReader
from midstream_engine.schema import NUMPY_TYPES, Field
from reference import wire


@pytest.mark.parametrize("dtype", sorted(NUMPY_TYPES))
def test_lists_without_anything_in_them_are_of_any_type(dtype: str) -> None:
    """Writers that find no value find no type; nothing is missing in such a column."""
    table = pa.table({"x": pa.array([[], []], pa.list_(pa.null()))})
    reader = ArrowReader([Field("x", dtype, (None,))], file=False)
    array = reader.read(wire.arrow_body(table, file=False), 1 << 20).fields["x"]
    assert (array.dtype, array.shape) == (NUMPY_TYPES[dtype], (2, 0))
