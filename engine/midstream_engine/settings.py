"""Process settings of an engine: read once at the start, then passed down. Not the pipeline: that is config."""

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path


def _processors() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class Settings:
    config: Path
    """The config folder."""
    state: Path
    """Where marks are kept; must outlive a crash of the engine."""
    cache: Path
    """The model cache; may be shared with other processes."""
    policy: str = "availability"
    max_body: int = 16 << 20
    """Bytes of one request body."""
    max_buffered: int = 256 << 20
    """Bytes of all request bodies that are arriving or waiting."""
    max_connections: int = 4096
    threads: int = field(default_factory=lambda: min(4, _processors()))
    """For batches that would keep the event loop busy."""
    max_queued: int = 64
    """Large batches that wait for a thread."""
    inline_ns: int = field(default_factory=lambda: 1_000_000 if _processors() > 1 else 5_000_000)
    """Work estimated to take less runs on the event loop: a hop to a thread costs 50 µs, and with one processor it wins
    nothing but turns for small requests."""
    infer_seconds: float = 30.0
    """The longest one step may run for a request."""
    warm_up_seconds: float = 120.0
    """The longest one step may run while a candidate is warmed up."""
    receive_seconds: float = 30.0
    """From a request's first byte to its last; also the longest that a client may take nothing of its answer."""
    keep_alive_seconds: float = 75.0
    drain_seconds: float = 25.0
    memory_limit: int | None = None
    """Bytes; None: the cgroup's limit."""
    size_limit: int = 2 << 30
    """Bytes of one model file."""
    registry_config: Path | None = None
    """Logins at registries, a Docker config JSON file: read at each fetch, and not there means none."""
    recent_rows: int = 1000
    """Rows that `POST /logs` can show; 0 keeps none."""
    sidekick_socket: Path | None = None
    """Where Python models run; None: in processes of this engine's own."""
    partition: str = field(default_factory=socket.gethostname)
    """This engine's name in answers."""
