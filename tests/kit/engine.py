"""A real engine process for tests: started on a config folder, watched through its event lines."""

import http.client
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WAIT_SECONDS = 30.0
"""The longest a test waits for an event before it fails."""


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class EngineProcess:
    def __init__(self, config: Path, state: Path, cache: Path, *options: str) -> None:
        self.events: list[dict[str, Any]] = []
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "midstream_engine", "serve"),
                *("--config", str(config), "--state", str(state), "--cache", str(cache)),
                *("--port", "0", "--partition", "test-engine", *options),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            text=True,
        )
        self._stderr: list[str] = []
        self._readers = [
            threading.Thread(target=self._read_events),
            threading.Thread(target=self._read_stderr),
        ]
        for reader in self._readers:
            reader.start()
        self.port = int(self.wait("listening")["port"])

    @property
    def stderr(self) -> str:
        return "".join(self._stderr)

    def wait(self, event: str, **fields: Any) -> dict[str, Any]:
        """The next event of this name with these fields; those before it are passed over."""
        while True:
            try:
                found = self._queue.get(timeout=WAIT_SECONDS)
            except queue.Empty:
                raise AssertionError(
                    f"no event {event} {fields} within {WAIT_SECONDS} s; seen: {self.events}"
                ) from None
            if found is None:
                raise AssertionError(f"the engine ended before {event}; stderr: {self.stderr}")
            if found["event"] == event and all(found.get(k) == v for k, v in fields.items()):
                return found

    def post(
        self,
        body: bytes | Any,
        path: str = "/pipelines/house-price",
        content_type: str | None = "application/json; format=pandas-records",
        method: str = "POST",
        headers: dict[str, str] | None = None,
    ) -> Reply:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = dict(headers or {})
        if content_type is not None:
            sent["Content-Type"] = content_type
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)
        try:
            connection.request(method, path, data, sent)
            answer = connection.getresponse()
            return Reply(
                answer.status,
                {name.lower(): value for name, value in answer.getheaders()},
                answer.read(),
            )
        finally:
            connection.close()

    def get(self, path: str) -> Reply:
        return self.post(b"", path, None, "GET")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and give the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(WAIT_SECONDS)
        for reader in self._readers:
            reader.join()
        return code

    def _read_events(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                event = json.loads(line)
                self.events.append(event)
                self._queue.put(event)
        self._queue.put(None)

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            self._stderr.extend(lines)


@contextmanager
def engine(folder: Path, *options: str) -> Iterator[EngineProcess]:
    """An engine on `folder/config`, with its state and cache beside it; killed at the end if it still runs."""
    running = EngineProcess(folder / "config", folder / "state", folder / "cache", *options)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.stop(signal.SIGKILL)
