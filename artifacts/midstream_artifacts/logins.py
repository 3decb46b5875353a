"""Logins at registries, out of a Docker config JSON file.

The form that `docker login` writes and that a Secret of type `kubernetes.io/dockerconfigjson` holds. The entry is the
one with the longest path that the repository lies under. Credential helpers are programs, and are not run; a registry
that only such a helper knows is asked without a login, and the error then says so.
"""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from midstream_artifacts.errors import SourceDenied
from midstream_artifacts.references import Reference

_HUB = {"index.docker.io": "docker.io", "registry-1.docker.io": "docker.io"}
_API_PATHS = {"v1", "v2"}
"""Old entries are whole URLs, such as `https://index.docker.io/v1/`."""
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, repr=False)
class Login:
    """One entry. Its text forms hide it."""

    entry: str
    """The key in the file."""
    user: str
    password: str
    identity_token: str
    """Stands for user and password at a token server; empty when there is none."""


def find(config: Path | None, reference: Reference) -> Login | None:
    """Return the login for a repository; None when the file is not there or has none.

    Raises `SourceDenied` when the file cannot be used.
    """
    document = _read(config)
    auths = document.get("auths")
    if not isinstance(auths, dict):
        return None
    wanted = _parts(f"{reference.registry}/{reference.repository}")
    fitting = [key for key in auths if (parts := _parts(key)) and wanted[: len(parts)] == parts]
    for key in sorted(fitting, key=lambda key: len(_parts(key)), reverse=True):
        if (login := _login(key, auths[key], config)) is not None:
            return login
    return None


def helper(config: Path | None) -> bool:
    """Tell whether the file leaves logins to a helper program."""
    document = _read(config)
    return bool(document.get("credsStore") or document.get("credHelpers"))


def _read(config: Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    try:
        with config.open("rb") as file:
            document = json.loads(file.read(_MAX_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        why = (error.strerror or "") if isinstance(error, OSError) else "it is not JSON"
        raise SourceDenied(
            f"the Docker config {config} cannot be used: {why}; write it anew with `docker login`"
        ) from error
    return document if isinstance(document, dict) else {}


def _parts(key: str) -> list[str]:
    """Return host and path of an entry; its scheme and the path of an old API do not count."""
    has_scheme = "://" in key
    try:
        split = urlsplit(key if has_scheme else f"//{key}")
    except ValueError:
        return []
    path = [part for part in split.path.split("/") if part]
    if has_scheme and len(path) == 1 and path[0] in _API_PATHS:
        path = []
    host = split.netloc.lower()
    return [_HUB.get(host, host), *path] if host else []


def _login(key: str, entry: Any, config: Path | None) -> Login | None:
    if not isinstance(entry, dict):
        return None
    user, password = entry.get("username"), entry.get("password")
    token = entry.get("identitytoken") or ""
    if packed := entry.get("auth"):
        try:
            user, colon, password = base64.b64decode(packed, validate=True).decode().partition(":")
        except (ValueError, TypeError) as error:
            raise _unusable(key, config) from error
        if not colon:
            raise _unusable(key, config)
        password = password.rstrip("\0")
    if not all(isinstance(text, str) for text in (user or "", password or "", token)):
        raise _unusable(key, config)
    if not token and not user:
        return None
    return Login(key, user or "", password or "", token)


def _unusable(key: str, config: Path | None) -> SourceDenied:
    return SourceDenied(
        f"the Docker config {config} has an entry for {key} that is no login; write it anew with `docker login`"
    )
