"""The command line itself: its version, its arguments and their defaults."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from midstream import cli
from midstream_api import __version__


def test_version_is_told() -> None:
    """`midstream --version` and `python -m midstream --version` are the same."""
    command = [sys.executable, "-m", "midstream", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"midstream {__version__}\n"


@pytest.mark.parametrize(
    ("text", "count"),
    [("1", 1), ("1048576", 1048576), ("16Mi", 16 << 20), ("2G", 2_000_000_000), ("3k", 3000)],
)
def test_sizes_have_kubernetes_suffixes(text: str, count: int) -> None:
    """Bytes, or a number with a suffix."""
    assert cli.size(text) == count


@pytest.mark.parametrize("text", ["", "Mi", "1.5Gi", "-1", "16 Mi", "16MB"])
def test_sizes_that_are_none_are_refused(text: str) -> None:
    """The message lists the suffixes."""
    with pytest.raises(argparse.ArgumentTypeError, match="k, M, G, Ki, Mi, Gi"):
        cli.size(text)


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["serve"],
        ["run"],
        ["run", "p.yaml", "--port", "65536"],
        ["run", "p.yaml", "--port", "x"],
        ["run", "p.yaml", "--workers", "0"],
        ["run", "p.yaml", "--policy", "none"],
        ["run", "p.yaml", "--max-body", "x"],
        ["run", "p.yaml", "--max-body", "0"],
        ["run", "p.yaml", "--memory-limit", "0"],
    ],
)
def test_wrong_arguments_are_refused(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, as for every command."""
    with pytest.raises(SystemExit) as caught:
        cli.main(args)
    assert caught.value.code == 2
    assert "usage: midstream" in capsys.readouterr().err


def test_cache_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """$MIDSTREAM_CACHE, then $XDG_CACHE_HOME, then ~/.cache."""
    monkeypatch.delenv("MIDSTREAM_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.default_cache() == tmp_path / ".cache" / "midstream"
    with monkeypatch.context() as nobody:
        nobody.delenv("HOME")
        nobody.setattr("os.getuid", lambda: 4_000_000_000)  # an id that no user has
        assert cli.default_cache().name == "midstream-cache-4000000000"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cli.default_cache() == Path("/xdg/midstream")
    monkeypatch.setenv("MIDSTREAM_CACHE", "/models")
    assert cli.default_cache() == Path("/models")
