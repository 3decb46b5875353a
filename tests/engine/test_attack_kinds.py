"""An engine with Python steps when what it stands on is taken away."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from kit.engine import engine
from kit.folder import ConfigFolder
from kit.pipelines import python, revision

ROW = {"x": 3.0}


def times(factor: int) -> dict[str, object]:
    """A pipeline of one Python step."""
    code = f"def process(inputs):\n    return {{'y': inputs['x'] * {factor}}}\n"
    fields = {"dtype": "float32", "shape": []}
    model = python(code, inputs=[{"name": "x", **fields}], outputs=[{"name": "y", **fields}])
    return {"steps": [{"name": "predict", "model": model}]}


def test_a_workers_folder_that_is_cleared_away_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What clears old files out of /tmp costs one worker at most: it is replaced, swaps work, and nothing is left."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    config = ConfigFolder(tmp_path / "config")
    config.write(revision(times(2)))
    with engine(tmp_path) as running:
        pid = running.wait("sidekick_started")["pid"]
        running.wait("serving")
        (folder,) = temporary.iterdir()

        shutil.rmtree(folder)
        os.kill(pid, signal.SIGKILL)
        running.wait("sidekick_started")
        assert 6.0 == running.post([ROW]).json()[0]["out"]["y"]
        (folder,) = temporary.iterdir()

        shutil.rmtree(folder)
        config.write(revision(times(5)))
        running.wait("serving")
        assert 15.0 == running.post([ROW]).json()[0]["out"]["y"]

        assert 0 == running.stop()
        assert [] == list(temporary.iterdir())
