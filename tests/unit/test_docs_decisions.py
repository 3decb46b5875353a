"""Decisions are numbered without gaps and have one form."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "decisions"
PAGES = sorted(FOLDER.glob("*.md"))


def test_numbers_have_no_gaps() -> None:
    """A number is the name of a decision for good."""
    assert [int(page.name[:4]) for page in PAGES] == list(range(1, len(PAGES) + 1))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_has_the_form(page: Path) -> None:
    """Title with its number, status, and what was decided and why, in this order."""
    text = page.read_text()
    assert text.startswith(f"# {int(page.name[:4])}. ")
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    wanted = ["Context", "Decision", "Consequences"]
    assert [title for title in titles if title in wanted] == wanted
    assert re.search(r"^\*\*Status:\*\* (accepted|superseded by )", text, re.MULTILINE)
