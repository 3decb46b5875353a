"""An engine process that serves a small model already, and short ways to ask it what a test wants to know."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from kit import models
from kit.engine import EngineProcess, Reply, engine
from kit.folder import ConfigFolder, document, entry, model
from midstream_api.engineconfig import RevisionDocument

ROW = {"tensor": [1.0] * models.FEATURES}


def scaled(folder: Path, factor: float, **fields: Any) -> RevisionDocument:
    """A revision of one model that answers `factor` times the sum; fields are the model's in its document."""
    return document(model(models.scaled(folder / f"x{factor:g}.onnx", factor), **fields))


@dataclass
class Started:
    """What `started` gives."""

    running: EngineProcess
    config: ConfigFolder
    stable: RevisionDocument
    path: Path
    """Of config, cache and state."""

    def ask(self, rows: int = 1) -> Reply:
        """Infer rows of ones."""
        return self.running.post([ROW] * rows)

    def value(self) -> float:
        """What a row of ones is answered with; fails when it is not answered."""
        reply = self.ask()
        assert 200 == reply.status, reply.body
        return float(reply.json()[0]["out"]["variable"][0])

    def version(self) -> str:
        """The version that an answer names."""
        return self.ask().headers["x-midstream-version"]

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        text = self.running.get("/metrics").body.decode()
        samples = [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == f"midstream_engine_{name}"
        ]
        assert samples, f"no {name} in {text}"
        return sum(samples)

    def status(self) -> dict[str, Any]:
        """The engine's own report."""
        report: dict[str, Any] = self.running.get("/status").json()
        return report

    def report_of(self, revision: RevisionDocument) -> dict[str, Any]:
        """What the status says of one revision."""
        wanted = entry(revision).revision
        return next(each for each in self.status()["revisions"] if each["revision"] == wanted)

    def wait(self, event: str, revision: RevisionDocument, **fields: Any) -> dict[str, Any]:
        """The next event of this name about this revision."""
        return self.running.wait(event, revision=entry(revision).revision, **fields)

    def names(self, revision: RevisionDocument) -> list[str]:
        """What has happened to this revision so far, in order."""
        wanted = entry(revision).revision
        return [each["event"] for each in self.running.events if each.get("revision") == wanted]

    def assert_untouched(self) -> None:
        """The stable revision serves, with its own answers and with one session."""
        assert self.stable.version == self.version()
        assert self.stable.version == self.status()["serving"]["version"]
        assert 18.0 == self.value()
        assert 1 == self.metric("sessions")


@contextmanager
def started(path: Path, *options: str, stable: RevisionDocument | None = None) -> Iterator[Started]:
    """Run an engine that serves `stable`; left out: a model that answers 18 for a row of ones."""
    serving = stable or scaled(path, 1)
    config = ConfigFolder(path / "config")
    config.write(serving)
    with engine(path, *options) as running:
        made = Started(running, config, serving, path)
        made.wait("serving", serving)
        yield made
