"""What `midstream run` prints: one line for each event a person cares about, or one JSON object for each.

Guarantee: nobody reading (a closed pipe) never ends the service. Used from the event loop's thread only.
"""

import json
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from midstream_artifacts.progress import Progress

PROGRESS_SECONDS = 5.0
"""Between two progress lines where one line cannot be rewritten."""

_CLEAR_LINE = "\r\x1b[K"


class Out(Protocol):
    """What a console writes to."""

    def write(self, text: str, /) -> int: ...
    def flush(self) -> None: ...
    def isatty(self) -> bool: ...


class Console:
    """Writes to one stream."""

    def __init__(self, out: Out | None = None, *, json_lines: bool = False) -> None:
        found = out if out is not None else sys.stdout
        self._open = found is not None  # None: started with standard output closed
        self._out = found
        self._json = json_lines
        self._tty = self._open and not json_lines and found.isatty()
        self._progress_shown = False
        self._progress_at: dict[str, float] = {}

    def say(self, event: str, text: str, **fields: Any) -> None:
        """Tell an event: to people the time and `text`, to machines an object with `event` and `fields`."""
        now = datetime.now(UTC)
        if self._json:
            value = {
                "time": now.isoformat(timespec="milliseconds"),
                "event": event,
                "message": text,
            }
            self._write(json.dumps({**value, **fields}, ensure_ascii=False, default=str) + "\n")
        else:
            self._write(f"{now.astimezone():%H:%M:%S} {text}\n")

    def hint(self, text: str) -> None:
        """Tell people something that machines know: not written as JSON."""
        if not self._json:
            self._write(f"{text}\n")

    def progress(self, what: str, done: Progress) -> None:
        """Show how far a transfer is, if it lasts: on one rewritten line where there is a terminal."""
        now = time.monotonic()
        finished = done.done == done.total
        if finished and what not in self._progress_at:
            return  # over before it was worth a line
        text = progress_line(what, done)
        if self._tty:
            self._progress_at[what] = now
            self._write(f"{_CLEAR_LINE}{text}", rewritten=not finished)
            if finished:
                self._write("\n")
        elif finished or now - self._progress_at.get(what, 0.0) >= PROGRESS_SECONDS:
            self._progress_at[what] = now
            self.say("fetching", text, step=what, done=done.done, total=done.total)
        if finished:
            del self._progress_at[what]

    def _write(self, text: str, *, rewritten: bool = False) -> None:
        if not self._open:
            return
        if self._progress_shown and not text.startswith(_CLEAR_LINE):
            text = _CLEAR_LINE + text
        self._progress_shown = rewritten
        try:
            self._out.write(text)
            self._out.flush()
        except (BrokenPipeError, OSError):
            self._open = False


def progress_line(what: str, done: Progress) -> str:
    """`fetching rf: 12 of 40 MB, 3 MB/s`."""
    total = f" of {size(done.total)}" if done.total is not None else ""
    rate = f", {size(round(done.rate))}/s" if done.rate else ""
    return f"fetching {what}: {size(done.done)}{total}{rate}"


def size(count: int) -> str:
    """Write bytes as people do: `512 B`, `170 kB`, `41.2 MB`."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return (
                f"{count / scale:.1f} {unit}"
                if count < 100 * scale
                else f"{count / scale:.0f} {unit}"
            )
    return f"{count} B"


def duration(ms: float) -> str:
    """Write milliseconds as people do: `0.4 ms`, `43 ms`, `2.5 s`."""
    if ms >= 1000:
        return f"{ms / 1000:.1f} s"
    return f"{ms:.0f} ms" if ms >= 10 else f"{ms:.1f} ms"


def sentence(event: Mapping[str, Any], before: str | None = None) -> str | None:
    """Put an engine's event into words; None for what nobody needs to read.

    `before`: the name that a file which is loaded already has had until now, where it gets another.
    """
    match event["event"]:
        case "loaded" if event.get("reused") and before is not None:
            return f"{before} is now called {event['model']}; its file is loaded already"
        case "loaded" if event.get("reused"):
            return f"kept {event['model']}, which is loaded already"
        case "loaded":
            return f"loaded {event['model']} in {duration(event['ms'])}"
        case "warmed":
            return f"warmed up in {duration(event['ms'])}"
        case "verified":
            rows = event.get("rows", 0)
            return f"verified {rows} golden {'row' if rows == 1 else 'rows'} in {duration(event['ms'])}"
        case "freed":
            return f"freed {size(event['bytes'])}"
        case _:
            return _doubt(event)


def _doubt(event: Mapping[str, Any]) -> str | None:
    """Put into words what serves all the same."""
    match event["event"]:
        case "unproven":
            variant = f", variant {event['variant']}" if "variant" in event else ""
            return (
                f"step {event['step']}{variant}: the code of {event['model']} failed on a row of zeros "
                f"({event['error']}); golden rows in `verify` would prove it before it serves"
            )
        case "validation_blind":
            return f"validation {event['validation']}: {event['message']}"
        case "sidekick_ended":
            # What it had printed has been shown line by line.
            return f"a process of {event['model']} ended: {event['reason'].partition(';')[0]}"
        case "sidekick_output":
            return f"{event['model']}: {event['line']}"
        case _:
            return None
