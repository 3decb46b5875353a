"""Swaps through the real command, under load: the short form of `tests/soak/test_swaps.py`."""

from pathlib import Path

import pytest

from kit import swapping


@pytest.mark.parametrize(
    ("chains", "swaps"),
    [
        pytest.param(swapping.ONE_STEP, 15, id="one step, three models"),
        pytest.param(swapping.TWO_STEPS, 15, id="two steps, all combinations"),
    ],
)
def test_no_answer_is_lost_or_mixed_while_models_are_swapped(
    tmp_path: Path, chains: list[swapping.Chain], swaps: int
) -> None:
    """While 16 clients ask, every answer is 200 and exactly what the version it names computes."""
    outcome = swapping.swap_under_load(tmp_path, chains, swaps=swaps)

    assert outcome.smallest_difference > 0.01, "the rows cannot tell the versions apart"
    assert (outcome.report.failed, outcome.report.mixed, outcome.stale) == (0, 0, 0), str(outcome)
    assert len(outcome.report.versions) == len(chains), "a version never answered"


def test_two_workers_switch_together_enough_for_the_announcement(tmp_path: Path) -> None:
    """With two workers, nothing asked after a swap is announced is answered by the version before it."""
    outcome = swapping.swap_under_load(tmp_path, swapping.ONE_STEP, swaps=6, workers=2)

    assert (outcome.report.failed, outcome.report.mixed, outcome.stale) == (0, 0, 0), str(outcome)
