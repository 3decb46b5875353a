"""Pods that the tests bring along, all of the engine's image, which has a Python: a load pod and a forwarder."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from kit import wire
from kit.cluster.kubectl import Object, apply, kubectl
from kit.load import Answer, Record, Row

ENGINE_IMAGE = os.environ.get("MIDSTREAM_ENGINE_IMAGE", "localhost/midstream-engine:dev")
KIT = Path(__file__).parents[1]
_FILES = (
    "__init__.py",
    "load.py",
    "wire.py",
    "cluster/__init__.py",
    "cluster/inside.py",
    "cluster/forward.py",
)
PATH = "/pipelines/house-price"
RECORDS_PORT = 29502


def sources(name: str) -> Object:
    """The kit's own files as a ConfigMap, for `program`."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {_key(file): (KIT / file).read_text() for file in _FILES},
    }


def program(name: str, config_map: str, command: Sequence[str]) -> Object:
    """The spec of a pod that runs Python with the kit on its path."""
    items = [{"key": _key(file), "path": f"kit/{file}"} for file in _FILES]
    return {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": name,
                "image": ENGINE_IMAGE,
                "imagePullPolicy": "IfNotPresent",
                "command": ["python", *command],
                "workingDir": "/tests",
                "env": [
                    {"name": "PYTHONPATH", "value": "/tests"},
                    {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"},
                ],
                "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [{"name": "tests", "mountPath": "/tests"}],
            }
        ],
        "volumes": [{"name": "tests", "configMap": {"name": config_map, "items": items}}],
    }


def _key(file: str) -> str:
    return file.replace("/", "_")


class Reply(NamedTuple):
    """The answer to one question; status 0: none."""

    status: int
    version: str
    text: str

    @property
    def value(self) -> Any:
        return json.loads(self.text)


class LoadPod:
    """A pod that asks: one question at a time, or at a fixed rate while something else happens."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        labels = {"app": "load"}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "load", "labels": labels},
            "spec": program("load", "load", ["-c", "import signal; signal.pause()"]),
        }
        apply(sources("load"), pod, namespace=namespace)
        kubectl("wait", "--for=condition=Ready", "pod/load", "-n", namespace, "--timeout=120s")

    def ask(
        self,
        hosts: Sequence[str],
        port: int,
        path: str,
        rows: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[Reply]:
        """Ask each host once: with rows, POST them as records; without, GET."""
        question = {"port": port, "path": path, "method": "POST" if rows else "GET"}
        if rows:
            question["body"] = json.dumps(list(rows))
        plan = json.dumps([{**question, "host": host} for host in hosts])
        said = kubectl(*self._command("ask"), stdin=plan + "\n")
        return [Reply(*json.loads(line)) for line in said.splitlines()]

    @contextmanager
    def load(
        self,
        host: str,
        requests: Sequence[wire.Request],
        *,
        rate: float = 150,
        connections: int = 8,
        seconds: int = 600,
    ) -> Iterator["Load"]:
        """Ask a load balancer at fixed times until told to stop, at most for `seconds`."""
        plan = {
            "host": host,
            "port": RECORDS_PORT,
            "path": PATH,
            "requests": [list(request.rows) for request in requests],
            "rate": rate,
            "connections": connections,
            "seconds": seconds,
        }
        process = subprocess.Popen(
            ["kubectl", *self._command("load")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            yield Load(process, plan)
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()

    def _command(self, what: str) -> list[str]:
        inside = ["python", "-m", "kit.cluster.inside", what]
        return ["exec", "-i", "-n", self._namespace, "load", "--", *inside]


class Load:
    """A load under way in the load pod."""

    def __init__(self, process: subprocess.Popen[bytes], plan: Mapping[str, Any]) -> None:
        self._process = process
        self.began: float = self._say(json.dumps(plan))
        """On the load's own clock, like every time in its record."""

    def mark(self) -> float:
        """What time it is on the load's clock."""
        now: float = self._say("mark")
        return now

    def stop(self) -> Record:
        """End it, and have what it saw."""
        return _record(self._say("stop"))

    def _say(self, line: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        heard = self._process.stdout.readline()
        if not heard:
            assert self._process.stderr is not None
            raise AssertionError(f"the load ended: {self._process.stderr.read().decode()}")
        return orjson.loads(heard)


def _record(said: Mapping[str, Any]) -> Record:
    record = Record(
        answers=[
            Answer(
                *(request, status, version),
                tuple(Row(row[0], row[1], row[2].encode(), row[3]) for row in rows),
                problem,
            )
            for request, status, version, rows, problem in said["answers"]
        ],
        cpu_seconds=said["cpu_seconds"],
    )
    for name in ("kind", "scheduled", "sent", "ended", "late"):
        getattr(record, name).extend(said[name])
    return record
