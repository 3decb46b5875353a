"""KServe's own Python client, unchanged, with an engine, and through the load balancer."""

from collections.abc import Iterator
from typing import Any

import pytest

from kit.balanced import balanced
from kit.engine import EngineProcess
from kit.oip_engines import KSERVE, echoing, kserve, serving, values

PIPELINE = "house-price"

pytestmark = pytest.mark.skipif(
    not KSERVE.exists(), reason="KServe's client is not installed; `make test` installs it"
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """An engine whose model gives back what it gets, of every datatype."""
    folder = tmp_path_factory.mktemp("echo")
    with serving(folder, echoing(folder)) as running:
        yield running


@pytest.fixture(scope="module", params=["engine", "load balancer"])
def port(request: pytest.FixtureRequest, engine: EngineProcess) -> Iterator[int]:
    """Where to ask: the engine itself, or the load balancer before it."""
    if request.param == "engine":
        yield engine.port
    else:
        with balanced(engine) as front:
            yield front.port


def call(sent: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A call of inference; values as JSON has them."""
    datatypes = {name: "FP64" if array.dtype == "float64" else name for name, array in sent.items()}
    made = [[name, datatypes[name], array.tolist()] for name, array in sent.items()]
    return {"call": "infer", "model": PIPELINE, "inputs": made, **more}


def test_kserve_s_client_works_unchanged(port: int, engine: EngineProcess) -> None:
    """Health, every datatype in JSON and as binary data, a part of the outputs, and errors as it raises them."""
    sent = values()
    names = [*sent, *(f"same {name}" for name in sent)]
    # FP16 goes as binary data only, says the client.
    plain = [name for name in names if name.endswith("FP16")]
    live, ready, model_ready, other_ready, binary, text, part, refused = kserve(
        port,
        {"call": "is_server_live"},
        {"call": "is_server_ready"},
        {"call": "is_model_ready", "model": PIPELINE},
        {"call": "is_model_ready", "model": "other"},
        call(sent, binary=names, id="mine"),
        call(sent, binary=plain, outputs=[f"same {name}" for name in sent]),
        call(sent, binary=names, outputs=["same BYTES", "same INT8"]),
        call({**sent, "FP32": sent["FP64"] * 0}, binary=names),
    )
    assert (live, ready, model_ready, other_ready) == (True, True, True, False)
    assert (binary["id"], binary["model"]) == ("mine", PIPELINE)
    assert (
        binary["parameters"]["pipeline_version"]
        == engine.get("/status").json()["serving"]["version"]
    )
    assert binary["outputs"] == text["outputs"] == expected(sent)
    assert part["outputs"] == expected({name: sent[name] for name in ("BYTES", "INT8")})
    assert refused["raised"] == "HTTPStatusError"
    assert "input 'FP32': the datatype is FP64, the model expects FP32" in refused["message"]


def expected(sent: dict[str, Any]) -> dict[str, Any]:
    return {
        f"same {name}": [name, list(array.shape), array.tolist()] for name, array in sent.items()
    }
