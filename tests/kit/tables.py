"""Tables in Arrow IPC, and whole results, for tests of formats.

`pyarrow.array` brings pandas into the process where it is installed: what tests that must not happen builds its bodies
in another process.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from midstream_engine.batch import Batch, Checks, Choice, Facts, Result, VariantRef
from midstream_engine.schema import Array

LIMIT = 1 << 24
"""Bytes of an unpacked body."""

FAILURES = (
    {"False": {"expr": "house.outputs[0][0] < 100"}},
    {"True": {"expr": "out.variable[0] > 5"}},
)

FACTS = Facts(
    "house-price",
    "v-1",
    "engine-1",
    "rf",
    "ab" * 32,
    validations=(("low", FAILURES[0]), ("high", FAILURES[1])),
    splits=("price",),
    challengers=("xgb", "gbr"),
)
PLAIN_FACTS = Facts("house-price", "v-1", "engine-1", "rf", "ab" * 32)

VARIANTS = (
    VariantRef("control", "rf", "1", "aa" * 32),
    VariantRef("rival", "xgb", None, "bb" * 32),
)


def ipc(
    columns: Mapping[str, Any] | pa.Table,
    *,
    file: bool = True,
    compression: str | None = None,
    chunk: int | None = None,
) -> bytes:
    """A table as a client would send it. chunk: rows of a record batch."""
    table = columns if isinstance(columns, pa.Table) else pa.table(dict(columns))
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    new = pa.ipc.new_file if file else pa.ipc.new_stream
    with new(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=chunk)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def opened(body: bytes, *, file: bool = True) -> pa.Table:
    """The table of an answer, validated."""
    table = (pa.ipc.open_file if file else pa.ipc.open_stream)(body).read_all()
    table.validate(full=True)
    return table


def plain(outputs: Mapping[str, Array], fields: Mapping[str, Array] | None = None) -> Result:
    """The result of a pipeline without splits, shadows and validations."""
    rows = len(next(iter(outputs.values())))
    return Result(Batch(dict(fields or {}), rows), dict(outputs), 1_700_000_000_123, [5, 7])


def full(rows: int = 3, echo: Sequence[bytes] | None = None, *, failed: bool = False) -> Result:
    """A result that has everything: keys, a split, validations, and challengers, of which one may have failed."""
    tensor = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
    keys = {"session": [None if row == 1 else f"s{row}" for row in range(rows)]}
    picked = np.arange(rows) % 2
    checks = Checks(
        ("low", "high"),
        FAILURES,
        np.array([[row % 2 == 0 for row in range(rows)], [row == 2 for row in range(rows)]]),
    )
    return Result(
        Batch({"tensor": tensor}, rows, echo, keys),
        {"variable": tensor[:, :1] * 2, "label": np.array(["é"] * rows, object)},
        1_700_000_000_123,
        [5, 7],
        (Choice("price", VARIANTS, picked),),
        checks,
        {"xgb": {"variable": tensor[:, :1] + 1}, "gbr": None if failed else {"v": tensor[:, 0]}},
    )


def expected(result: Result) -> list[dict[str, Any]]:
    """The rows of a full result's answer, written down once more in plain Python."""
    rows = []
    for row in range(result.batch.rows):
        variant = VARIANTS[row % 2]
        low, high = row % 2 == 0, row == 2
        gbr = result.shadows["gbr"]
        rows.append(
            {
                "time": 1_700_000_000_123,
                "in": {
                    "tensor": [2.0 * row, 2.0 * row + 1],
                    "session": None if row == 1 else f"s{row}",
                },
                "out": {
                    "variable": [4.0 * row],
                    "label": "é",
                    "_model_split": [
                        json.dumps(
                            {
                                "name": variant.model,
                                "version": variant.version,
                                "sha": variant.sha256,
                            },
                            separators=(",", ":"),
                        )
                    ],
                },
                "anomaly": {"count": low + high, "low": low, "high": high},
                "check_failures": [
                    text for text, fails in zip(FAILURES, (low, high), strict=True) if fails
                ],
                "out_xgb": {"variable": [2.0 * row + 1]},
                "out_gbr": None if gbr is None else {"v": 2.0 * row},
                "metadata": {
                    "last_model": '{"model_name":"rf","model_sha":"' + "ab" * 32 + '"}',
                    "pipeline_version": "v-1",
                    "elapsed": [5, 7],
                    "dropped": [],
                    "partition": "engine-1",
                    "variants": {"price": variant.name},
                },
            }
        )
    return rows


def flattened(row: Mapping[str, Any]) -> dict[str, Any]:
    """The same row with dotted names."""
    flat: dict[str, Any] = {}
    for group, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{group}.{name}": inner for name, inner in value.items()}
        else:
            flat[group] = value
    return flat
