"""Every kind of pipeline changes while it serves: no answer lost, none mixed, whatever part is replaced."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from kit import load, models, wire
from kit.engine import engine
from kit.folder import ConfigFolder
from kit.load import Row
from kit.pipelines import onnx, python, revision

ROWS: list[dict[str, Any]] = [
    {"tensor": [float(number)] * 18, "who": f"user-{number}"} for number in (1, 2, 5)
]
SUMS = [18.0 * number for number in (1, 2, 5)]
"""What a model of factor 1 answers to each."""

SWAPS = 10

Verdict = Callable[[Sequence[Row]], bool]
"""Whether these are rows of one version's answer to `ROWS`."""


def values(rows: Sequence[Row], name: str = "variable") -> list[float]:
    return [orjson.loads(row.out)[name][0] for row in rows]


def times(factor: float, name: str) -> dict[str, Any]:
    """Code that multiplies one column."""
    return python(
        f"def process(inputs):\n    return {{{name!r}: inputs[{name!r}] * {factor}}}\n",
        f"times-{factor}",
    )


def chained(folder: Path) -> Mapping[str, tuple[dict[str, Any], Verdict]]:
    """pre → model → post, each in two forms: all combinations give different numbers."""
    made: dict[str, tuple[dict[str, Any], Verdict]] = {}
    for before, factor, after in itertools.product((1.0, 2.0), (3.0, 5.0), (7.0, 11.0)):
        path = models.scaled(folder / f"m{factor}.onnx", factor)
        spec = {
            "steps": [
                {"name": "pre", "model": times(before, "tensor")},
                {"name": "predict", "model": onnx(path)},
                {"name": "post", "model": times(after, "variable")},
            ]
        }
        wanted = [value * before * factor * after for value in SUMS]
        made[f"{before}-{factor}-{after}"] = (
            spec,
            lambda rows, wanted=wanted: values(rows) == wanted,  # type: ignore[misc]
        )
    return made


def splits(folder: Path, **fields: Any) -> Mapping[str, tuple[dict[str, Any], Verdict]]:
    """Two variants, each of two models, behind code of two forms."""
    made: dict[str, tuple[dict[str, Any], Verdict]] = {}
    for first, second in itertools.product((1.0, 2.0), (3.0, 5.0)):
        paths = {
            "control": models.scaled(folder / f"f{first}.onnx", first),
            "challenger": models.scaled(folder / f"f{second}.onnx", second),
        }
        variants = [
            {"name": name, "model": onnx(path), "weight": weight}
            for (name, path), weight in zip(paths.items(), (2, 1), strict=True)
        ]
        spec = {"steps": [{"name": "predict", "split": {"variants": variants, **fields}}]}
        factors = {
            path.stem: factor for path, factor in zip(paths.values(), (first, second), strict=True)
        }

        def holds(rows: Sequence[Row], factors: dict[str, float] = factors) -> bool:
            for row, total in zip(rows, SUMS, strict=True):
                out = orjson.loads(row.out)
                (said,) = (orjson.loads(each) for each in out["_model_split"])
                if out["variable"] != [total * factors.get(said["name"], 0.0)]:
                    return False
            return True

        made[f"{first}-{second}"] = (spec, holds)
    return made


def shadows(folder: Path) -> Mapping[str, tuple[dict[str, Any], Verdict]]:
    """A champion of three models, with two challengers of which one is code that is slow."""
    slow = python(
        "import time\ndef process(inputs):\n    time.sleep(0.05)\n    return inputs\n", "slow"
    )
    made: dict[str, tuple[dict[str, Any], Verdict]] = {}
    for factor in (1.0, 2.0, 3.0):
        path = models.scaled(folder / f"c{factor}.onnx", factor)
        challengers = [
            {"name": "x", "model": onnx(models.scaled(folder / f"x{factor}.onnx", 10 * factor))},
            {"name": "slow", "model": slow},
        ]
        champion = {"name": "champion", "model": onnx(path)}
        spec = {
            "steps": [
                {"name": "predict", "shadow": {"champion": champion, "challengers": challengers}}
            ]
        }
        wanted = [value * factor for value in SUMS]
        made[str(factor)] = (
            spec,
            lambda rows, wanted=wanted: values(rows) == wanted,  # type: ignore[misc]
        )
    return made


CASES: Mapping[str, Callable[[Path], Mapping[str, tuple[dict[str, Any], Verdict]]]] = {
    "pre, model and post": chained,
    "random split": splits,
    "sticky split": lambda folder: splits(folder, hashKey="who"),
    "shadow": shadows,
}


@pytest.mark.parametrize("case", CASES)
def test_no_answer_is_lost_or_mixed_whatever_is_replaced(tmp_path: Path, case: str) -> None:
    """While clients ask, parts are replaced one after the other: each answer is all of the version it names."""
    versions = CASES[case](tmp_path)
    keyed = case == "sticky split"
    rows = [row if keyed else {"tensor": row["tensor"]} for row in ROWS]
    documents = {name: revision(spec) for name, (spec, _) in versions.items()}
    verdicts = {documents[name].version: verdict for name, (_, verdict) in versions.items()}
    config = ConfigFolder(tmp_path / "config")
    turn = itertools.cycle(documents.values())
    serves = next(turn)
    config.write(serves)
    request = wire.records("/pipelines/house-price", rows)
    with engine(tmp_path) as running:
        running.wait("serving", version=serves.version)
        with load.closed(running.port, [request], clients=6) as clients:
            clients.wait_until_answering()
            for _ in range(SWAPS):
                candidate = next(turn)
                config.write(serves, candidate)
                running.wait("serving", version=candidate.version)
                serves = candidate
            record = clients.stop()
        assert 0 == running.stop()
    assert {} == record.failures()
    answered = set()
    for answer in record.answers:
        assert answer.version in verdicts, answer
        assert {answer.version} == {row.version for row in answer.rows}
        assert len(answer.rows) == len(rows)
        assert verdicts[answer.version](answer.rows), f"mixed: {answer}"
        answered.add(answer.version)
    assert answered == verdicts.keys(), "a version never answered"
