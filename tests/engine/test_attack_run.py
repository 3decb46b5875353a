"""`midstream run` when what it stands on is taken away: state folder, cache, models, standard streams."""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kit import client, models
from kit.serving import Service, manifest_of, serving, version_in


def manifest(folder: Path, name: str) -> str:
    return manifest_of((name, folder / f"{name}.onnx"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two models, of which `one` says 18 and `two` 36, and a manifest of the first."""
    models.scaled(tmp_path / "one.onnx", 1.0)
    models.scaled(tmp_path / "two.onnx", 2.0)
    (tmp_path / "pipeline.yaml").write_text(manifest(tmp_path, "one"))
    return tmp_path


def heard_of(service: Service, name: str, after: int) -> int:
    """As `wait_for`, but the worker's word on a config folder that was torn away is no failure."""
    while True:
        try:
            return service.wait_for(name, after=after)
        except RuntimeError:
            found = [event["event"] for event in service.events[after:]]
            if "config_refused" not in found or name == "config_refused":
                raise
            after += found.index("config_refused") + 1


def test_a_state_folder_that_is_cleared_away_is_made_again(folder: Path) -> None:
    """What clears old files out of /tmp costs nothing: swaps work, and so does a worker that is started after it."""
    state = folder / ".state"
    two = manifest(folder, "two")
    with serving(folder / "pipeline.yaml") as service:
        (worker,) = service.events[service.wait_for("serving")]["workers"]
        shutil.rmtree(state)
        swapped = heard_of(service, "swapped", service.write(two))
        assert client.infer(service.port).outputs == [36.0]

        shutil.rmtree(state)
        heard = len(service.events)
        os.kill(worker, signal.SIGKILL)
        heard_of(service, "worker_ready", heard)
        assert client.infer(service.port).version == version_in(two, folder)

    assert service.events[swapped]["version"] == version_in(two, folder)
    assert not any(event["event"] == "config_unwritable" for event in service.events)


def test_a_model_that_was_lost_everywhere_serves_again_when_it_is_back(folder: Path) -> None:
    """A new worker without cache and model cannot serve; the same file in its old place is all that it takes."""
    model = folder / "one.onnx"
    content = model.read_bytes()
    with serving(folder / "pipeline.yaml") as service:
        before = client.infer(service.port)
        (worker,) = service.events[service.wait_for("serving")]["workers"]
        shutil.rmtree(folder / ".cache")
        heard = len(service.events)
        model.unlink()
        os.kill(worker, signal.SIGKILL)
        service.wait_for("worker_died", after=heard)
        # The new worker answers only once it knows that it cannot load.
        assert client.infer(service.port).status == 503
        model.write_bytes(content)
        while True:
            try:
                service.wait_for("worker_ready", after=heard)
                break
            except RuntimeError:  # that the model was gone has been noticed
                heard = len(service.events)
        after = client.infer(service.port)

    assert (after.version, after.outputs) == (before.version, [18.0])


def test_a_pipe_in_the_manifests_place_is_refused(folder: Path) -> None:
    """Opening it would wait for a writer for ever; the old version serves, and the next file is taken."""
    path = folder / "pipeline.yaml"
    with serving(path) as service:
        service.wait_for("serving")
        os.mkfifo(folder / "pipe")
        heard = len(service.events)
        (folder / "pipe").replace(path)
        with pytest.raises(RuntimeError, match="is a pipe; name a file"):
            service.wait_for("swapped", after=heard)
        assert client.infer(service.port).outputs == [18.0]
        service.wait_for("swapped", after=service.write(manifest(folder, "two")))


def test_closed_standard_streams_do_not_matter(folder: Path) -> None:
    """A service that is started without any of them serves; its sockets do not take their numbers."""
    with serving(folder / "pipeline.yaml") as other:
        port = other.port  # a port that is free when the other is gone
    command = [
        *(sys.executable, "-m", "midstream", "run", str(folder / "pipeline.yaml")),
        *("--port", str(port), "--cache", str(folder / ".cache")),
        *("--state", str(folder / ".state")),
    ]
    process = subprocess.Popen(
        ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], process_group=0
    )
    try:
        while True:
            assert process.poll() is None
            try:
                answer = client.infer(port)
                break
            except ConnectionError:  # it does not listen yet
                continue
        fds = {int(entry.name) for entry in Path(f"/proc/{process.pid}/fd").iterdir()}
        streams = {str(Path(f"/proc/{process.pid}/fd/{fd}").readlink()) for fd in (0, 1, 2)}
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(client.SECONDS)

    assert (answer.outputs, code) == ([18.0], 0)
    assert fds >= {0, 1, 2}
    assert streams == {os.devnull}


def test_ctrl_c_during_the_imports_ends_without_a_traceback() -> None:
    """Whoever mistyped and is quick sees no Python."""
    script = """
import os, signal, sys
from midstream import __main__

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "midstream.cli":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
__main__.main()
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=False, text=True
    )

    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, "")


def command(folder: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "midstream", "run", str(folder / "pipeline.yaml")),
        *("--port", "0", "--cache", str(folder / ".cache")),
    ]


def test_a_reader_that_stops_reading_does_not_stop_the_service(folder: Path) -> None:
    """A full pipe holds up neither readiness nor the end: the supervisor never waits for who reads its lines."""
    with serving(folder / "pipeline.yaml") as other:
        port = other.port
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETFL, os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b"\n" * 4096)
    fcntl.fcntl(write, fcntl.F_SETFL, 0)
    process = subprocess.Popen(
        [*command(folder), "--port", str(port)], stdout=write, process_group=0
    )
    os.close(write)
    try:
        while True:
            assert process.poll() is None
            try:
                ready = client.get(port, "/readyz")
                break
            except ConnectionError:  # it does not listen yet
                continue
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(client.SECONDS)
        os.close(read)

    assert (ready.status, code) == (200, 0)


def test_an_encoding_without_an_arrow_does_not_stop_the_service(folder: Path) -> None:
    """Where the locale is not UTF-8 a character is lost in the line of a swap, and nothing else."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    process = subprocess.Popen(
        command(folder), stdout=subprocess.PIPE, text=True, env=environment, process_group=0
    )
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            if "stop it" in line:
                (folder / "pipeline.yaml").write_text(manifest(folder, "two"))
            if "swapped to" in line:
                process.send_signal(signal.SIGTERM)
                break
        said = line + lines.read()
        code = process.wait(client.SECONDS)

    assert "(one ? two)" in said
    assert (said.splitlines()[-1][9:], code) == ("stopped", 0)
