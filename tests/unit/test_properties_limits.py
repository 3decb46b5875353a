"""Code that takes anything does not take any number of it."""

import json

import pytest

from kit import oip
from midstream_engine.errors import BadInput
from midstream_engine.formats.open_rows import MAX_FIELDS, OpenReader
from midstream_engine.oip.reader import OipReader


@pytest.mark.parametrize("more", [0, 1])
def test_as_many_tensors_as_fields_of_a_row(more: int) -> None:
    """One request has as many inputs in the Open Inference Protocol as fields in JSON."""
    names = [f"n{number}" for number in range(MAX_FIELDS + more)]
    tensors = oip.body(*(oip.tensor(name, "FP32", [1], [1.0]) for name in names))
    rows = json.dumps([dict.fromkeys(names, 1.0)]).encode()
    if not more:
        assert len(OipReader(None).read(tensors)[0].fields) == MAX_FIELDS
        assert len(OpenReader().read(rows).fields) == MAX_FIELDS
        return
    for read, body in ((OipReader(None).read, tensors), (OpenReader().read, rows)):
        with pytest.raises(BadInput, match=f"at most {MAX_FIELDS}") as caught:
            read(body)
        assert caught.value.reason == "WrongFields"
