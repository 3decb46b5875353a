"""Conditions: when they change their time, when they are there at all, and that every reason is explained."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from midstream_api.status import Condition, ConditionType
from midstream_operator import conditions
from midstream_operator.conditions import FAILURES, REASONS, Reason, Wanted

ROOT = Path(__file__).parents[2]
OPERATOR = ROOT / "operator" / "midstream_operator"
PAGE = (ROOT / "docs" / "reasons.md").read_text(encoding="utf-8")
ERRORS = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")

BEFORE, NOW = "2026-11-21T14:00:00.000Z", "2026-11-21T14:05:09.123Z"


def ready(status: str, *, since: str = BEFORE, reason: str = "Serving") -> Condition:
    return Condition.read(
        {
            "type": "Ready",
            "status": status,
            "reason": reason,
            "observedGeneration": 1,
            "lastTransitionTime": since,
        }
    )


WANTED = Wanted(ConditionType.READY, "True", "Serving", "version v serves on 3 of 3 replicas")


def test_a_new_condition_begins_now() -> None:
    """It has never had another status."""
    (found,) = conditions.update([], [WANTED], generation=7, now=NOW)
    assert found == Condition(
        type="Ready",
        status="True",
        reason="Serving",
        message="version v serves on 3 of 3 replicas",
        observed_generation=7,
        last_transition_time=NOW,
    )


def test_a_condition_keeps_its_time_while_only_reason_and_message_change() -> None:
    """Whoever looks how long it has been ready is told the truth."""
    (found,) = conditions.update(
        [ready("True", reason="Undeployed")], [WANTED], generation=2, now=NOW
    )
    assert (found.reason, found.last_transition_time) == ("Serving", BEFORE)
    assert found.observed_generation == 2


@pytest.mark.parametrize("status", ["False", "Unknown"])
def test_a_condition_that_flips_flips_now(status: str) -> None:
    """The time moves with the status."""
    (found,) = conditions.update([ready(status)], [WANTED], generation=1, now=NOW)
    assert found.last_transition_time == NOW


def test_a_condition_without_a_time_gets_one() -> None:
    """As somebody else may have written it."""
    bare = ready("True").model_copy(update={"last_transition_time": None})
    (found,) = conditions.update([bare], [WANTED], generation=1, now=NOW)
    assert found.last_transition_time == NOW


def test_what_is_not_wanted_any_more_goes() -> None:
    """Reconciling, Stalled and Pinned are there only while they are true."""
    gone = Condition.read({"type": "Stalled", "status": "True", "reason": "VerifyFailed"})
    found = conditions.update([gone, ready("True")], [WANTED], generation=1, now=NOW)
    assert [one.type for one in found] == ["Ready"]


def test_a_long_message_is_cut_and_says_so() -> None:
    """An API server refuses what is longer."""
    long = Wanted(ConditionType.READY, "False", "VerifyFailed", "x" * 5000)
    (found,) = conditions.update([], [long], generation=1, now=NOW)
    assert len(found.message) == conditions.MAX_MESSAGE
    assert found.message.endswith("x…")


# The page


def _rows() -> dict[str, str]:
    tables = PAGE.partition("## Reasons")[2]
    return dict(re.findall(r"^\| `(\w+)` \| [^|]*\| (.+?) \|", tables, re.MULTILINE))


def test_every_reason_has_a_sentence() -> None:
    """A new reason needs one."""
    assert set(REASONS) == set(Reason)


def test_page_has_every_reason_with_its_sentence_and_no_other() -> None:
    """docs/reasons.md says what the code says."""
    said = {**{reason.value: text for reason, text in REASONS.items()}, **FAILURES}
    assert _rows() == said


def _constants(tree: ast.AST, name: str, position: int) -> Iterator[str]:
    """The texts that stand in one place of calls."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == name:
            for given in node.args[position : position + 1]:
                if isinstance(given, ast.Constant) and given.value:
                    yield str(given.value)


def test_every_failure_that_the_operator_finds_is_explained() -> None:
    """Here, or on the page of errors where engines give the same."""
    found = set()
    for path in OPERATOR.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found |= {*_constants(tree, "Failure", 1), *_constants(tree, "Unresolved", 0)}
    assert {"InvalidSpec", "VersionNotFound", "SourceIsLocal"} <= found
    assert {one for one in found if one not in FAILURES and f"`{one}`" not in ERRORS} == set()
