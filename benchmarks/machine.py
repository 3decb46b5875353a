"""The machine: cores, processes, CPU time, versions of what is compared."""

import contextlib
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import IO, NamedTuple

from benchmarks import ROOT
from kit import memory, wire

SERVER_CORE, LOAD_CORE = 0, 1
_TICKS = os.sysconf("SC_CLK_TCK")
_START_SECONDS = 60.0
_QUIET = 0.03
"""Share of the machine that others may use before the numbers are doubtful."""


class Missing(Exception):
    """Something that a measurement needs is not on this machine; the message says how to get it."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def cpu_seconds(pid: int) -> float:
    """CPU time that a process tree has used so far."""
    total = 0
    for member in memory.tree(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])  # utime, stime
    return total / _TICKS


@contextlib.contextmanager
def process(
    command: Sequence[str], *, core: int, log: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """A child in a process group of its own, pinned from its start; ended with everything it started."""
    child = subprocess.Popen(
        ["taskset", "-c", str(core), *command], cwd=ROOT, stdout=log, stderr=log, process_group=0
    )
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def wait_until_ok(port: int, raw: bytes, child: subprocess.Popen[bytes], log: Path) -> wire.Reply:
    """Ask until a server answers a request with 200. Raises `RuntimeError` with the end of its log."""
    deadline = time.monotonic() + _START_SECONDS
    said = "no answer"
    while time.monotonic() < deadline and child.poll() is None:
        try:
            reply = ask(port, raw)
        except (OSError, ValueError) as error:
            said = str(error)
        else:
            if reply.status == 200:
                return reply
            said = f"{reply.status} {reply.body[:200]!r}"
        time.sleep(0.02)
    raise RuntimeError(
        f"the server did not start ({said}); the end of its log:\n{log.read_text()[-2000:]}"
    )


def ask(port: int, raw: bytes, timeout: float = 30.0) -> wire.Reply:
    """One request on a connection of its own."""
    with socket.create_connection(("127.0.0.1", port), timeout) as connection:
        connection.sendall(raw)
        data = b""
        while True:
            data += (chunk := connection.recv(1 << 18))
            if (reply := wire.parse(data)) is not None:
                return reply
            if not chunk:
                raise ConnectionResetError("closed before the answer was complete")


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="midstream-bench-") as name:
        yield Path(name)


def versions(python: Path, names: Sequence[str]) -> dict[str, str]:
    """Versions of packages in the environment of an interpreter."""
    if python == Path(sys.executable):
        return {name: metadata.version(name) for name in names}
    code = (
        "import sys; from importlib.metadata import version;"
        "[print(name, version(name)) for name in sys.argv[1:]]"
    )
    found = subprocess.run(
        [str(python), "-c", code, *names], check=True, capture_output=True, text=True
    )
    return dict(line.split() for line in found.stdout.splitlines())


class Usage(NamedTuple):
    """CPU seconds so far, of all cores together."""

    all: float
    """User and system time of everybody."""
    ours: float
    """Of this process and of its descendants that have ended."""
    stolen: float
    """What the hypervisor gave to others."""
    capacity: float

    @classmethod
    def now(cls) -> "Usage":
        ticks = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        user, nice, system, *_, stolen = (int(tick) / _TICKS for tick in ticks)
        ours = sum(
            used.ru_utime + used.ru_stime
            for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        )
        return cls(user + nice + system, ours, stolen, sum(int(tick) for tick in ticks) / _TICKS)

    def since(self, before: "Usage") -> str:
        """A sentence on whether the machine was quiet in between."""
        everybody, ours, stolen, capacity = (a - b for a, b in zip(self, before, strict=True))
        others = max(0.0, everybody - ours) / capacity
        text = (
            f"others used {others:.1%} of the machine, the hypervisor took {stolen / capacity:.1%}"
        )
        if others + stolen / capacity > _QUIET:
            text += ": NOT QUIET, do not trust what needs a quiet machine"
        return text


class Machine(NamedTuple):
    cpu: str
    cores: int
    python: str
    system: str

    @classmethod
    def this(cls) -> "Machine":
        info = Path("/proc/cpuinfo").read_text()
        cpu = next(
            (line.partition(":")[2].strip() for line in info.splitlines() if "model name" in line),
            platform.machine(),
        )
        return cls(cpu, os.cpu_count() or 1, platform.python_version(), platform.platform())
