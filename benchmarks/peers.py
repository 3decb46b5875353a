"""The servers that are compared: how each is started, asked and believed."""

import contextlib
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from benchmarks import HOUSE, MODEL, ROOT, machine
from benchmarks.machine import SERVER_CORE, Missing
from kit import wire

Rows = Sequence[Mapping[str, Any]]
_UVICORN = ("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning")


class Server(NamedTuple):
    port: int
    pid: int
    """Root of the server's process tree."""


class Peer(ABC):
    """One server to measure. `started` gives it running on the server's core and answering."""

    name: str
    path = "/pipelines/house-price"
    content_type = wire.RECORDS
    python = Path(sys.executable)
    packages: tuple[str, ...] = ("uvicorn", "uvloop", "httptools", "orjson", "numpy", "onnxruntime")

    def missing(self) -> str:
        """What has to be installed before this peer can be measured; empty when nothing is."""
        return ""

    @abstractmethod
    def command(self, port: int, folder: Path) -> Sequence[str]:
        """The command that serves on `port`; `folder` is empty and its own."""

    def body(self, rows: Rows) -> bytes:
        return orjson.dumps(list(rows))

    def prices(self, body: bytes) -> NDArray[np.float32]:
        """The answered prices, one for each row."""
        answer = orjson.loads(body)
        return np.array([row["out"]["variable"][0] for row in answer], np.float32)

    def request(self, rows: Rows) -> bytes:
        return wire.post(self.path, self.body(rows), self.content_type)

    def check(self, server: Server, rows: Rows, expected: NDArray[np.float32]) -> None:
        """Raises `ValueError` unless the server's answer is the expected one."""
        reply = machine.ask(server.port, self.request(rows))
        if reply.status != 200:
            raise ValueError(f"{self.name} answers {reply.status}: {reply.body[:300]!r}")
        got = self.prices(reply.body)
        if got.shape != expected.shape or not np.allclose(got, expected, rtol=1e-6, atol=0):
            raise ValueError(f"{self.name} answers {got[:3]}…, expected {expected[:3]}…")

    @contextlib.contextmanager
    def started(self, rows: Rows) -> Iterator[Server]:
        port = machine.free_port()
        with machine.folder() as folder:
            log = folder / "log"
            with (
                log.open("wb") as output,
                machine.process(
                    self.command(port, folder),
                    core=SERVER_CORE,
                    log=output,
                ) as child,
            ):
                machine.wait_until_ok(port, self.request(rows), child, log)
                yield Server(port, child.pid)


class Hello(Peer):
    name = "hello"
    packages = ("uvicorn", "uvloop", "httptools")

    def command(self, port: int, folder: Path) -> Sequence[str]:  # noqa: ARG002
        return _uvicorn(port, "benchmarks.hello:app")

    def body(self, rows: Rows) -> bytes:  # noqa: ARG002 - a bare GET
        return b""

    def check(self, server: Server, rows: Rows, expected: NDArray[np.float32]) -> None:  # noqa: ARG002
        reply = machine.ask(server.port, self.request(rows))
        if (reply.status, reply.body) != (200, b"hello"):
            raise ValueError(f"hello answers {reply.status}: {reply.body!r}")


class Floor(Peer):
    """`name` tells the first floor of a round from the second, whose ratio to it is the noise (A/A)."""

    def __init__(self, name: str) -> None:
        self.name = name

    def command(self, port: int, folder: Path) -> Sequence[str]:  # noqa: ARG002
        return _uvicorn(port, "--factory", "benchmarks.floor:app_of_rf")


class Engine(Peer):
    """The product as users run it: `midstream run` with one worker."""

    name = "engine"
    packages = (*Peer.packages, "fastapi", "pydantic")

    def command(self, port: int, folder: Path) -> Sequence[str]:
        run = (sys.executable, "-m", "midstream", "run", str(HOUSE / "pipeline.yaml"))
        return (*run, "--port", str(port), "--cache", str(folder / "cache"))


class MLServer(Peer):
    """MLServer with a runtime of our own, inline on its loop, on httptools and uvloop; Open Inference Protocol."""

    name = "MLServer"
    path = "/v2/models/house-price/infer"
    content_type = "application/json"
    python = ROOT / ".venv-bench" / "bin" / "python"
    packages = ("mlserver", "uvicorn", "uvloop", "httptools", "orjson", "numpy", "onnxruntime")

    def __init__(self, python: Path | None = None) -> None:
        self.python = python or self.python

    def missing(self) -> str:
        if self.python.with_name("mlserver").exists():
            return ""
        return f"{self.python.parent.parent.name} has no MLServer; `make bench` installs it"

    def command(self, port: int, folder: Path) -> Sequence[str]:
        server = {
            "parallel_workers": 0,
            "host": "127.0.0.1",
            "http_port": port,
            "grpc_port": machine.free_port(),
            "metrics_port": machine.free_port(),
            "debug": False,
        }
        model = {
            "name": "house-price",
            "implementation": "mlserver_runtime.OnnxModel",
            "parameters": {"uri": str(MODEL)},
        }
        (folder / "settings.json").write_text(json.dumps(server))
        (folder / "model-settings.json").write_text(json.dumps(model))
        runtime = (ROOT / "benchmarks" / "mlserver_runtime.py").read_bytes()
        (folder / "mlserver_runtime.py").write_bytes(runtime)
        return (str(self.python.with_name("mlserver")), "start", str(folder))

    def body(self, rows: Rows) -> bytes:
        data = [number for row in rows for number in row["tensor"]]
        tensor = {"name": "tensor", "shape": [len(rows), 18], "datatype": "FP32", "data": data}
        return orjson.dumps({"inputs": [tensor]})

    def prices(self, body: bytes) -> NDArray[np.float32]:
        return np.array(orjson.loads(body)["outputs"][0]["data"], np.float32)


def _uvicorn(port: int, *arguments: str) -> Sequence[str]:
    return (sys.executable, "-m", "uvicorn", *arguments, "--port", str(port), *_UVICORN)


def all_of(peers: Sequence[Peer]) -> list[Peer]:
    """Those that can be measured here. Raises `Missing` when the floor or the engine cannot."""
    ready = []
    for peer in peers:
        if not (reason := peer.missing()):
            ready.append(peer)
        elif isinstance(peer, MLServer):
            print(f"{peer.name}: not measured: {reason}")
        else:
            raise Missing(f"{peer.name}: {reason}")
    return ready
