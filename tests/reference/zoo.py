"""ONNX files and code of known meaning, of any types and shapes, as manifests name them."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kit.models import DTYPES, OPSET, node
from reference.models import Code, Onnx, Runs
from reference.values import Column

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float16", "float32", "float64")
SUMS = ("float16", "float32", "int32", "int64")
"""What can be added up so that the order of the values is not seen: it depends on where in memory they are."""


class Output(NamedTuple):
    """An output of a made ONNX model, and how it is made."""

    name: str
    operation: str
    """`same`, `times`, `plus`, `over`, `as`, `join`, `sum` or `above`; see `_Maker`."""
    sources: tuple[str, ...]
    """Fields."""
    constant: float = 0.0
    dtype: str = ""
    """Of `as`."""


class Model(NamedTuple):
    """A model as a manifest has it, and what it means."""

    entry: dict[str, Any]
    name: str
    takes: tuple[Column, ...] | None
    """None: whatever comes."""
    gives: tuple[Column, ...] | None
    """None: known when it answers."""
    runs: Runs


def given(output: Output, columns: Sequence[Column]) -> Column:
    """The type of an output. `above` is a list of any length."""
    first = next(column for column in columns if column.name == output.sources[0])
    match output.operation:
        case "over":
            return Column(output.name, "bool", first.shape)
        case "as":
            return Column(output.name, output.dtype, first.shape)
        case "join":
            lengths = [c.shape[0] for name in output.sources for c in columns if c.name == name]
            known = [length for length in lengths if length is not None]
            total = sum(known) if len(known) == len(lengths) else None
            return Column(output.name, first.dtype, (total,))
        case "above":
            return Column(output.name, first.dtype, (None,))
        case "sum":
            return Column(output.name, first.dtype, (1,))
        case _:
            return Column(output.name, first.dtype, first.shape)


def onnx_model(
    folder: Path,
    columns: Sequence[Column],
    outputs: Sequence[Output],
    *,
    name: str,
    single: bool = False,
    rename: str = "position",
) -> Model:
    """An ONNX model that makes these outputs of some of the columns; the same arguments are the same file.

    rename: how the manifest gives its inputs the columns' names: `position`, `tensor` (in another order), or `none`,
    where the file has them. single: the file knows no rows.
    """
    used = [c for c in columns if any(c.name in output.sources for output in outputs)]
    # A file's output cannot have the name of one of its inputs.
    if rename == "none" and {column.name for column in used} & {each.name for each in outputs}:
        rename = "position"
    own = {c.name: c.name if rename == "none" else f"own_{place}" for place, c in enumerate(used)}
    asked = json.dumps([used, outputs, single, own])
    path = folder / f"{hashlib.sha256(asked.encode()).hexdigest()[:24]}.onnx"
    if not path.exists():
        path.write_bytes(_file(used, outputs, own, single=single))
    entry: dict[str, Any] = {"name": name, "source": {"uri": str(path)}}
    if single:
        entry["batch"] = "Single"
    inputs = [
        {
            "name": column.name,
            **({"tensor": own[column.name]} if rename == "tensor" else {}),
            **({"missing": "Allow"} if column.missing else {}),
        }
        for column in (reversed(used) if rename == "tensor" else used)
    ]
    if rename != "none" or any(column.missing for column in used):
        entry["inputs"] = inputs
    return Model(
        entry=entry,
        name=name,
        takes=tuple(used),
        gives=tuple(given(output, columns) for output in outputs),
        runs=Onnx(path, {tensor: name for name, tensor in own.items()}, single),
    )


def code_model(
    code: str,
    *,
    name: str,
    takes: Sequence[Column] | None = None,
    gives: Sequence[Column] | None = None,
) -> Model:
    """A Python model, with its inputs and outputs declared or not."""
    entry: dict[str, Any] = {"name": name, "framework": "Python", "source": {"inline": code}}
    if takes is not None:
        entry["inputs"] = [
            {**_declared(column), **({"missing": "Allow"} if column.missing else {})}
            for column in takes
        ]
    if gives is not None:
        entry["outputs"] = [_declared(column) for column in gives]
    return Model(
        entry=entry,
        name=name,
        takes=None if takes is None else tuple(takes),
        gives=None if gives is None else tuple(gives),
        runs=Code(code, takes, gives),
    )


def _declared(column: Column) -> dict[str, Any]:
    shape = [-1 if length is None else length for length in column.shape]
    return {"name": column.name, "dtype": column.dtype, **({"shape": shape} if shape else {})}


def times(factor: int) -> str:
    """Code: numbers times a factor, booleans turned round, text with the factor behind it. Names and types stay."""
    return (
        "import numpy as np\n"
        "def process(inputs):\n"
        "    def changed(array):\n"
        "        if array.dtype == object:\n"
        f"            return np.array([(x or '') + '{factor}' for x in array.ravel()],"
        " object).reshape(array.shape)\n"
        "        if array.dtype == bool:\n"
        "            return ~array\n"
        f"        return array * array.dtype.type({factor})\n"
        "    return {name: changed(array) for name, array in inputs.items()}\n"
    )


TOTALS = """\
import json

def added(value):
    if isinstance(value, list):
        return sum(added(part) for part in value)
    if isinstance(value, str):
        return len(value)
    return 0 if value is None else value

def wallaroo_json(data):
    given = json.loads(data)
    return {
        'tensor_fields': ['total', 'names'],
        'names': [','.join(given['colnames'])] * len(given['query']),
        'total': [[float(sum(added(value) for value in row))] for row in given['query']],
    }
"""
"""Code: all numbers of a row added up, and its fields' names."""

TOTALS_GIVES = (Column("total", "float64", (1,)), Column("names", "string"))

FAILS = "def process(inputs):\n    raise ValueError('never')\n"
"""Code that raises."""


def _file(
    columns: Sequence[Column], outputs: Sequence[Output], own: dict[str, str], *, single: bool
) -> bytes:
    rows: list[int | str] = [] if single else ["rows"]

    def info(column: Column, name: str) -> onnx.ValueInfoProto:
        lengths = [f"{name}_{place}" if n is None else n for place, n in enumerate(column.shape)]
        return helper.make_tensor_value_info(name, DTYPES[column.dtype], [*rows, *lengths])

    by_name = {column.name: column for column in columns}
    nodes: list[onnx.NodeProto] = []
    constants: list[TensorProto] = []
    for output in outputs:
        maker = _Maker(output, single=single)
        maker.make([(own[name], by_name[name]) for name in output.sources])
        nodes += maker.nodes
        constants += maker.constants
    graph = helper.make_graph(
        nodes,
        "zoo",
        [info(column, own[column.name]) for column in columns],
        [info(given(output, columns), output.name) for output in outputs],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    return bytes(model.SerializeToString(deterministic=True))


class _Maker:
    """The nodes of one output."""

    def __init__(self, output: Output, *, single: bool) -> None:
        self._output = output
        self._single = single
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []

    def make(self, sources: Sequence[tuple[str, Column]]) -> None:
        """sources: tensors, and what they are."""
        output = self._output
        source, column = sources[0]
        match output.operation:
            case "same":
                self._add("Identity", [source], output.name)
            case "times":
                self._add("Mul", [source, self._given(column.dtype)], output.name)
            case "plus":
                self._add("Add", [source, self._given(column.dtype)], output.name)
            case "over":
                self._add("Greater", [source, self._given(column.dtype)], output.name)
            case "as":
                self._add("Cast", [source], output.name, to=DTYPES[output.dtype])
            case "join":
                joined = [each for each, _ in sources]
                self._add("Concat", joined, output.name, axis=int(not self._single))
            case "above":  # of a single row: the values that are greater
                which = self._add("Greater", [source, self._given(column.dtype)])
                self._add("Compress", [source, which], output.name, axis=0)
            case _:
                self._sum(sources, column.dtype)

    def _sum(self, sources: Sequence[tuple[str, Column]], dtype: str) -> None:
        floats = dtype.startswith("float")
        wide = "float64" if floats else dtype
        total = ""
        for source, column in sources:
            axes = np.arange(len(column.shape)) + (not self._single)
            each = self._add("Cast", [source], to=DTYPES[wide]) if floats else source
            if len(axes):
                each = self._add("ReduceSum", [each, self._constant(axes, "int64")], keepdims=0)
            last = self._constant([int(not self._single)], "int64")
            one = self._add("Unsqueeze", [each, last])
            total = self._add("Add", [total, one]) if total else one
        if floats:
            total = self._add("Mul", [total, self._given(wide)])
            self._add("Cast", [total], self._output.name, to=DTYPES[dtype])
        else:
            self._add("Mul", [total, self._given(dtype)], self._output.name)

    def _add(self, operator: str, taken: Sequence[str], name: str = "", **attributes: Any) -> str:
        name = name or f"{self._output.name}_{len(self.nodes)}"
        self.nodes.append(node(operator, taken, [name], **attributes))
        return name

    def _given(self, dtype: str) -> str:
        return self._constant(self._output.constant, dtype)

    def _constant(self, value: Any, dtype: str) -> str:
        name = f"{self._output.name}_constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name
