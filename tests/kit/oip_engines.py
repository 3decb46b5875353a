"""Engines and clients for tests of the Open Inference Protocol."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper
from tritonclient import http as triton

from kit.engine import WAIT_SECONDS, EngineProcess, engine
from kit.folder import ConfigFolder, document, model
from kit.models import DTYPES, OPSET, node
from midstream_api.engineconfig import RevisionDocument

ROOT = Path(__file__).parents[2]
KSERVE = ROOT / ".venv-kserve" / "bin" / "python"
"""Of the environment that `make test` makes for KServe's client."""

DATATYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BYTES": "string",
}


def echo(path: Path, width: int = 2) -> Path:
    """For each datatype an output that is its input: `FP32` [N, width] -> `same FP32` [N, width], and so on."""
    shape = [None, width]
    kinds = {datatype: DTYPES[dtype] for datatype, dtype in DATATYPES.items()}
    return _write(
        path,
        [node("Identity", [name], [f"same {name}"]) for name in kinds],
        [_info(name, kind, shape) for name, kind in kinds.items()],
        [_info(f"same {name}", kind, shape) for name, kind in kinds.items()],
    )


def not_zero(path: Path, width: int = 4) -> Path:
    """A model without rows: the places of what is not 0, [width] float32 -> `places` [1, ?] int64."""
    return _write(
        path,
        [node("NonZero", ["tensor"], ["places"])],
        [_info("tensor", DTYPES["float32"], [width])],
        [_info("places", DTYPES["int64"], [1, None])],
    )


def _info(name: str, kind: int, shape: list[int | None]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _write(
    path: Path,
    nodes: list[onnx.NodeProto],
    taken: list[onnx.ValueInfoProto],
    given: list[onnx.ValueInfoProto],
) -> Path:
    graph = helper.make_graph(nodes, "kit", taken, given)
    made: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8
    )
    path.write_bytes(made.SerializeToString(deterministic=True))
    return path


def values() -> dict[str, Any]:
    """Two rows of two values for each input of `echo`: the largest and smallest, and what is not plain."""
    found: dict[str, Any] = {}
    for datatype, dtype in DATATYPES.items():
        if datatype == "BYTES":
            found[datatype] = np.array([["", "Grüße, 世界"], ["a", "x" * 300]], object)
        elif datatype == "BOOL":
            found[datatype] = np.array([[True, False], [False, True]])
        else:
            kind = np.dtype(dtype)
            limits: Any = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
            found[datatype] = np.array([[limits.min, limits.max], [0, 7]], kind)
    return found


@contextmanager
def serving(folder: Path, wanted: RevisionDocument) -> Iterator[EngineProcess]:
    """An engine that serves a revision."""
    ConfigFolder(folder / "config").write(wanted)
    with engine(folder) as running:
        running.wait("serving")
        yield running


def echoing(folder: Path) -> RevisionDocument:
    """A revision of `echo` alone."""
    return document(model(echo(folder / "echo.onnx")))


@contextmanager
def client(port: int, **options: Any) -> Iterator[triton.InferenceServerClient]:
    """Triton's client of an engine."""
    with triton.InferenceServerClient(
        f"127.0.0.1:{port}", network_timeout=WAIT_SECONDS, **options
    ) as made:
        yield made


def inputs(sent: Mapping[Any, Any], *, binary: bool = True) -> list[Any]:
    """Triton's inputs. sent: arrays by datatype, which is the input's name, or by (name, datatype)."""
    made = []
    for key, array in sent.items():
        name, datatype = key if isinstance(key, tuple) else (key, key)
        made.append(triton.InferInput(name, list(array.shape), datatype))
        made[-1].set_data_from_numpy(array, binary_data=binary)
    return made


def kserve(port: int, *calls: dict[str, Any]) -> list[Any]:
    """What KServe's client makes of these calls; see `oip_kserve.py`, which is run in its own environment."""
    done = subprocess.run(
        # -P: modules of this folder must not stand before those of Python.
        [KSERVE, "-P", Path(__file__).with_name("oip_kserve.py")],
        input=json.dumps({"url": f"http://127.0.0.1:{port}", "calls": calls}),
        capture_output=True,
        text=True,
        timeout=2 * WAIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said: list[Any] = json.loads(done.stdout)
    return said
