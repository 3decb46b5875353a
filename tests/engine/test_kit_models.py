"""The kit's model files do what they say, with onnxruntime as the engine uses it.

Those that hang or kill a process are run in a process of their own, which says `loaded` before its first run.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported

import numpy as np
import onnxruntime as ort
import pytest

from kit import models

ROW = np.arange(18, dtype=np.float32).reshape(1, 18)

LOAD_AND_RUN = """
import os, resource, sys
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"], enable_fallback=False)
print("loaded", flush=True)
run_options = ort.RunOptions()
if sys.argv[2] == "terminate":
    import threading
    threading.Timer(0.2, lambda: setattr(run_options, "terminate", True)).start()
session.run(None, {"tensor": np.zeros((1, 18), np.float32)}, run_options)
print("ran", flush=True)
"""


def load(path: Path) -> ort.InferenceSession:
    """Load a file with the options that the engine uses."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"], enable_fallback=False
    )


def answer(path: Path, **feed: object) -> list[object]:
    """The outputs of one run, as nested lists."""
    arrays = {name: np.asarray(value) for name, value in feed.items()}
    return [output.tolist() for output in load(path).run(None, arrays)]


def in_a_process(path: Path, *, terminate: bool = False) -> "subprocess.Popen[str]":
    """Load a file and run it once in another process, if told so asking the run to end."""
    return subprocess.Popen(
        [sys.executable, "-c", LOAD_AND_RUN, str(path), "terminate" if terminate else "wait"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_linear_is_a_weighted_sum(tmp_path: Path) -> None:
    """The weights and the bias given are the ones that count, in the order given."""
    path = models.linear(tmp_path / "m.onnx", [1, 10, 100], 0.5, n_features=3)
    assert answer(path, tensor=np.array([[1, 2, 3], [0, 0, 1]], np.float32)) == [[[321.5], [100.5]]]


@pytest.mark.parametrize(
    "dtype", [name for name in models.DTYPES if name not in ("bool", "string")]
)
def test_linear_takes_and_gives_every_number_type(tmp_path: Path, dtype: str) -> None:
    """What goes in and what comes out have the type asked for."""
    session = load(models.linear(tmp_path / "m.onnx", n_features=3, dtype=dtype))
    (out,) = session.run(None, {"tensor": np.array([[1, 2, 3]], dtype)})
    assert out.dtype == np.dtype(dtype)
    assert out.tolist() == [[6]]


def test_linear_tells_whether_the_sum_is_zero(tmp_path: Path) -> None:
    """A bool output is a bool tensor."""
    path = models.linear(tmp_path / "m.onnx", n_features=2, output_dtype="bool")
    assert answer(path, tensor=np.array([[1, 2], [1, -1]], np.float32)) == [[[True], [False]]]


def test_scaled_models_differ_by_their_factor(tmp_path: Path) -> None:
    """Two factors give two files and answers in the ratio of the factors."""
    one, three = (models.scaled(tmp_path / f"{k}.onnx", k) for k in (1, 3))
    assert one.read_bytes() != three.read_bytes()
    assert (answer(one, tensor=ROW), answer(three, tensor=ROW)) == ([[[153.0]]], [[[459.0]]])


def test_elementwise_feeds_the_next_model(tmp_path: Path) -> None:
    """Its output has the name and the shape that the other models take."""
    session = load(models.elementwise(tmp_path / "m.onnx", 2))
    (out,) = session.run(["tensor"], {"house": ROW})
    assert out.tolist() == (2 * ROW).tolist()


@pytest.mark.parametrize("dtype", sorted(models.DTYPES))
def test_identity_gives_back_any_type(tmp_path: Path, dtype: str) -> None:
    """Every element type of the kit's list exists in onnxruntime."""
    given = np.array([["1"]], object) if dtype == "string" else np.array([[1]], dtype)
    assert answer(models.identity(tmp_path / "m.onnx", dtype), tensor=given) == [given.tolist()]


@pytest.mark.parametrize("megabytes", [1, 40])
def test_big_mlp_is_as_big_as_asked(tmp_path: Path, megabytes: int) -> None:
    """The file is within 2 % of its size, and the model gives a finite number."""
    path = models.big_mlp(tmp_path / "m.onnx", megabytes)
    assert path.stat().st_size == pytest.approx(megabytes * 1e6, rel=0.02)
    (out,) = load(path).run(None, {"tensor": ROW})
    assert out.shape == (1, 1)
    assert np.isfinite(out).all()


def test_seeds_make_different_mlps(tmp_path: Path) -> None:
    """The same seed gives the same bytes, another one another answer."""
    first, again = (models.big_mlp(tmp_path / name, 1, seed=1) for name in ("a", "b"))
    other = models.big_mlp(tmp_path / "c", 1, seed=2)
    assert first.read_bytes() == again.read_bytes()
    assert answer(first, tensor=ROW) != answer(other, tensor=ROW)


def test_two_inputs_are_told_apart(tmp_path: Path) -> None:
    """The second input counts ten times the first."""
    feed = {"input_1": np.ones((2, 10), np.float32), "input_2": np.ones((2, 5), np.float32)}
    assert answer(models.two_inputs(tmp_path / "m.onnx"), **feed) == [[[60.0], [60.0]]]


def test_two_outputs_have_two_types(tmp_path: Path) -> None:
    """One output is a column of floats, the other one whole number a row."""
    path = models.two_outputs(tmp_path / "m.onnx")
    assert answer(path, tensor=ROW) == [[[153.0]], [17]]


def test_nan_comes_for_the_named_value_only(tmp_path: Path) -> None:
    """Only the row that starts with the value is answered with NaN."""
    rows = np.zeros((2, 18), np.float32)
    rows[1, 0] = 7
    (out,) = load(models.nan_at(tmp_path / "m.onnx", 7)).run(None, {"tensor": rows})
    assert np.isnan(out).tolist() == [[False], [True]]


def test_looks_up_fails_on_some_rows(tmp_path: Path) -> None:
    """Zeros pass, as the warm-up does; a row whose first number is not in the table raises."""
    session = load(models.looks_up(tmp_path / "m.onnx", 10))
    rows = np.zeros((1, 18), np.float32)
    assert session.run(None, {"tensor": rows})[0].tolist() == [[0.0]]
    with pytest.raises(Exception, match="out of data bounds"):
        session.run(None, {"tensor": rows + 10})


def test_fixed_batch_takes_its_own_number_of_rows(tmp_path: Path) -> None:
    """Four rows pass, one is refused."""
    session = load(models.fixed_batch(tmp_path / "m.onnx", 4))
    assert session.run(None, {"tensor": np.ones((4, 18), np.float32)})[0].tolist() == [[18.0]] * 4
    with pytest.raises(Exception, match="Got: 1 Expected: 4"):
        session.run(None, {"tensor": ROW})


def test_no_batch_has_no_dimension(tmp_path: Path) -> None:
    """Its input is a single value."""
    assert load(models.no_batch(tmp_path / "m.onnx")).get_inputs()[0].shape == []


def test_collapses_batch_gives_one_row(tmp_path: Path) -> None:
    """Three rows in, one row out."""
    path = models.collapses_batch(tmp_path / "m.onnx")
    (out,) = load(path).run(None, {"tensor": np.ones((3, 18), np.float32)})
    assert out.shape == (1, 18)


def test_fails_at_run_loads_and_raises(tmp_path: Path) -> None:
    """Nothing is wrong with it until it runs."""
    session = load(models.fails_at_run(tmp_path / "m.onnx"))
    with pytest.raises(Exception, match="cannot be reshaped"):
        session.run(None, {"tensor": np.zeros((1, 18), np.float32)})


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "an opset from the future": (models.unsupported_opset, "opset"),
    "half a file": (
        lambda path: models.truncated(path, models.scaled(path.with_name("whole"), 1)),
        "rotobuf",
    ),
    "a web page": (models.not_onnx, "rotobuf"),
    "weights that are elsewhere": (models.external_data, "weights.bin"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_files_are_refused_with_an_exception(tmp_path: Path, what: str) -> None:
    """onnxruntime says no while it loads, for the reason the file was made for."""
    make, message = REFUSED[what]
    with pytest.raises(Exception, match=message):
        load(make(tmp_path / "m.onnx"))


def test_hangs_until_it_is_terminated(tmp_path: Path) -> None:
    """The loop ends by onnxruntime's `terminate`, and not by itself."""
    process = in_a_process(models.hangs(tmp_path / "m.onnx"), terminate=True)
    out, errors = process.communicate(timeout=30)
    assert out.split() == ["loaded"]
    assert process.returncode == 1
    assert "terminate" in errors


def test_hangs_for_good_ignores_terminate(tmp_path: Path) -> None:
    """It loads, and then neither time nor onnxruntime's `terminate` brings it back."""
    path = models.hangs_for_good(tmp_path / "m.onnx")
    with in_a_process(path, terminate=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loaded\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)  # five times as long as it takes until `terminate` is said
        process.kill()


def test_crashes_process_dies_by_a_signal(tmp_path: Path) -> None:
    """The process is gone before the session exists: no Python exception, no exit code."""
    process = in_a_process(models.crashes_process(tmp_path / "m.onnx"))
    out, _ = process.communicate(timeout=30)
    assert out == ""
    assert process.returncode < 0
