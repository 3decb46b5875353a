"""The small ONNX models of the examples, as bytes: the same call gives the same bytes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, ML_OPSET, IR = 17, 3, 8
FLOAT = TensorProto.FLOAT

Array = np.ndarray[Any, Any]

REGIONS = {"Zürich": ("east", 1.5), "Genève": ("west", 1.25), "Bern": ("middle", 1.0)}


def linear(given: str, made: str, weights: Sequence[float], bias: float) -> bytes:
    """`made = given @ weights + bias`: [N, len(weights)] float32 -> [N, 1] float32."""
    return model(
        [
            helper.make_node("MatMul", [given, "weights"], ["product"]),
            helper.make_node("Add", ["product", "bias"], [made]),
        ],
        {given: (FLOAT, [None, len(weights)])},
        {made: (FLOAT, [None, 1])},
        weights=np.array(weights, np.float32).reshape(-1, 1),
        bias=np.array([bias], np.float32),
    )


def net_areas_model() -> bytes:
    """`areas` [N, 3] -> `house` [N, 3] with three quarters of the area, `gross` [N, 1]: the area as it was."""
    return model(
        [
            helper.make_node("Mul", ["areas", "factor"], ["house"]),
            helper.make_node("MatMul", ["areas", "first"], ["gross"]),
        ],
        {"areas": (FLOAT, [None, 3])},
        {"house": (FLOAT, [None, 3]), "gross": (FLOAT, [None, 1])},
        factor=np.array([0.75, 1, 1], np.float32),
        first=np.array([[1], [0], [0]], np.float32),
    )


def two_inputs_model() -> bytes:
    """`x` [N, 3], `y` [N, 1] -> `price` [N, 1]: 2,000 x[0] + 1,000 y."""
    return model(
        [
            helper.make_node("MatMul", ["x", "weights"], ["net"]),
            helper.make_node("Mul", ["y", "thousand"], ["gross"]),
            helper.make_node("Add", ["net", "gross"], ["price"]),
        ],
        {"x": (FLOAT, [None, 3]), "y": (FLOAT, [None, 1])},
        {"price": (FLOAT, [None, 1])},
        weights=np.array([[2000], [0], [0]], np.float32),
        thousand=np.array([1000], np.float32),
    )


def price_and_class_model() -> bytes:
    """The price of a share of a house, its class, whether something in it is old, and half the share."""
    nodes = [
        helper.make_node("Flatten", ["area_m2"], ["areas"], axis=0),
        helper.make_node("Squeeze", ["areas", "zero"], ["area"]),
        helper.make_node("Mul", ["area", "each"], ["ground"]),
        helper.make_node("Cast", ["has_garden"], ["with_garden"], to=FLOAT),
        helper.make_node("Mul", ["with_garden", "garden_price"], ["garden"]),
        helper.make_node("Add", ["ground", "garden"], ["whole"]),
        helper.make_node("Cast", ["share"], ["part"], to=FLOAT),
        helper.make_node("Mul", ["whole", "part"], ["owned"]),
        helper.make_node("Unsqueeze", ["owned", "one"], ["price"]),
        helper.make_node("Greater", ["n_rooms", "two"], ["above_two"]),
        helper.make_node("Greater", ["n_rooms", "four"], ["above_four"]),
        helper.make_node("Cast", ["above_two"], ["second"], to=TensorProto.INT64),
        helper.make_node("Cast", ["above_four"], ["third"], to=TensorProto.INT64),
        helper.make_node("Add", ["second", "third"], ["class"]),
        helper.make_node("ReduceMax", ["ages"], ["oldest"], axes=[1], keepdims=0),
        helper.make_node("Greater", ["oldest", "century"], ["historic"]),
        helper.make_node("Mul", ["part", "half"], ["smaller"]),
        helper.make_node("Cast", ["smaller"], ["half_share"], to=TensorProto.FLOAT16),
    ]
    return model(
        nodes,
        {
            "area_m2": (FLOAT, [None, 1]),
            "n_rooms": (TensorProto.INT64, [None]),
            "has_garden": (TensorProto.BOOL, [None]),
            "share": (TensorProto.FLOAT16, [None]),
            "ages": (TensorProto.INT32, [None, None]),
        },
        {
            "price": (FLOAT, [None, 1]),
            "class": (TensorProto.INT64, [None]),
            "historic": (TensorProto.BOOL, [None]),
            "half_share": (TensorProto.FLOAT16, [None]),
        },
        zero=np.array([0], np.int64),
        one=np.array([1], np.int64),
        each=np.array([3000], np.float32),
        garden_price=np.array([50_000], np.float32),
        two=np.array([2], np.int64),
        four=np.array([4], np.int64),
        century=np.array([100], np.int32),
        half=np.array([0.5], np.float32),
    )


def brightness_model() -> bytes:
    """`picture` [2, 3] -> `mean` [] and `lines` [2]: no dimension of it is rows of a request."""
    return model(
        [
            helper.make_node("ReduceMean", ["picture"], ["mean"], axes=[0, 1], keepdims=0),
            helper.make_node("ReduceMean", ["picture"], ["lines"], axes=[1], keepdims=0),
        ],
        {"picture": (FLOAT, [2, 3])},
        {"mean": (FLOAT, []), "lines": (FLOAT, [2])},
    )


def regions_model() -> bytes:
    """`town` [N] string -> `region` [N] string, `factor` [N] float32."""
    towns = list(REGIONS)
    encoded = [
        helper.make_node(
            "LabelEncoder",
            ["town"],
            ["region"],
            domain="ai.onnx.ml",
            keys_strings=towns,
            values_strings=[region for region, _ in REGIONS.values()],
            default_string="nowhere",
        ),
        helper.make_node(
            "LabelEncoder",
            ["town"],
            ["factor"],
            domain="ai.onnx.ml",
            keys_strings=towns,
            values_floats=[factor for _, factor in REGIONS.values()],
            default_float=0.0,
        ),
    ]
    string = TensorProto.STRING
    return model(
        encoded, {"town": (string, [None])}, {"region": (string, [None]), "factor": (FLOAT, [None])}
    )


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, list[int | None]]],
    outputs: Mapping[str, tuple[int, list[int | None]]],
    **constants: Array,
) -> bytes:
    """The bytes of a model, checked. The same arguments give the same bytes."""
    graph = helper.make_graph(
        list(nodes),
        "example",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=IR)
    onnx.checker.check_model(proto, full_check=True)
    made: bytes = proto.SerializeToString(deterministic=True)
    return made
