"""What the pages of `docs/acceptance/` name as proof is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "acceptance").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_tests_that_are_named_exist(page: Path) -> None:
    """A reader who runs the command of a line runs a test."""
    named = set(re.findall(r"\btests/[\w/]+\.py\b", page.read_text(encoding="utf-8")))
    assert not sorted(name for name in named if not (ROOT / name).is_file())
