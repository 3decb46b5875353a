"""`midstream run` when processes die: workers, candidates that take their worker with them, the supervisor."""

import os
import select
import signal
import socket
from pathlib import Path

import pytest

from kit import client, load, models, wire
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


def workers(service: Service) -> list[int]:
    """The process of each worker, as the last event of its kind says."""
    found: list[int] = list(service.events[service.wait_for("serving")]["workers"])
    for event in service.events:
        if event["event"] == "worker_ready":
            found[event["worker"]] = event["pid"]
    return found


def kill(service: Service, worker: int, number: int = signal.SIGKILL) -> int:
    """Kill a worker; where to look for what follows."""
    heard = len(service.events)
    os.kill(workers(service)[worker], number)
    return service.wait_for("worker_died", after=heard, worker=worker)


@pytest.mark.parametrize("count", [1, 2])
def test_a_killed_worker_comes_back_and_new_connections_wait_for_it(
    folder: Path, count: int
) -> None:
    """Under load, only requests that were in the worker fail; every later one is answered, by the same version."""
    request = wire.records("/pipelines/house-price", [client.ROW])
    with serving(folder / "pipeline.yaml", "--workers", str(count)) as service:
        version = client.infer(service.port).version
        with load.closed(service.port, [request], clients=8) as running:
            running.wait_until_answering()
            for _ in range(3):
                died = kill(service, 0)
                # Nobody may be turned away while the worker is down.
                assert client.infer(service.port).version == version
                service.wait_for("worker_ready", after=died, worker=0)
            record = running.stop()
        metrics = client.get(service.port, "/metrics").text
        status = client.get(service.port, "/status").value

    answered = {answer.version for answer in record.answers if answer.status == 200}
    assert answered == {version}
    # One connection has at most one request under way when its worker dies.
    assert record.failed <= 3 * 8, record.failures()
    assert not any("refused" in problem for problem in record.failures()), record.failures()
    assert 'midstream_worker_restarts_total{worker="0"} 3.0' in metrics
    assert [one["restarts"] for one in status["workers"]] == [3, *[0] * (count - 1)]


def test_a_worker_that_is_told_to_end_is_replaced(folder: Path) -> None:
    """A SIGTERM to a worker drains it, and another takes its place."""
    with serving(folder / "pipeline.yaml") as service:
        died = kill(service, 0, signal.SIGTERM)
        service.wait_for("worker_ready", after=died)
        assert client.infer(service.port).outputs == [18.0]

    assert service.events[died]["code"] == 0


def mark_of(service: Service) -> Path:
    return service.manifest.parent / ".state" / "worker-0" / "candidate-mark.json"


def test_kill_9_while_the_candidate_is_loaded_still_ends_in_the_wanted_version(
    folder: Path,
) -> None:
    """A worker that is killed from outside in the middle of a swap may try once more: the new version serves."""
    models.big_mlp(folder / "big.onnx", 40)
    big = manifest(folder, "big")
    with serving(folder / "pipeline.yaml") as service:
        (worker,) = workers(service)
        heard = service.write(big)
        while not mark_of(service).exists():
            assert not any(event["event"] == "swapped" for event in service.events), "too late"
        os.kill(worker, signal.SIGKILL)
        service.wait_for("worker_died", after=heard, signal="SIGKILL")
        service.wait_for("swapped", after=heard, version=version_in(big, folder))
        after = client.infer(service.port)
        status = client.get(service.port, "/status").value

    assert after.version == version_in(big, folder) == status["version"]
    assert not mark_of(service).exists()


def test_kill_9_again_and_again_while_models_are_swapped(folder: Path) -> None:
    """Wherever in a swap the kill comes, the wanted version ends up serving; every answer is one of the two."""
    texts = [manifest(folder, "two"), manifest(folder, "one")]
    request = wire.records("/pipelines/house-price", [client.ROW])
    with serving(folder / "pipeline.yaml", "--workers", "2") as service:
        with load.closed(service.port, [request], clients=4) as running:
            running.wait_until_answering()
            for number in range(4):
                text = texts[number % 2]
                heard = service.write(text)
                if number:  # the first time before the worker has noticed anything
                    service.wait_for("warmed" if number == 2 else "loaded", after=heard)
                died = kill(service, number % 2)
                service.wait_for("swapped", after=heard, version=version_in(text, folder))
                service.wait_for("worker_ready", after=died)
            record = running.stop()
        last = client.infer(service.port)

    assert last.version == version_in(texts[1], folder)
    assert {answer.version for answer in record.answers if answer.status == 200} == {
        version_in(text, folder) for text in texts
    }
    assert record.failed <= 4 * 4, record.failures()


@pytest.mark.parametrize("count", [1, 2])
def test_a_candidate_that_kills_its_process_is_refused(folder: Path, count: int) -> None:
    """A model that crashes the engine costs one restart: the old version serves, the reason names the signal."""
    models.crashes_process(folder / "crash.onnx")
    crash = manifest(folder, "crash")
    with serving(folder / "pipeline.yaml", "--workers", str(count)) as service:
        before = client.infer(service.port)
        heard = service.write(crash)
        refused = service.events[service.wait_for("refused", after=heard)]
        after_refusal = service.events.index(refused)
        for worker in range(count):
            service.wait_for("worker_ready", after=after_refusal + 1, worker=worker)
        during = client.infer(service.port)
        status = client.get(service.port, "/status").value
        # Saved again, it is refused again, and this time nothing dies for it.
        heard = service.write(crash + "# again\n")
        again = service.wait_for("refused", after=heard, reason="CandidateKilledEngine")
        assert client.infer(service.port).version == before.version
        heard = service.write(manifest(folder, "two"))
        service.wait_for("swapped", after=heard)
        after = client.infer(service.port)

    assert refused["reason"] == "CandidateKilledEngine"
    assert "SIGSEGV" in refused["message"]
    assert (during.version, during.outputs) == (before.version, [18.0])
    assert (status["rollout"]["state"], status["version"]) == ("Refused", before.version)
    assert not any(event["event"] == "worker_died" for event in service.events[again:])
    assert after.outputs == [36.0]


def test_two_workers_speak_with_one_voice(folder: Path) -> None:
    """Status, metrics, readiness and lists are the same whichever worker is asked, and every event is told once."""
    two = manifest(folder, "two")
    with serving(folder / "pipeline.yaml", "--workers", "2") as service:
        service.wait_for("serving")
        service.swap(two, version_in(two, folder))
        for _ in range(8):
            status = client.get(service.port, "/status").value
            assert [one["worker"] for one in status["workers"]] == [0, 1]
            assert (status["version"], status["ready"]) == (version_in(two, folder), True)
        ready = client.get(service.port, "/readyz")
        pipelines = client.get(service.port, "/pipelines").value
        listed = client.get(service.port, "/models").value
        metrics = client.get(service.port, "/metrics").text

    assert len({one["pid"] for one in status["workers"]}) == 2
    assert (ready.status, ready.value["ready"]) == (200, True)
    assert pipelines == {
        "pipelines": [
            {"id": "house-price", "version": version_in(two, folder), "status": "Running"}
        ]
    }
    assert [one["name"] for one in listed["models"]] == ["two"]
    assert 'worker="0"' in metrics
    assert 'worker="1"' in metrics
    said = [event["event"] for event in service.events]
    assert (said.count("loaded"), said.count("swapped"), said.count("freed")) == (2, 1, 1)


@pytest.mark.parametrize("count", [1, 2])
def test_no_worker_outlives_a_killed_supervisor(folder: Path, count: int) -> None:
    """When the supervisor is killed with -9, the workers notice, end, and leave the port."""
    with serving(folder / "pipeline.yaml", "--workers", str(count)) as service:
        port, pids = service.port, workers(service)
        handles = [os.pidfd_open(pid) for pid in pids]
        service.process.kill()
        service.process.wait()
        for handle in handles:
            wait_for_end(handle)
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", port))


def wait_for_end(handle: int) -> None:
    """Wait until the process behind a pidfd has ended."""
    try:
        ended, _, _ = select.select([handle], [], [], client.SECONDS)
    finally:
        os.close(handle)
    assert ended, "the worker is still there"
