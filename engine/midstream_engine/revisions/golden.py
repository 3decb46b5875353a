"""Golden rows: what a model must reproduce before it may serve."""

from typing import Any

import numpy as np

from midstream_api.model import Verify
from midstream_engine.batch import Batch
from midstream_engine.errors import BadInput, LoadError, RequestError
from midstream_engine.formats.jsontext import dumps
from midstream_engine.formats.open_rows import OpenReader
from midstream_engine.formats.records import Reader
from midstream_engine.sessions import Arrays
from midstream_engine.steps.units import Unit


def read(unit: Unit, place: str, rows: list[dict[str, Any]]) -> Batch:
    """Golden inputs as a request would bring them. Raises LoadError.

    place: of the model in the manifest, `spec.steps[0].model`.
    """
    reader = OpenReader() if unit.inputs is None else Reader(unit.inputs, as_sent=True)
    try:
        return reader.read(dumps(rows))
    except BadInput as error:
        raise LoadError(
            "VerifyInvalid", f"{unit.where}, {place}.verify.inputs: {error.message}"
        ) from error


def verify(unit: Unit, place: str, golden: Verify, seconds: float) -> int:
    """Run the golden rows of one model and compare. Returns their number. Raises LoadError.

    seconds: the longest that the model may take.
    """
    batch = read(unit, place, golden.inputs)
    try:
        outputs = unit.run_bounded(batch.fields, batch.rows, seconds)
    except RequestError as error:
        raise LoadError("VerifyFailed", f"golden rows: {error.message}") from error
    _compare(unit, golden.outputs, outputs, golden.tolerance)
    return batch.rows


def _compare(unit: Unit, expected: list[dict[str, Any]], got: Arrays, tolerance: float) -> None:
    """Raise LoadError for the first golden value that the model does not reproduce."""
    where = f"{unit.where}, model {unit.model.name!r}"
    for row, wanted in enumerate(expected):
        for name, value in wanted.items():
            if name not in got:
                raise LoadError(
                    "VerifyInvalid",
                    f"{where}: verify.outputs[{row}] names {name!r}, the model gives {', '.join(got)}",
                )
            answer = np.asarray(got[name][row])
            if answer.dtype.kind in "OU":
                if answer.tolist() != value and np.ravel(answer).tolist() != value:
                    raise LoadError(
                        "VerifyFailed",
                        f"{where}: golden row {row}, {name}: expected {value!r}, got {answer.tolist()!r}",
                    )
                continue
            try:
                want = np.array(value, dtype=np.float64)
            except (TypeError, ValueError, OverflowError) as error:
                raise LoadError(
                    "VerifyInvalid",
                    f"{where}: verify.outputs[{row}].{name} is not numbers: {value!r}",
                ) from error
            if want.shape != answer.shape and want.size != answer.size:
                raise LoadError(
                    "VerifyFailed",
                    f"{where}: golden row {row}, {name}: expected the shape {list(want.shape)}, "
                    f"got {list(answer.shape)}",
                )
            have = answer.astype(np.float64).reshape(want.shape)
            # atol covers expected zeros, where a relative difference says nothing.
            if not np.allclose(have, want, rtol=tolerance, atol=tolerance * 1e-3, equal_nan=True):
                raise LoadError(
                    "VerifyFailed",
                    f"{where}: golden row {row}, {name}: expected {want.tolist()}, got {have.tolist()} "
                    f"(tolerance {tolerance:g})",
                )
