"""Bodies of every format, right, nearly right and wrong, against all kinds of pipelines: never a 500."""

from collections import Counter
from collections.abc import Iterator
from itertools import groupby

import pytest

from fuzz import corpus
from fuzz.campaign import Campaign, Tally, campaign, described
from fuzz.inputs import BLOCK, input_of

ENOUGH = 0.3
"""Share of inputs that must reach a model: what is refused at once tries little of the engine."""


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    with campaign(tmp_path_factory.mktemp("fuzz")) as made:
        yield made


def test_the_corpus_is_answered_or_refused(ground: Campaign) -> None:
    """No input of the corpus is answered with a 500, or in a form that is not what it says; enough reach a model."""
    pipelines = {each.name: each for each in ground.pipelines}
    tally = Tally()
    numbered = enumerate(corpus.load())
    for name, group in groupby(numbered, key=lambda pair: pair[1].pipeline):
        pairs = list(group)
        for first in range(0, len(pairs), BLOCK):
            block = pairs[first : first + BLOCK]
            numbers, kept = [pair[0] for pair in block], [pair[1].sent for pair in block]
            for tried in ground.answer(pipelines[name], numbers, kept, in_threads=first == 0):
                tally.add(tried)
    assert not tally.findings, "\n\n".join(tally.findings.values())
    assert tally.inputs == corpus.SIZE
    assert tally.share >= ENOUGH, f"{tally.share:.1%}"
    # Each pipeline has its share of both.
    assert {(name, reached) for name in pipelines for reached in (True, False)} == {
        *tally.by_pipeline
    }


def test_new_inputs_are_answered_or_refused(ground: Campaign) -> None:
    """The same of inputs that are made now; `make fuzz` runs many more."""
    tally = Tally()
    for block in ground.run(21, range(len(ground.pipelines) * BLOCK)):
        for tried in block:
            tally.add(tried)
    assert not tally.findings, "\n\n".join(tally.findings.values())
    assert tally.share >= ENOUGH, f"{tally.share:.1%}"


def test_inputs_can_be_made_again(ground: Campaign) -> None:
    """Of seed and number alone, whatever was made before."""
    for pipeline in ground.pipelines:
        many = [input_of(pipeline, 5, number) for number in range(50)]
        again = [input_of(pipeline, 5, number) for number in reversed(range(50))]
        assert many == again[::-1]
        assert len({each.body for each in many}) > 10


def test_a_finding_can_be_seen_again(ground: Campaign) -> None:
    """What is told of one names its pipeline, its number and its request."""
    ((tried,),) = ground.run(5, range(7, 8))
    told = described(tried)
    assert told.startswith(f"input 7, pipeline {tried.fuzzed.name!r}")
    assert tried.sent.path in told


def test_the_corpus_has_every_kind_of_input() -> None:
    """All pipelines, all formats, packed bodies, queries and keys."""
    kept = corpus.load()
    types = Counter(each.sent.headers.get("content-type", "") for each in kept)
    for name in ("pandas-records", "columnar", "arrow.file", "arrow.stream", "octet-stream"):
        assert sum(number for kind, number in types.items() if name in kind) > 100, name
    for header in ("content-encoding", "x-midstream-split-key", "inference-header-content-length"):
        assert sum(header in each.sent.headers for each in kept) > 100, header
    assert sum("dataset" in each.sent.path for each in kept) > 100
