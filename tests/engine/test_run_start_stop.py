"""`midstream run` at its two ends: what keeps it from starting, and how it stops."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from kit import client, models, wire
from kit.serving import Service, manifest_of, serving, version_in


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model and its manifest."""
    model = models.scaled(tmp_path / "one.onnx", 1.0)
    (tmp_path / "pipeline.yaml").write_text(manifest_of(("one", model)))
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, which must come by itself."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "midstream", "run", str(folder / "pipeline.yaml")),
            *("--port", "0", "--cache", str(folder / ".cache")),
            *arguments,
        ],
        capture_output=True,
        check=False,
        text=True,
        timeout=client.SECONDS,
    )


# Starting


def no_manifest(folder: Path) -> None:
    (folder / "pipeline.yaml").unlink()


def broken_manifest(folder: Path) -> None:
    (folder / "pipeline.yaml").write_text("kind: Pipeline\n")


def no_model(folder: Path) -> None:
    (folder / "one.onnx").unlink()


def not_a_model(folder: Path) -> None:
    models.not_onnx(folder / "one.onnx")


def fails_warm_up(folder: Path) -> None:
    models.fails_at_run(folder / "one.onnx")


def crashes(folder: Path) -> None:
    models.crashes_process(folder / "one.onnx")


def undeployed(folder: Path) -> None:
    with (folder / "pipeline.yaml").open("a") as file:
        file.write("  deployed: false\n")


def undeployed_and_empty(folder: Path) -> None:
    text = (folder / "pipeline.yaml").read_text()
    (folder / "pipeline.yaml").write_text(
        text[: text.index("  steps:")] + "  steps: []\n  deployed: false\n"
    )


def pinned(folder: Path) -> None:
    with (folder / "pipeline.yaml").open("a") as file:
        file.write("  version: 3f2b1a0c-9d8e-5f7a-8b6c-5d4e3f2a1b0c\n")


def no_python(folder: Path) -> None:
    path = folder / "pipeline.yaml"
    head = path.read_text().partition("  steps:")[0]
    (folder / "shop.py").write_text("x = 1\ndef process(:\n")
    code = "{name: shop, framework: Python, source: {uri: shop.py}}"
    path.write_text(f"{head}  steps:\n  - name: post\n    model: {code}\n")


def wrong_validation(folder: Path) -> None:
    with (folder / "pipeline.yaml").open("a") as file:
        file.write("  validations:\n  - {name: high, expression: out.cost > 1}\n")


@pytest.mark.parametrize(
    ("spoil", "reason", "said"),
    [
        (no_python, "InvalidCode", "syntax error in shop.py, line 2: "),
        (no_python, "InvalidCode", ": spec.steps[0].model.source.uri: step 'post'"),
        (wrong_validation, "InvalidValidation", ": spec.validations[0].expression: validation"),
        (undeployed, "NotDeployed", "spec.deployed: deployed is false"),
        (undeployed_and_empty, "NotDeployed", "spec.deployed: deployed is false"),
        (pinned, "VersionNotHere", "is not the version of these steps"),
        (no_manifest, "InvalidManifest", "pipeline.yaml: no such file"),
        (broken_manifest, "InvalidManifest", "missing field 'spec'"),
        (no_model, "SourceNotFound", "one.onnx"),
        (not_a_model, "InvalidModel", "not an ONNX model"),
        (fails_warm_up, "WarmupFailed", "warm-up failed"),
        (crashes, "WorkerFailed", "worker 0 was killed by SIGSEGV before it served"),
    ],
)
def test_what_cannot_serve_does_not_start(
    folder: Path, spoil: Callable[[Path], None], reason: str, said: str
) -> None:
    """The command ends with code 1 and says why; machines get the reason as JSON."""
    spoil(folder)

    ended = run(folder, "--json-logs")

    assert ended.returncode == 1, ended.stderr
    last = json.loads(ended.stdout.splitlines()[-1])
    assert (last["event"], last["reason"]) == ("cannot_start", reason)
    assert said in last["message"]


def test_what_only_a_cluster_acts_on_is_noted_and_left_aside(folder: Path) -> None:
    """A manifest for a cluster serves here, too, and its own version may be written in it."""
    path = folder / "pipeline.yaml"
    own = version_in(path.read_text(), folder)
    with path.open("a") as file:
        file.write(f"  deployment: {{replicas: 3}}\n  tags: [blue]\n  version: {own}\n")
    with serving(path) as service:
        note = service.events[service.wait_for("left_aside")]
        assert client.infer(service.port).version == own
    assert note["fields"] == ["deployment", "tags"]
    assert note["message"] == "note: only a cluster acts on spec.deployment and spec.tags"


def test_people_are_told_on_standard_error(folder: Path) -> None:
    """Without --json-logs the problem is a plain line, file first, as compilers write it."""
    broken_manifest(folder)

    ended = run(folder)

    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"{folder / 'pipeline.yaml'}:1:1: ")
    assert "Traceback" not in ended.stderr


def test_a_port_in_use_is_said(folder: Path) -> None:
    """Another process on the port: the address and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = run(folder, "--port", str(port))

    assert ended.returncode == 1
    assert ended.stderr == (
        f"cannot listen on 127.0.0.1:{port}: another process listens there; choose another --port\n"
    )


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1"])
def test_a_host_that_is_not_ours_is_said(folder: Path, host: str) -> None:
    """A name that is not known and an address of another machine: both end the command with a sentence."""
    ended = run(folder, "--host", host)

    assert ended.returncode == 1
    assert ended.stderr.startswith(f"cannot listen on {host}:0: ")


def test_two_runs_do_not_share_a_state_folder(folder: Path) -> None:
    """A state folder belongs to one run at a time; afterwards the next one may use it."""
    state = folder / ".state"
    with serving(folder / "pipeline.yaml") as service:
        service.wait_for("serving")
        ended = run(folder, "--state", str(state))
        assert ended.returncode == 1
        assert "another run uses the state folder" in ended.stderr
    with serving(folder / "pipeline.yaml") as service:
        assert client.infer(service.port).outputs == [18.0]


def as_curl_would(words: list[str]) -> bytes:
    """The body of the answer to a printed curl line; curl itself is not on every machine."""
    assert words[:2] == ["curl", "-sS"]
    url, _, header, _, data = words[2:]
    name, _, value = header.partition(": ")
    request = urllib.request.Request(url, data.encode(), {name: value})  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=client.SECONDS) as answer:  # noqa: S310
        body: bytes = answer.read()
    return body


def test_people_are_told_how_to_ask_and_to_swap(folder: Path) -> None:
    """The lines at the start: the address, a curl line that works as it stands, the edit that swaps, how to stop."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "midstream", "run", str(folder / "pipeline.yaml")),
            *("--port", "0", "--cache", str(folder / ".cache")),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        process_group=0,
    )
    assert process.stdout is not None
    try:
        with process.stdout as lines:
            printed = []
            for line in lines:
                printed.append(line.rstrip())
                if "stop it" in line:
                    break
            asked = next(line.partition("ask it:")[2] for line in printed if "ask it:" in line)
            answer = as_curl_would(shlex.split(asked.removesuffix("; echo")))
            process.send_signal(signal.SIGINT)
            rest = lines.read()
            code = process.wait(client.SECONDS)
    finally:
        process.kill()
        process.wait()

    assert code == 0
    assert json.loads(answer)[0]["out"] == {"variable": [0.0]}
    assert any(f"edit {folder / 'pipeline.yaml'}" in line for line in printed)
    assert any(line[9:].startswith("loaded one in ") for line in printed)
    version = version_in((folder / "pipeline.yaml").read_text(), folder)
    assert any(line[9:].startswith(f"serving one, version {version}, at ") for line in printed)
    assert rest.splitlines()[-1][9:] == "stopped"


def test_workers_do_not_phone_home(folder: Path) -> None:
    """onnxruntime's telemetry is off in every worker, from before its import."""
    with serving(folder / "pipeline.yaml") as service:
        (pid,) = service.events[service.wait_for("serving")]["workers"]
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")

    assert b"ORT_DISABLE_TELEMETRY=1" in environment


def test_a_library_is_not_shadowed_by_what_lies_in_the_users_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file named like a library, in the folder where the user stands, does not break the workers."""
    monkeypatch.setenv(
        "PYTHONPATH",
        os.pathsep.join(
            str(Path(entry).absolute())
            for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep)
        ),
    )
    (folder / "numpy.py").write_text("raise SystemExit('shadowed')\n")
    monkeypatch.setenv(
        "PYTHONSAFEPATH", "1"
    )  # for the command itself, which an installed script has
    monkeypatch.chdir(folder)
    with serving(folder / "pipeline.yaml") as service:
        assert client.infer(service.port).outputs == [18.0]


# Stopping


def begun_request(service: Service) -> tuple[socket.socket, bytes]:
    """A connection on which half a request has been sent and received, and the other half."""
    raw = wire.records("/pipelines/house-price", [client.ROW]).raw
    connection = socket.create_connection(("127.0.0.1", service.port), client.SECONDS)
    # A first answer shows that a worker has taken the connection.
    connection.sendall(raw)
    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
    half = len(raw) - 10
    connection.sendall(raw[:half])
    # What is asked later on another connection is answered later: the half has been seen.
    client.infer(service.port)
    return connection, raw[half:]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_that_has_begun_is_finished(folder: Path, number: int) -> None:
    """After the signal the running request is answered, then the command ends with code 0."""
    with serving(folder / "pipeline.yaml") as service:
        connection, rest = begun_request(service)
        with connection:
            service.process.send_signal(number)
            service.wait_for("stopping")
            connection.sendall(rest)
            answer = connection.recv(1 << 16)
        code = service.process.wait(client.SECONDS)

    assert answer.startswith(b"HTTP/1.1 200")
    assert code == 0


def test_a_second_signal_ends_it_at_once(folder: Path) -> None:
    """Whoever does not want to wait for a request that has begun presses Ctrl-C again."""
    with serving(folder / "pipeline.yaml") as service:
        connection, _ = begun_request(service)
        with connection:
            service.process.send_signal(signal.SIGINT)
            service.wait_for("stopping")
            service.process.send_signal(signal.SIGINT)
            code = service.process.wait(client.SECONDS)

    assert code == 130


def accepted(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), client.SECONDS).close()
    except ConnectionError:
        return False
    return True


def test_new_connections_are_refused_while_stopping(folder: Path) -> None:
    """Once the workers have closed the socket, nobody is left to wait in its queue."""
    with serving(folder / "pipeline.yaml") as service:
        port = service.port
        connection, rest = begun_request(service)
        with connection:
            service.process.send_signal(signal.SIGTERM)
            service.wait_for("stopping")
            while accepted(port):
                pass  # until the workers have closed it
            connection.sendall(rest)
        assert service.process.wait(client.SECONDS) == 0


def test_the_supervisor_loads_no_model_library() -> None:
    """What a model can crash is not in the process that keeps the service alive."""
    script = "import sys, midstream.run.main; print(*sorted(sys.modules))"

    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True
    )

    assert not {"onnxruntime", "numpy", "fastapi", "uvicorn"} & set(ended.stdout.split())
