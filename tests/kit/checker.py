"""Is every answer exactly what one version says? Recomputed with an onnxruntime of the tester's own.

An answer passes when its header and every one of its rows name the same version, and every row echoes the row that
was sent, names the last model of that version by its sha256, and carries bit for bit (as float32) what that version's
models compute. Everything else with status 200 is *mixed*: a step of the old with a step of the new, rows of two
models, or a label that disagrees with the values. The checker knows nothing of the product but its answer format.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported

import numpy as np
import onnxruntime as ort
import orjson
from numpy.typing import NDArray

from kit.load import Answer, Record
from kit.wire import Request

Tensors = dict[str, NDArray[np.float32]]
_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the requests of one load."""

    answers: int
    failed: int
    """Not answered with 200."""
    mixed: int
    """Answered with 200, and not exactly by the version that the answer names."""
    versions: Mapping[str, int]
    """How many good answers each version gave."""
    examples: tuple[str, ...] = ()
    """Some of what went wrong, in words."""

    def __str__(self) -> str:
        text = f"{self.answers} answers, {self.failed} failed, {self.mixed} mixed"
        return "\n  ".join([text, *self.examples])


@dataclass(slots=True)
class _Model:
    session: ort.InferenceSession
    sha256: str
    inputs: list[str] = field(init=False)
    outputs: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.inputs = [entry.name for entry in self.session.get_inputs()]
        self.outputs = [entry.name for entry in self.session.get_outputs()]

    def run(self, tensors: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        feed = dict(zip(self.inputs, tensors, strict=True))
        return list(self.session.run(self.outputs, feed))


class Checker:
    """Recomputes what each version must answer.

    `versions` gives for each version UUID its models' files in the order of the steps. Tensors go from model to
    model by position, all of them float32.
    """

    def __init__(self, versions: Mapping[str, Sequence[Path]]) -> None:
        loaded: dict[Path, _Model] = {}
        self._chains: dict[str, list[_Model]] = {}
        for version, paths in versions.items():
            for path in paths:
                if path not in loaded:
                    loaded[path] = _load(path)
            self._chains[version] = [loaded[path] for path in paths]
        self._computed: dict[tuple[str, int], Tensors] = {}

    def expected(self, version: str, rows: Sequence[Mapping[str, Any]]) -> Tensors:
        """What a version answers to rows: name of output to an array with one entry for each row."""
        chain = self._chains[version]
        tensors = [
            np.asarray([row[name] for row in rows], np.float32)
            for name in (rows[0] if rows else ())
        ]
        for model in chain:
            tensors = model.run(tensors)
        return dict(zip(chain[-1].outputs, tensors, strict=True))

    def smallest_difference(self, rows: Sequence[Mapping[str, Any]]) -> float:
        """The smallest relative difference between any two versions on any row.

        A mixed answer can only be told from a good one where this is well above 0.
        """
        computed = [
            np.concatenate([tensor.reshape(len(rows), -1) for tensor in outputs.values()], axis=1)
            for outputs in (self.expected(version, rows) for version in self._chains)
        ]
        return min(
            float(np.min(np.max(np.abs(a - b) / np.maximum(np.abs(a), np.abs(b)), axis=1)))
            for a, b in combinations(computed, 2)
        )

    def problem(self, answer: Answer, request: Request) -> str:
        """Why an answer with status 200 is not exactly what the version it names says; empty when it is."""
        chain = self._chains.get(answer.version)
        if chain is None:
            return f"the header names the unknown version {answer.version!r}"
        if len(answer.rows) != len(request.rows):
            return f"{len(answer.rows)} rows answer {len(request.rows)}"
        wanted = self._wanted(answer, request)
        for number, row in enumerate(answer.rows):
            if row.version != answer.version:
                return f"row {number} names version {row.version}, the header {answer.version}"
            if not row.echoed:
                return f"row {number} does not echo the row that was sent"
            sha256 = orjson.loads(row.last_model).get("model_sha")
            if sha256 != chain[-1].sha256:
                return f"row {number} of version {answer.version} names the model {sha256}"
            out = orjson.loads(row.out)
            if out.keys() != wanted.keys():
                return f"row {number} has the outputs {sorted(out)}, not {sorted(wanted)}"
            for name, tensor in wanted.items():
                value = np.asarray(out[name], np.float32)
                if not np.array_equal(value, tensor[number]):
                    return (
                        f"row {number} of version {answer.version} says {name}={value.tolist()}, "
                        f"that version computes {tensor[number].tolist()}"
                    )
        return ""

    def check(self, record: Record, requests: Sequence[Request]) -> Report:
        """Judge every answer that a load saw; `requests` are those that the load was given."""
        failed = mixed = 0
        versions: Counter[str] = Counter()
        examples: list[str] = []
        for answer, count in zip(record.answers, record.counts(), strict=True):
            if answer.status != 200:
                failed += count
                examples.append(f"{count} x status {answer.status}: {answer.problem}")
            elif problem := self.problem(answer, requests[answer.request]):
                mixed += count
                examples.append(f"{count} x mixed: {problem}")
            else:
                versions[answer.version] += count
        return Report(len(record), failed, mixed, dict(versions), tuple(examples[:_EXAMPLES]))

    def _wanted(self, answer: Answer, request: Request) -> Tensors:
        key = (answer.version, answer.request)
        found = self._computed.get(key)
        if found is None:
            found = self._computed[key] = self.expected(answer.version, request.rows)
        return found


def _load(path: Path) -> _Model:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return _Model(session, hashlib.sha256(path.read_bytes()).hexdigest())
