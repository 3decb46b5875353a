"""Make everything in models/, samples/ and expected/: run `python train.py` to make them again.

The same package versions give the same bytes; the SHA-256 of each file is printed. Before anything
is written, every model is loaded by onnxruntime as the engine loads it and its answers are held
against the library that trained it, and the rows in samples/distinct-rows.json are checked: on
each of them all models, and all pairs of a `prepare` and a `predict` model, differ by more than
1 %. Serving the models needs none of the packages that training needs.

The committed files were made by numpy 2.4.6, onnx 1.23.2, onnxmltools 1.16.0, onnxruntime 1.31.1,
scikit-learn 1.9.1, skl2onnx 1.20.0 and xgboost-cpu 3.2.0, on x86-64.
"""

import hashlib
import itertools
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # has to be set before onnxruntime is imported

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxmltools import convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType as XgboostFloats
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType as SklearnFloats
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from xgboost import XGBRegressor

from houses import FEATURES, LARGE_HOUSE, NORMAL_HOUSE, houses, prices

HERE = Path(__file__).parent
WIDTH = len(FEATURES)
OPSET = 15
TREES = 100
LEAVES = 29
DISTINCT_ROWS = 32
LEAST_DIFFERENCE = 0.01

Rows = npt.NDArray[np.float32]
Predict = Callable[[Rows], npt.NDArray[np.float64]]


def random_forest(rows: Rows, target: npt.NDArray[np.float64]) -> tuple[onnx.ModelProto, Predict]:
    """Train the random forest. Its input is named `float_input`."""
    forest = RandomForestRegressor(TREES, max_leaf_nodes=LEAVES, max_features=0.5, random_state=1)
    forest.fit(rows, target)
    return _from_sklearn(forest, "rf"), forest.predict


def gradient_boosting(
    rows: Rows, target: npt.NDArray[np.float64]
) -> tuple[onnx.ModelProto, Predict]:
    """Train the gradient boosting. Its input is named `float_input`."""
    boosting = GradientBoostingRegressor(
        n_estimators=TREES, max_depth=8, max_leaf_nodes=LEAVES, subsample=0.6, random_state=2
    )
    boosting.fit(rows, target)
    return _from_sklearn(boosting, "gbr"), boosting.predict


def xgboost(rows: Rows, target: npt.NDArray[np.float64]) -> tuple[onnx.ModelProto, Predict]:
    """Train the XGBoost model. Its input is named `input`, unlike that of the other two."""
    boosting = XGBRegressor(
        n_estimators=TREES,
        max_leaves=LEAVES,
        max_depth=0,
        grow_policy="lossguide",
        learning_rate=0.15,
        subsample=0.7,
        colsample_bytree=0.7,
        tree_method="hist",
        n_jobs=1,
        random_state=3,
    )
    boosting.fit(rows, target)
    proto = convert_xgboost(
        boosting, "xgb", initial_types=[("input", XgboostFloats([None, WIDTH]))], target_opset=OPSET
    )
    return proto, boosting.predict


def net_areas() -> onnx.ModelProto:
    """A `prepare` step that turns gross floor areas into net ones: 12 % less."""
    factor = np.ones(WIDTH, np.float32)
    for name in ("sqft_living", "sqft_above", "sqft_basement", "sqft_living15"):
        factor[FEATURES.index(name)] = 0.88
    return _prepare("prepare-a", factor, np.zeros(WIDTH, np.float32))


def cautious_grades() -> onnx.ModelProto:
    """A `prepare` step that takes the appraiser's grade down by one."""
    offset = np.zeros(WIDTH, np.float32)
    offset[FEATURES.index("grade")] = -1.0
    return _prepare("prepare-b", np.ones(WIDTH, np.float32), offset)


def _prepare(
    name: str, factor: npt.NDArray[np.float32], offset: npt.NDArray[np.float32]
) -> onnx.ModelProto:
    # The output is called `tensor`, the name that the next step gives to its own input.
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["house", "factor"], ["scaled"]),
            helper.make_node("Add", ["scaled", "offset"], ["tensor"]),
        ],
        name,
        [helper.make_tensor_value_info("house", TensorProto.FLOAT, [None, WIDTH])],
        [helper.make_tensor_value_info("tensor", TensorProto.FLOAT, [None, WIDTH])],
        [numpy_helper.from_array(factor, "factor"), numpy_helper.from_array(offset, "offset")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])


def _from_sklearn(
    trained: RandomForestRegressor | GradientBoostingRegressor, name: str
) -> onnx.ModelProto:
    inputs = [("float_input", SklearnFloats([None, WIDTH]))]
    proto: onnx.ModelProto = convert_sklearn(
        trained, name, initial_types=inputs, target_opset=OPSET
    )
    return proto


def tidied(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Take out what the converters add and nothing reads; check the result."""
    for field in ("producer_name", "producer_version", "domain", "doc_string"):
        proto.ClearField(field)
    proto.graph.ClearField("doc_string")
    opsets = {opset.domain: opset for opset in proto.opset_import}  # one converter repeats itself
    del proto.opset_import[:]
    proto.opset_import.extend(opsets[domain] for domain in sorted(opsets))
    proto.ir_version = 8
    onnx.checker.check_model(proto, full_check=True)
    return proto


def answers(model: bytes, rows: Rows) -> Rows:
    """Run a model the way the engine does: one thread, one input, one output."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        path.write_bytes(model)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    (result,) = session.run([made.name], {given.name: rows})
    return np.asarray(result, np.float32)


def distinct_rows(models: dict[str, bytes], candidates: Rows) -> Rows:
    """Choose rows on which every model, and every pair of steps, gives an answer of its own."""
    prepared = [candidates, answers(models["prepare-a"], candidates)]
    prepared.append(answers(models["prepare-b"], candidates))
    given = [answers(models[name], x)[:, 0] for name in ("rf", "gbr", "xgb") for x in prepared]
    least = np.full(len(candidates), np.inf)
    for one, other in itertools.combinations(given, 2):
        least = np.minimum(least, np.abs(one - other) / np.maximum(np.abs(one), np.abs(other)))
    chosen = np.flatnonzero(least > LEAST_DIFFERENCE)[:DISTINCT_ROWS]
    if len(chosen) < DISTINCT_ROWS:
        raise SystemExit(f"only {len(chosen)} rows tell all models apart; {DISTINCT_ROWS} needed")
    print(f"distinct rows: {len(chosen)}, least difference {least[chosen].min():.2%}")
    return candidates[chosen]


def records(field: str, rows: Rows) -> list[dict[str, list[float]]]:
    """Rows as the engine takes and gives them, in the shortest text that is the same float32."""
    return [{field: [float(str(value)) for value in row]} for row in rows]


def write(path: str, content: bytes) -> None:
    """Write one file of this folder and print its size and SHA-256."""
    target = HERE / path
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(content)
    print(f"{hashlib.sha256(content).hexdigest()}  {len(content):>7}  {path}")


def _lines(rows: list[dict[str, list[float]]]) -> bytes:
    return (
        "[" + ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows) + "]\n"
    ).encode()


def main() -> None:
    """Train, check, then write."""
    rows = houses(6000, seed=20)
    target = prices(rows, seed=21)
    held_out = houses(4000, seed=22)
    samples = {
        "one-row": np.array([NORMAL_HOUSE], np.float32),
        "large-house": np.array([LARGE_HOUSE], np.float32),
        "rows-1000": held_out[:1000],
    }
    models: dict[str, bytes] = {}
    for name, train in (("rf", random_forest), ("gbr", gradient_boosting), ("xgb", xgboost)):
        proto, predict = train(rows, target)
        models[name] = tidied(proto).SerializeToString(deterministic=True)
        ours, theirs = answers(models[name], held_out)[:, 0], np.asarray(predict(held_out))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, err_msg=name)
        error = np.mean(np.abs(ours / prices(held_out, seed=23) - 1))
        print(f"{name}: answers as trained; mean error {error:.1%} on houses it has not seen")
    for name, prepare in (("prepare-a", net_areas), ("prepare-b", cautious_grades)):
        models[name] = tidied(prepare()).SerializeToString(deterministic=True)
    samples["distinct-rows"] = distinct_rows(models, held_out)

    for name, model in models.items():
        write(f"models/{name}.onnx", model)
    for name, sample in samples.items():
        write(f"samples/{name}.json", _lines(records("tensor", sample)))
    for name in ("rf", "gbr", "xgb"):
        expected = {
            sample: records("variable", answers(models[name], rows))
            for sample, rows in samples.items()
        }
        write(f"expected/{name}.json", json.dumps(expected, separators=(",", ":")).encode() + b"\n")


if __name__ == "__main__":
    main()
