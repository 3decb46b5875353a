"""A real engine takes and gives every format over HTTP, packed or not, and never loads pandas for it."""

import gzip
import importlib.util
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kit import models
from kit.engine import EngineProcess, Reply, engine
from kit.folder import ConfigFolder, document, model
from kit.tables import ipc, opened

FILE = "application/vnd.apache.arrow.file"
STREAM = "application/vnd.apache.arrow.stream"
RECORDS = "application/json; format=pandas-records"
COLUMNAR = "application/json; format=columnar"

ROWS = [[float(row + place) for place in range(18)] for row in range(3)]
SUMS = [sum(row) for row in ROWS]
MAX_BODY = 100_000


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """An engine with a model that sums 18 numbers, and a small limit for bodies."""
    folder = tmp_path_factory.mktemp("formats")
    path = models.scaled(folder / "sum.onnx", 1)
    ConfigFolder(folder / "config").write(document(model(path)))
    with engine(folder, "--max-body", str(MAX_BODY)) as process:
        process.wait("serving")
        yield process
        assert process.stop() == 0
        assert process.stderr == ""


def table(kind: Any = None, rows: list[list[float]] | None = None) -> dict[str, Any]:
    return {"tensor": pa.array(ROWS if rows is None else rows, kind or pa.list_(pa.float32()))}


BODIES: dict[str, tuple[str, bytes]] = {
    "records": (RECORDS, json.dumps([{"tensor": row} for row in ROWS]).encode()),
    "columns": (COLUMNAR, json.dumps({"tensor": ROWS}).encode()),
    "columns without saying so": ("application/json", json.dumps({"tensor": ROWS}).encode()),
    "a file": (FILE, ipc(table())),
    "a stream": (STREAM, ipc(table(), file=False)),
    "a packed file": (FILE, ipc(table(), compression="zstd")),
    "a stream in batches": (STREAM, ipc(table(), file=False, chunk=2)),
    "a file of doubles": (FILE, ipc(table(pa.list_(pa.float64(), 18)))),
    "a file of integers": (FILE, ipc(table(pa.large_list(pa.int16()), [list(map(int, r)) for r in ROWS]))),
}  # fmt: skip


def sums(reply: Reply) -> list[Any]:
    """The model's output of each row, whatever format the answer has."""
    kind = reply.headers["content-type"]
    if kind == RECORDS:
        rows = json.loads(reply.body)
        assert [row["in"]["tensor"] for row in rows] == ROWS
        return [row["out"]["variable"] for row in rows]
    if kind == COLUMNAR:
        columns = json.loads(reply.body)
        assert columns["in.tensor"] == ROWS
        return list(columns["out.variable"])
    assert kind in {FILE, STREAM}
    answered = opened(reply.body, file=kind == FILE).to_pylist()
    assert [row["in"]["tensor"] for row in answered] == ROWS
    return [row["out"]["variable"] for row in answered]


@pytest.mark.parametrize("accept", ["*/*", RECORDS, COLUMNAR, FILE, STREAM])
@pytest.mark.parametrize("what", BODIES)
def test_every_format_in_gives_every_format_out(
    running: EngineProcess, what: str, accept: str
) -> None:
    """The same rows with the same sums, and the format that was asked for."""
    content_type, body = BODIES[what]
    reply = running.post(body, content_type=content_type, headers={"Accept": accept})
    assert reply.status == 200
    assert reply.headers["content-type"] == (RECORDS if accept == "*/*" else accept)
    assert sums(reply) == [[total] for total in SUMS]
    assert reply.headers["x-midstream-version"]


@pytest.mark.parametrize("packing", ["gzip", "deflate", "identity"])
def test_bodies_may_be_packed_both_ways(running: EngineProcess, packing: str) -> None:
    """What is asked of the answer is said of it; small ones stay as they are."""
    packers: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.compress,
        "deflate": zlib.compress,
        "identity": bytes,
    }
    for content_type, body in BODIES.values():
        reply = running.post(
            packers[packing](body),
            content_type=content_type,
            headers={"Content-Encoding": packing, "Accept-Encoding": "gzip", "Accept": FILE},
        )
        assert reply.status == 200
        assert reply.headers["content-encoding"] == "gzip"
        assert reply.headers["vary"] == "accept-encoding"
        unpacked = Reply(200, reply.headers, gzip.decompress(reply.body))
        assert sums(unpacked) == [[total] for total in SUMS]


def test_queries_choose_what_is_in_an_answer(running: EngineProcess) -> None:
    """In every format, by any path to the pipeline."""
    content_type, body = BODIES["a file"]
    for path in ("/infer", "/pipelines/house-price"):
        query = f"{path}?dataset=out.variable&dataset=anomaly&dataset_separator=."
        reply = running.post(body, query, content_type)
        assert json.loads(reply.body) == [
            {"out.variable": [total], "anomaly.count": 0} for total in SUMS
        ]
        reply = running.post(body, query, content_type, headers={"Accept": STREAM})
        assert opened(reply.body, file=False).to_pydict() == {
            "out.variable": [[total] for total in SUMS],
            "anomaly.count": [0, 0, 0],
        }


def test_refusals_have_their_codes(running: EngineProcess) -> None:
    """Over HTTP, in the common form; the engine serves on."""
    good_type, good = BODIES["a file"]
    many = ipc(table(None, np.zeros((2000, 18)).tolist()), compression="zstd")
    assert len(many) < MAX_BODY
    for status, reason, body, content_type, headers in (
        (400, "NotArrow", good[:-1], good_type, {}),
        (400, "NotArrow", good, STREAM, {}),
        (400, "WrongFields", ipc({"x": pa.array([1.0])}), FILE, {}),
        (400, "EmptyBody", b"", FILE, {}),
        (400, "WrongEncoding", good, good_type, {"Content-Encoding": "gzip"}),
        (406, "NotAcceptable", good, good_type, {"Accept": "text/csv"}),
        (413, "BodyTooLarge", many, FILE, {}),
        (413, "BodyTooLarge", gzip.compress(bytes(1 << 20)), RECORDS, {"Content-Encoding": "gzip"}),
        (415, "UnsupportedMediaType", b"a,b", "text/csv", {}),
        (415, "UnsupportedEncoding", good, good_type, {"Content-Encoding": "br"}),
    ):
        reply = running.post(body, content_type=content_type, headers=headers)
        assert (reply.status, reply.json()["reason"]) == (status, reason)
        assert reply.headers["content-type"] == "application/json"
    reply = running.post(good, "/infer?dataset=nothing", good_type)
    assert (reply.status, reply.json()["reason"]) == (400, "UnknownDataset")
    assert sums(running.post(good, content_type=good_type)) == [[total] for total in SUMS]


def test_the_engine_has_not_loaded_pandas(running: EngineProcess) -> None:
    """It is installed, for Python models; in the engine it would cost memory and a stall of a second."""
    assert importlib.util.find_spec("pandas") is not None
    content_type, body = BODIES["a packed file"]
    for accept in (RECORDS, COLUMNAR, FILE, STREAM):
        assert (
            running.post(body, content_type=content_type, headers={"Accept": accept}).status == 200
        )
    mapped = Path(f"/proc/{running.process.pid}/maps").read_text()
    assert "/pyarrow/" in mapped
    assert "/pandas/" not in mapped
