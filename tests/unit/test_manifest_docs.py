"""`docs/manifest.md` shows every field and every message."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kit import corpus
from midstream import manifest
from midstream_api import crdgen

PAGE = (Path(__file__).parents[2] / "docs" / "manifest.md").read_text(encoding="utf-8")
MANIFESTS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("text", MANIFESTS)
def test_manifest_on_the_page_is_valid(tmp_path: Path, text: str) -> None:
    """What is shown can be copied."""
    path = tmp_path / "pipeline.yaml"
    path.write_text(text, encoding="utf-8")
    assert manifest.load(path).pipeline.metadata.name == "house-price"


def _fields(schema: dict[str, Any]) -> Iterator[str]:
    for name, each in schema.get("properties", {}).items():
        yield name
        yield from _fields(each)
    if "items" in schema:
        yield from _fields(schema["items"])


def test_every_field_is_shown_and_explained() -> None:
    """Each field of the CRD is in the long example and in the table."""
    version = crdgen.pipeline_crd()["spec"]["versions"][0]
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    written = {key: each for key, each in properties.items() if key != "status"}
    fields = set(_fields({"properties": written}))
    longest = max(MANIFESTS, key=len)
    table = PAGE.partition("## Fields")[2].partition("\n## ")[0]
    assert len(fields) > 15
    for field in fields - {"metadata", "spec", "rollout", "source"}:
        assert f"{field}:" in longest, field
        assert re.search(rf"`[a-zA-Z\[\].]*\b{field}`", table), field


def _messages() -> list[re.Pattern[str]]:
    rows = re.findall(r"^\| (`.*?`) \|", PAGE.partition("## Errors")[2], re.MULTILINE)
    told = [text for row in rows for text in re.findall(r"`(.*?)`(?:,|$)", row)]
    return [re.compile(re.escape(text).replace("…", ".*")) for text in told]


@pytest.mark.parametrize("path", corpus.INVALID, ids=corpus.name)
def test_every_message_is_on_the_page(path: Path) -> None:
    """What the corpus is refused for can be looked up."""
    patterns = _messages()
    for expected in corpus.expected(path):
        said = re.sub(r"^(\d+:\d+: )?([a-zA-Z][^ ]*(?<!YAML): )?", "", expected)
        assert any(pattern.match(said) for pattern in patterns), said


def test_every_message_on_the_page_is_specific() -> None:
    """A pattern that matches everything would document nothing."""
    patterns = _messages()
    assert len(patterns) > 30
    assert not [pattern.pattern for pattern in patterns if pattern.fullmatch("anything at all")]
