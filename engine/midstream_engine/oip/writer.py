"""Answers of the protocol: the outputs as tensors, in JSON or as binary data behind it.

Beside the outputs of the last step an answer can hold, by name and one value for each row, what the other formats say
of a row: `anomaly.count`, `anomaly.<validation>`, `_model_split`, `out_<challenger>.<output>`.
"""

from collections.abc import Callable, Sequence

import numpy as np

from midstream_engine.batch import Checks, Choice, Facts, Result
from midstream_engine.errors import BadInput
from midstream_engine.formats.jsontext import dumps
from midstream_engine.oip.asked import Asked, AskedOutput
from midstream_engine.oip.datatypes import WIRE, datatype_of
from midstream_engine.oip.reader import unknown_output
from midstream_engine.schema import Array, Field

_SPLIT = "_model_split"
_COUNT = "anomaly.count"


class OipWriter:
    """Turns results into answer bodies. Made once for each revision."""

    def __init__(self, outputs: Sequence[Field] | None, facts: Facts) -> None:
        """Write for these outputs; None takes what the last step gives."""
        self._names = None if outputs is None else [field.name for field in outputs]
        self._facts = facts
        self._extra: dict[str, Callable[[Result], Array]] = {}
        if facts.splits:
            self._extra[_SPLIT] = _model_split
        if facts.validations:
            self._extra[_COUNT] = _anomaly_count
            for index, (name, _) in enumerate(facts.validations):
                self._extra.setdefault(f"anomaly.{name}", _anomaly(index))
        self._shadows = tuple(f"out_{name}." for name in facts.challengers)
        self._head = {"model_name": facts.pipeline, "model_version": facts.version}
        # The version once more: KServe's client does not pass on model_version.
        self._said: dict[str, object] = {
            "pipeline_version": facts.version,
            "partition": facts.partition,
        }
        self._version = b"x-midstream-version: %b\r\n" % facts.version.encode()

    def knows(self, name: str) -> bool:
        """Whether there may be an output of this name."""
        return (
            self._names is None
            or name in self._names
            or name in self._extra
            or name.startswith(self._shadows)
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Of the outputs that are known before a request, beside those of challengers."""
        return () if self._names is None else (*self._names, *self._extra)

    def reserved(self, name: str) -> bool:
        """Whether an answer says something else under this name, so that no output can have it.

        `out._model_split` has it in the other formats, too.
        """
        return name in self._extra or name.startswith(self._shadows)

    def write(self, result: Result, asked: Asked) -> tuple[bytes, bytes]:
        """The body, and complete header lines of content type, length of the JSON and version.

        Raises BadInput when an output is asked for that there is not, or that is no tensor.
        """
        available = self._available(result)
        wanted = asked.outputs
        if wanted is None:
            wanted = tuple(AskedOutput(name, asked.binary) for name in available)
        described: list[dict[str, object]] = []
        tail: list[memoryview] = []
        for output in wanted:
            array = _tensor(output.name, self._find(result, available, output.name))
            one: dict[str, object] = {
                "name": output.name,
                "shape": list(array.shape),
                "datatype": datatype_of(array),
            }
            if output.binary:
                data = _binary(array)
                one["parameters"] = {"binary_data_size": data.nbytes}
                tail.append(data)
            elif array.dtype.kind in "OU":
                one["data"] = array.reshape(-1).tolist()
            else:
                one["data"] = array.reshape(-1)
            described.append(one)
        document: dict[str, object] = {**self._head}
        if asked.id is not None:
            document["id"] = asked.id
        document["parameters"] = self._parameters(result)
        document["outputs"] = described
        text = dumps(document)
        if not any(output.binary for output in wanted):
            return text, b"content-type: application/json\r\n" + self._version
        return b"".join((text, *tail)), (
            b"content-type: application/octet-stream\r\ninference-header-content-length: %d\r\n%b"
            % (len(text), self._version)
        )

    def _available(self, result: Result) -> dict[str, Array]:
        """What an answer holds when no output is asked for by name."""
        names = result.outputs if self._names is None else self._names
        found = {name: result.outputs[name] for name in names}
        for challenger, outputs in result.shadows.items():
            for name, array in (outputs or {}).items():
                found.setdefault(f"out_{challenger}.{name}", array)
        return found

    def _find(self, result: Result, available: dict[str, Array], name: str) -> Array:
        if name in available:
            return available[name]
        if name in self._extra:
            return self._extra[name](result)
        for challenger, outputs in result.shadows.items():
            if outputs is None and name.startswith(f"out_{challenger}."):
                raise BadInput(
                    f"output {name[:60]!r}: challenger {challenger!r} gave no answer to this request; "
                    "leave outputs out to get what there is",
                    reason="UnknownOutput",
                )
        raise unknown_output(name, [*available, *self._extra])

    def _parameters(self, result: Result) -> dict[str, object]:
        """What is said of the whole answer. The protocol knows text, numbers and booleans; lists are JSON in a text."""
        said = dict(self._said)
        if result.choices:
            said["model_split"] = dumps(
                [answered for choice in result.choices for answered in _answered(choice)]
            ).decode()
        if result.checks is not None:
            counts = result.checks.failed.sum(axis=1)
            said["anomaly_count"] = int(counts.sum())
            failures = _failures(result.checks, counts)
            if failures:
                said["check_failures"] = dumps(failures).decode()
        failed = [name for name, outputs in result.shadows.items() if outputs is None]
        if failed:
            said["challengers_failed"] = ",".join(failed)
        return said


def _answered(choice: Choice) -> list[dict[str, object]]:
    """The variants that answered, and how many rows each."""
    rows = np.bincount(choice.picked, minlength=len(choice.variants))
    return [
        {
            "step": choice.step,
            "variant": variant.name,
            "name": variant.model,
            "version": variant.version,
            "sha": variant.sha256,
            "rows": int(count),
        }
        for variant, count in zip(choice.variants, rows, strict=True)
        if count
    ]


def _failures(checks: Checks, counts: Array) -> list[dict[str, object]]:
    return [
        {"name": name, "failure": failure, "rows": int(count)}
        for name, failure, count in zip(checks.names, checks.failures, counts, strict=True)
        if count
    ]


# What is there for the asking


def _model_split(result: Result) -> Array:
    """(rows, splits): the model of each row, as JSON text."""
    array = np.empty((result.batch.rows, len(result.choices)), object)
    for number, choice in enumerate(result.choices):
        texts = np.empty(len(choice.variants), object)
        texts[:] = [
            dumps(
                {"name": variant.model, "version": variant.version, "sha": variant.sha256}
            ).decode()
            for variant in choice.variants
        ]
        array[:, number] = texts[choice.picked]
    return array


def _anomaly_count(result: Result) -> Array:
    """(rows,): how many validations failed."""
    assert result.checks is not None
    counts: Array = result.checks.failed.sum(axis=0, dtype=np.uint32)
    return counts


def _anomaly(index: int) -> Callable[[Result], Array]:
    def failed(result: Result) -> Array:
        assert result.checks is not None
        rows: Array = result.checks.failed[index]
        return rows

    return failed


# Tensors


def _tensor(name: str, array: Array) -> Array:
    """An output as one contiguous array of numbers, or of strings. Raises BadInput for rows of different shapes."""
    if array.dtype.kind != "O":
        return np.ascontiguousarray(array)
    if not array.size or not isinstance(array.flat[0], np.ndarray):
        return array
    shapes = [row.shape for row in array]
    for row, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise BadInput(
                f"output {name!r} has the shape {list(shape)} in row {row} and {list(shapes[0])} in row 0, and no "
                "tensor of the protocol holds both; send one row in a request, or leave this output out of outputs",
                reason="RaggedOutput",
                field=name,
                row=row,
            )
    return np.stack(list(array))


def _binary(array: Array) -> memoryview:
    """The bytes of a tensor, row by row."""
    if array.dtype.kind in "OU":
        texts = [text.encode() for text in array.reshape(-1).tolist()]
        return memoryview(
            b"".join(part for text in texts for part in (len(text).to_bytes(4, "little"), text))
        )
    numbers = array.astype(WIRE[datatype_of(array)], copy=False)
    return numbers.reshape(-1).view(np.uint8).data
