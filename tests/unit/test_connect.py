"""Models of one step put together: what one allows callers is not taken away by another unheard."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from kit import models
from kit.pipelines import onnx, revision
from midstream_engine.errors import LoadError
from midstream_engine.sessions import Session
from midstream_engine.steps.connect import assemble, place_of
from midstream_engine.steps.kinds import Step
from midstream_engine.steps.units import bind_onnx


def made(kind: str, *allowed: bool, folder: Path) -> Step:
    """A step of models of one input, `tensor`; allowed: whether each takes missing values."""
    path = models.scaled(folder / "model.onnx", 2.0)
    named: list[dict[str, Any]] = [
        {
            "name": f"m{number}",
            "model": onnx(path, inputs=[{"name": "tensor", "missing": "Allow"}])
            if each
            else onnx(path),
        }
        for number, each in enumerate(allowed)
    ]
    body = (
        {"split": {"variants": named}}
        if kind == "split"
        else {"shadow": {"champion": named[0], "challengers": named[1:]}}
    )
    (resolved,) = revision({"steps": [{"name": "predict", **body}]}).steps
    return assemble(
        resolved,
        lambda step, placed: bind_onnx(
            place_of(step, placed.variant),
            placed.variant,
            placed.model,
            Session(Path(urlsplit(placed.model.uri or "").path), placed.model.sha256),
        ),
    )


@pytest.mark.parametrize(
    ("kind", "allowed", "allows", "forbids"),
    [
        ("split", (True, False), "m0", "m1"),
        ("split", (False, True), "m1", "m0"),
        ("split", (False, False, True), "m2", "m0"),
        ("shadow", (True, False), "m0", "m1"),
        ("shadow", (True, True, False), "m0", "m2"),
    ],
)
def test_missing_values_that_only_some_models_take_are_refused(
    tmp_path: Path, kind: str, allowed: tuple[bool, ...], allows: str, forbids: str
) -> None:
    """The message names both; else a new challenger would have callers refused."""
    with pytest.raises(LoadError) as caught:
        made(kind, *allowed, folder=tmp_path)
    assert "NamesDoNotConnect" == caught.value.reason
    assert (
        f"step 'predict', variant {allows!r} has `missing: Allow` on 'tensor' (float32[18]), "
        f"step 'predict', variant {forbids!r} has not; models of one step get the same rows, "
        "so set it on both or on neither"
    ) == caught.value.message


@pytest.mark.parametrize(
    ("kind", "allowed"),
    [
        ("split", (True, True)),
        ("split", (False, False)),
        ("shadow", (True, True)),
        ("shadow", (False, True)),
        ("shadow", (False, True, False)),
    ],
)
def test_a_step_takes_what_its_first_model_does(
    tmp_path: Path, kind: str, allowed: tuple[bool, ...]
) -> None:
    """A challenger that would take missing values gets none when the champion forbids them."""
    inputs = made(kind, *allowed, folder=tmp_path).inputs
    assert inputs is not None
    assert [allowed[0]] == [field.allow_missing for field in inputs]
