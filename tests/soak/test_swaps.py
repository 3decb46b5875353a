"""A thousand swaps under load. Minutes; `make soak`."""

import sys
from pathlib import Path

import pytest

from kit import swapping


@pytest.mark.parametrize(
    ("chains", "swaps"),
    [
        pytest.param(swapping.ONE_STEP, 1000, id="one step, three models"),
        pytest.param(swapping.TWO_STEPS, 300, id="two steps, all combinations"),
    ],
)
def test_no_answer_is_lost_or_mixed_in_many_swaps(
    tmp_path: Path,
    chains: list[swapping.Chain],
    swaps: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """While 16 clients ask, every answer of every swap is 200 and exactly what the version it names computes."""
    outcome = swapping.swap_under_load(tmp_path, chains, swaps=swaps)

    with capsys.disabled():
        sys.stdout.write(f"\n{outcome}\n")
    assert outcome.smallest_difference > 0.01, "the rows cannot tell the versions apart"
    assert (outcome.report.failed, outcome.report.mixed, outcome.stale) == (0, 0, 0), str(outcome)
    assert len(outcome.report.versions) == len(chains), "a version never answered"
