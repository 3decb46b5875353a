"""Bodies of the Open Inference Protocol: JSON with the tensors in it, or with binary data behind it."""

import copy
import random
from typing import Any

from fuzz.jsontree import changed, written
from fuzz.pipelines import Fuzzed
from fuzz.rows import Rows, anything, columns_of, rows_for
from fuzz.tables import damaged
from kit import oip
from reference.values import Column, leaves, shape_of
from reference.wire import DATATYPES

_MEMBERS: dict[str, Any] = {
    "id": "42",
    "parameters": {"binary_data_output": True},
    "outputs": [{"name": "total"}],
    "model_name": "x",
    "priority": 1,
}


def tensor_body(
    rng: random.Random, fuzzed: Fuzzed, changes: int, *, binary: bool
) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON where data is behind it."""
    rows = rows_for(rng, fuzzed)
    described = []
    tail = b""
    for column in columns_of(fuzzed, rows):
        one, data = _tensor(rng, column, rows, binary=binary and rng.random() < 0.9)
        if changes and rng.random() < 0.3:
            data = damaged(rng, data) if data else data
            _disagree(rng, one)
        described.append(one)
        tail += data
    if rng.random() < 0.2:
        rng.shuffle(described)  # binary data keeps its place, so that sizes may still agree
    document: Any = {"inputs": described}
    for name in rng.sample(sorted(_MEMBERS), rng.choice((0, 0, 1, 2))):
        if name != "outputs" or changes:
            document[name] = copy.deepcopy(_MEMBERS[name])
    for _ in range(changes if rng.random() < 0.7 else 0):
        document = changed(rng, document)
    text = written(rng, document)
    if not binary:
        return text + tail, None
    length = len(text)
    if changes and rng.random() < 0.1:
        length += rng.choice((-1, 1, 7, -length, 10**6))
    return text + tail, length


def _tensor(
    rng: random.Random, column: Column, rows: Rows, *, binary: bool
) -> tuple[dict[str, Any], bytes]:
    data = [row.get(column.name) for row in rows]
    datatype = DATATYPES[column.dtype]
    shape = list(shape_of(data) or ())
    if len(shape) == 1 and rng.random() < 0.05:
        shape.append(1)
    flat = leaves(data)
    if column.dtype == "string":
        flat = [item if isinstance(item, str) or item is None else str(item) for item in flat]
    if not binary or None in flat:
        values = data if rng.random() < 0.5 and len(shape) != len(column.shape) else flat
        if column.dtype == "string":
            values = flat
        return oip.tensor(column.name, datatype, shape, values), b""
    packed = oip.packed(datatype, flat)
    one = {
        "name": column.name,
        "datatype": datatype,
        "shape": shape,
        "parameters": {"binary_data_size": len(packed)},
    }
    return one, packed


def _disagree(rng: random.Random, one: dict[str, Any]) -> None:
    """Parts of a tensor's description that do not agree."""
    match rng.randrange(5):
        case 0:
            one["datatype"] = rng.choice((*DATATYPES.values(), "BF16", "fp32", "", 1, None))
        case 1 if one["shape"]:
            place = rng.randrange(len(one["shape"]))
            one["shape"][place] = rng.choice(
                (0, -1, 1, 2, 7, 2**31, 2**62, 2**64, 1.0, "1", None, [1])
            )
        case 2:
            one["shape"] = rng.choice(
                ([], [1], [2, 2], [1] * 33, [2**40, 2**40], [0, 18], anything(rng))
            )
            if rng.random() < 0.5:
                _empty(rng, one)
        case 3 if "parameters" in one:
            size = one["parameters"]["binary_data_size"]
            one["parameters"]["binary_data_size"] = rng.choice(
                (size + 1, size - 1, 0, -1, 2**63, "4", None)
            )
        case _:
            one[rng.choice(("data", "parameters", "name"))] = anything(rng)


def _empty(rng: random.Random, one: dict[str, Any]) -> None:
    """No values, by a shape with a 0 in it, whose other lengths nothing bounds."""
    lengths = (0, 1, 2, 2**24, 2**31, 2**62, 2**63, 2**64)
    one["shape"] = [1, *(rng.choice(lengths) for _ in range(rng.randrange(1, 5))), 0]
    rng.shuffle(one["shape"])
    if "data" in one:
        one["data"] = []
    else:
        one["parameters"] = {"binary_data_size": 0}
