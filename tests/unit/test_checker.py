"""The checker itself: it passes what is right, and nothing that is not."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from kit.checker import Checker
from kit.load import CUT, Answer, Record, Row
from kit.wire import Request, records

HOUSE = Path(__file__).parents[2] / "examples" / "house-price"
MODELS = HOUSE / "models"
ROWS: list[dict[str, Any]] = json.loads((HOUSE / "samples" / "distinct-rows.json").read_bytes())

RF, GBR, XGB = (MODELS / f"{name}.onnx" for name in ("rf", "gbr", "xgb"))
PREPARES = MODELS / "prepare-a.onnx", MODELS / "prepare-b.onnx"
REQUEST = records("/pipelines/house-price", ROWS[:2])


@pytest.fixture(scope="module")
def checker() -> Checker:
    return Checker({"v-rf": [RF], "v-gbr": [GBR], "v-xgb": [XGB]})


@pytest.fixture(scope="module")
def two_steps() -> Checker:
    return Checker(
        {
            f"{prepare.stem}+{model.stem}": [prepare, model]
            for prepare in PREPARES
            for model in (RF, GBR, XGB)
        }
    )


def row(checker: Checker, version: str, sent: Mapping[str, Any], model: Path, label: str) -> Row:
    """The row that `version` computes, labelled as `label` and with the name of `model`."""
    outputs = checker.expected(version, [sent])
    out = {name: tensor[0] for name, tensor in outputs.items()}
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    last_model = orjson.dumps({"model_name": model.stem, "model_sha": sha256}).decode()
    return Row(label, last_model, orjson.dumps(out, option=orjson.OPT_SERIALIZE_NUMPY), True)


def answer(version: str, rows: Sequence[Row]) -> Answer:
    return Answer(0, 200, version, tuple(rows))


def good(checker: Checker, version: str = "v-rf", model: Path = RF) -> list[Row]:
    return [row(checker, version, sent, model, version) for sent in REQUEST.rows]


def record(*answers: Answer) -> Record:
    found = Record(answers=list(answers))
    found.kind.extend(range(len(answers)))
    return found


def test_right_answers_of_every_version_pass(checker: Checker) -> None:
    """Every version's own answers, as float32 texts, are counted under their version."""
    answers = [
        answer(version, good(checker, version, model))
        for version, model in (("v-rf", RF), ("v-gbr", GBR), ("v-xgb", XGB))
    ]

    report = checker.check(record(*answers), [REQUEST])

    assert (3, 0, 0) == (report.answers, report.failed, report.mixed), report
    assert {"v-rf": 1, "v-gbr": 1, "v-xgb": 1} == report.versions


def test_a_planted_mix_of_two_models_rows_is_found(checker: Checker) -> None:
    """Row 0 by the named version and row 1 by another one is a mixed answer, though all labels agree."""
    rows = [good(checker)[0], row(checker, "v-gbr", ROWS[1], RF, "v-rf")]

    report = checker.check(record(answer("v-rf", good(checker)), answer("v-rf", rows)), [REQUEST])

    assert (2, 0, 1) == (report.answers, report.failed, report.mixed)
    assert "row 1 of version v-rf says variable" in report.examples[0]


@pytest.mark.parametrize("position", [0, 1], ids=["a step kept", "a step swapped"])
def test_a_planted_mix_of_two_steps_is_found(two_steps: Checker, position: int) -> None:
    """Step 1 of the old version with step 2 of the new one is mixed under the label of either."""
    old, new, between = "prepare-a+rf", "prepare-b+gbr", "prepare-a+gbr"
    label, model = ((old, RF), (new, GBR))[position]
    rows = [row(two_steps, between, sent, model, label) for sent in REQUEST.rows]

    report = two_steps.check(record(answer(label, rows)), [REQUEST])

    assert 1 == report.mixed, report


def test_a_label_that_disagrees_with_the_values_is_found(checker: Checker) -> None:
    """Values of one version under the name of another are mixed."""
    rows = [row(checker, "v-gbr", sent, RF, "v-rf") for sent in REQUEST.rows]

    assert 1 == checker.check(record(answer("v-rf", rows)), [REQUEST]).mixed


def test_a_header_that_disagrees_with_the_body_is_found(checker: Checker) -> None:
    """A good body of one version under a header that names another is mixed."""
    report = checker.check(record(answer("v-gbr", good(checker))), [REQUEST])

    assert 1 == report.mixed
    assert "names version v-rf, the header v-gbr" in report.examples[0]


def test_the_wrong_last_model_is_found(checker: Checker) -> None:
    """The right values with the sha256 of another model are mixed."""
    rows = [row(checker, "v-rf", sent, GBR, "v-rf") for sent in REQUEST.rows]

    assert 1 == checker.check(record(answer("v-rf", rows)), [REQUEST]).mixed


def test_the_answer_to_another_request_is_found(checker: Checker) -> None:
    """A right answer to rows that were not sent does not pass: neither by its echo nor by its values."""
    swapped = list(reversed(good(checker)))
    unechoed = [entry._replace(echoed=False) for entry in good(checker)]

    report = checker.check(
        record(answer("v-rf", swapped), answer("v-rf", unechoed), answer("v-rf", swapped[:1])),
        [REQUEST],
    )

    assert 3 == report.mixed


def test_the_smallest_float32_step_is_found(checker: Checker) -> None:
    """One unit in the last place of a float32 is already another answer."""
    rows = good(checker)
    text = orjson.loads(rows[0].out)
    text["variable"][0] += 0.0625 if text["variable"][0] < 2**20 else 0.125
    rows[0] = rows[0]._replace(out=orjson.dumps(text))

    assert 1 == checker.check(record(answer("v-rf", rows)), [REQUEST]).mixed


def test_an_unknown_version_and_a_missing_header_are_found(checker: Checker) -> None:
    """An answer that names no version we made is mixed."""
    report = checker.check(
        record(answer("v-new", good(checker)), answer("", good(checker))), [REQUEST]
    )

    assert 2 == report.mixed


def test_what_is_not_200_is_failed_and_not_mixed(checker: Checker) -> None:
    """Refusals and cut connections are failures; the report says how many of which."""
    answers = record(
        Answer(0, 503, "", problem="busy"), Answer(0, CUT, "", problem="closed by the server")
    )

    report = checker.check(answers, [REQUEST])

    assert (2, 2, 0) == (report.answers, report.failed, report.mixed)
    assert "1 x status 503: busy" in report.examples


def test_the_samples_tell_all_versions_apart(checker: Checker, two_steps: Checker) -> None:
    """On the committed rows every two versions differ by more than 1 %, so that a mix cannot hide."""
    assert checker.smallest_difference(ROWS) > 0.01
    assert two_steps.smallest_difference(ROWS) > 0.01


def test_requests_are_plain_http(checker: Checker) -> None:
    """A request's bytes hold its rows as pandas-records."""
    assert isinstance(REQUEST, Request)
    assert list(REQUEST.rows) == orjson.loads(REQUEST.body)
    assert b"Content-Type: application/json; format=pandas-records\r\n" in REQUEST.raw
    assert checker.expected("v-rf", ROWS[:2])["variable"].shape == (2, 1)
