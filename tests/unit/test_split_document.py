"""`docs/split-and-shadow.md` can be followed: its hashes, its manifests and its metrics are those of the code."""

import math
import re
from hashlib import blake2b
from pathlib import Path

import pytest
import yaml

from midstream_api.steps import Step
from midstream_engine.shadow.comparison import Outcome
from midstream_engine.shadow.runner import MAX_BYTES, MAX_JOBS
from midstream_engine.split import HEADER, Chooser, canonical

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "split-and-shadow.md").read_text(encoding="utf-8")
MANIFESTS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
VECTORS = re.findall(
    r"^\| `(\S+)` \| `(\S+)` \| `([0-9a-f]{16})` \| ([0-9.]+) \| ([0-9.]+) \|$", PAGE, re.MULTILINE
)


@pytest.mark.parametrize("text", MANIFESTS)
def test_steps_on_the_page_are_valid(text: str) -> None:
    """What is shown can be copied, and a split of it can choose."""
    for each in yaml.safe_load(text)["steps"]:
        step = Step.model_validate(each)
        if step.split is not None:
            split = step.split
            variants = [(variant.name, variant.weight) for variant in split.variants]
            Chooser(variants, split.hash_key, split.key, split.options, split.default)


def test_there_is_something_to_check() -> None:
    """The patterns above find what the page has."""
    assert (4, 6) == (len(MANIFESTS), len(VECTORS))


@pytest.mark.parametrize(("variant", "key", "hashed", "u", "score"), VECTORS)
def test_test_vector(variant: str, key: str, hashed: str, u: str, score: str) -> None:
    """Whoever follows the page's three steps gets the page's numbers."""
    digest = blake2b(variant.encode() + b"\0" + key.encode(), digest_size=8).digest()
    number = (int.from_bytes(digest, "big") // 2**12 + 0.5) / 2**52
    assert (hashed, u, score) == (
        digest.hex(),
        f"{number:.10f}",
        f"{-1 / math.log(number):.7f}",
    )


@pytest.mark.parametrize("key", sorted({key for _, key, *_ in VECTORS}))
def test_highest_score_of_the_page_wins(key: str) -> None:
    """The engine chooses what the page says, for equal weights."""
    scores = {variant: float(score) for variant, of, _, _, score in VECTORS if of == key}
    chooser = Chooser([(name, 1) for name in scores], hash_key="user")
    (chosen,) = chooser.choose(1, [key])
    assert max(scores, key=scores.__getitem__) == chooser.names[chosen]


def test_names_and_numbers_on_the_page_are_those_of_the_code() -> None:
    """Metrics, outcomes, limits and the header."""
    collector = (ROOT / "engine" / "midstream_engine" / "metrics.py").read_text()
    for name in re.findall(r"^\| `(midstream_engine_\w+?)(?:_total)?` \|", PAGE, re.MULTILINE):
        assert f'"{name}"' in collector
    for outcome in Outcome:
        assert f"`{outcome}`" in PAGE
    assert f"`{HEADER}`" in PAGE
    assert f"queue of {MAX_JOBS} batches" in PAGE
    assert f"at most {MAX_BYTES >> 20} MiB" in PAGE


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (42.0, "42"),
        (1e-7, "1e-07"),
        (True, "true"),
        ([1, 2.5, "é", None, True], '[1,2.5,"é",null,true]'),
    ],
)
def test_texts_of_keys_on_the_page(value: object, text: str) -> None:
    """The table's examples are what is hashed."""
    assert text == canonical(value)
    assert f"`{text}`" in PAGE
