"""What a person cares about in an engine's life: one event each, as JSON lines or through the supervisor's channel."""

import contextlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

Emit = Callable[..., None]
"""emit(event, **fields): something a person cares about happened."""


def to_lines(event: str, **fields: Any) -> None:
    """One JSON object on standard output. With no reader, or on a full disk, it is lost and the engine goes on."""
    line = {
        "time": round(time.time(), 6),
        "event": event,
        **{k: v for k, v in fields.items() if v is not None},
    }
    with contextlib.suppress(OSError):
        print(json.dumps(line, ensure_ascii=False), file=sys.stdout, flush=True)
