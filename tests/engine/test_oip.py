"""The Open Inference Protocol over HTTP: by hand, as `curl` would send it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit import models, oip
from kit.engine import EngineProcess, Reply
from kit.folder import ConfigFolder, document, model
from kit.oip_engines import client, inputs, serving
from kit.serving import manifest_of
from kit.serving import serving as run

ROWS = [[float(number) for number in range(18)], [1.0] * 18]
GOOD = oip.tensor("tensor", "FP32", (2, 18), ROWS)
PATH = "/v2/models/house-price"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """An engine with a model that sums 18 numbers."""
    folder = tmp_path_factory.mktemp("house")
    with serving(folder, document(model(models.scaled(folder / "sum.onnx", 1)))) as running:
        yield running
        assert running.stop() == 0
        assert running.stderr == ""


def infer(
    running: EngineProcess, body: bytes, *, length: int | None = None, path: str = PATH
) -> Reply:
    headers = {} if length is None else {"Inference-Header-Content-Length": str(length)}
    return running.post(body, f"{path}/infer", "application/json", headers=headers)


def version(running: EngineProcess) -> str:
    found: str = running.get("/status").json()["serving"]["version"]
    return found


def test_a_request_in_json_is_answered_in_json(house: EngineProcess) -> None:
    """Pipeline, version, identity and outputs; the header names the version as in all answers."""
    reply = infer(house, oip.body(GOOD, id="42"))
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-midstream-version"] == version(house)
    assert reply.json() == {
        "model_name": "house-price",
        "model_version": version(house),
        "id": "42",
        "parameters": {"pipeline_version": version(house), "partition": "test-engine"},
        "outputs": [
            {"name": "variable", "shape": [2, 1], "datatype": "FP32", "data": [153.0, 18.0]}
        ],
    }


@pytest.mark.parametrize("pad", range(4))
def test_binary_data_is_answered_in_binary(house: EngineProcess, pad: int) -> None:
    """Wherever in the body the numbers begin."""
    body, length = oip.binary(
        ("tensor", "FP32", (2, 18), oip.packed("FP32", ROWS)),
        pad=pad,
        parameters={"binary_data_output": True},
    )
    reply = infer(house, body, length=length)
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/octet-stream"
    _, outputs = oip.unpacked(reply.body, reply.headers)
    assert outputs["variable"].tolist() == [[153.0], [18.0]]


def test_many_rows_are_answered_by_a_thread(house: EngineProcess) -> None:
    """As large batches of other formats are."""
    rows = np.arange(90_000, dtype=np.float32).reshape(5000, 18) / 1000
    body, length = oip.binary(
        ("tensor", "FP32", rows.shape, rows.tobytes()), parameters={"binary_data_output": True}
    )
    reply = infer(house, body, length=length)
    _, outputs = oip.unpacked(reply.body, reply.headers)
    assert np.allclose(outputs["variable"][:, 0], rows.sum(axis=1), rtol=1e-5)


def test_a_path_may_name_the_version_that_serves(house: EngineProcess) -> None:
    """Another one is not found; the message says which serves."""
    serves = version(house)
    assert infer(house, oip.body(GOOD), path=f"{PATH}/versions/{serves}").status == 200
    for reply in (
        infer(house, oip.body(GOOD), path=f"{PATH}/versions/1"),
        house.get(f"{PATH}/versions/1"),
        house.get(f"{PATH}/versions/1/ready"),
    ):
        assert (reply.status, reply.json()["reason"]) == (404, "UnknownVersion")
        assert serves in reply.json()["error"]


def test_another_pipeline_is_not_found(house: EngineProcess) -> None:
    """The message says which is here."""
    for reply in (
        infer(house, oip.body(GOOD), path="/v2/models/other"),
        house.get("/v2/models/other"),
        house.get("/v2/models/other/ready"),
    ):
        assert (reply.status, reply.json()["reason"]) == (404, "UnknownPipeline")
        assert "'house-price'" in reply.json()["error"]


def test_what_is_asked_beside_inference(house: EngineProcess) -> None:
    """Server and pipeline tell what they are, and that they are ready."""
    serves = version(house)
    told = {
        "name": "house-price",
        "versions": [serves],
        "platform": "midstream",
        "inputs": [{"name": "tensor", "datatype": "FP32", "shape": [-1, 18]}],
        "outputs": [{"name": "variable", "datatype": "FP32", "shape": [-1, 1]}],
    }
    expected: dict[str, dict[str, Any]] = {
        "/v2/health/live": {"live": True},
        "/v2/health/ready": {"ready": True},
        PATH: told,
        f"{PATH}/versions/{serves}": told,
        f"{PATH}/ready": {"name": "house-price", "ready": True},
        f"{PATH}/versions/{serves}/ready": {"name": "house-price", "ready": True},
    }
    for path, said in expected.items():
        reply = house.get(path)
        assert (reply.status, reply.headers["content-type"]) == (200, "application/json"), path
        assert said.items() <= reply.json().items(), path
    assert house.get("/v2").json()["extensions"] == ["binary_tensor_data"]


BAD: dict[str, tuple[bytes, int | None, str, str | None]] = {
    "an empty body": (b"", None, "EmptyBody", None),
    "rows of another format": (b'[{"tensor":[1]}]', None, "NotInferenceRequest", None),
    "deep nesting": (b"[" * 50_000, None, "NotJSON", None),
    "a header beyond the body": (oip.body(GOOD), 100_000, "WrongBinary", None),
    "another datatype": (oip.body({**GOOD, "datatype": "FP64"}), None, "WrongType", "tensor"),
    "another shape": (oip.body({**GOOD, "shape": [4, 9]}), None, "WrongShape", "tensor"),
    "a shape that overflows": (
        oip.body({**GOOD, "shape": [2**62, 2**62]}),
        None,
        "TooManyRows",
        None,
    ),
    "an unknown input": (oip.body({**GOOD, "name": "tensr"}), None, "WrongFields", "tensr"),
    "an input twice": (oip.body(GOOD, GOOD), None, "WrongFields", "tensor"),
    "an unknown output": (oip.body(GOOD, outputs=[{"name": "y"}]), None, "UnknownOutput", "y"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_requests_are_400_with_the_protocol_s_error(house: EngineProcess, what: str) -> None:
    """`error` is the sentence; reason and field stand beside it as in all errors."""
    body, length, reason, field = BAD[what]
    reply = infer(house, body, length=length)
    said = reply.json()
    assert (reply.status, reply.headers["content-type"]) == (400, "application/json")
    assert (said["reason"], said.get("field")) == (reason, field)
    assert said["error"]
    assert infer(house, oip.body(GOOD)).status == 200


@pytest.mark.parametrize("value", ["-1", "abc", "1e3"])
def test_a_header_that_is_no_length_is_400(house: EngineProcess, value: str) -> None:
    """Never a guess at where the binary data begins."""
    headers = {"Inference-Header-Content-Length": value}
    reply = house.post(oip.body(GOOD), f"{PATH}/infer", headers=headers)
    assert (reply.status, reply.json()["reason"]) == (400, "WrongBinary")


@pytest.mark.parametrize(
    "path", ["/v2/", "/v2/models", "/v2/repository/index", f"{PATH}/config", f"{PATH}/infer/"]
)
def test_paths_that_are_not_served_list_those_that_are(house: EngineProcess, path: str) -> None:
    """Triton has more of them; the message has ours."""
    reply = house.get(path)
    assert (reply.status, reply.json()["reason"]) == (404, "NotFound")
    assert "POST /v2/models/{name}/infer" in reply.json()["error"]
    assert "/v2/models/{name}/versions/{version}/ready" in reply.json()["error"]


def test_inference_is_a_post(house: EngineProcess) -> None:
    """As it is on the other paths."""
    reply = house.get(f"{PATH}/infer")
    assert (reply.status, reply.headers["allow"]) == (405, "POST")


def test_a_swap_changes_numbers_and_version_together(tmp_path: Path) -> None:
    """Each answer is of the version that it names, in body and header; none fails."""
    factors = {}
    documents = []
    for factor in (1, 2):
        documents.append(document(model(models.scaled(tmp_path / f"{factor}.onnx", factor))))
        factors[documents[-1].version] = factor
    with serving(tmp_path, documents[0]) as running:
        config = ConfigFolder(tmp_path / "config")
        config.sequence = 1
        config.write(*documents)
        seen = []
        while documents[1].version not in seen:
            reply = infer(running, oip.body(GOOD))
            assert reply.status == 200
            said = reply.json()
            assert reply.headers["x-midstream-version"] == said["model_version"]
            assert said["outputs"][0]["data"][0] == 153 * factors[said["model_version"]]
            seen.append(said["model_version"])
        running.wait("serving", version=documents[1].version)
        assert running.get(PATH).json()["versions"] == [documents[1].version]


def test_midstream_run_speaks_it_for_all_its_workers(tmp_path: Path) -> None:
    """Inference by a worker, metadata by all of them."""
    manifest = tmp_path / "pipeline.yaml"
    manifest.write_text(manifest_of(("sum", models.scaled(tmp_path / "sum.onnx", 3))))
    rows = np.array(ROWS, np.float32)
    with run(manifest, "--workers", "2") as service, client(service.port) as triton_client:
        told = triton_client.get_model_metadata("house-price")
        assert told["inputs"] == [{"name": "tensor", "datatype": "FP32", "shape": [-1, 18]}]
        assert triton_client.is_server_ready()
        answer = triton_client.infer("house-price", inputs({("tensor", "FP32"): rows}))
        assert answer.as_numpy("variable").tolist() == [[459.0], [54.0]]
        assert told["versions"] == [answer.get_response()["model_version"]]
