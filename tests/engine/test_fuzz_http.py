"""The corpus over real HTTP: however its requests are sent, and whoever goes away, the engine answers on."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzz import corpus, manners
from fuzz.judge import Verdict, judged
from fuzz.pipelines import Fuzzed, fuzzed
from kit.engine import EngineProcess, engine
from kit.folder import ConfigFolder
from kit.pipelines import revision
from kit.raw import eventually, metric, raw
from reference.wire import Sent

NAMES = ("every type", "sticky", "shadow that waits", "open code")


@pytest.fixture(scope="module", params=NAMES)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[EngineProcess, Fuzzed]]:
    """An engine that serves one of the pipelines."""
    folder: Path = tmp_path_factory.mktemp("engine")
    (chosen,) = (each for each in fuzzed(folder) if each.name == request.param)
    wanted = revision(chosen.pipeline.spec())
    ConfigFolder(folder / "config").write(wanted)
    with engine(folder) as process:
        process.wait("serving", version=wanted.version)
        yield process, chosen


def inputs(chosen: Fuzzed) -> list[Sent]:
    """Those of the corpus, in no order."""
    found = [kept.sent for kept in corpus.load() if kept.pipeline == chosen.name]
    random.Random(1).shuffle(found)  # noqa: S311 - of a test
    return found


def test_requests_are_answered_however_they_are_sent(
    running: tuple[EngineProcess, Fuzzed],
) -> None:
    """In one piece, in several, in chunks, two at once: no 500, and no answer of another request."""
    process, chosen = running
    rng = random.Random(2)  # noqa: S311 - of a test
    reached = 0
    every = inputs(chosen)
    for number, sent in enumerate(every):
        manner = manners.ANSWERED[number % len(manners.ANSWERED)]
        with raw(process) as connection:
            answers = manners.answers(connection, sent, manner, rng)
        verdicts = [judged(chosen, answer) for answer in answers]
        for verdict in verdicts:
            assert verdict.finding is None, (manner, sent, verdict)
        assert len({(verdict.status, verdict.reason) for verdict in verdicts}) == 1
        reached += verdicts[0].reached
    assert reached >= 0.3 * len(every)
    assert "defect" not in process.stderr


def test_who_goes_away_takes_nothing_along(running: tuple[EngineProcess, Fuzzed]) -> None:
    """Clients that leave in the middle of a request, or before its answer, keep neither bytes nor turns."""
    process, chosen = running
    rng = random.Random(3)  # noqa: S311 - of a test
    good = next(
        sent for sent in inputs(chosen) if judged_over_http(process, chosen, sent).status == 200
    )
    for number, sent in enumerate(inputs(chosen)):
        with raw(process) as connection:
            manners.go(connection, sent, manners.GONE[number % len(manners.GONE)], rng)
        if number % 10 == 0:
            assert judged_over_http(process, chosen, good).status == 200
    for gauge in ("buffered_bytes", "queued_batches"):
        eventually(lambda name=gauge: metric(process, name) == 0, gauge)  # type: ignore[misc]
    assert judged_over_http(process, chosen, good).status == 200
    assert "defect" not in process.stderr


def judged_over_http(process: EngineProcess, chosen: Fuzzed, sent: Sent) -> Verdict:
    """The answer to a request that is sent in the plainest way."""
    with raw(process) as connection:
        (answer,) = manners.answers(connection, sent, "whole", random.Random(0))  # noqa: S311 - of a test
    return judged(chosen, answer)
