"""What users' code gets and gives, through real workers: both entry points, every type, and what is refused."""

from collections.abc import Iterator

import pytest

from kit import sidekicks as kit
from midstream_engine.errors import SidekickFailed


@pytest.fixture(scope="module")
def ground() -> Iterator[kit.Ground]:
    with kit.ground() as made:
        yield made


def test_process_gets_arrays_and_gives_arrays(ground: kit.Ground) -> None:
    """Names and values go both ways."""
    sidekick = ground.acquire("def process(inputs): return {'y': inputs['x'] * 2}")
    assert {"y": [2.0, 4.0]} == kit.ask(sidekick, kit.column(1.0, 2.0))
    assert "process" == sidekick.entry
    ground.sidekicks.release(sidekick)


def test_what_the_code_raises_is_the_answer_and_the_worker_goes_on(ground: kit.Ground) -> None:
    """The message ends with the end of the traceback, and names the model and the line."""
    sidekick = ground.acquire("def process(inputs):\n    return {'y': 1 / inputs['x'].tolist()[0]}")
    with pytest.raises(SidekickFailed) as failed:
        kit.ask(sidekick, kit.column(0.0))
    message = failed.value.message
    assert message.startswith("model 'pre': process raised ZeroDivisionError")
    assert 'File "pre/model.py", line 2, in process' in message
    assert message.endswith("division by zero")
    with pytest.raises(SidekickFailed, match="must answer as many rows"):
        kit.ask(ground.acquire("def process(inputs): return {'y': [1, 2, 3]}"))
    assert 0 == sum(line["restarts"] for line in ground.sidekicks.report())
