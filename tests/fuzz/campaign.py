"""Inputs by the thousand, run against their pipelines, and what came of them."""

import logging
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fuzz.inputs import BLOCK, input_of, pipeline_of
from fuzz.judge import Verdict, judged
from fuzz.pipelines import Fuzzed, codes, fuzzed
from fuzz.plane import Plane, plane
from kit.pipelines import revision
from reference.wire import Sent

_IN_THREADS = 5
"""Each fifth block runs as what takes long does."""


@dataclass(frozen=True)
class Tried:
    """One input, and what came of it."""

    number: int
    fuzzed: Fuzzed
    sent: Sent
    verdict: Verdict
    defects: tuple[str, ...] = ()
    """What the engine has written into its log of its own faults meanwhile."""


@dataclass
class Tally:
    inputs: int = 0
    reached: int = 0
    reasons: Counter[tuple[int, str]] = field(default_factory=Counter)
    by_pipeline: Counter[tuple[str, bool]] = field(default_factory=Counter)
    """Inputs by pipeline and whether they reached a model."""
    findings: dict[str, str] = field(default_factory=dict)
    """The first of each kind, described."""
    found: Counter[str] = field(default_factory=Counter)
    """Findings of each kind."""

    def add(self, tried: Tried) -> None:
        verdict = tried.verdict
        self.inputs += 1
        self.reached += verdict.reached
        self.reasons[verdict.status, verdict.reason] += 1
        self.by_pipeline[tried.fuzzed.name, verdict.reached] += 1
        if verdict.finding is not None:
            kind = verdict.finding[:60]
            self.findings.setdefault(kind, described(tried))
            self.found[kind] += 1

    @property
    def share(self) -> float:
        """Of inputs that reached a model."""
        return self.reached / max(self.inputs, 1)


def described(tried: Tried) -> str:
    """A finding, with all that is needed to see it again."""
    sent = tried.sent
    headers = {name: value[:200] for name, value in sent.headers.items()}
    return "\n".join(
        [
            f"input {tried.number}, pipeline {tried.fuzzed.name!r}: {tried.verdict.finding}",
            f"  {sent.path[:300]} {headers}",
            f"  {len(sent.body)} bytes: {sent.body[:300]!r}",
            *tried.defects,
        ]
    )


class Campaign:
    """A place where inputs are run. One thread at a time."""

    def __init__(self, engine: Plane, pipelines: list[Fuzzed]) -> None:
        self._engine = engine
        self.pipelines = pipelines
        self._defects = _Defects()

    def run(self, seed: int, numbers: range) -> Iterator[list[Tried]]:
        """Inputs of a seed, in blocks for one pipeline each."""
        first = numbers.start
        while first < numbers.stop:
            end = min(first - first % BLOCK + BLOCK, numbers.stop)
            which = pipeline_of(first, len(self.pipelines))
            chosen = self.pipelines[which]
            sents = [input_of(chosen, seed, number) for number in range(first, end)]
            in_threads = first // BLOCK % _IN_THREADS == 0
            yield self.answer(chosen, range(first, end), sents, in_threads=in_threads)
            first = end

    def answer(
        self, chosen: Fuzzed, numbers: Iterable[int], sents: list[Sent], *, in_threads: bool = False
    ) -> list[Tried]:
        """Inputs for one pipeline."""
        self._engine.serve(revision(chosen.pipeline.spec()))
        with self._defects.kept() as defects:
            answers = self._engine.infer(sents, in_threads=in_threads)
        told = tuple(dict.fromkeys(defects))
        return [
            Tried(number, chosen, sent, judged(chosen, answer), told)
            for number, sent, answer in zip(numbers, sents, answers, strict=True)
        ]


class _Defects(logging.Handler):
    """Keeps the tracebacks that the engine writes of its own faults."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self._found.append("".join(traceback.format_exception(record.exc_info[1])[-3:]))

    @contextmanager
    def kept(self) -> Iterator[list[str]]:
        """Those of the block; the log goes nowhere else."""
        log = logging.getLogger("midstream_engine")
        self._found = []
        propagate, log.propagate = log.propagate, False
        log.addHandler(self)
        try:
            yield self._found
        finally:
            log.removeHandler(self)
            log.propagate = propagate


@contextmanager
def campaign(folder: Path) -> Iterator[Campaign]:
    """With all the pipelines there are; files and the engine's state are in the folder."""
    pipelines = fuzzed(folder)
    with plane(folder / "engine") as engine:
        for code in codes(pipelines):
            engine.keep(code)
        yield Campaign(engine, pipelines)
