"""The examples' samples and expected answers."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
FOLDERS = sorted(path.parent.name for path in EXAMPLES.glob("*/cases.json"))


def cases(manifest: Path) -> list[dict[str, Any]]:
    """What a manifest is asked (`body`, `headers`, perhaps `path`), and what it must answer (`expected`)."""
    found = json.loads((manifest.parent / "cases.json").read_text(encoding="utf-8"))
    return [each for each in found if each["manifest"] == manifest.name]


def read(body: bytes, kind: str) -> Any:
    """An answer of a content type: rows, or columns where it is Arrow."""
    if "arrow" not in kind:
        return json.loads(body)
    source = io.BytesIO(body)
    reader = pa.ipc.open_stream(source) if "stream" in kind else pa.ipc.open_file(source)
    return reader.read_all().to_pydict()


def require(given: Any, expected: Any, where: str) -> None:
    """Fail unless everything that is expected is there; an answer has more, such as times."""
    if isinstance(expected, dict):
        for key, each in expected.items():
            assert key in given, f"{where}{key} is missing; there are {', '.join(given)}"
            require(given[key], each, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(given) == len(expected), f"{where}: {given}"
        for number, each in enumerate(expected):
            require(given[number], each, f"{where}[{number}]")
    elif isinstance(expected, float):
        assert given == pytest.approx(expected, rel=1e-6), where
    else:
        assert given == expected, where
