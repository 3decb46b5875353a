"""Compressed bodies in the Open Inference Protocol, by Triton's client and by hand."""

import gzip
import zlib
from collections.abc import Iterator

import pytest

from kit import oip
from kit.engine import EngineProcess
from kit.oip_engines import client, echoing, inputs, serving, values

PIPELINE = "house-price"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """An engine whose model gives back what it gets, of every datatype."""
    folder = tmp_path_factory.mktemp("echo")
    with serving(folder, echoing(folder)) as running:
        yield running


@pytest.mark.parametrize("packed_out", [None, "gzip", "deflate"])
@pytest.mark.parametrize("packed_in", [None, "gzip", "deflate"])
def test_triton_s_client_may_compress(
    engine: EngineProcess, packed_in: str | None, packed_out: str | None
) -> None:
    """As it offers it, in each direction; an answer that it wants in deflate comes as it is."""
    sent = values()
    with client(engine.port) as triton_client:
        answer = triton_client.infer(
            PIPELINE,
            inputs(sent),
            request_compression_algorithm=packed_in,
            response_compression_algorithm=packed_out,
        )
    for name, array in sent.items():
        got = answer.as_numpy(f"same {name}")
        if name == "BYTES":
            assert [text.decode() for text in got.reshape(-1)] == array.reshape(-1).tolist()
        else:
            assert got.tobytes() == array.tobytes()


@pytest.mark.parametrize("packed", ["gzip", "deflate"])
def test_the_header_counts_json_before_compression(engine: EngineProcess, packed: str) -> None:
    """In requests and in answers."""
    rows = {name: array.repeat(200, axis=0) for name, array in values().items()}
    tensors = (
        (
            name,
            name,
            array.shape,
            oip.packed(name, array.reshape(-1).tolist() if name == "BYTES" else array),
        )
        for name, array in rows.items()
    )
    body, length = oip.binary(*tensors, parameters={"binary_data_output": True})
    reply = engine.post(
        zlib.compress(body) if packed == "deflate" else gzip.compress(body),
        f"/v2/models/{PIPELINE}/infer",
        headers={
            "Content-Encoding": packed,
            "Accept-Encoding": "gzip",
            "Inference-Header-Content-Length": str(length),
        },
    )
    assert (reply.status, reply.headers["content-encoding"]) == (200, "gzip")
    _, outputs = oip.unpacked(gzip.decompress(reply.body), reply.headers)
    assert outputs["same FP32"].tobytes() == rows["FP32"].tobytes()
    assert outputs["same BYTES"] == rows["BYTES"].reshape(-1).tolist()
