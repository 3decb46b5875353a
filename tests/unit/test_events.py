"""Events as lines of JSON."""

import json
import sys
from pathlib import Path

import pytest

from midstream_engine import events


def test_an_event_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    """With its time and its fields; what is not known is left out."""
    events.to_lines("freed", revision="a → b\n", bytes=None)
    printed = capsys.readouterr().out
    line = json.loads(printed)
    assert 1 == printed.count("\n")
    assert {"event": "freed", "revision": "a → b\n"} == {
        key: value for key, value in line.items() if key != "time"
    }


def test_a_full_disk_does_not_end_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever redirects the events into a file loses events, not the service."""
    full = Path("/dev/full").open("w")  # noqa: SIM115 - closing it fails, too
    monkeypatch.setattr(sys, "stdout", full)
    events.to_lines("freed")
    with pytest.raises(OSError, match="No space left"):
        full.close()
