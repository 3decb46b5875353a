"""The real `kubectl`: what users type is what the tests run.

Waiting is watching: `until` reads a watch until an object is as wanted, and its deadline only ends what would hang.
"""

import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Object = dict[str, Any]
SECONDS = 120.0
"""The longest wait for what should come about in a few seconds."""


class KubectlError(AssertionError):
    """kubectl refused or failed; the message is what it said."""

    def __init__(self, command: str, said: str) -> None:
        super().__init__(f"{command}\n{said}")
        self.said = said


def kubectl(*arguments: str, stdin: str | None = None, seconds: float = SECONDS) -> str:
    """Run kubectl; what it prints. Raises `KubectlError`."""
    done = run(*arguments, stdin=stdin, seconds=seconds)
    if done.returncode != 0:
        raise KubectlError(" ".join(["kubectl", *arguments]), done.stderr + done.stdout)
    return done.stdout


def run(
    *arguments: str, stdin: str | None = None, seconds: float = SECONDS
) -> subprocess.CompletedProcess[str]:
    """Run kubectl, whatever comes of it. Raises `subprocess.TimeoutExpired`."""
    return subprocess.run(
        ["kubectl", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def get(kind: str, name: str, namespace: str | None = None) -> Object | None:
    """One object, or None when it is not there."""
    text = kubectl("get", kind, name, *_in(namespace), "--ignore-not-found", "-o", "json")
    found: Object | None = json.loads(text) if text.strip() else None
    return found


def listed(kind: str, namespace: str, labels: str = "") -> list[Object]:
    """The objects of a kind in a namespace."""
    text = kubectl("get", kind, *_in(namespace), "-l", labels, "-o", "json")
    items: list[Object] = json.loads(text)["items"]
    return items


def apply(*objects: Mapping[str, Any], namespace: str | None = None) -> str:
    """`kubectl apply -f -`; what it prints."""
    return kubectl("apply", *_in(namespace), "-f", "-", stdin=documents(*objects))


def documents(*objects: Mapping[str, Any]) -> str:
    """Objects as one file for kubectl."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})


@contextmanager
def watching(kind: str, namespace: str, *arguments: str) -> Iterator["Watch"]:
    """Watch objects of a kind, beginning with those that are there."""
    process = subprocess.Popen(
        [
            *("kubectl", "get", kind, *arguments, "-n", namespace),
            *("-o", "json", "--watch", "--output-watch-events"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watch = Watch(process)
    try:
        yield watch
    finally:
        process.kill()
        watch.close()


class Watch:
    """Objects as they change."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._news: queue.Queue[tuple[str, Object] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def next(self, seconds: float) -> tuple[str, Object]:
        """`ADDED`, `MODIFIED` or `DELETED`, and the object. Raises `TimeoutError` or `KubectlError`."""
        try:
            found = self._news.get(timeout=max(seconds, 0))
        except queue.Empty:
            raise TimeoutError from None
        if found is None:
            assert self._process.stderr is not None
            raise KubectlError("kubectl get --watch", self._process.stderr.read())
        return found

    def next_of(self, what: str, seconds: float = SECONDS) -> tuple[str, Object]:
        """As `next`, failing with what was waited for."""
        try:
            return self.next(seconds)
        except TimeoutError:
            raise AssertionError(
                f"nothing new within {seconds} s while waiting for {what}"
            ) from None

    def until(
        self, wanted: Callable[[Object], bool], what: str, seconds: float = SECONDS
    ) -> Object:
        """The first object seen from now on that is as wanted."""
        deadline = time.monotonic() + seconds
        last: Object = {}
        while True:
            try:
                event, last = self.next(deadline - time.monotonic())
            except TimeoutError:
                shown = json.dumps(last.get("status", last), indent=1)
                raise AssertionError(
                    f"not within {seconds} s: {what}; last seen: {shown}"
                ) from None
            if event != "DELETED" and wanted(last):
                return last

    def drain(self) -> None:
        """Forget what came until now."""
        while not self._news.empty():
            if self._news.get() is None:
                self._news.put(None)  # the end stays to be told
                break

    def close(self) -> None:
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            self._news.put((event["type"], event["object"]))
        self._news.put(None)


def until(
    kind: str,
    name: str,
    namespace: str,
    wanted: Callable[[Object], bool],
    what: str,
    seconds: float = SECONDS,
) -> Object:
    """Wait until an object, which may not be there yet, is as wanted."""
    with watching(kind, namespace, "--field-selector", f"metadata.name={name}") as watch:
        return watch.until(wanted, what, seconds)


def until_gone(kind: str, name: str, namespace: str, seconds: float = SECONDS) -> None:
    """Wait until an object is no more."""
    kubectl(
        *("wait", "--for=delete", f"{kind}/{name}", "-n", namespace),
        f"--timeout={seconds:.0f}s",
        seconds=seconds + 10,
    )


@contextmanager
def forwarded(service: str, port: int, namespace: str) -> Iterator[int]:
    """`kubectl port-forward` to a Service; the port on 127.0.0.1."""
    process = subprocess.Popen(
        ["kubectl", "port-forward", f"service/{service}", f":{port}", "-n", namespace],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()  # Forwarding from 127.0.0.1:40123 -> 29502
        if not line.startswith("Forwarding from 127.0.0.1:"):
            raise KubectlError(f"kubectl port-forward service/{service}", line)
        yield int(line.split()[2].rpartition(":")[2])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _in(namespace: str | None) -> tuple[str, ...]:
    return () if namespace is None else ("-n", namespace)
