"""Pipelines of every kind of step whose answers can be told by heart, and a verdict on all answers of a load.

`prepare` (Python, in the manifest) multiplies each of a house's four numbers, `predict` (ONNX: a model, a split or a
shadow) adds them up and multiplies the sum, `finish` (Python, pushed) adds an offset. All numbers are small and whole,
so float32 holds them exactly, and every combination of steps gives another price.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import yaml

from kit import models, wire
from kit.cluster.kubectl import Object
from kit.cluster.pods import Load
from kit.cluster.shelf import NAME, Shelf
from kit.cluster.spaces import Space
from kit.cluster.watched import RATE

PATH = f"/pipelines/{NAME}"
FEATURES = 4
HOUSE = [{"name": "house", "dtype": "float32", "shape": [FEATURES]}]
KEY = "session"

_PREPARE = """\
import numpy as np

def process(inputs):
    return {{"tensor": inputs["house"] * np.float32({factor})}}
"""
_FINISH = """\
import numpy as np

def process(inputs):
    price = inputs["variable"].reshape(-1) + np.float32({offset})
    return {{"price": price}}
"""


def rows(count: int = 8) -> list[dict[str, Any]]:
    """Houses that differ."""
    return [{"house": [n + 1.0, 2.0, 3.0, 4.0]} for n in range(count)]


def keyed(count: int = 8) -> list[dict[str, Any]]:
    """The same, each with a key of its own, for a split."""
    return [{**row, KEY: f"s-{number}"} for number, row in enumerate(rows(count))]


def requests(sent: Sequence[Mapping[str, Any]]) -> list[wire.Request]:
    """Each row by itself, and all in one request."""
    return [*(wire.records(PATH, [row]) for row in sent), wire.records(PATH, sent)]


@dataclass(frozen=True)
class Priced:
    """One version of the pipeline."""

    factor: int = 2
    weights: Mapping[str, int] = field(default_factory=lambda: {"control": 5})
    """What each variant multiplies by; a single one is a plain step."""
    offset: int = 1000

    def price(self, row: Mapping[str, Any], variant: str) -> float:
        total: float = sum(row["house"])
        return self.factor * self.weights[variant] * total + self.offset

    def steps(self, folder: Path, **split: Any) -> list[Object]:
        """The steps with local files, which are written to the folder. split: fields of the split."""
        if len(self.weights) == 1:
            (name,) = self.weights
            predict: Object = {"model": self.model(folder, name)}
        else:
            variants = [{"name": name, "model": self.model(folder, name)} for name in self.weights]
            predict = {"split": {"variants": variants, **split}}
        return [self.prepare(), {"name": "predict", **predict}, self.finish(folder)]

    def prepare(self) -> Object:
        code = _PREPARE.format(factor=self.factor)
        return {
            "name": "prepare",
            "model": python("prepare", {"inline": code}, HOUSE, "tensor", [FEATURES]),
        }

    def model(self, folder: Path, variant: str) -> Object:
        weight = self.weights[variant]
        path = models.scaled(folder / f"times-{weight}.onnx", weight, FEATURES)
        return onnx(path)

    def finish(self, folder: Path) -> Object:
        path = folder / f"plus-{self.offset}.py"
        path.write_text(_FINISH.format(offset=self.offset))
        taken = [{"name": "variable", "dtype": "float32", "shape": [1]}]
        return {
            "name": "finish",
            "model": python(path.stem, {"uri": str(path)}, taken, "price", []),
        }


def onnx(path: Path) -> Object:
    return {"name": path.stem, "source": {"uri": str(path)}}


def python(
    name: str, source: Object, inputs: Sequence[Object], output: str, shape: Sequence[int]
) -> Object:
    """A Python model with one float32 output."""
    return {
        "name": name,
        "framework": "Python",
        "source": source,
        "inputs": list(inputs),
        "outputs": [{"name": output, "dtype": "float32", "shape": list(shape)}],
    }


def manifest(steps: Sequence[Object], **spec: Any) -> Object:
    return {
        "apiVersion": "midstream.dev/v1alpha1",
        "kind": "Pipeline",
        "metadata": {"name": NAME},
        "spec": {"steps": list(steps), **spec},
    }


def pushed(shelf: Shelf, folder: Path, document: Object) -> Object:
    """The same manifest with its local files in the registry, as `midstream push` writes it."""
    number = len(list(folder.glob("*.pushed.yaml")))
    local = folder / f"{number}.yaml"
    local.write_text(yaml.safe_dump(document))
    target = folder / f"{number}.pushed.yaml"
    shelf.push(local, "tests/kinds", "-o", str(target))
    written: Object = yaml.safe_load(target.read_text())
    return written


# Judging


@dataclass
class Verdict:
    """What became of all requests of a load."""

    answers: int = 0
    failed: int = 0
    """Not answered with 200."""
    mixed: int = 0
    """Answered with 200, and not exactly by the version that the answer names."""
    fickle: int = 0
    """Rows that more than one variant answered."""
    versions: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    @property
    def clean(self) -> tuple[int, int, int]:
        return self.failed, self.mixed, self.fickle

    def __str__(self) -> str:
        told = (
            f"{self.answers} answers, {self.failed} failed, {self.mixed} mixed, "
            f"{self.fickle} rows with several variants, by version {dict(self.versions)}"
        )
        return "\n  ".join([told, *self.examples[:5]])


class Asked:
    """A load under way on a pipeline whose versions are told as they come to serve."""

    def __init__(self, load: Load, sent: Sequence[wire.Request]) -> None:
        self._load = load
        self._sent = sent
        self._known: dict[str, Priced] = {}

    def serves(self, seen: Object, priced: Priced) -> None:
        """Say what the version computes that an object's status names."""
        self._known[seen["status"]["version"]] = priced

    def stop(self) -> Verdict:
        record = self._load.stop()
        verdict = Verdict(answers=len(record))
        variants: dict[str, set[str]] = defaultdict(set)
        for answer, count in zip(record.answers, record.counts(), strict=True):
            request = self._sent[answer.request]
            if answer.status != 200:
                verdict.failed += count
                verdict.examples.append(f"{count} x status {answer.status}: {answer.problem}")
                continue
            problems = [f"{len(answer.rows)} rows answer {len(request.rows)}"]
            if len(answer.rows) == len(request.rows):
                found = zip(answer.rows, request.rows, strict=True)
                problems = [
                    self._problem(answer.version, row, sent, variants) for row, sent in found
                ]
            if any(problems):
                verdict.mixed += count
                verdict.examples.append(f"{count} x mixed: {next(filter(None, problems))}")
            else:
                verdict.versions[answer.version] += count
        verdict.fickle = sum(len(each) > 1 for each in variants.values())
        return verdict

    def _problem(
        self, version: str, row: Any, sent: Mapping[str, Any], variants: dict[str, set[str]]
    ) -> str:
        """Why a row is not what its version computes; empty when it is."""
        priced = self._known.get(version)
        if priced is None:
            return f"unknown version {version!r}"
        if row.version != version or not row.echoed:
            return f"version {row.version} in an answer of {version}, echoed: {row.echoed}"
        out = orjson.loads(row.out)
        chosen = [orjson.loads(text)["name"] for text in out.get("_model_split", ())]
        names = {f"times-{weight}": name for name, weight in priced.weights.items()}
        variant = names.get(chosen[0]) if chosen else next(iter(priced.weights))
        if variant is None:
            return f"version {version} has no model {chosen[0]}"
        variants[str(sent)].add(variant)
        wanted = priced.price(sent, variant)
        return "" if out["price"] == wanted else f"{out} instead of {wanted}, of {variant}"


@contextmanager
def asked(
    space: Space, rows: Sequence[Mapping[str, Any]], *, rate: float = RATE
) -> Iterator[Asked]:
    """Ask a pipeline that serves, all the while."""
    sent = requests(rows)
    with space.load_pod.load(space.host, sent, rate=rate) as load:
        yield Asked(load, sent)
