"""What is remembered about an http address between two downloads, as small JSON files beside the bytes.

A note that cannot be read (half-written, of another release) is the same as none: the bytes are fetched anew.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class Note:
    """What the server said about the bytes that are here."""

    address: str
    """SHA-256 of the address: notes hold no secrets."""
    validator: str
    """What names exactly these bytes to the server; empty when it gave nothing that does."""
    sha256: str = ""
    """Of the complete bytes; empty as long as they are not."""
    boot: str = ""
    """The run of the machine in which they came: after a power cut a file may have holes."""

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Return the note at `path`, or None."""
        try:
            fields = json.loads(path.read_bytes())
            note = cls(**fields)
        except (OSError, ValueError, TypeError):
            return None
        return note if all(isinstance(v, str) for v in asdict(note).values()) else None

    def write(self, path: Path) -> None:
        """Replace the note at `path` in one stroke. Raises OSError."""
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(self)), encoding="utf-8")
        fresh.replace(path)


def boot() -> str:
    """Return the identity of this run of the machine; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
