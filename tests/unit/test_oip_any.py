"""Whatever arrives in the Open Inference Protocol is read or refused, and what is answered can be read."""

import json
from typing import Any

import hypothesis
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kit import oip
from midstream_engine.batch import Batch, Facts, Result
from midstream_engine.errors import BadInput
from midstream_engine.oip.asked import Asked
from midstream_engine.oip.datatypes import DATATYPES, DTYPES
from midstream_engine.oip.reader import OipReader
from midstream_engine.oip.writer import OipWriter
from midstream_engine.schema import NUMPY_TYPES, Field

FACTS = Facts(pipeline="p", version="v", partition="e", last_model="m", last_sha256="ab")

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, Any]:
    """A datatype, and an array of it with one to four rows."""
    datatype = draw(st.sampled_from(sorted(DTYPES)))
    shape = (
        draw(st.integers(1, 4)),
        *draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)),
    )
    if datatype == "BYTES":
        array = np.empty(shape, object)
        for index in np.ndindex(shape):
            array[index] = draw(texts)
        return datatype, array
    finite: dict[str, Any] = (
        {"allow_nan": False, "allow_infinity": False} if datatype.startswith("FP") else {}
    )
    elements = hnp.from_dtype(np.dtype(oip.TYPES[datatype]), **finite)
    return datatype, draw(hnp.arrays(oip.TYPES[datatype], shape, elements=elements))


def field(datatype: str, array: Any) -> Field:
    return Field("x", DTYPES[datatype], array.shape[1:])


def same(array: Any, other: Any) -> bool:
    """Equal to the last bit, in type and shape."""
    if array.dtype.kind == "O":
        return bool(array.shape == other.shape) and bool(array.tolist() == other.tolist())
    equal: bool = array.tobytes() == other.tobytes()
    return equal and bool(array.dtype == other.dtype and array.shape == other.shape)


@hypothesis.given(tensors(), st.booleans(), st.booleans())
def test_json_round_trips(sent: tuple[str, Any], nested: bool, with_field: bool) -> None:
    """From numpy to the wire, to the engine, back to the wire and to numpy: the same values."""
    datatype, array = sent
    data = array.tolist() if nested else array.reshape(-1).tolist()
    reader = OipReader([field(datatype, array)] if with_field else None)
    batch, asked = reader.read(oip.body(oip.tensor("x", datatype, array.shape, data)))
    assert same(batch.fields["x"], array)
    check_answer(batch, asked, datatype, array)


@hypothesis.given(tensors(), st.integers(0, 8))
def test_binary_data_round_trips(sent: tuple[str, Any], pad: int) -> None:
    """Wherever in the body it begins."""
    datatype, array = sent
    packed = oip.packed(datatype, array.reshape(-1).tolist() if datatype == "BYTES" else array)
    body, length = oip.binary(
        ("x", datatype, array.shape, packed), pad=pad, parameters={"binary_data_output": True}
    )
    batch, asked = OipReader([field(datatype, array)]).read(body, length)
    assert same(batch.fields["x"], array)
    assert asked.binary
    check_answer(batch, asked, datatype, array)


def check_answer(batch: Batch, asked: Asked, datatype: str, array: Any) -> None:
    result = Result(batch, {"y": batch.fields["x"]})
    body, headers = OipWriter([Field("y", DTYPES[datatype], array.shape[1:])], FACTS).write(
        result, asked
    )
    document, outputs = oip.unpacked(body, headers)
    assert document["outputs"][0]["datatype"] == datatype
    assert document["outputs"][0]["shape"] == list(array.shape)
    if datatype == "BYTES":
        assert outputs["y"] == array.reshape(-1).tolist()
    else:
        assert outputs["y"].tobytes() == array.tobytes()


# Hostile bodies

FIELDS = (
    Field("a", "float32", (2,)),
    Field("b", "string", ()),
    Field("c", "bool", (None,), allow_missing=True),
    Field("d", "int8", ()),
)
READERS = (OipReader(FIELDS, ["k"], ["y"].__contains__), OipReader(None), OipReader(FIELDS[:1]))

scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4), max_leaves=12)
sizes = st.integers(-2, 20) | st.sampled_from([2**31, 2**63, 2**64, 1.0, True, "4", None])
names = st.sampled_from(["a", "b", "c", "d", "k", "z", ""])
some_inputs = st.lists(
    st.fixed_dictionaries(
        {
            "name": names | scalars,
            "datatype": st.sampled_from([*DTYPES, "BF16", "fp32"]) | scalars,
            "shape": st.lists(sizes, max_size=3) | scalars,
        },
        optional={
            "data": values,
            "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": sizes}) | scalars,
        },
    )
    | scalars,
    max_size=4,
)
requests = st.fixed_dictionaries(
    {"inputs": some_inputs | values},
    optional={
        "id": scalars,
        "outputs": st.lists(
            st.fixed_dictionaries({"name": st.sampled_from(["y", "z"]) | scalars}) | scalars,
            max_size=3,
        )
        | scalars,
        "parameters": st.fixed_dictionaries(
            {}, optional={"binary_data_output": scalars, "sequence_id": scalars}
        )
        | scalars,
    },
)


def read_or_refuse(reader: OipReader, body: bytes, length: int | None) -> None:
    """A batch that is what a revision may rely on, or a refusal with a reason."""
    refusal = None
    try:
        batch, _ = reader.read(body, length)
    except BadInput as error:
        refusal = error
    if refusal is not None:
        assert 0 < len(refusal.message) < 1000
        assert refusal.reason != "BadInput"
        return
    assert batch.rows > 0
    assert set(batch.fields) <= {"a", "b", "c", "d", "k", "z"}
    for found in reader.fields or ():
        array = batch.fields[found.name]
        assert array.dtype == found.numpy_dtype
        assert found.accepts(array.shape[1:])
    for array in batch.fields.values():
        assert len(array) == batch.rows
        assert array.dtype.kind != "O" or all(type(item) is str for item in array.reshape(-1))
    assert all(len(keys) == batch.rows for keys in batch.keys.values())


@hypothesis.given(st.sampled_from(READERS), requests, st.binary(max_size=40), st.booleans())
def test_any_request_is_read_or_refused(
    reader: OipReader, request: Any, tail: bytes, told: bool
) -> None:
    """Nothing else is raised, whatever the parts of a request are."""
    text = json.dumps(request).encode()
    read_or_refuse(reader, text + tail if told else text, len(text) if told else None)


@st.composite
def damaged(draw: st.DrawFn) -> tuple[bytes, int]:
    """A good binary request, with some bytes of it changed, dropped or repeated, and a length that may lie."""
    rows = draw(st.integers(1, 3))
    body, length = oip.binary(
        ("a", "FP32", (rows, 2), oip.packed("FP32", np.ones((rows, 2)))),
        ("b", "BYTES", (rows,), oip.packed("BYTES", ["one", "zwölf", ""][:rows])),
        ("c", "BOOL", (rows, 1), oip.packed("BOOL", [[True]] * rows)),
        ("d", "INT8", (rows,), oip.packed("INT8", range(rows))),
    )
    data = bytearray(body)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data) - 1))
        match draw(st.sampled_from(["change", "drop", "repeat"])):
            case "change":
                data[at] = draw(st.integers(0, 255))
            case "drop":
                del data[at : at + draw(st.integers(1, 4))]
            case _:
                data[at:at] = data[at : at + 4]
        if not data:
            data = bytearray(b" ")
    return bytes(data), max(length + draw(st.sampled_from([0, 0, 0, 0, -1, 1, 7, 1000])), 0)


@hypothesis.given(st.sampled_from(READERS), damaged())
def test_damaged_requests_are_read_or_refused(reader: OipReader, damage: tuple[bytes, int]) -> None:
    """Nothing else is raised, and nothing is read beyond the body."""
    read_or_refuse(reader, *damage)


def test_all_element_types_have_a_datatype() -> None:
    """Whatever a model may have."""
    assert set(DATATYPES) == set(NUMPY_TYPES)
