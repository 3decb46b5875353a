"""Models whose time depends on the request: they serve well until the first number of a first row says otherwise."""

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

FOREVER = 1e15
"""Rounds that take days; onnxruntime's `terminate` stops them."""


def rounds(path: Path) -> Path:
    """`variable = sum(x)` after `x[0, 0]` rounds of nothing: [N, 2] float32 -> [N, 1]. Rows of zeros take none."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still_going"]),
            helper.make_node("Identity", ["carried"], ["carried_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, [None, 1]),
        ],
        [
            helper.make_tensor_value_info("still_going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried_on", TensorProto.FLOAT, [None, 1]),
        ],
    )
    nodes = [
        helper.make_node("ReduceSum", ["tensor", "axis"], ["sum"]),
        helper.make_node("Slice", ["tensor", "start", "end"], ["first"]),
        helper.make_node("Reshape", ["first", "scalar"], ["one"]),
        helper.make_node("Cast", ["one"], ["count"], to=TensorProto.INT64),
        helper.make_node("Loop", ["count", "true", "sum"], ["variable"], body=body),
    ]
    constants = {
        "axis": np.array([1], np.int64),
        "start": np.array([0, 0], np.int64),
        "end": np.array([1, 1], np.int64),
        "scalar": np.array([], np.int64),
        "true": np.array(True),
    }
    return _write(path, nodes, constants)


def stops_for_nothing(path: Path) -> Path:
    """`variable = sum(x)`, but where x[0, 0] is above 0 one operator counts to 2**62: [N, 2] float32 -> [N, 1].

    onnxruntime looks at `terminate` between operators only, so nothing short of ending the process stops that.
    """
    made = helper.make_tensor_value_info("made", TensorProto.FLOAT, [None, 1])
    count = [
        helper.make_node("Cast", ["tensor"], ["integers"], to=TensorProto.INT64),
        helper.make_node(
            "TfIdfVectorizer",
            ["integers"],
            ["made"],
            mode="TF",
            min_gram_length=2,
            max_gram_length=2,
            max_skip_count=2**62,
            ngram_counts=[0, 1],
            ngram_indexes=[0],
            pool_int64s=[0, 1, 1],
        ),
    ]
    total = [helper.make_node("ReduceSum", ["tensor", "axis"], ["made"])]
    nodes = [
        helper.make_node("Slice", ["tensor", "start", "end"], ["first"]),
        helper.make_node("Reshape", ["first", "scalar"], ["one"]),
        helper.make_node("Greater", ["one", "zero"], ["asked"]),
        helper.make_node(
            "If",
            ["asked"],
            ["variable"],
            then_branch=helper.make_graph(count, "count", [], [made]),
            else_branch=helper.make_graph(total, "total", [], [made]),
        ),
    ]
    constants = {
        "axis": np.array([1], np.int64),
        "start": np.array([0, 0], np.int64),
        "end": np.array([1, 1], np.int64),
        "scalar": np.array([], np.int64),
        "zero": np.array(0, np.float32),
    }
    return _write(path, nodes, constants)


def _write(path: Path, nodes: list[Any], constants: dict[str, Any]) -> Path:
    graph = helper.make_graph(
        nodes,
        "kit",
        [helper.make_tensor_value_info("tensor", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("variable", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path
