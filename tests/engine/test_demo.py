"""The demo of the house-price example: what it tells, and what it leaves behind."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kit import client

DEMO = Path(__file__).parents[2] / "examples" / "house-price" / "demo.py"


@contextmanager
def demo(folder: Path, settle: float) -> Iterator[subprocess.Popen[str]]:
    """The demo in a process group of its own, as a terminal would run it."""
    process = subprocess.Popen(
        [sys.executable, str(DEMO), "--settle", str(settle)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder), "MIDSTREAM_CACHE": str(folder / "cache")},
        process_group=0,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_the_demo_tells_of_the_house_in_the_readme(tmp_path: Path) -> None:
    """Every request is answered by the version it names; the prices are those of the request in the README."""
    with demo(tmp_path, 0.1) as process:
        out, errors = process.communicate(timeout=client.SECONDS)

    assert (process.returncode, errors) == (0, "")
    assert out.splitlines()[-1].endswith("   failed 0   mixed 0")
    assert out.count("stages: ") == 1
    told = out.partition("The house of samples/one-row.json")[2].split()
    assert {"566,866.20", "530,424.30", "517,858.20"} <= set(told)


@pytest.mark.parametrize("whom", ["everybody", "the demo"])
def test_an_interrupted_demo_says_so_and_leaves_nothing(tmp_path: Path, whom: str) -> None:
    """Ctrl-C, which a terminal sends to all, and a signal to the demo alone: code 130, no traceback, no service."""
    with demo(tmp_path, 600.0) as process:
        assert process.stdout is not None
        asking = next(line for line in process.stdout if "clients are asking" in line)
        port = int(asking.rpartition(":")[2])
        if whom == "everybody":
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=client.SECONDS)

    assert (process.returncode, out.split("\n")[-2], errors) == (130, "demo: interrupted", "")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}
