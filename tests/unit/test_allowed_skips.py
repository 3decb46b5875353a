"""The rule about skips is tested on runs of pytest itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

SAMPLE = """
import pytest

def test_runs():
    pass

@pytest.mark.skip(reason="no server here")
def test_needs_a_server():
    pass

@pytest.mark.xfail(reason="known")
def test_known():
    assert False
"""

SKIPPED_FILE = """
import pytest

pytest.skip("no library here", allow_module_level=True)
"""


def run_pytest(folder: Path, *, ci: str) -> tuple[int, str]:
    """Run pytest with our conftest in a folder; return its exit code and what it printed."""
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-q", "--rootdir", str(folder)]
    (folder / "pytest.ini").write_text("[pytest]\n")
    result = subprocess.run(
        [*command, "-c", str(folder / "pytest.ini"), str(folder)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(TESTS), "PYTEST_ADDOPTS": ""},
    )
    return result.returncode, result.stdout


@pytest.mark.parametrize(
    ("ci", "code", "closing"),
    [("", 0, "1 passed, 1 skipped, 1 xfailed"), ("true", 1, "1 passed, 1 xfailed, 1 error")],
)
def test_a_skip_fails_under_ci_only(tmp_path: Path, ci: str, code: int, closing: str) -> None:
    """A skip is a skip on a laptop and a failure in CI; an expected failure stays what it is."""
    (tmp_path / "test_sample.py").write_text(SAMPLE)
    returned, printed = run_pytest(tmp_path, ci=ci)
    assert (returned, closing in printed) == (code, True), printed


def test_an_allowed_skip_passes_under_ci(tmp_path: Path) -> None:
    """A skip whose id is on the list passes, and so does the run."""
    (tmp_path / "test_sample.py").write_text(SAMPLE)
    (tmp_path / "tests").mkdir()
    allowed = "test_sample.py::test_needs_a_server  needs a server\n"
    (tmp_path / "tests" / "allowed-skips.txt").write_text(f"# comment\n\n{allowed}")
    returned, printed = run_pytest(tmp_path, ci="true")
    assert (returned, "1 passed, 1 skipped, 1 xfailed" in printed) == (0, True), printed


def test_a_skipped_file_fails_under_ci(tmp_path: Path) -> None:
    """A file that skips itself while it is read fails in CI, and the reason is printed."""
    (tmp_path / "test_sample.py").write_text(SKIPPED_FILE)
    returned, printed = run_pytest(tmp_path, ci="true")
    assert returned != 0
    assert "no library here" in printed
