"""Faults of Python models through a real engine: what callers are told over HTTP, and that the engine goes on."""

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from kit.engine import EngineProcess, engine
from kit.folder import ConfigFolder
from kit.pipelines import python, revision
from kit.sidekick_faults import FAULTY, OUTCOMES
from midstream_engine.dataplane import STATUS_CODES

SAME = "def process(inputs):\n    return inputs\n"
FAULTS = [
    "raises an exception",
    "ends its process (`os._exit`)",
    "accesses memory that is not there",
    "loops without end",
    "returns another number of rows",
    "returns something else than rows of numbers, booleans or text",
    "writes to descriptors that are not its own",
    "leaves children behind and ends",
]
"""One of each way that an outcome takes through the engine; all of them are tried at the sidekick itself."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    folder = tmp_path_factory.mktemp("engine")
    code = "import pandas\n" + dedent(FAULTY)
    model = python(code, "faulty", inputs=[{"name": "x", "dtype": "string"}])
    wanted = revision({"steps": [{"name": "predict", "model": model}]})
    ConfigFolder(folder / "config").write(wanted)
    with engine(folder, "--infer-seconds", "2") as process:
        process.wait("serving", version=wanted.version)
        yield process


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_with_its_step_and_the_next_request_is_answered(
    running: EngineProcess, fault: str
) -> None:
    """Code, reason and words are those of the table; the version that answers is named."""
    outcome = OUTCOMES[fault]
    reply = running.post([{"x": outcome.does}])
    assert STATUS_CODES[outcome.error] == reply.status
    told = reply.json()
    assert outcome.error.default_reason == told["reason"]
    assert "step 'predict'" in told["error"]
    assert "'faulty'" in told["error"]
    assert outcome.says in told["error"]
    assert reply.headers["x-midstream-version"]
    reply = running.post([{"x": "well"}])
    assert 200 == reply.status, reply.body


def test_the_end_of_the_traceback_ends_the_message(running: EngineProcess) -> None:
    """What was raised, and where."""
    told = running.post([{"x": "1 / 0"}]).json()["error"]
    assert 'File "<string>", line 1' in told
    assert told.endswith("ZeroDivisionError: division by zero")


def test_the_status_lists_the_workers(running: EngineProcess) -> None:
    """With what became of the one before."""
    assert 502 == running.post([{"x": "os._exit(9)"}]).status
    assert 200 == running.post([{"x": "well"}]).status
    lines = running.get("/status").json()["sidekicks"]
    assert {"faulty"} == {line["model"] for line in lines}
    assert "Running" in {line["status"] for line in lines}
    assert any("exit code 9" in (line["reason"] or "") for line in lines)
    assert sum(line["restarts"] for line in lines) >= 1


def test_the_engine_imports_nothing_that_the_code_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python lists what the engine imports: numpy, and not pandas."""
    wanted = revision({"steps": [{"name": "predict", "model": python("import pandas\n" + SAME)}]})
    ConfigFolder(tmp_path / "config").write(wanted)
    # For the engine alone: workers have an environment of their own.
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    with engine(tmp_path) as running:
        running.wait("serving", version=wanted.version)
        assert 200 == running.post([{"x": 1}]).status
        assert 0 == running.stop()
    imported = set(re.findall(r"^import time:.*\|\s+(\w+)$", running.stderr, re.MULTILINE))
    assert "numpy" in imported
    assert "pandas" not in imported
