"""The floor: the least code that gives the product's answer, as a good engineer would write it for one model.

Raw ASGI, orjson, onnxruntime inline. Same model, same bytes in, same bytes out (times aside); no versions, no swap, no
checks, no metrics. Whatever the engine does more than this must be paid from the 15 % that it may cost.
"""

import hashlib
import os
import time
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when onnxruntime is imported

import numpy as np
import onnxruntime as ort
import orjson

MODEL = Path(__file__).resolve().parents[1] / "examples" / "house-price" / "models" / "rf.onnx"
VERSION = "00000000-0000-5000-8000-000000000000"
NUMPY = orjson.OPT_SERIALIZE_NUMPY


class Floor:
    """One model behind one function from bytes to bytes."""

    def __init__(self, path: Path, name: str, sha256: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.run = session.run
        self.input = session.get_inputs()[0].name
        self.outputs = [session.get_outputs()[0].name]
        self.last_model = orjson.dumps({"model_name": name, "model_sha": sha256}).decode()

    def answer(self, body: bytes) -> bytes:
        """Records in, records out: `[{"tensor": [18 numbers]}]` to one object for each row."""
        begin = time.perf_counter_ns()
        rows = orjson.loads(body)
        tensor = np.array([row["tensor"] for row in rows], np.float32)
        parsed = time.perf_counter_ns()
        (prices,) = self.run(self.outputs, {self.input: tensor})
        now = time.time_ns() // 1_000_000
        metadata = {
            "last_model": self.last_model,
            "pipeline_version": VERSION,
            "elapsed": [parsed - begin, time.perf_counter_ns() - parsed],
            "dropped": [],
            "partition": "floor",
        }
        tail = {"anomaly": {"count": 0}, "metadata": metadata}
        if len(rows) > 1:  # the same for every row: made once
            tail = {key: orjson.Fragment(orjson.dumps(value)) for key, value in tail.items()}
        return orjson.dumps(
            [
                {"time": now, "in": row, "out": {"variable": price}, **tail}
                for row, price in zip(rows, prices, strict=True)
            ],
            option=NUMPY,
        )


def application(floor: Floor) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        message = await receive()
        body = message["body"]
        if message["more_body"]:
            chunks = [body]
            while message["more_body"]:
                message = await receive()
                chunks.append(message["body"])
            body = b"".join(chunks)
        answer = floor.answer(body)
        headers = [
            (b"content-type", b"application/json; format=pandas-records"),
            (b"content-length", str(len(answer)).encode()),
            (b"x-midstream-version", VERSION.encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    return app


def app_of_rf() -> Any:
    """uvicorn's `--factory`."""
    sha256 = hashlib.sha256(MODEL.read_bytes()).hexdigest()
    return application(Floor(MODEL, "rf-house-price", sha256))
