"""Rules for the whole run: under CI a skipped test fails unless `allowed-skips.txt` lists it.

A skip on a laptop says what is missing there. In CI it would say that a promise is no longer tested,
in a line that nobody reads; so it becomes a failure, with the reason the skip gave.
"""

import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

ALLOWED_SKIPS = Path("tests") / "allowed-skips.txt"


def pytest_configure() -> None:
    """Let processes of tests hear Ctrl-C, also where a shell has started the tests in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of a test into a failure where it is not allowed."""
    report = yield
    # An expected failure is reported as a skip, too; it did run.
    if report.skipped and not hasattr(report, "wasxfail"):
        refuse_skip(item.config, report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn the skip of a whole file into a failure where it is not allowed."""
    report = yield
    if report.skipped:
        refuse_skip(collector.config, report)
    return report


def refuse_skip(config: pytest.Config, report: pytest.TestReport | pytest.CollectReport) -> None:
    """Fail the report of a skip under CI, unless the allow-list has its id."""
    if os.environ.get("CI", "").lower() != "true":
        return
    if report.nodeid in allowed_skips(config.rootpath / ALLOWED_SKIPS):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"{report.nodeid} is not in {ALLOWED_SKIPS}, so CI may not skip it. {reason}"


def allowed_skips(path: Path) -> frozenset[str]:
    """Return the test ids of an allow-list; none when there is no list."""
    if not path.exists():
        return frozenset()
    lines = (line.strip() for line in path.read_text().splitlines())
    return frozenset(line.split("  ")[0] for line in lines if line and not line.startswith("#"))
