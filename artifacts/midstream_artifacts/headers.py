"""What the headers of an answer say, as values; what cannot be understood says nothing."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_NUMBER = r"[0-9]{1,20}"
"""No file and no wait has more digits."""


def length(headers: Mapping[str, str]) -> int | None:
    """Return the bytes of the body, or None."""
    text = headers.get("content-length", "")
    return int(text) if re.fullmatch(_NUMBER, text) else None


def content_range(headers: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Return the first byte and the total size of the file, each None if it is not told."""
    pattern = rf"bytes (?:({_NUMBER})-[0-9]+|\*)/(?:({_NUMBER})|\*)"
    found = re.fullmatch(pattern, headers.get("content-range", ""))
    if found is None:
        return None, None
    first, total = found.groups()
    return int(first) if first else None, int(total) if total else None


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Return how many seconds the server asks to wait: 0.0 or more."""
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(_NUMBER, text):
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def validator(headers: Mapping[str, str]) -> str:
    """Return the ETag, or else the date of the last change, if it names exactly these bytes; else ''.

    A weak ETag (W/…) does not. A date does only when the answer is younger by a second or more, since the
    file may have changed twice within one.
    """
    if tag := headers.get("etag", ""):
        return tag if tag.startswith('"') else ""
    changed = headers.get("last-modified", "")
    try:
        age = parsedate_to_datetime(headers.get("date", "")) - parsedate_to_datetime(changed)
    except (ValueError, TypeError):
        return ""
    return changed if age.total_seconds() >= 1 else ""
