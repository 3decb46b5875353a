"""What users' code gets and gives, through real workers: both entry points, every type, and what is refused."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from kit import sidekicks as kit
from midstream_engine.errors import SidekickFailed
from midstream_engine.sidekicks.wire import NUMBERS

DEMAND_CURVE = """
import numpy
import pandas

import json

# add interaction terms for the model
def actual_preprocess(pdata):
    pd = pdata.copy()
    # convert boolean cust_known to 0/1
    pd.cust_known = numpy.where(pd.cust_known, 1, 0)
    # interact UnitPrice and cust_known
    pd['UnitPriceXcust_known'] = pd.UnitPrice * pd.cust_known
    return pd.loc[:, ['UnitPrice', 'cust_known', 'UnitPriceXcust_known']]

# If the data is a json string, call this wrapper instead
# Expected input:
# a dictionary with fields 'colnames', 'data'

# test that the code works here
def wallaroo_json(data):
    obj = json.loads(data)
    pdata = pandas.DataFrame(obj['query'],
                             columns=obj['colnames'])
    pprocessed = actual_preprocess(pdata)
    
   # return a dictionary, with the fields the model expect
    return {
       'tensor_fields': ['model_input'],
       'model_input': pprocessed.to_numpy().tolist()
    }
"""  # noqa: W293
"""Code as it is written for other servers with this entry point, to the last space."""


@pytest.fixture(scope="module")
def ground() -> Iterator[kit.Ground]:
    with kit.ground() as made:
        yield made


def answer(ground: kit.Ground, code: str, inputs: Any = None) -> dict[str, Any]:
    sidekick = ground.acquire(code)
    try:
        return kit.ask(sidekick, inputs)
    finally:
        ground.sidekicks.release(sidekick)


def failure(ground: kit.Ground, code: str, inputs: Any = None) -> str:
    with pytest.raises(SidekickFailed) as failed:
        answer(ground, code, inputs)
    return failed.value.message


def test_process_gets_arrays_and_gives_arrays(ground: kit.Ground) -> None:
    """Names and values go both ways, and the sidekick says which function it found."""
    sidekick = ground.acquire("def process(inputs): return {'y': inputs['x'] * 2}")
    assert {"y": [2.0, 4.0]} == kit.ask(sidekick, kit.column(1.0, 2.0))
    assert "process" == sidekick.entry
    ground.sidekicks.release(sidekick)


def test_code_for_data_frames_runs_unmodified(ground: kit.Ground) -> None:
    """Its `wallaroo_json` sees the rows with the names of the fields, and its `tensor_fields` are the outputs."""
    sidekick = ground.acquire(DEMAND_CURVE, "preprocess")
    assert "wallaroo_json" == sidekick.entry
    inputs = {
        "Date": np.array(["2010-12-01", "2010-12-01"], object),
        "cust_known": np.array([False, True]),
        "StockCode": np.array([21928, 21928]),
        "UnitPrice": np.array([4.21, 1.25]),
        "UnitsSold": np.array([1, 2]),
    }
    got = sidekick.call_blocking(inputs, 2, kit.WAIT_SECONDS)["model_input"]
    assert np.float64 == got.dtype
    assert [[4.21, 0.0, 0.0], [1.25, 1.0, 1.25]] == got.tolist()
    ground.sidekicks.release(sidekick)


def test_wallaroo_json_gets_a_text_with_the_fields_in_order(ground: kit.Ground) -> None:
    """Exactly the two keys that it is written for; what is missing is None."""
    code = """
        import json
        def wallaroo_json(data):
            assert type(data) is str
            return json.dumps({"tensor_fields": ["seen"], "seen": [data] * len(json.loads(data)["query"])})
    """
    inputs = {"z": np.array([1.5, np.nan]), "a": np.array(["é", ""], object)}
    seen = json.loads(answer(ground, code, inputs)["seen"][0])
    assert {"colnames": ["z", "a"], "query": [[1.5, "é"], [None, ""]]} == seen


@pytest.mark.parametrize("dtype", sorted(NUMBERS))
def test_process_gets_and_gives_every_type_of_number(ground: kit.Ground, dtype: str) -> None:
    """As arrays of the same type and shape, that it may write to."""
    code = """
        def process(inputs):
            x = inputs["x"]
            x[0] = 1
            return {"y": x, "seen": [f"{x.dtype} {x.shape}"] * len(x)}
    """
    sidekick = ground.acquire(code)
    array = np.zeros((2, 3), dtype)
    got = sidekick.call_blocking({"x": array}, 2, kit.WAIT_SECONDS)
    assert (array.dtype, array.shape) == (got["y"].dtype, got["y"].shape)
    assert [[1, 1, 1], [0, 0, 0]] == got["y"].tolist()
    assert f"{dtype} (2, 3)" == got["seen"][0]
    ground.sidekicks.release(sidekick)


def test_text_of_any_script_goes_both_ways(ground: kit.Ground) -> None:
    """As Python's own `str`."""
    code = "def process(inputs): return {'y': [type(v).__name__ + v[::-1] for v in inputs['x']]}"
    assert {"y": ["strcb", "str語本日", "str😀é", "str"]} == answer(
        ground, code, kit.column("bc", "日本語", "é😀", "")
    )


def test_rows_of_different_lengths_reach_the_code(ground: kit.Ground) -> None:
    """Each as its own array."""
    rows = np.empty(2, object)
    rows[:] = [np.array([1.0, 2.0]), np.array([3.0])]
    code = "def process(inputs): return {'y': [row.sum() for row in inputs['x']]}"
    assert {"y": [3.0, 3.0]} == answer(ground, code, {"x": rows})


def test_no_rows_and_empty_rows_are_values_too(ground: kit.Ground) -> None:
    """Shapes with a zero are kept."""
    code = "def process(inputs): return {'y': inputs['x']}"
    sidekick = ground.acquire(code)
    for shape in ((0, 3), (2, 0)):
        array = np.zeros(shape, np.float32)
        got = sidekick.call_blocking({"x": array}, shape[0], kit.WAIT_SECONDS)["y"]
        assert shape == got.shape
    ground.sidekicks.release(sidekick)


def test_large_arrays_and_many_texts_arrive_whole(ground: kit.Ground) -> None:
    """Beyond what a socket or one read takes."""
    code = "def process(inputs): return {'y': inputs['n'][::-1], 't': inputs['t'][::-1]}"
    numbers = np.random.default_rng(3).normal(size=(100_000, 40)).astype(np.float32)
    texts = np.array([f"tëxt {n}" for n in range(100_000)], object)
    sidekick = ground.acquire(code)
    got = sidekick.call_blocking({"n": numbers, "t": texts}, 100_000, kit.WAIT_SECONDS)
    assert np.array_equal(numbers[::-1], got["y"])
    assert texts[::-1].tolist() == got["t"].tolist()
    ground.sidekicks.release(sidekick)


def test_what_the_code_raises_is_the_answer_and_the_worker_goes_on(ground: kit.Ground) -> None:
    """The message names the model, and ends with the end of the traceback, in which lines can be read."""
    sidekick = ground.acquire("def process(inputs):\n    return {'y': 1 / inputs['x'].tolist()[0]}")
    with pytest.raises(SidekickFailed) as failed:
        kit.ask(sidekick, kit.column(0.0))
    message = failed.value.message
    assert message.startswith("model 'pre': process raised ZeroDivisionError")
    assert 'File "pre/model.py", line 2, in process' in message
    assert "return {'y': 1 / inputs['x'].tolist()[0]}" in message
    assert message.endswith("division by zero")
    pids = [line["pid"] for line in ground.sidekicks.report()]
    with pytest.raises(SidekickFailed):
        kit.ask(sidekick, kit.column(0.0))
    assert pids == [line["pid"] for line in ground.sidekicks.report()]
    ground.sidekicks.release(sidekick)


DEEP = """
import pandas

def process(inputs):
    return select(pandas.DataFrame(inputs))

def select(frame):
    return {"y": frame["absent"]}
"""


def test_the_codes_own_lines_are_told_however_deep_a_library_raises(ground: kit.Ground) -> None:
    """Its last two frames, the library's last one, and the error; what is left out between is marked."""
    message = failure(ground, DEEP)
    summary, *lines = message.splitlines()
    assert "process raised KeyError" in summary
    places = [line for line in lines if line.startswith("  File ")]
    assert '  File "pre/model.py", line 5, in process' == places[0]
    assert '  File "pre/model.py", line 8, in select' == places[1]
    assert 3 == len(places)
    assert "pandas" in places[2]
    assert '    return {"y": frame["absent"]}' in lines
    assert "  …" in lines
    assert "KeyError: 'absent'" == lines[-1]


def test_a_long_text_of_an_error_hides_no_line(ground: kit.Ground) -> None:
    """Its beginning and its end are told."""
    code = "def process(inputs):\n    raise ValueError('\\n'.join(map(str, range(1000))))\n"
    message = failure(ground, code)
    assert 'File "pre/model.py", line 2, in process' in message
    assert "\nValueError: 0\n1\n…\n999" in message
    deep = "def process(inputs):\n    return process(inputs)\n"
    assert 2 == failure(ground, deep).count('File "pre/model.py", line 2, in process')


@pytest.mark.parametrize(
    "raised",
    [
        "raise ValueError('long ' * 1_000_000)",
        "raise ValueError('\\ud800')",
        "raise type('Odd', (Exception,), {'__str__': lambda self: 1 / 0})()",
        "raise ExceptionGroup('many', [ValueError(n) for n in range(1000)])",
        "(f := lambda: f())()",
        "raise KeyboardInterrupt",
        "raise SystemExit('bye')",
        "raise GeneratorExit",
        "raise StopIteration",
        "raise BaseException",
        "exec('def')",
    ],
)
def test_whatever_is_raised_is_told_in_few_words(ground: kit.Ground, raised: str) -> None:
    """At most some thousand characters, of valid text, and the worker is still there."""
    code = f"def process(inputs):\n    if inputs['x'][0]: {raised}\n    return {{'y': [0]}}"
    sidekick = ground.acquire(code)
    with pytest.raises(SidekickFailed, match="model 'pre': process raised") as failed:
        kit.ask(sidekick, kit.column(1.0))
    message = failed.value.message
    assert len(message) < 4000
    message.encode()
    assert {"y": [0]} == kit.ask(sidekick, kit.column(0.0))
    assert 0 == sum(line["restarts"] for line in ground.sidekicks.report())
    ground.sidekicks.release(sidekick)


@pytest.mark.parametrize(
    ("returned", "why"),
    [
        ("None", "it returned None"),
        ("[1]", "it returned a list"),
        ("{}", "no output"),
        ("{'y': [[1], [2, 3]]}", "ragged"),
        ("{'y': [1, 2, 3]}", "a model must answer as many rows as it gets"),
        ("{'y': 5}", "single value"),
        ("{'y': ['a', 1]}", "mixed with numbers"),
        ("{'y': [{}, {}]}", "a dict"),
        ("{'\\ud800': [1, 2]}", "not Unicode"),
        ("{'y' * 2_000_000: [1, 2]}", "too large"),
    ],
)
def test_what_is_no_answer_is_told(ground: kit.Ground, returned: str, why: str) -> None:
    """With the name of the output, and without a traceback, which would be ours."""
    message = failure(ground, f"def process(inputs): return {returned}", kit.column(1.0, 2.0))
    assert why in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("returned", "why"),
    [
        ("{'y': [1]}", "'tensor_fields' names the outputs; it has 'y'"),
        ("{'tensor_fields': ['z'], 'y': [1]}", "names 'z', which is not in the dict"),
        ("'{'", "not JSON"),
        ("{'tensor_fields': ['y'], 'y': [[1], [2, 3]]}", "ragged"),
    ],
)
def test_what_is_no_document_is_told(ground: kit.Ground, returned: str, why: str) -> None:
    """The same for `wallaroo_json`."""
    assert why in failure(ground, f"def wallaroo_json(data): return {returned}")


def test_inputs_that_cannot_travel_are_refused_before_a_worker_is_asked(ground: kit.Ground) -> None:
    """The message names the field."""
    message = failure(
        ground,
        "def process(inputs): return {'y': [1]}",
        {"x": np.array([object()], object)},
    )
    assert "'x' holds objects that are not text" in message
