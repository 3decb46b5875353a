"""Python code is called once before it serves: a wrong answer is refused, code that raises is told of."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit import models
from kit.live import Live, live, play
from kit.pipelines import onnx, python, revision
from kit.story import story
from midstream_api.engineconfig import RevisionDocument
from midstream_engine.steps.units import SidekickUnit

X = [{"name": "x", "dtype": "float32"}]
BAND = [{"name": "band", "dtype": "string"}]
TWICE = "def process(inputs):\n    return {'y': inputs['x'] * 2}\n"
Y = [{"name": "y", "dtype": "float32"}]
LAST = "def process(inputs):\n    return {'z': inputs['y'] * 2}\n"


def gives(what: str, **fields: Any) -> dict[str, Any]:
    """A step of code that takes `x` and returns this."""
    code = f"import numpy as np\ndef process(inputs):\n    x = inputs['x']\n    return {what}\n"
    return {"name": "band", "model": python(code, "banded", **{"inputs": X, **fields})}


def spec(*steps: dict[str, Any]) -> RevisionDocument:
    return revision({"steps": list(steps)})


def unproven(engine: Live) -> list[dict[str, Any]]:
    return [event for event in engine.events if event["event"] == "unproven"]


async def asked(engine: Live, x: float) -> dict[str, list[Any]]:
    """What the last step's code that serves answers."""
    assert engine.manager.serving is not None
    loaded = engine.manager.serving.loaded
    assert loaded is not None
    unit = loaded.units[-1]
    assert isinstance(unit, SidekickUnit)
    answer = await unit.call({"x": np.array([x], np.float32)}, 1, 30.0)
    return {name: array.tolist() for name, array in answer.items()}


def wrong(tmp_path: Path) -> dict[str, tuple[RevisionDocument, str]]:
    """Revisions whose code cannot be right, and what is said of each."""
    code = "step 'band', model 'banded': called with a row of zeros, the code gives "
    refused = "step 'band', called with a row of zeros: model 'banded': "
    declared = "; `outputs` of the manifest declares it"
    total = models.scaled(tmp_path / "total.onnx", 1.0)
    split = {
        "variants": [
            {"name": "a", "model": python(TWICE, "a", inputs=X, outputs=Y)},
            {"name": "b", "model": python("def process(inputs): pass", "b")},
        ]
    }
    frames = "def wallaroo_json(data):\n    return {'tensor_fields': ['bond'], 'bond': ['low']}\n"
    return {
        "a name that is misspelt": (
            spec(gives("{'bond': ['low']}", outputs=BAND)),
            f"{code}'bond', wanted is 'band' (string){declared}",
        ),
        "another type": (
            spec(gives("{'band': x}", outputs=BAND)),
            f"{code}'band' as float32, wanted is 'band' (string){declared}",
        ),
        "another shape": (
            spec(gives("{'band': [['low', 'high']]}", outputs=BAND)),
            f"{code}'band' with rows of the shape [2], wanted is 'band' (string){declared}",
        ),
        "no return": (
            spec(gives("None", outputs=BAND)),
            f"{refused}process must return a dict of names and arrays, it returned None",
        ),
        "no return, outputs not declared": (spec(gives("None")), "it returned None"),
        "another number of rows": (
            spec(gives("{'band': ['low', 'high']}", outputs=BAND)),
            f"{refused}output 'band' has the shape [2] for 1 rows",
        ),
        "no array": (
            spec(gives("{'band': [{}]}", outputs=BAND)),
            f"{refused}output 'band' holds a dict",
        ),
        "for data frames": (
            spec(
                {"name": "band", "model": python(frames, "banded", inputs=X, outputs=BAND)},
            ),
            f"{code}'bond', wanted is 'band' (string){declared}",
        ),
        "not what the next step takes": (
            spec(gives("{'tenser': np.zeros((1, 18))}"), {"name": "add", "model": onnx(total)}),
            f"{code}'tenser', wanted is 'tensor' (float32[18]); step 'add' takes it",
        ),
        "behind a model": (
            spec(
                {"name": "add", "model": onnx(total)},
                {"name": "band", "model": python("def process(inputs): return 0", "banded")},
            ),
            f"{refused}process must return a dict of names and arrays, it returned a int",
        ),
        "one variant": (
            spec({"name": "pick", "split": split}),
            "step 'pick', variant 'b', called with a row of zeros: model 'b': process must return a dict",
        ),
    }


@story
async def test_code_whose_answer_is_wrong_is_refused(tmp_path: Path) -> None:
    """With the step, what it gave and what was wanted; what serves goes on."""
    good = spec(gives("{'band': ['low']}", outputs=BAND))
    async with live(tmp_path) as engine:
        engine.wish(good)
        await engine.wait("serving", good)
        for bad, said in wrong(tmp_path).values():
            engine.wish(good, bad, allow_schema_change=True)
            event = await engine.wait("refused", bad)
            assert "WarmupFailed" == event["reason"]
            assert said in event["message"]
        assert [] == unproven(engine)
        assert {"band": ["low"]} == await asked(engine, 1.0)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("{'y': [1 / 0 if x[0] == 0 else 1]}", "ZeroDivisionError: division by zero"),
        ("{'y': [{1.0: 'a'}.get(x[0])]}", "wanted is 'y' (string)"),
        ("{'y': [['a', {1.0: 'a'}.get(x[0])]]}", "numbers, booleans or text"),
        ("{'y': ['a'] if x[0] else __import__('os')._exit(3)}", "exit code 3"),
    ],
    ids=["raises", "no value for it", "no value for some", "ends its process"],
)
def test_code_that_fails_on_zeros_serves_and_is_told_of(
    tmp_path: Path, what: str, said: str
) -> None:
    """Code need not bear zeros. The event has the last line of the error."""
    shape = [2] if "[[" in what else []
    dtype = "int64" if "1 / 0" in what else "string"
    wanted = spec(gives(what, outputs=[{"name": "y", "dtype": dtype, "shape": shape}]))

    async def told() -> None:
        async with live(tmp_path) as engine:
            engine.wish(wanted)
            await engine.wait("serving", wanted)
            (event,) = unproven(engine)
            assert ("band", "banded") == (event["step"], event["model"])
            assert said in event["error"]
            assert "\n" not in event["error"]
            if shape == []:
                assert (await asked(engine, 1.0))["y"] in (["a"], [1])

    play(told)


@story
async def test_code_that_does_not_come_back_gets_a_new_worker_before_it_serves(
    tmp_path: Path,
) -> None:
    """It was killed for made-up rows: requests find a worker at once, and no back-off."""
    wanted = spec(gives("{'y': x if x[0] else __import__('time').sleep(3600)}", outputs=Y))
    async with live(tmp_path, warm_up_seconds=0.2) as engine:
        engine.wish(wanted)
        await engine.wait("serving", wanted)
        (event,) = unproven(engine)
        assert "it did not answer within 0.2 s" in event["error"]
        (worker,) = engine.sidekicks.report()
        assert ("Running", 1) == (worker["status"], worker["restarts"])
        assert {"y": [1.0]} == await asked(engine, 1.0)


@story
async def test_code_that_serves_already_is_not_called_again(tmp_path: Path) -> None:
    """A swap of another step has no effects in it, and does not kill what serves; the doubt is told of again."""
    calls = tmp_path / "calls"
    slow = f"open({str(calls)!r}, 'a').write('.') and {{'y': x}} if x[0] else __import__('time').sleep(3600)"
    good = f"open({str(calls)!r}, 'a').write('.') and {{'y': x}}"
    for number, code in enumerate((slow, good)):
        step = gives(code, outputs=Y)
        calls.unlink(missing_ok=True)
        before = spec(step)
        after = spec(step, {"name": "last", "model": python(f"{LAST}# {number}", inputs=Y)})
        async with live(tmp_path, warm_up_seconds=0.2) as engine:
            engine.wish(before)
            await engine.wait("serving", before)
            pid = engine.sidekicks.report()[0]["pid"]
            engine.wish(before, after, allow_schema_change=True)
            await engine.wait("serving", after)
            assert pid == engine.sidekicks.report()[0]["pid"]
            assert (2 if code is slow else 0) == sum(e["step"] == "band" for e in unproven(engine))
        assert (1 if code is good else 0) == (len(calls.read_text()) if calls.exists() else 0)


@story
async def test_code_is_not_called_with_what_is_not_known(tmp_path: Path) -> None:
    """Without declared inputs nothing tells what it gets, and with golden rows zeros are not needed."""
    verify = {"inputs": [{"x": 2.0}], "outputs": [{"y": 0.5}]}
    careful = "{'y': [1 / 0 if x[0] == 0 else 1 / x[0]]}"
    open_one = spec(gives(careful, inputs=None))
    golden = spec(gives(careful, outputs=Y, verify=verify))
    async with live(tmp_path) as engine:
        for wanted in (open_one, golden):
            engine.wish(wanted, allow_schema_change=True)
            await engine.wait("serving", wanted)
        assert [] == unproven(engine)


@story
async def test_golden_rows_of_the_first_step_try_those_behind_it(tmp_path: Path) -> None:
    """They have been seen to work with rows that somebody chose, so nothing is made up for them."""
    verify = {"inputs": [{"x": 2.0}], "outputs": [{"y": 4.0}]}
    halve = "def process(inputs):\n    return {'z': [1 // int(y) for y in inputs['y']]}\n"
    wanted = spec(
        {"name": "double", "model": python(TWICE, "double", inputs=X, outputs=Y, verify=verify)},
        {"name": "halve", "model": python(halve, "halve")},
    )
    async with live(tmp_path) as engine:
        engine.wish(wanted)
        await engine.wait("serving", wanted)
        assert [] == unproven(engine)
