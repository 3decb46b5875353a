"""What the reader of the Open Inference Protocol says of bodies that do not fit."""

import pytest

from midstream_engine.errors import BadInput
from midstream_engine.oip.reader import OipReader


def refused(reader: OipReader, body: bytes, length: int | None = None) -> BadInput:
    """The refusal of a body."""
    with pytest.raises(BadInput) as caught:
        reader.read(body, length)
    assert len(caught.value.message) < 600
    return caught.value
