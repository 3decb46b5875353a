"""Where `docker login` keeps its logins on this machine."""

import os
from pathlib import Path


def path() -> Path | None:
    """`config.json` in `$DOCKER_CONFIG` or `~/.docker`, whether it is there or not; None without a home."""
    if folder := os.environ.get("DOCKER_CONFIG"):
        return Path(folder).absolute() / "config.json"
    try:
        return Path.home() / ".docker" / "config.json"
    except RuntimeError:  # an id that no user has, as containers are given
        return None
