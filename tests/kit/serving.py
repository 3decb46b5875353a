"""`midstream run` as a real process: started, watched through its JSON lines, and swapped by editing its manifest."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from midstream_api.engineconfig import ResolvedModel, ResolvedStep
from midstream_api.model import Model
from midstream_api.pipeline import Pipeline
from midstream_api.version import version_of

Event = Mapping[str, Any]
_SECONDS = 60.0
_REFUSALS = {"refused", "config_refused", "cannot_start"}


class Swap(NamedTuple):
    """What was said of one swap."""

    swapped: Event
    freed: Event

    @property
    def began(self) -> float:
        """When loading the new revision began, in seconds since 1970."""
        began: float = self.swapped["loading"]
        return began

    @property
    def ended(self) -> float:
        """When the old revision was freed, in seconds since 1970."""
        return at(self.freed)


def at(event: Event) -> float:
    """The time of an event, in seconds since 1970; exact to a millisecond."""
    return datetime.fromisoformat(event["time"]).timestamp()


class Service:
    """A running `midstream run`. Every wait is for an event and has a deadline."""

    def __init__(self, process: subprocess.Popen[bytes], manifest: Path) -> None:
        self.process = process
        self.manifest = manifest
        self.events: list[Event] = []
        self.errors: list[str] = []
        """Lines of standard error."""
        self._news = threading.Condition()
        self._ended = False
        self._readers = [
            threading.Thread(target=self._read_events, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_for(
        self, name: str, *, after: int = 0, seconds: float = _SECONDS, **fields: Any
    ) -> int:
        """The index in `events`, from `after` on, of the first event with this name and these fields.

        Raises `TimeoutError`, or `RuntimeError` when the process ends or refuses a change first; both say what was
        heard.
        """
        deadline = time.monotonic() + seconds
        at = after
        with self._news:
            while True:
                for index in range(at, len(self.events)):
                    event = self.events[index]
                    if event["event"] == name and fields.items() <= event.items():
                        return index
                    if event["event"] in _REFUSALS:
                        raise RuntimeError(f"instead of {name} {fields}:\n{self.heard()}")
                at = len(self.events)
                if self._ended:
                    raise RuntimeError(
                        f"midstream run ended before {name} {fields}\n{self.heard()}"
                    )
                if not self._news.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"no {name} {fields} in {seconds} s\n{self.heard()}")

    @property
    def port(self) -> int:
        """Waits until the first revision serves."""
        port: int = self.events[self.wait_for("serving")]["port"]
        return port

    def swap(self, manifest: str, version: str) -> Swap:
        """Write a manifest and wait until its version serves and the memory of the one before is freed."""
        swapped = self.wait_for("swapped", after=self.write(manifest), version=version)
        freed = self.wait_for("freed", after=swapped)
        return Swap(self.events[swapped], self.events[freed])

    def write(self, manifest: str) -> int:
        """Replace the manifest as an editor does: write beside it, rename over it. The next event's index."""
        heard = len(self.events)
        beside = self.manifest.with_name(f".{self.manifest.name}.new")
        beside.write_text(manifest)
        beside.replace(self.manifest)
        return heard

    def heard(self) -> str:
        """The last events and errors, for a message."""
        return "\n".join([*(json.dumps(event) for event in self.events[-20:]), *self.errors[-20:]])

    def stop(self) -> int:
        """Ctrl-C; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(_SECONDS)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            for reader in self._readers:
                reader.join()

    def _read_events(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                try:
                    event = json.loads(line)
                except ValueError:
                    event = {"event": "unreadable", "line": line.decode(errors="replace")}
                with self._news:
                    self.events.append(event)
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            self.errors.extend(line.decode(errors="replace").rstrip() for line in lines)


@contextlib.contextmanager
def serving(
    manifest: Path, *arguments: str, env: Mapping[str, str] | None = None
) -> Iterator[Service]:
    """Run `midstream run manifest` on a free port with its cache and state in the manifest's folder.

    `env` is added to the environment; a `PYTHONPATH` in it goes before the one there is.
    """
    folder = manifest.parent
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
    if env and "PYTHONPATH" in env and "PYTHONPATH" in os.environ:
        environment["PYTHONPATH"] = env["PYTHONPATH"] + os.pathsep + os.environ["PYTHONPATH"]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "midstream", "run", str(manifest)),
            *("--port", "0", "--json-logs"),
            *("--cache", str(folder / ".cache"), "--state", str(folder / ".state")),
            *arguments,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        process_group=0,  # a Ctrl-C in the tester's terminal is the tester's
    )
    service = Service(process, manifest)
    try:
        yield service
    finally:
        service.stop()


def manifest_of(*models: tuple[str, Path]) -> str:
    """A manifest of the pipeline `house-price` whose steps are these models, by name and file."""
    return yaml.safe_dump(
        {
            "apiVersion": "midstream.dev/v1alpha1",
            "kind": "Pipeline",
            "metadata": {"name": "house-price"},
            "spec": {
                "steps": [
                    {
                        "name": f"step-{number}",
                        "model": {
                            "name": name,
                            "source": {"uri": str(path)},
                            "inputs": [{"name": "tensor"}],
                        },
                    }
                    for number, (name, path) in enumerate(models, 1)
                ]
            },
        },
        sort_keys=False,
    )


def version_in(manifest: str, folder: Path) -> str:
    """The version UUID of a manifest's content, by the contract alone; files are relative to `folder`."""
    pipeline = Pipeline.model_validate(yaml.safe_load(manifest))
    steps = [
        ResolvedStep.of(step, lambda model: _pinned(model, folder)) for step in pipeline.spec.steps
    ]
    return version_of(pipeline.metadata.name, steps, pipeline.spec.validations)


def _pinned(model: Model, folder: Path) -> ResolvedModel:
    uri, inline = model.source.uri, model.source.inline
    content = inline.encode() if inline is not None else (folder / str(uri)).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return ResolvedModel.of(model, uri=uri, sha256=digest, size=len(content))
