"""What differs between two revisions beside their models, in words."""

from copy import deepcopy
from typing import Any

import pytest

from midstream.changes import between

VARIANTS: list[dict[str, Any]] = [
    {"name": "control", "weight": 2, "model": {"name": "rf", "sha256": "0"}},
    {"name": "rival", "model": {"name": "xgb", "sha256": "1"}},
]
KEY = {"key": "region", "options": {"DE": "control", "FR": "rival"}, "default": "control"}


def _content(**split: Any) -> dict[str, Any]:
    return {"steps": [{"name": "predict", "split": {"variants": deepcopy(VARIANTS), **split}}]}


def _weights(*weights: int) -> list[dict[str, Any]]:
    return [{**one, "weight": weight} for one, weight in zip(VARIANTS, weights, strict=True)]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({}, {}, []),
        ({"hashKey": "customer"}, {}, ["no hashKey any more", "weights 2:1"]),
        (
            {"hashKey": "customer"},
            {"variants": _weights(5, 1)},
            ["no hashKey any more", "weights 5:1"],
        ),
        ({}, {"hashKey": "customer"}, ["hashKey customer"]),
        (
            {"hashKey": "customer"},
            {"hashKey": "custome"},
            ["hashKey customer → custome"],
        ),
        (
            {"hashKey": "customer"},
            KEY,
            [
                "no hashKey any more",
                "key region with options DE: control, FR: rival, default control",
            ],
        ),
        (KEY, {}, ["no key any more", "weights 2:1"]),
        (KEY, {**KEY, "key": "country"}, ["key region → country"]),
        (
            KEY,
            {**KEY, "options": {"DE": "rival", "IT": "control"}, "default": "rival"},
            [
                "no option FR any more",
                "option DE: control → rival",
                "option IT: control",
                "default control → rival",
            ],
        ),
        ({}, {"variants": _weights(1, 1)}, ["weights 1:1"]),
        ({}, {"variants": VARIANTS[::-1]}, ["variants in the order rival, control"]),
    ],
    ids=[
        "nothing",
        "no hashKey",
        "no hashKey and weights",
        "a hashKey",
        "another hashKey",
        "a key",
        "no key",
        "another key",
        "options",
        "weights",
        "order",
    ],
)
def test_how_a_split_chooses_is_told(
    before: dict[str, Any], after: dict[str, Any], said: list[str]
) -> None:
    """Whatever sends rows to other variants is named, with the weights that count from now on."""
    found = between(_content(**before), _content(**after))
    assert found.steps == ({"predict": said} if said else {})


def test_a_challenger_s_waiting_is_told() -> None:
    """What an answer waits for, and how long, and who is the champion."""

    def shadow(champion: str, **fields: Any) -> dict[str, Any]:
        named = [{"name": name, "model": {"name": name}} for name in "ab"]
        named = named if champion == "a" else named[::-1]
        return {
            "steps": [
                {"name": "p", "shadow": {"champion": named[0], "challengers": named[1:], **fields}}
            ]
        }

    found = between(shadow("a"), shadow("b", wait=True, timeoutSeconds=2))
    assert found.sentences("step ") == [
        "step p: waits for challengers, timeoutSeconds 2, champion a → b"
    ]
    back = between(shadow("a", wait=True, timeoutSeconds=2), shadow("a"))
    assert back.steps == {"p": ["waits no longer", "the usual timeoutSeconds"]}


def test_settings_of_a_model_are_named() -> None:
    """Fields of the model by their names; what only brings the same bytes is told of the same model alone."""

    def step(**fields: Any) -> dict[str, Any]:
        return {"steps": [{"name": "p", "model": {"name": "rf", "sha256": "0", **fields}}]}

    new = {"inputs": [{"name": "x"}], "batch": "Single", "uri": "b", "verify": {}}
    assert between(step(uri="a"), step(**new)).steps == {
        "p": ["new inputs", "new batch", "new source", "new golden rows"]
    }
    assert between(step(uri="a"), step(uri="b", sha256="1")).steps == {}


def test_validations_are_told_by_name() -> None:
    """One sentence for each that is new, gone or another one."""

    def checks(**given: str) -> dict[str, Any]:
        return {
            "steps": [],
            "validations": [{"name": name, "expression": text} for name, text in given.items()],
        }

    assert between(checks(a="out.x > 1", b="out.x > 2"), checks(b="out.x > 3", c="in.y")).sentences(
        "step "
    ) == [
        "validation a is gone",
        "validation b: expression is now 'out.x > 3'",
        "validation c is new",
    ]
    assert between({"steps": []}, {"steps": []}).validations == []
    assert between(checks(a="1", b="2"), checks(b="2", a="1")).validations == [
        "validations in another order"
    ]
