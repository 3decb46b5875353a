"""Triton's own Python client, unchanged, with an engine, and through the load balancer."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from kit.balanced import balanced
from kit.engine import EngineProcess
from kit.oip_engines import DATATYPES, client, echoing, inputs, serving, values

PIPELINE = "house-price"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """An engine whose model gives back what it gets, of every datatype."""
    folder = tmp_path_factory.mktemp("echo")
    with serving(folder, echoing(folder)) as running:
        yield running
        assert running.stop() == 0
        assert running.stderr == ""


@pytest.fixture(scope="module", params=["engine", "load balancer"])
def port(request: pytest.FixtureRequest, engine: EngineProcess) -> Iterator[int]:
    """Where to ask: the engine itself, or the load balancer before it."""
    if request.param == "engine":
        yield engine.port
    else:
        with balanced(engine) as front:
            yield front.port


@pytest.fixture(scope="module")
def version(engine: EngineProcess) -> str:
    found: str = engine.get("/status").json()["serving"]["version"]
    return found


def check(answer: Any, sent: dict[str, Any]) -> None:
    """The outputs are the inputs, bit for bit."""
    for datatype, array in sent.items():
        got = answer.as_numpy(f"same {datatype}")
        assert got.shape == array.shape
        if datatype == "BYTES":
            texts = [text.decode() if isinstance(text, bytes) else text for text in got.reshape(-1)]
            assert texts == array.reshape(-1).tolist()
        else:
            assert (got.dtype, got.tobytes()) == (array.dtype, array.tobytes())


@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("binary_in", [True, False])
def test_every_datatype_goes_both_ways(port: int, binary_in: bool, binary_out: bool) -> None:
    """In JSON and as binary data, in any combination."""
    sent = values()
    asked = [triton.InferRequestedOutput(f"same {name}", binary_data=binary_out) for name in sent]
    with client(port) as triton_client:
        answer = triton_client.infer(PIPELINE, inputs(sent, binary=binary_in), outputs=asked)
    check(answer, sent)
    assert [output["name"] for output in answer.get_response()["outputs"]] == [
        f"same {name}" for name in sent
    ]


def test_all_outputs_come_as_binary_data_when_none_is_named(port: int) -> None:
    """That is what the client asks for then."""
    sent = values()
    with client(port) as triton_client:
        answer = triton_client.infer(PIPELINE, inputs(sent))
    check(answer, sent)
    assert all(
        "binary_data_size" in each["parameters"] for each in answer.get_response()["outputs"]
    )


def test_a_part_of_the_outputs_comes_in_the_order_asked_for(port: int, version: str) -> None:
    """Beside identity, pipeline and version."""
    sent = values()
    asked = [triton.InferRequestedOutput(f"same {name}") for name in ("FP64", "BOOL")]
    with client(port) as triton_client:
        answer = triton_client.infer(
            PIPELINE,
            inputs(sent),
            outputs=asked,
            request_id="my request",
            priority=3,
            timeout=10**6,
        )
    said = answer.get_response()
    assert [output["name"] for output in said["outputs"]] == ["same FP64", "same BOOL"]
    assert (said["id"], said["model_name"], said["model_version"]) == (
        "my request",
        PIPELINE,
        version,
    )
    assert answer.as_numpy("same FP32") is None


def test_requests_at_the_same_time_get_their_own_answers(port: int) -> None:
    """Of many connections of one client."""
    with client(port, concurrency=8) as triton_client:
        asked = []
        for number in range(64):
            sent = values() | {"INT32": np.full((2, 2), number, np.int32)}
            asked.append((sent, triton_client.async_infer(PIPELINE, inputs(sent))))
        for sent, pending in asked:
            check(pending.get_result(), sent)


def test_large_batches_go_through(port: int) -> None:
    """20,000 rows, a few megabytes of it text."""
    rows = 20_000
    sent = {
        name: np.array([["ä" * 20, "b"]] * rows, object)
        if name == "BYTES"
        else np.resize(array, (rows, 2))
        for name, array in values().items()
    }
    asked = [triton.InferRequestedOutput(f"same {name}") for name in ("BYTES", "FP32")]
    with client(port) as triton_client:
        answer = triton_client.infer(PIPELINE, inputs(sent), outputs=asked)
    check(answer, {name: sent[name] for name in ("BYTES", "FP32")})


def test_the_client_learns_what_it_asks_for(port: int, version: str) -> None:
    """Liveness, readiness and metadata, with and without a version."""
    with client(port) as triton_client:
        assert triton_client.is_server_live()
        assert triton_client.is_server_ready()
        assert triton_client.is_model_ready(PIPELINE)
        assert triton_client.is_model_ready(PIPELINE, version)
        assert not triton_client.is_model_ready("other")
        assert not triton_client.is_model_ready(PIPELINE, "1")
        assert triton_client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
        told = triton_client.get_model_metadata(PIPELINE, version)
    assert told["versions"] == [version]
    assert {each["name"]: each["datatype"] for each in told["inputs"]} == {
        name: name for name in DATATYPES
    }
    assert all(each["shape"] == [-1, 2] for each in (*told["inputs"], *told["outputs"]))


def test_a_version_may_be_asked_for(port: int, version: str) -> None:
    """The one that serves; for another one the message says which that is."""
    with client(port) as triton_client:
        check(triton_client.infer(PIPELINE, inputs(values()), model_version=version), values())
        with pytest.raises(InferenceServerException) as caught:
            triton_client.infer(PIPELINE, inputs(values()), model_version="1")
    assert caught.value.status() == "404"
    assert version in caught.value.message()


def test_the_client_raises_what_is_wrong(port: int) -> None:
    """With the sentence that the engine says."""
    sent: dict[Any, Any] = dict(values())
    narrow = sent.pop("FP32")
    wrong: dict[str, tuple[Any, str]] = {
        "type": (("FP32", "FP64"), "input 'FP32': the datatype is FP64, the model expects FP32"),
        "name": (
            ("FP", "FP32"),
            "there is no input 'FP'; expected inputs: 'BOOL' (BOOL [-1, 2]), ",
        ),
    }
    with client(port) as triton_client:
        for key, message in wrong.values():
            array = narrow.astype(np.float64) if key[1] == "FP64" else narrow
            with pytest.raises(InferenceServerException) as caught:
                triton_client.infer(PIPELINE, inputs({key: array, **sent}))
            assert caught.value.status() == "400"
            assert message in caught.value.message()


def test_what_only_triton_has_is_refused_clearly(port: int) -> None:
    """Shared memory, sequences and classes in the request; configuration and repository by their paths."""
    sent = values()
    shared = triton.InferInput("FP32", [2, 2], "FP32")
    shared.set_shared_memory("region", 16)
    classes = [triton.InferRequestedOutput("same FP32", class_count=2)]
    with client(port) as triton_client:
        for message, arguments in (
            ("shared memory is not supported", {"inputs": [shared]}),
            ("sequences are not supported", {"inputs": inputs(sent), "sequence_id": 7}),
            ("classification is not supported", {"inputs": inputs(sent), "outputs": classes}),
        ):
            with pytest.raises(InferenceServerException, match=message):
                triton_client.infer(PIPELINE, **arguments)
        for ask in (
            lambda: triton_client.get_model_config(PIPELINE),
            triton_client.get_model_repository_index,
            lambda: triton_client.load_model(PIPELINE),
        ):
            with pytest.raises(
                InferenceServerException, match="there is nothing at '/v2/"
            ) as caught:
                ask()
            assert caught.value.status() == "404"
