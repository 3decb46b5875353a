"""Small real ONNX files, good ones and bad ones, written where a test wants them.

Every function writes one file and returns its path. The same arguments give the same bytes. Inputs are named `tensor`
and outputs `variable` unless told otherwise, as in the house-price example, so that a file of this kit can take the
place of one of the example's models. What is wrong with a bad file is wrong for onnxruntime itself: nothing is faked.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, ValueInfoProto, helper, numpy_helper

OPSET = 17
FEATURES = 18
FLOAT = TensorProto.FLOAT
INT64 = TensorProto.INT64
DTYPES = {
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64,
    "bool": TensorProto.BOOL,
    "string": TensorProto.STRING,
}
"""Element types that onnxruntime takes from numpy."""

node: Callable[..., onnx.NodeProto] = helper.make_node


# Good models


def linear(
    path: Path,
    weights: Sequence[float] | None = None,
    bias: float = 0.0,
    n_features: int = FEATURES,
    *,
    input_name: str = "tensor",
    output_name: str = "variable",
    dtype: str = "float32",
    output_dtype: str | None = None,
) -> Path:
    """`y = x @ weights + bias`: [N, n_features] of `dtype` -> [N, 1] of `output_dtype` (left out: `dtype`).

    Weights are all 1 when left out. float32 computes as it is; anything else in float64, then is cast. `bool` as
    `output_dtype` says whether the sum is not 0.
    """
    work = "float32" if dtype == "float32" else "float64"
    vector = np.ones(n_features) if weights is None else np.asarray(weights)
    nodes = [
        node("Cast", [input_name], ["cast"], to=DTYPES[work]),
        node("MatMul", ["cast", "weights"], ["product"]),
        node("Add", ["product", "bias"], ["sum"]),
        node("Cast", ["sum"], [output_name], to=DTYPES[output_dtype or dtype]),
    ]
    return _write(
        path,
        nodes,
        [_info(input_name, [None, n_features], DTYPES[dtype])],
        [_info(output_name, [None, 1], DTYPES[output_dtype or dtype])],
        weights=vector.reshape(n_features, 1).astype(work),
        bias=np.asarray([bias], work),
    )


def scaled(path: Path, factor: float, n_features: int = FEATURES) -> Path:
    """`y = factor * sum(x)`: [N, n_features] float32 -> [N, 1] float32."""
    return linear(path, [factor] * n_features, n_features=n_features)


def elementwise(
    path: Path,
    factor: float,
    n_features: int = FEATURES,
    *,
    input_name: str = "house",
    output_name: str = "tensor",
) -> Path:
    """`y = factor * x`: [N, n_features] float32 -> the same shape. A step to put before another one."""
    return _write(
        path,
        [node("Mul", [input_name, "factor"], [output_name])],
        [_info(input_name, [None, n_features])],
        [_info(output_name, [None, n_features])],
        factor=np.float32(factor),
    )


def identity(path: Path, dtype: str, shape: Sequence[int | None] = (None, 1)) -> Path:
    """`y = x`, of any element type (a key of `DTYPES`, or bfloat16) and shape (batch first)."""
    kind = TensorProto.BFLOAT16 if dtype == "bfloat16" else DTYPES[dtype]
    return _write(
        path,
        [node("Identity", ["tensor"], ["variable"])],
        [_info("tensor", shape, kind)],
        [_info("variable", shape, kind)],
    )


def big_mlp(path: Path, megabytes: int = 40, seed: int = 0) -> Path:
    """A dense network 18 -> h -> h -> 1 with ReLU, its file within 2 % of `megabytes`; takes about 10 ms a megabyte."""
    width = round((megabytes * 1e6 / 4) ** 0.5) - (FEATURES + 1) // 2
    rng = np.random.default_rng(seed)

    def weights(rows: int, columns: int) -> np.ndarray[Any, Any]:
        return rng.standard_normal((rows, columns), np.float32) / np.float32(rows**0.5)

    nodes = [
        node("MatMul", ["tensor", "first"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("MatMul", ["b", "second"], ["c"]),
        node("Relu", ["c"], ["d"]),
        node("MatMul", ["d", "third"], ["variable"]),
    ]
    return _write(
        path,
        nodes,
        [_info("tensor", [None, FEATURES])],
        [_info("variable", [None, 1])],
        first=weights(FEATURES, width),
        second=weights(width, width),
        third=weights(width, 1),
    )


def two_inputs(path: Path) -> Path:
    """`variable = sum(input_1) + 10 * sum(input_2)`: [N, 10] and [N, 5] float32 -> [N, 1]."""
    nodes = [
        node("ReduceSum", ["input_1", "axis"], ["one"]),
        node("ReduceSum", ["input_2", "axis"], ["two"]),
        node("Mul", ["two", "ten"], ["tens"]),
        node("Add", ["one", "tens"], ["variable"]),
    ]
    return _write(
        path,
        nodes,
        [_info("input_1", [None, 10]), _info("input_2", [None, 5])],
        [_info("variable", [None, 1])],
        axis=np.array([1], np.int64),
        ten=np.float32(10),
    )


def two_outputs(path: Path) -> Path:
    """`total` = sum(x) [N, 1] float32 and `largest` = the position of the largest x [N] int64, for [N, 18] float32."""
    return _write(
        path,
        [
            node("ReduceSum", ["tensor", "axis"], ["total"]),
            node("ArgMax", ["tensor"], ["largest"], axis=1, keepdims=0),
        ],
        [_info("tensor", [None, FEATURES])],
        [_info("total", [None, 1]), _info("largest", [None], INT64)],
        axis=np.array([1], np.int64),
    )


def nan_at(path: Path, value: float) -> Path:
    """`variable = sum(x)`, but NaN for a row whose first number is `value`: [N, 18] float32 -> [N, 1]."""
    nodes = [
        node("Gather", ["tensor", "column"], ["first"], axis=1),
        node("Equal", ["first", "value"], ["hit"]),
        node("ReduceSum", ["tensor", "axis"], ["sum"]),
        node("Where", ["hit", "nan", "sum"], ["variable"]),
    ]
    return _write(
        path,
        nodes,
        [_info("tensor", [None, FEATURES])],
        [_info("variable", [None, 1])],
        column=np.array([0], np.int64),
        value=np.float32(value),
        axis=np.array([1], np.int64),
        nan=np.float32(np.nan),
    )


def looks_up(path: Path, entries: int = 10) -> Path:
    """`variable = 100 * x[0]`, by a table of `entries`: fails at run for a row whose first number is not in it.

    The warm-up row of zeros passes, so this is a model that serves and then fails on some requests.
    """
    nodes = [
        node("Gather", ["tensor", "column"], ["first"], axis=1),
        node("Cast", ["first"], ["row"], to=INT64),
        node("Gather", ["table", "row"], ["variable"]),
    ]
    return _write(
        path,
        nodes,
        [_info("tensor", [None, FEATURES])],
        [_info("variable", [None, 1])],
        column=np.array([0], np.int64),
        table=np.arange(entries, dtype=np.float32) * 100,
    )


def fixed_batch(path: Path, rows: int = 4) -> Path:
    """`variable = sum(x)`, and takes exactly `rows` rows at a time: [rows, 18] float32 -> [rows, 1]."""
    return _sum(path, [rows, FEATURES], [rows, 1])


def places(path: Path) -> Path:
    """Of no batch: where the 18 numbers of `tensor` are not 0, [18] float32 -> `variable` [1, count] int64."""
    return _write(
        path,
        [node("NonZero", ["tensor"], ["variable"])],
        [_info("tensor", [FEATURES])],
        [_info("variable", [1, None], TensorProto.INT64)],
    )


# Models that load, and are of no use


def no_batch(path: Path) -> Path:
    """The input is a single float32 value, so that there is no dimension for rows."""
    return identity(path, "float32", ())


def collapses_batch(path: Path) -> Path:
    """Gives one row however many it takes: [N, 18] float32 -> [1, 18]."""
    return _write(
        path,
        [node("ReduceSum", ["tensor", "axis"], ["variable"])],
        [_info("tensor", [None, FEATURES])],
        [_info("variable", [None, FEATURES])],
        axis=np.array([0], np.int64),
    )


def fails_at_run(path: Path) -> Path:
    """Loads, and raises at its first run: it makes rows of 19 numbers of rows of 18."""
    return _write(
        path,
        [node("Reshape", ["tensor", "shape"], ["variable"])],
        [_info("tensor", [None, FEATURES])],
        [_info("variable", [None, FEATURES + 1])],
        shape=np.array([-1, FEATURES + 1], np.int64),
    )


def hangs(path: Path) -> Path:
    """Loads, and never comes back from a run: a loop of 2**62 rounds. onnxruntime's `terminate` stops it."""
    body = helper.make_graph(
        [
            node("Identity", ["going"], ["still_going"]),
            node("Identity", ["carried"], ["carried_on"]),
        ],
        "body",
        [
            _info("round", [], INT64),
            _info("going", [], TensorProto.BOOL),
            _info("carried", [None, 1]),
        ],
        [_info("still_going", [], TensorProto.BOOL), _info("carried_on", [None, 1])],
    )
    nodes = [
        node("ReduceSum", ["tensor", "axis"], ["sum"]),
        node("Loop", ["rounds", "true", "sum"], ["variable"], body=body),
    ]
    return _write(
        path,
        nodes,
        [_info("tensor", [None, FEATURES])],
        [_info("variable", [None, 1])],
        axis=np.array([1], np.int64),
        rounds=np.int64(2**62),
        true=np.bool_(True),
    )


def hangs_for_good(path: Path) -> Path:
    """Loads, and never comes back from a run: one operator that counts to 2**62 for a start.

    onnxruntime looks at `terminate` between operators only, so nothing short of ending the process stops this.
    """
    vectorizer = node(
        "TfIdfVectorizer",
        ["integers"],
        ["variable"],
        mode="TF",
        min_gram_length=2,
        max_gram_length=2,
        max_skip_count=2**62,
        ngram_counts=[0, 1],
        ngram_indexes=[0],
        pool_int64s=[0, 1, 1],
    )
    return _write(
        path,
        [node("Cast", ["tensor"], ["integers"], to=INT64), vectorizer],
        [_info("tensor", [None, FEATURES])],
        [_info("variable", [None, 1])],
    )


# Files that do not load


def crashes_process(path: Path) -> Path:
    """Kills the process that loads it, by SIGSEGV while the session is created; about 1 MB.

    20,000 model-local functions, each calling the next: onnxruntime 1.31 follows the calls by recursion, without a
    limit, and runs out of stack. 3,000 are enough for a stack of 8 MB. The ONNX rules allow the file.
    """
    depth = 20_000
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("deep", 1)]

    def function(level: int) -> onnx.FunctionProto:
        call = node(f"Level{level + 1}", ["x"], ["y"], domain="deep")
        if level == depth:
            call = node("ReduceSum", ["x"], ["y"])
        return helper.make_function("deep", f"Level{level}", ["x"], ["y"], [call], opsets)

    model = helper.make_model(
        helper.make_graph(
            [node("Level0", ["tensor"], ["variable"], domain="deep")],
            "kit",
            [_info("tensor", [None, FEATURES])],
            [_info("variable", [None, 1])],
        ),
        opset_imports=opsets,
        functions=[function(level) for level in range(depth + 1)],
        ir_version=8,
    )
    return _save(path, model)


def unsupported_opset(path: Path) -> Path:
    """As `scaled`, but asks for operator set 999, which no onnxruntime has."""
    model = onnx.load(_sum(path, [None, FEATURES], [None, 1]))
    model.opset_import[0].version = 999
    return _save(path, model)


def truncated(path: Path, of: Path) -> Path:
    """The first half of another file."""
    whole = of.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def not_onnx(path: Path) -> Path:
    """The HTML page that a server answers with instead of the file."""
    path.write_text("<!DOCTYPE html>\n<html><body><h1>404 Not Found</h1></body></html>\n")
    return path


def external_data(path: Path) -> Path:
    """A model whose weights are said to be in another file, `weights.bin`, which is not there."""
    model = onnx.load(scaled(path, 1.0))
    (tensor,) = (entry for entry in model.graph.initializer if entry.name == "weights")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    return _save(path, model)


def _sum(path: Path, taken: Sequence[int | None], given: Sequence[int | None]) -> Path:
    return _write(
        path,
        [node("ReduceSum", ["tensor", "axis"], ["variable"])],
        [_info("tensor", taken)],
        [_info("variable", given)],
        axis=np.array([1], np.int64),
    )


def _info(name: str, shape: Sequence[int | None], kind: int = FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    **constants: Any,
) -> Path:
    values = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "kit", inputs, outputs, values)
    opsets = [helper.make_opsetid("", OPSET)]
    return _save(path, helper.make_model(graph, opset_imports=opsets, ir_version=8))


def _save(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path
