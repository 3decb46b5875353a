"""Logging of the process: one line for each thing that a person cares about, as text or as JSON."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def set_up(*, as_json: bool) -> None:
    """Write to standard error from now on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if as_json else _Text())
    handler.addFilter(_not_kopfs_retries)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # It tells of each event that it hands over, and of its own start and end.
    logging.getLogger("kopf").setLevel(logging.WARNING)


def _not_kopfs_retries(record: logging.LogRecord) -> bool:
    """Drop what kopf says every few seconds while the API server is away; our own watches say it once."""
    return not (record.name.startswith("kopf") and "; will retry:" in record.getMessage())


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {k: v for k, v in vars(record).items() if k not in _PLAIN and not k.startswith("_")}


def _time(record: logging.LogRecord) -> str:
    text = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        parts = [_time(record), record.levelname, record.getMessage()]
        if not record.name.startswith("kopf"):
            parts += [f"{key}={value}" for key, value in _extras(record).items()]
        if record.exc_info:
            parts.append("\n" + self.formatException(record.exc_info))
        return " ".join(parts)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if not record.name.startswith("kopf"):
            line |= _extras(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)
