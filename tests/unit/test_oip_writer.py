"""Results become answers of the Open Inference Protocol, as they were asked for."""

import json
from typing import Any

import numpy as np
import pytest

from kit import oip
from midstream_engine.batch import Batch, Checks, Choice, Facts, Result, VariantRef
from midstream_engine.errors import BadInput
from midstream_engine.oip.asked import Asked, AskedOutput
from midstream_engine.oip.writer import OipWriter
from midstream_engine.schema import Field

FACTS = Facts(
    pipeline="house-price", version="v-1", partition="e-1", last_model="rf", last_sha256="ab"
)
OUTPUTS = (Field("price", "float32", (1,)), Field("label", "string", ()))
BINARY = Asked(binary=True)


def result(outputs: dict[str, Any], rows: int = 2, **more: Any) -> Result:
    return Result(Batch({}, rows), outputs, **more)


def prices(**more: Any) -> Result:
    return result(
        {
            "label": np.array(["a", "Grüße"], object),
            "price": np.array([[718013.75], [0.1]], np.float32),
        },
        **more,
    )


def write(
    made: Result, asked: Asked, outputs: Any = OUTPUTS, facts: Facts = FACTS
) -> tuple[dict[str, Any], dict[str, Any]]:
    return oip.unpacked(*OipWriter(outputs, facts).write(made, asked))


def test_an_answer_in_json_has_what_the_protocol_says() -> None:
    """Pipeline and version, identity, and outputs in their order with flat data in the shortest text."""
    body, headers = OipWriter(OUTPUTS, FACTS).write(prices(), Asked(id="42"))
    assert body.decode() == (
        '{"model_name":"house-price","model_version":"v-1","id":"42",'
        '"parameters":{"pipeline_version":"v-1","partition":"e-1"},"outputs":['
        '{"name":"price","shape":[2,1],"datatype":"FP32","data":[718013.75,0.1]},'
        '{"name":"label","shape":[2],"datatype":"BYTES","data":["a","Grüße"]}]}'
    )
    assert headers == b"content-type: application/json\r\nx-midstream-version: v-1\r\n"


def test_an_answer_in_binary_has_its_data_behind_the_json() -> None:
    """The header says where; a request without an identity gets none."""
    body, headers = OipWriter(OUTPUTS, FACTS).write(prices(), BINARY)
    length = body.index(b"]}", body.index(b'"label"')) + 2
    assert headers == (
        b"content-type: application/octet-stream\r\n"
        b"inference-header-content-length: %d\r\nx-midstream-version: v-1\r\n" % length
    )
    document, outputs = oip.unpacked(body, headers)
    assert "id" not in document
    assert all("data" not in output for output in document["outputs"])
    assert outputs["price"].tolist() == np.array([[718013.75], [0.1]], np.float32).tolist()
    assert outputs["label"] == ["a", "Grüße"]


VALUES: dict[str, Any] = {
    **{name: np.array([[0, 1], [1, 100]], kind) for name, kind in oip.TYPES.items()},
    "BYTES": np.array([["", "ä"], ["b", "c\x00"]], object),
}


@pytest.mark.parametrize("asked", [Asked(), BINARY])
@pytest.mark.parametrize("datatype", VALUES)
def test_every_datatype_is_written(datatype: str, asked: Asked) -> None:
    """What a client reads is what the model gave."""
    array = VALUES[datatype]
    document, outputs = write(result({"y": array}), asked, None)
    assert document["outputs"][0]["datatype"] == datatype
    assert document["outputs"][0]["shape"] == [2, 2]
    if datatype == "BYTES":
        assert outputs["y"] == array.reshape(-1).tolist()
    else:
        assert outputs["y"].tobytes() == array.tobytes()


@pytest.mark.parametrize("asked", [Asked(), BINARY])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4).T,
        np.arange(24, dtype=np.int64).reshape(4, 6)[:, ::2],
        np.zeros((2, 0), np.float32),
        np.array([["a", "ü"]]),
    ],
    ids=["transposed", "every other", "no values", "numpy's own strings"],
)
def test_arrays_of_any_layout_are_written_row_by_row(array: Any, asked: Asked) -> None:
    """Layout in memory is the model's business."""
    document, outputs = write(result({"y": array}), asked, None)
    assert document["outputs"][0]["shape"] == list(array.shape)
    assert np.array(outputs["y"]).reshape(array.shape).tolist() == array.tolist()


def test_numbers_that_json_lacks_are_null() -> None:
    """Binary data has them as they are."""
    array = np.array([np.nan, np.inf], np.float32)
    document, _ = write(result({"y": array}), Asked(), None)
    assert document["outputs"][0]["data"] == [None, None]
    assert write(result({"y": array}), BINARY, None)[1]["y"].tobytes() == array.tobytes()


def test_outputs_come_as_they_are_asked_for() -> None:
    """A part of them, in the order of the request, each in its own way."""
    asked = Asked(outputs=(AskedOutput("label", True), AskedOutput("price", False)), binary=True)
    document, outputs = write(prices(), asked)
    assert [output["name"] for output in document["outputs"]] == ["label", "price"]
    assert ["data" in output for output in document["outputs"]] == [False, True]
    assert outputs["label"] == ["a", "Grüße"]
    document, _ = write(prices(), Asked(outputs=(AskedOutput("price", False),)))
    assert [output["name"] for output in document["outputs"]] == ["price"]


def test_an_output_that_there_is_not_is_refused() -> None:
    """Also where only running the models tells which there are."""
    writer = OipWriter(OUTPUTS, FACTS)
    assert [writer.knows(name) for name in ("price", "y", "anomaly.count")] == [True, False, False]
    assert OipWriter(None, FACTS).knows("y")
    with pytest.raises(
        BadInput, match="there is no output 'y'; there are 'label', 'price'"
    ) as caught:
        OipWriter(None, FACTS).write(prices(), Asked(outputs=(AskedOutput("y", False),)))
    assert caught.value.reason == "UnknownOutput"


def ragged(*shapes: tuple[int, ...]) -> Any:
    rows = np.empty(len(shapes), object)
    for number, shape in enumerate(shapes):
        rows[number] = np.full(shape, number, np.float32)
    return rows


def test_rows_that_were_run_one_by_one_become_one_tensor() -> None:
    """Where their shapes are equal."""
    _, outputs = write(result({"y": ragged((3, 2), (3, 2))}), BINARY, None)
    assert outputs["y"].shape == (2, 3, 2)
    assert outputs["y"][:, 0, 0].tolist() == [0, 1]


def test_rows_of_different_shapes_are_refused() -> None:
    """The protocol has no tensor for them; leaving them out gives the rest."""
    made = prices()
    made.outputs["boxes"] = ragged((3, 4), (5, 4))
    with pytest.raises(BadInput) as caught:
        write(made, Asked(), None)
    assert (caught.value.reason, caught.value.row) == ("RaggedOutput", 1)
    assert caught.value.message == (
        "output 'boxes' has the shape [5, 4] in row 1 and [3, 4] in row 0, and no tensor of the protocol holds both; "
        "send one row in a request, or leave this output out of outputs"
    )
    assert "price" in write(made, Asked(outputs=(AskedOutput("price", False),)), None)[1]


# Splits, validations and shadows

VARIANTS = (
    VariantRef("control", "rf", "3", "aa" * 32),
    VariantRef("rival", "xgb", None, "bb" * 32),
)
SPLIT = Facts(
    **{**{name: getattr(FACTS, name) for name in FACTS.__slots__}, "splits": ("predict",)}
)
FAILURES = ({"False": {"expr": "rf.outputs[0][0] < 100"}}, {"True": {"expr": "out.price[0] < 0"}})
CHECKED = Facts(
    **{
        **{name: getattr(FACTS, name) for name in FACTS.__slots__},
        "validations": (("cheap", FAILURES[0]), ("negative", FAILURES[1])),
    }
)


def test_the_variants_that_answered_are_told() -> None:
    """Summed up in the parameters; row by row for the asking."""
    choice = Choice("predict", VARIANTS, np.array([1, 1, 0]))
    made = result({"y": np.zeros(3, np.float32)}, 3, choices=(choice,))
    document, outputs = write(made, Asked(), None, SPLIT)
    assert json.loads(document["parameters"]["model_split"]) == [
        {
            "step": "predict",
            "variant": "control",
            "name": "rf",
            "version": "3",
            "sha": "aa" * 32,
            "rows": 1,
        },
        {
            "step": "predict",
            "variant": "rival",
            "name": "xgb",
            "version": None,
            "sha": "bb" * 32,
            "rows": 2,
        },
    ]
    assert list(outputs) == ["y"]
    asked = Asked(outputs=(AskedOutput("_model_split", True),))
    document, outputs = write(made, asked, None, SPLIT)
    assert document["outputs"][0]["shape"] == [3, 1]
    assert [json.loads(text)["name"] for text in outputs["_model_split"]] == ["xgb", "xgb", "rf"]
    assert json.loads(outputs["_model_split"][2]) == {
        "name": "rf",
        "version": "3",
        "sha": "aa" * 32,
    }


def test_failed_validations_are_told() -> None:
    """Summed up in the parameters; row by row for the asking."""
    checks = Checks(
        ("cheap", "negative"), FAILURES, np.array([[True, False, True], [False, False, False]])
    )
    made = result({"y": np.zeros(3, np.float32)}, 3, checks=checks)
    document, _ = write(made, Asked(), None, CHECKED)
    assert document["parameters"]["anomaly_count"] == 2
    assert json.loads(document["parameters"]["check_failures"]) == [
        {"name": "cheap", "failure": FAILURES[0], "rows": 2}
    ]
    names = ("anomaly.count", "anomaly.cheap", "anomaly.negative")
    asked = Asked(outputs=tuple(AskedOutput(name, False) for name in names))
    document, outputs = write(made, asked, None, CHECKED)
    assert [output["datatype"] for output in document["outputs"]] == ["UINT32", "BOOL", "BOOL"]
    assert outputs["anomaly.count"].tolist() == [1, 0, 1]
    assert outputs["anomaly.cheap"].tolist() == [True, False, True]
    assert outputs["anomaly.negative"].tolist() == [False, False, False]
    assert all(OipWriter(OUTPUTS, CHECKED).knows(name) for name in names)


def test_nothing_is_said_of_validations_that_all_hold() -> None:
    """But that there were none that failed."""
    checks = Checks(("cheap", "negative"), FAILURES, np.zeros((2, 2), np.bool_))
    document, _ = write(prices(checks=checks), Asked(), OUTPUTS, CHECKED)
    assert document["parameters"] == {
        "pipeline_version": "v-1",
        "partition": "e-1",
        "anomaly_count": 0,
    }


def test_challengers_that_were_waited_for_are_in_the_answer() -> None:
    """Under the names that the other formats give them."""
    facts = Facts(
        **{**{n: getattr(FACTS, n) for n in FACTS.__slots__}, "challengers": ("xgb", "nn")}
    )
    shadows = {"xgb": {"price": np.array([[1.0], [2.0]], np.float32)}, "nn": None}
    made = prices(shadows=shadows)
    document, outputs = write(made, Asked(), OUTPUTS, facts)
    assert list(outputs) == ["price", "label", "out_xgb.price"]
    assert outputs["out_xgb.price"].tolist() == [[1.0], [2.0]]
    assert document["parameters"]["challengers_failed"] == "nn"
    with pytest.raises(BadInput, match="challenger 'nn' gave no answer to this request"):
        write(made, Asked(outputs=(AskedOutput("out_nn.price", False),)), OUTPUTS, facts)
    assert OipWriter(OUTPUTS, facts).knows("out_nn.price")


def test_parameters_are_texts_numbers_and_booleans() -> None:
    """The protocol knows no others, and clients refuse them."""
    choice = Choice("predict", VARIANTS, np.array([0, 1]))
    checks = Checks(("cheap", "negative"), FAILURES, np.ones((2, 2), np.bool_))
    document, _ = write(prices(choices=(choice,), checks=checks), Asked(), OUTPUTS, CHECKED)
    assert all(isinstance(value, str | int | bool) for value in document["parameters"].values())
