"""onnxruntime behind its doorway: sessions shared and counted, bounded runs, and nothing that phones home."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from kit import models
from midstream_engine.errors import LoadError, StepFailed
from midstream_engine.sessions import SessionPool, by_row, run_bounded, spent_ns, zeros

EXAMPLE = Path(__file__).parents[2] / "examples" / "house-price" / "models"
ONES = {"tensor": np.ones((1, 18), np.float32)}


def test_equal_bytes_share_one_session(tmp_path: Path) -> None:
    """The second use creates nothing, and the session lives until the last one is given back."""
    pool = SessionPool()
    path = models.scaled(tmp_path / "a.onnx", 2)
    first, second = pool.acquire("a", path), pool.acquire("a", path)
    assert first is second
    assert (1, 1) == (pool.created, len(pool))
    pool.release(first)
    assert pool.has("a")
    assert [[36.0]] == second.run(["variable"], ONES)[0].tolist()
    pool.release(second)
    assert (1, 0) == (pool.created, len(pool))


def test_a_file_that_is_refused_is_not_in_the_pool(tmp_path: Path) -> None:
    """It is not counted either, and the next file is not hindered."""
    pool = SessionPool()
    with pytest.raises(LoadError):
        pool.acquire("bad", models.not_onnx(tmp_path / "bad.onnx"))
    assert (0, 0) == (pool.created, len(pool))
    pool.acquire("good", models.scaled(tmp_path / "good.onnx", 1))
    assert (1, 1) == (pool.created, len(pool))


def test_uses_from_many_threads_are_counted_right(tmp_path: Path) -> None:
    """One session is created however many ask for it at once, and none is left in the end."""
    pool = SessionPool()
    path = models.scaled(tmp_path / "a.onnx", 2)
    barrier = threading.Barrier(4)

    def use() -> None:
        barrier.wait()
        sessions = [pool.acquire("a", path) for _ in range(50)]
        barrier.wait()
        for session in sessions:
            pool.release(session)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (1, 0) == (pool.created, len(pool))


@pytest.mark.parametrize("name", ["rf", "gbr", "xgb"])
def test_answers_do_not_depend_on_the_size_of_the_batch(name: str) -> None:
    """Bit by bit the same for a row alone and among a thousand: one thread computes a session's run."""
    session = SessionPool().acquire(name, EXAMPLE / f"{name}.onnx")
    (field,) = session.inputs
    rows = np.random.default_rng(7).uniform(0, 5000, (1000, 18)).astype(np.float32)
    together = session.run(None, {field.name: rows})[0]
    for size in (1, 7, 60, 333):
        parts = [
            session.run(None, {field.name: rows[at : at + size]})[0] for at in range(0, 1000, size)
        ]
        assert np.array_equal(together, np.concatenate(parts))


def test_inputs_and_outputs_are_described(tmp_path: Path) -> None:
    """Names, types, the shape of a row, and the batch that a model insists on."""
    pool = SessionPool()
    session = pool.acquire("two", models.two_outputs(tmp_path / "two.onnx"))
    assert [("total", "float32", (1,)), ("largest", "int64", ())] == [
        (field.name, field.dtype, field.shape) for field in by_row(session.outputs, "output")
    ]
    fixed = pool.acquire("fixed", models.fixed_batch(tmp_path / "fixed.onnx", 4))
    inputs = by_row(fixed.inputs, "input")
    assert [4] == [field.batch for field in inputs]
    assert (4, 18) == zeros(inputs)["tensor"].shape


def test_a_bounded_run_that_is_in_time_answers(tmp_path: Path) -> None:
    """The same values as without a bound."""
    session = SessionPool().acquire("a", models.scaled(tmp_path / "a.onnx", 2))
    assert [[36.0]] == run_bounded(session, ["variable"], ONES, 20)[0].tolist()


def test_what_bounded_runs_spend_is_counted_for_the_thread_that_asked(tmp_path: Path) -> None:
    """It is the processor's time, however many run at once; other threads' runs are not in it."""
    session = SessionPool().acquire("a", models.scaled(tmp_path / "a.onnx", 2))
    others: list[int] = []

    def run() -> None:
        run_bounded(session, ["variable"], ONES, 20)
        others.append(spent_ns())

    before = spent_ns()
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert others[0] > 0
    assert before == spent_ns()
    cpu = time.process_time_ns()
    run_bounded(session, ["variable"], ONES, 20)
    assert 0 < spent_ns() - before <= time.process_time_ns() - cpu


def test_a_bounded_run_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    """Its thread is gone when the error comes."""
    session = SessionPool().acquire("h", models.hangs(tmp_path / "h.onnx"))
    with pytest.raises(StepFailed, match=r"did not answer within 0\.1 s$"):
        run_bounded(session, ["variable"], ONES, 0.1)
    assert "midstream-step" not in {thread.name for thread in threading.enumerate()}


QUIET = """
import os, sys
from pathlib import Path
from midstream_engine.sessions import SessionPool
before = len(os.listdir("/proc/self/task"))
SessionPool().acquire("rf", Path(sys.argv[1]))
print(before, len(os.listdir("/proc/self/task")))
"""


def test_the_doorway_starts_no_thread_and_writes_no_file(tmp_path: Path) -> None:
    """Neither when onnxruntime is imported nor when a session is made; numpy's own threads are turned off to see it."""
    home = tmp_path / "home"
    home.mkdir()
    made = subprocess.run(
        [sys.executable, "-c", QUIET, str(EXAMPLE / "rf.onnx")],
        check=True,
        capture_output=True,
        text=True,
        env={**quiet_environment(home), "OPENBLAS_NUM_THREADS": "1"},
    )
    assert ("1 1\n", "") == (made.stdout, made.stderr)
    assert [] == list(home.rglob("*"))


def quiet_environment(home: Path) -> dict[str, str]:
    """A new home, and none of the variables by which telemetry knows that it is being tested."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in {"CI", "GITHUB_ACTIONS", "ORT_DISABLE_TELEMETRY"}
        and not key.startswith("GITHUB_")
    }
    return {**kept, "HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
