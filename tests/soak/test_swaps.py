"""Hundreds of swaps under load: no answer lost or mixed, and no memory kept. Minutes; `make soak`."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit import models, swapping
from kit.swapping import Outcome

GROWTH = 1.1
"""How much more memory may be in use at the end than after the first 10 swaps."""


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A thousand swaps among the example's three models."""
    folder = tmp_path_factory.mktemp("thousand")
    return swapping.swap_under_load(
        folder, swapping.ONE_STEP, swaps=1000, weigh_after=(10, 100, 1000)
    )


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Iterator[list[Outcome]]:
    """What is put into this list is printed at the end of the test, whatever became of it."""
    outcomes: list[Outcome] = []
    yield outcomes
    with capsys.disabled():
        sys.stdout.write("".join(f"\n{outcome}\n" for outcome in outcomes))


def test_no_answer_is_lost_or_mixed_in_a_thousand_swaps(
    thousand: Outcome, say: list[Outcome]
) -> None:
    """While 16 clients ask, every answer is 200 and exactly what the version it names computes."""
    say.append(thousand)

    assert_right(thousand, versions=3)


def test_memory_comes_back_after_a_thousand_swaps(thousand: Outcome) -> None:
    """All processes together take at most a tenth more after 1,000 swaps than after 10, requests running."""
    assert thousand.memory[1000] <= GROWTH * thousand.memory[10], str(thousand)


def test_no_answer_mixes_two_steps(tmp_path: Path, say: list[Outcome]) -> None:
    """With two steps, of which a swap changes one or both, no answer has one of the old and one of the new."""
    outcome = swapping.swap_under_load(tmp_path, swapping.TWO_STEPS, swaps=300)
    say.append(outcome)

    assert_right(outcome, versions=len(swapping.TWO_STEPS))


def test_memory_comes_back_after_swaps_of_large_models(tmp_path: Path, say: list[Outcome]) -> None:
    """The same for 200 swaps between a model of 40 MB and one of 100 MB."""
    chains = [
        [(f"mlp-{size}", models.big_mlp(tmp_path / f"mlp-{size}.onnx", megabytes=size))]
        for size in (40, 100)
    ]

    outcome = swapping.swap_under_load(tmp_path, chains, swaps=200, weigh_after=(10, 100, 200))
    say.append(outcome)

    assert outcome.memory[200] <= GROWTH * outcome.memory[10], str(outcome)
    assert_right(outcome, versions=2)


def assert_right(outcome: Outcome, *, versions: int) -> None:
    assert outcome.smallest_difference > 0.01, "the rows cannot tell the versions apart"
    assert (outcome.report.failed, outcome.report.mixed, outcome.stale) == (0, 0, 0), str(outcome)
    assert len(outcome.report.versions) == versions, "a version never answered"
