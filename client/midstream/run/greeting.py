"""What is printed when a pipeline is up: where it answers, a curl line to paste, and how to swap. Pure functions."""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from midstream import manifest as manifests

SAMPLE = Path("samples/one-row.json")
"""Beside the manifest: a request that is better than one of zeros."""

CONTENT_TYPE = "Content-Type: application/json; format=pandas-records"

MAX_VALUES = 64
"""Values of a made-up request."""

SWAP_COMMENT = "# swap:"
"""A manifest's comment that begins so gives a command which swaps."""


def base_url(host: str, port: int) -> str:
    """Return where this machine reaches the service."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - translated, not bound
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def lines(
    url: str, pipeline: str, manifest: Path, inputs: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return the lines, ready to print."""
    if inputs or (manifest.parent / SAMPLE).is_file():
        found = [f"  ask it:  {curl(url, pipeline, manifest, inputs)}"]
    else:
        # Code that declares nothing takes what it takes.
        found = [f"  ask it:  POST rows as its first step reads them to {url}/pipelines/{pipeline}"]
    found.append(f"  swap it: edit {manifest}; it is swapped in when you save")
    found += [f"           or run: {command}" for command in swap_commands(manifest)]
    found.append("  stop it: Ctrl-C")
    return found


def curl(url: str, pipeline: str, manifest: Path, inputs: Sequence[Mapping[str, Any]]) -> str:
    """Return a command that gets an answer: with the sample beside the manifest, or a row of zeros.

    An answer has no newline at its end, so `echo` writes one.
    """
    sample = manifest.parent / SAMPLE
    if sample.is_file():
        data = ["--data-binary", f"@{sample}"]
    else:
        data = ["-d", json.dumps([{one["name"]: zeros(one) for one in inputs}])]
    words = ["curl", "-sS", f"{url}/pipelines/{pipeline}", "-H", CONTENT_TYPE, *data]
    return f"{shlex.join(words)}; echo"


def zeros(one: Mapping[str, Any]) -> Any:
    """Return one row of an input as JSON: zeros in the shape of one row, `""` where it takes text."""
    value: Any = "" if "str" in str(one["dtype"]) or "object" in str(one["dtype"]) else 0
    value = False if "bool" in str(one["dtype"]) else value
    shape = [size if isinstance(size, int) and size > 0 else 1 for size in one["shape"]]
    count = 1
    for size in shape:
        count *= size
    if count > MAX_VALUES:
        return "..."
    for size in reversed(shape):
        value = [value] * size
    return value


def swap_commands(manifest: Path) -> list[str]:
    """Return the commands that the manifest offers in comments: `# swap: sed -i ...`."""
    try:
        # Not blocking: by now a pipe may have taken the manifest's place.
        descriptor = os.open(manifest, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            text = (file.read(manifests.MAX_BYTES) or b"").decode("utf-8", "replace")
    except OSError:
        return []
    return [
        line.strip().removeprefix(SWAP_COMMENT).strip()
        for line in text.splitlines()
        if line.strip().startswith(SWAP_COMMENT)
    ]
