"""What `/metrics` says of steps, of variants and of Python models, of a real engine."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kit import models
from kit.engine import EngineProcess, engine
from kit.folder import ConfigFolder
from kit.pipelines import onnx, python, revision
from kit.raw import eventually, metric

HIGH = (
    "def process(inputs):\n    if inputs['variable'].max() > 5:\n        raise ValueError('high')\n"
)
RAISES = HIGH + "    return inputs\n"
DIES = HIGH.replace("raise ValueError('high')", "__import__('os')._exit(3)") + "    return inputs\n"


@contextmanager
def serving(folder: Path, spec: dict[str, Any], *options: str) -> Iterator[EngineProcess]:
    """An engine that serves a spec."""
    wanted = revision(spec)
    ConfigFolder(folder / "config").write(wanted)
    with engine(folder, *options) as running:
        running.wait("serving", version=wanted.version)
        yield running


def failures(running: EngineProcess, **labels: str) -> float:
    return metric(running, "step_failures_total", **labels)


@pytest.mark.parametrize("options", [(), ("--inline-ns", "0")], ids=["at once", "in threads"])
def test_the_variant_that_fails_is_counted(tmp_path: Path, options: tuple[str, ...]) -> None:
    """By step, variant and reason, whoever runs it; the other one goes on, and its time is known."""
    variants = [
        {"name": name, "model": onnx(models.looks_up(tmp_path / f"{name}.onnx", entries))}
        for name, entries in (("small", 10), ("large", 100))
    ]
    spec = {
        "steps": [
            {"name": "prepare", "model": onnx(models.elementwise(tmp_path / "e.onnx", 1))},
            {"name": "predict", "split": {"variants": variants}},
        ]
    }
    with serving(tmp_path, spec, *options) as running:
        for key, status in (("0.4", 500), ("0.6", 200), ("0.4", 500)):
            row = {"house": [50.0] * 18}
            reply = running.post([row], headers={"x-midstream-split-key": key})
            assert status == reply.status, reply.body
        assert 2 == failures(running, step="predict", variant="small", reason="StepFailed")
        assert 400 == running.post([{"house": "no"}]).status
        # Some rows go to one variant, some to the other.
        assert 500 == running.post([{"house": [50.0] * 18}] * 100).status
        assert 1 == failures(running, step="predict", variant="", reason="StepFailed")
        assert 0 == failures(running, step="prepare")
        time = "variant_duration_seconds"
        assert 1 == metric(running, f"{time}_count", step="predict", variant="large")
        assert metric(running, f"{time}_sum", step="predict", variant="large") > 0
        assert 0 == metric(running, f"{time}_count", step="predict", variant="small")


@pytest.mark.parametrize(("code", "restarts"), [(RAISES, 0), (DIES, 1)], ids=["raises", "dies"])
def test_python_models_are_counted(tmp_path: Path, code: str, restarts: int) -> None:
    """Their failures by step, and their processes by state, with how often they were started anew."""
    spec = {
        "steps": [
            {"name": "predict", "model": onnx(models.scaled(tmp_path / "one.onnx", 1.0))},
            {"name": "finish", "model": python(code, "post")},
        ]
    }
    with serving(tmp_path, spec) as running:
        assert 1 == metric(running, "python_workers", model="post", status="Running")
        assert 0 == metric(running, "python_worker_restarts", model="post")
        assert 502 == running.post([{"tensor": [1.0] * 18}]).status
        assert 1 == failures(running, step="finish", variant="", reason="SidekickFailed")
        assert 0 == failures(running, step="predict")
        eventually(
            lambda: restarts == metric(running, "python_worker_restarts", model="post"),
            "the worker is counted as started anew",
        )
        eventually(
            lambda: 1 == metric(running, "python_workers", model="post", status="Running"),
            "a worker runs",
        )
