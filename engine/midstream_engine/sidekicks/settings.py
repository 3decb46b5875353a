"""How an engine runs sidekicks: chosen once, at its start."""

from dataclasses import dataclass, field
from pathlib import Path

from midstream_engine.sidekicks import wire
from midstream_engine.sidekicks.launch import Limits


@dataclass(frozen=True, slots=True)
class SidekickSettings:
    host: Path | None = None
    """The Unix socket of the container that runs workers; None: they are children of the engine."""
    limits: Limits = field(default_factory=Limits)
    """Of one worker."""
    start_seconds: float = 60.0
    """The longest that a worker may take to start and to import the code."""
    workers: int = 2
    """Of one model, at most."""
    prestart: int = 1
    """Of one model, kept running."""
    idle_seconds: float = 60.0
    """A worker beyond `prestart` that was not needed for so long is ended."""
    queued: int = 64
    """Calls of one model that may wait for a worker."""
    max_answer: int = wire.MAX_BYTES
    """Bytes of one answer."""
    folder: Path | None = None
    """Where workers have their folders; None: the system's place for temporary files."""
