"""Decisions are numbered without gaps, have one form, and lead where they say."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "decisions"
PAGES = sorted(FOLDER.glob("*.md"))


def anchor(title: str) -> str:
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    """Every file and every title that is linked to is there."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    for file, title in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", text):
        target = page.parent / file if file else page
        assert target.exists(), file
        if title:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert title in {anchor(each) for each in titles}, f"{file}#{title}"
