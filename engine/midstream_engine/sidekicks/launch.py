"""Starting and ending workers' processes: each in a process group, a folder and an environment of its own.

Knows nothing of what is said to a worker. Linux only, as the rest of the engine. A worker ends with the thread that
started it, so `start` is called from a thread that lives as long as workers may, and `clean` from the same.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from midstream_engine.sidekicks import isolation, orphans

_PACKAGES = Path(__file__).parents[2]

_BOOT = """
import sys
sys.path.append({packages!r})
from midstream_engine.sidekicks.worker import main
sys.path.remove({packages!r})
main()
"""
"""Not `-m` with a PYTHONPATH: what users' code imports does not depend on where this package lies."""


_living: set[int] = set()
"""Workers of this process that are not reaped yet."""


@dataclass(frozen=True, slots=True)
class Limits:
    memory: int = 1 << 30
    """Bytes a worker may have of its own: heap and anonymous mappings (RLIMIT_DATA)."""
    file_bytes: int = 256 << 20
    """Bytes of one file that it writes."""
    niceness: int = 5
    """Added to that of the thread that starts it: the engine comes first."""

    def within(self, container: int | None) -> "Limits":
        """The same, but with at most half of the container's memory: an engine, or another worker, needs the rest.

        container: its limit in bytes; None where there is none.
        """
        if container is None:
            return self
        return replace(self, memory=min(self.memory, container // 2))


class Child:
    """A worker's process. `reap` must be called once it has ended, as a pidfd tells."""

    def __init__(self, process: "subprocess.Popen[bytes]", folder: Path, file_bytes: int) -> None:
        self._process = process
        self._folder = folder
        self._file_bytes = file_bytes

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """End the process and all that is left in its group. Does nothing after `reap`."""
        if self._process.returncode is None:
            # Until it is reaped the number belongs to it, and so does the group of that number.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            # Should it have left its group.
            self._process.kill()

    def reap(self) -> int:
        """End what is left of the group; returns the exit code, or minus the signal that ended the process."""
        self.kill()
        code = self._process.wait()
        _living.discard(self._process.pid)
        return code

    def clean(self) -> None:
        """End what has left its group, and remove its folder. May take as long as there are processes and files."""
        orphans.end(_living, self._file_bytes)
        if not _living:
            orphans.adopt(wanted=False)
        shutil.rmtree(self._folder, ignore_errors=True)


def start(sock: int, output: int, limits: Limits, root: Path) -> Child:
    """Start a worker that talks over the socket `sock` and prints to the pipe `output`; both are inherited.

    root: where its folder is made. Takes some milliseconds. Raises OSError.
    """
    folder = Path(tempfile.mkdtemp(prefix="worker-", dir=root))
    orphans.adopt()
    # Not before: whoever runs no code can be looked at, by those who measure or debug it.
    isolation.close_process()
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _BOOT.format(packages=str(_PACKAGES)), _settings(sock, limits)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(sock,),
            cwd=folder,
            env=environment(folder),
            process_group=0,
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _living.add(process.pid)
    return Child(process, folder, limits.file_bytes)


def environment(folder: Path) -> dict[str, str]:
    """All that a worker inherits of its environment: no secrets, no proxies, no settings of Python."""
    threads = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB_MAXIMUM", "BLIS")
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
        "PYTHONSAFEPATH": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        # What it printed before it crashed is not lost in a buffer.
        "PYTHONUNBUFFERED": "1",
        # The order of a set is the same in every worker, and so are answers that depend on it.
        "PYTHONHASHSEED": "0",
        # Arrow's own allocator reserves a gigabyte, which would count as used.
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        **{f"{name}_NUM_THREADS": "1" for name in threads},
    }


def _settings(sock: int, limits: Limits) -> str:
    return json.dumps({"socket": sock, "parent": os.getpid(), **asdict(limits)})


def ending(code: int) -> str:
    """`exit code 3`, or `signal SIGSEGV` for minus 11."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
