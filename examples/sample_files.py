"""Files beside an example's manifest, as bytes: requests, expected answers, archives and the list of cases."""

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

Rows = list[dict[str, Any]]

JSON_ROWS = "application/json; format=pandas-records"


def archive(folder: Path) -> bytes:
    """A zip of the files in a folder; the same files give the same bytes."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as packed:
        for path in sorted(folder.iterdir()):
            if path.is_file():
                packed.writestr(zipfile.ZipInfo(path.name), path.read_bytes())
    return data.getvalue()


def arrow_file(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def arrow_stream(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def case(
    manifest: str,
    body: str,
    expected: str,
    *,
    kind: str = JSON_ROWS,
    accept: str | None = None,
    key: str | None = None,
    path: str | None = None,
) -> dict[str, Any]:
    """One request: to which manifest, what is sent, and what the answer has in it."""
    headers = {"Content-Type": kind}
    if accept is not None:
        headers["Accept"] = accept
    if key is not None:
        headers["x-midstream-split-key"] = key
    more = {} if path is None else {"path": path}
    return {
        "manifest": f"{manifest}.yaml",
        "body": body,
        "headers": headers,
        **more,
        "expected": expected,
    }


def cases(found: Sequence[dict[str, Any]]) -> bytes:
    return (json.dumps(list(found), indent=2) + "\n").encode()


def lines(rows: Rows) -> bytes:
    """Rows as a request or an answer has them, one to a line."""
    texts = [json.dumps(row, ensure_ascii=False) for row in rows]
    return ("[" + ",\n ".join(texts) + "]\n").encode()


def document(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False) + "\n").encode()
