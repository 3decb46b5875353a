"""The only door to onnxruntime: sessions, pooled by content and counted.

A session is created from the path of an immutable, verified copy: from a path onnxruntime releases the GIL
while it loads, from bytes it holds it for about 1 ms per MB and requests wait. One thread per session
makes answers independent of batch size and core count. Measured in `docs/decisions/0003-onnxruntime.md`.
"""

import os

# Telemetry starts a thread and writes files at import: this must come before the import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from midstream_engine.errors import LoadError, StepFailed
from midstream_engine.schema import NUMPY_TYPES, Field

Arrays = dict[str, np.ndarray[Any, Any]]

ONNX_TYPES = {
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    **{f"tensor({name})": name for name in NUMPY_TYPES if not name.startswith("float")},
}

_STOP_SECONDS = 2.0
"""How long a model that was told to stop may take until it is given up."""

onnxruntime.set_default_logger_severity(4)


class Session:
    """A loaded model. `run` is thread-safe and releases the GIL."""

    __slots__ = ("__weakref__", "_session", "inputs", "outputs", "run", "sha256", "users")

    def __init__(self, path: Path, sha256: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], enable_fallback=False
        )
        self.sha256 = sha256
        self.users = 0
        self.inputs = tuple(_tensor(node, "input") for node in self._session.get_inputs())
        self.outputs = tuple(_tensor(node, "output") for node in self._session.get_outputs())
        """Whole tensors: `shape` includes the first dimension, whatever it means to the model."""
        self.run: Callable[..., list[np.ndarray[Any, Any]]] = self._session.run
        """run(output names, feed, options=None); raises whatever onnxruntime raises."""


class SessionPool:
    """Sessions shared between revisions, keyed by the SHA-256 of the model file.

    Session options are the same for all, so content alone is the key. Replacing one step of a
    pipeline creates one session: the others are found here. Safe to call from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}
        self.created = 0
        """Sessions created since the start."""

    def __len__(self) -> int:
        return len(self._sessions)

    def has(self, sha256: str) -> bool:
        return sha256 in self._sessions

    def acquire(self, sha256: str, path: Path) -> Session:
        """The session of these bytes, created if it is not there. Each call needs one `release`.

        Raises LoadError when onnxruntime refuses the file.
        """
        with self._lock:
            session = self._sessions.get(sha256)
            if session is None:
                session = self._create(sha256, path)
                self._sessions[sha256] = session
            session.users += 1
            return session

    def release(self, session: Session) -> None:
        """Give up one use; the last one frees the session.

        onnxruntime holds the GIL while it frees, about 0.1 ms per MB.
        """
        with self._lock:
            session.users -= 1
            if session.users == 0:
                del self._sessions[session.sha256]

    def _create(self, sha256: str, path: Path) -> Session:
        try:
            session = Session(path, sha256)
        except LoadError:
            raise
        except MemoryError as error:
            raise LoadError(
                "ModelDoesNotFit", "out of memory while loading", transient=True
            ) from error
        except Exception as error:
            # onnxruntime's errors share no base class of their own: they derive from Exception.
            raise LoadError("InvalidModel", explain(error)) from error
        self.created += 1
        return session


def explain(error: BaseException) -> str:
    """onnxruntime's message without its prefix, source paths and trailing noise; at most 500 characters."""
    text = " ".join(str(error).split())
    for prefix in ("[ONNXRuntimeError] : ", "Non-zero status code returned while running "):
        text = text.replace(prefix, "")
    kind = type(error).__name__
    if kind == "InvalidProtobuf":
        return "the file is not an ONNX model, or is cut off (its protobuf cannot be parsed)"
    if kind == "NoSuchFile" or "External data" in text:
        return "the model keeps weights in another file (external data), which is not supported; save it as one file"
    # The path is the cache's, which says nothing to whoever wrote the manifest.
    text = re.sub(r"Load model from \S+ failed:\s*", "", text)
    return f"onnxruntime refuses it: {text[:500]}"


class Stop:
    """Ends the run that it is given to, which raises then. Called once, in any thread.

    onnxruntime looks at it between operators only.
    """

    __slots__ = ("options",)

    def __init__(self) -> None:
        self.options = onnxruntime.RunOptions()
        self.options.log_severity_level = 4

    def __call__(self) -> None:
        self.options.terminate = True


_spent = threading.local()


def spent_ns() -> int:
    """The processor's time that `run_bounded` has used for whom it was called by in this thread, in nanoseconds.

    Without what a model's own threads take. By the clock a run is long whenever many run.
    """
    return getattr(_spent, "ns", 0)


def run_bounded(
    session: Session, outputs: Sequence[str], feed: Arrays, seconds: float
) -> list[np.ndarray[Any, Any]]:
    """Run, but stop the model after `seconds`. Raises StepFailed on time-out and on any error of the model.

    The model runs in a thread of its own: onnxruntime looks at `terminate` between operators only, and a model that
    never comes back must not keep the caller's thread.
    """
    stop = Stop()
    answers: list[list[np.ndarray[Any, Any]]] = []
    errors: list[Exception] = []
    spent: list[int] = []

    def run() -> None:
        try:
            answers.append(session.run(outputs, feed, stop.options))
            spent.append(time.thread_time_ns())
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors share no base class of their own
            # Its traceback leads to this list: such a circle would keep the session in memory.
            errors.append(error.with_traceback(None))

    thread = threading.Thread(target=run, name="midstream-step", daemon=True)
    thread.start()
    thread.join(seconds)
    expired = thread.is_alive()
    if expired:
        stop()
        thread.join(_STOP_SECONDS)
    if answers:
        _spent.ns = spent_ns() + sum(spent)
        return answers[0]
    if expired:
        stuck = (
            "" if errors else ", and cannot be stopped: its thread is busy until the engine ends"
        )
        raise StepFailed(
            f"the model did not answer within {seconds:g} s{stuck}", reason="StepTimedOut"
        )
    raise StepFailed(explain(errors[0])) from errors[0]


def _tensor(node: Any, what: str) -> Field:
    dtype = ONNX_TYPES.get(node.type)
    if dtype is None:
        hint = (
            "; export the classifier without ZipMap (zipmap=False)"
            if node.type.startswith("seq(map(")
            else ""
        )
        raise LoadError(
            "UnsupportedType",
            f"{what} {node.name!r} has type {node.type}; supported are {', '.join(ONNX_TYPES)}{hint}",
        )
    shape = tuple(dim if isinstance(dim, int) and dim >= 0 else None for dim in node.shape)
    return Field(node.name, dtype, shape)


def by_row(fields: Sequence[Field], what: str) -> tuple[Field, ...]:
    """Tensors of a session as fields of a row: the first dimension is the batch of rows.

    A tensor without dimensions is a single value, or onnxruntime does not know its dimensions: it tells both in the
    same way. An output's are seen when the model runs. Raises LoadError for an input.
    """
    found = []
    for field in fields:
        if not field.shape and what == "input":
            raise LoadError(
                "NoBatchDimension",
                f"{what} {field.name!r} is a single value; the first dimension must be the batch of rows "
                "(for a model without one say batch: Single)",
            )
        batch = field.shape[0] if field.shape else None
        found.append(replace(field, shape=field.shape[1:], batch=batch, ranked=bool(field.shape)))
    return tuple(found)


def zeros(fields: Sequence[Field]) -> Mapping[str, np.ndarray[Any, Any]]:
    """One row (or the batch a model insists on) of zeros for each field; unknown lengths are 1."""
    return {
        field.name: np.full(
            (field.batch or 1, *(1 if dim is None else dim for dim in field.shape)),
            "" if field.dtype == "string" else 0,
            dtype=field.numpy_dtype,
        )
        for field in fields
    }
