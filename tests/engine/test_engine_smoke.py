"""An engine serves a config folder, swaps on a change and ends on SIGTERM."""

import json
from pathlib import Path

from kit.engine import engine
from kit.folder import ConfigFolder, document, model

EXAMPLE = Path(__file__).parents[2] / "examples" / "house-price"


def test_serves_swaps_and_stops(tmp_path: Path) -> None:
    """One folder, two revisions: each answer names the revision it came from, and SIGTERM ends with 0."""
    rf, xgb = (
        document(model(EXAMPLE / "models" / f"{name}.onnx", inputs=[{"name": "tensor"}]))
        for name in ("rf", "xgb")
    )
    folder = ConfigFolder(tmp_path / "config")
    folder.write(rf)
    row = json.loads((EXAMPLE / "samples" / "one-row.json").read_text())
    with engine(tmp_path) as running:
        running.wait("serving", version=rf.version)
        before = running.post(row)
        folder.write(rf, xgb)
        running.wait("serving", version=xgb.version)
        after = running.post(row)

        assert (200, 200) == (before.status, after.status)
        assert rf.version == before.headers["x-midstream-version"]
        assert xgb.version == after.headers["x-midstream-version"]
        assert before.json()[0]["out"] != after.json()[0]["out"]
        assert row[0] == after.json()[0]["in"]
        assert 0 == running.stop()
        assert "" == running.stderr
