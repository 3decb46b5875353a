"""The page on running says what the command line, the engine and its events really are."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from midstream import cli
from midstream_engine import main
from midstream_engine.recent import MAX_BYTES
from midstream_engine.settings import Settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "running.md").read_text()
ENGINE = ROOT / "engine" / "midstream_engine"
TELLS = {"emit", "_emit", "tell", "_tell"}


def table(title: str) -> list[list[str]]:
    """The rows of a section's tables, their heads left out."""
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    assert section, title
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line[1:-1].split(" | ")] for line in lines]


def named(rows: list[list[str]], pattern: str) -> list[str]:
    """What stands in the first column, in backquotes."""
    return [found for row in rows for found in re.findall(rf"`({pattern})", row[0])]


def options(text: str) -> set[str]:
    """The long options of a help text."""
    return set(re.findall(r"(?<![\w-])(--[a-z][a-z-]*)", text)) - {"--help"}


@pytest.mark.parametrize(
    ("title", "command", "program"),
    [
        ("Options", "run", cli.main),
        ("Before you save", "plan", cli.main),
        ("The engine by itself", "serve", main.main),
    ],
)
def test_every_option_is_explained(
    title: str,
    command: str,
    program: Callable[[list[str]], int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All that the help names, and no other."""
    with pytest.raises(SystemExit):
        program([command, "--help"])
    assert set(named(table(title), "--[a-z-]+")) == options(capsys.readouterr().out)


def told(node: ast.AST) -> Iterator[str]:
    """Names of events that are told somewhere in a module."""
    for call in ast.walk(node):
        if not isinstance(call, ast.Call):
            continue
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        if name in TELLS:
            for argument in call.args[:2]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value


def test_every_event_of_the_engine_is_explained() -> None:
    """All that are emitted, and no other."""
    modules = [ast.parse(module.read_text()) for module in ENGINE.rglob("*.py")]
    known = {event for module in modules for event in told(module)}
    # The manager gives these two to the function that tells of a failure.
    known |= {"refused", "candidate_killed_engine"}
    rows = [row for row in table("The engine by itself") if not row[0].startswith("`--")]
    assert set(named(rows, "[a-z_]+")) == known


def test_numbers_are_those_of_the_engine() -> None:
    """Defaults of the engine's options."""
    folder = Path()
    settings = Settings(config=folder, state=folder, cache=folder)
    rows = {row[0]: row[1] for row in table("The engine by itself") if row[0].startswith("`--")}
    said = {name: rows[f"`--{name.replace('_', '-')}`"] for name in ("recent_rows", "max_queued")}
    assert said == {
        "recent_rows": str(settings.recent_rows),
        "max_queued": str(settings.max_queued),
    }
    for name in ("infer_seconds", "receive_seconds", "drain_seconds", "warm_up_seconds"):
        assert rows[f"`--{name.replace('_', '-')}`"] == f"{getattr(settings, name):g}"
    assert rows["`--max-buffered`"] == f"{settings.max_buffered:,}"
    assert rows["`--max-connections`"] == str(settings.max_connections)
    assert f"the last {settings.recent_rows} rows, and at most {MAX_BYTES >> 20} MiB" in PAGE
