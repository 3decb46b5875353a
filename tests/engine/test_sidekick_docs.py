"""`docs/python-models.md`: its code answers as it says, its numbers and its table are those of the engine."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from kit import sidekicks as kit
from kit.sidekick_faults import OUTCOMES
from midstream import manifest
from midstream_engine.dataplane import STATUS_CODES
from midstream_engine.revisions import trial
from midstream_engine.sidekicks import crew, entry, output, sidekick, wire
from midstream_engine.sidekicks.launch import Limits
from midstream_engine.sidekicks.settings import SidekickSettings

PAGE = (Path(__file__).parents[2] / "docs" / "python-models.md").read_text(encoding="utf-8")
MANIFESTS = [
    text for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "apiVersion" in text
]
ROWS = re.findall(r"^\| ([^|]+) \| (\d*) \| (?:`(\w+)`)? ?\| ([^|]*) \| (\w+)", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def ground() -> Iterator[kit.Ground]:
    with kit.ground() as made:
        yield made


@pytest.mark.parametrize("text", MANIFESTS)
def test_manifests_on_the_page_are_valid(tmp_path: Path, text: str) -> None:
    """What is shown can be copied."""
    path = tmp_path / "pipeline.yaml"
    path.write_text(text, encoding="utf-8")
    manifest.load(path)


def column(values: list[Any]) -> Any:
    numbers = [np.nan if value is None else value for value in values]
    return np.array(numbers, np.float32 if None in values else None)


@pytest.mark.parametrize("number", range(2))
def test_code_on_the_page_answers_as_the_page_says(ground: kit.Ground, number: int) -> None:
    """The rows of the request, and the outputs of each."""
    text = MANIFESTS[number]
    model = yaml.safe_load(text)["spec"]["steps"][0]["model"]
    after = PAGE[PAGE.index(text) :]
    sent = re.search(r"-d '(.*)'", after)
    said = re.search(r"answers with (.*?)\. The", after, re.DOTALL)
    assert sent is not None
    assert said is not None
    rows = json.loads(sent[1])
    inputs = {name: column([row[name] for row in rows]) for name in rows[0]}
    with ground.use(model["source"]["inline"], model["name"]) as used:
        answer = kit.ask(used, inputs)
    got = [{name: values[row] for name, values in answer.items()} for row in range(len(rows))]
    assert [json.loads(part) for part in re.findall(r"`(\{.*?\})`", said[1])] == got


def test_the_flag_on_the_page_marks_a_row_that_makes_no_sense(ground: kit.Ground) -> None:
    """The other rows are answered."""
    (text,) = [each for each in MANIFESTS if "name: checked-price" in each]
    model = yaml.safe_load(text)["spec"]["steps"][0]["model"]
    with ground.use(model["source"]["inline"], model["name"]) as used:
        answer = kit.ask(used, {"area": np.array([80.0, -3.0])})
    assert list(answer["sensible"]) == [True, False]
    assert answer["price"][0] == 16800.0
    assert np.isnan(answer["price"][1])


def test_the_table_has_every_fault_that_is_tested() -> None:
    """With its code and reason, and what becomes of the worker."""
    shown = {row[0]: (row[1], row[2], row[4] != "stays") for row in ROWS}
    for does, outcome in OUTCOMES.items():
        code = str(STATUS_CODES[outcome.error])
        assert (code, outcome.error.default_reason, outcome.replaced) == shown.pop(does)
    assert {
        "kills its parent's other children",
        "leaves children behind and goes on",
    } == set(shown)


def test_limits_on_the_page_are_the_engines() -> None:
    """Every number that is said."""
    settings, limits = SidekickSettings(), Limits()
    assert f"| {settings.max_answer >> 20} MiB | `SidekickFailed`" in PAGE
    assert f"| {sidekick.MAX_REQUEST_BYTES >> 20} MiB | `SidekickFailed`" in PAGE
    assert f"| {limits.memory >> 30} GiB, and at most half of" in PAGE
    assert f"| {limits.file_bytes >> 20} MiB | an `OSError`" in PAGE
    assert f"| {settings.queued} | `Overloaded`" in PAGE
    assert f"takes longer than {trial.LONGEST:g} s" in PAGE
    assert f"It may take {settings.start_seconds:g} s" in PAGE
    assert f"at most {entry.MAX_UNPACKED_BYTES >> 20} MiB in {entry.MAX_ENTRIES:,} files" in PAGE
    assert f"{output.LINES_PER_SECOND} lines a second" in PAGE
    assert f"cut at {output.LINE_CHARACTERS} characters" in PAGE
    assert f"more than {output.BYTES_PER_SECOND >> 20} MiB" in PAGE
    assert f"again after {crew.FIRST_DELAY} s" in PAGE
    assert f"up to {crew.LONGEST_DELAY:g} s, and when" in PAGE
    assert (2, 1, 60.0) == (settings.workers, settings.prestart, settings.idle_seconds)
    assert wire.MAX_BYTES == settings.max_answer
