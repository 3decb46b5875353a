"""Faults from the node's side.

A pod's processes are processes of the machine, so where the tests run on the node as root, they can be killed and
entered. Where they do not, the test is skipped.
"""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from kit.cluster.kubectl import Object

PROC = Path("/proc")


def processes(pod: Object, program: str) -> list[int]:
    """Process ids of a pod whose command line has this word, the oldest first.

    Skips the test where the pod's processes cannot be touched from here.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root on the pod's node, to touch the pod's processes")
    uid = pod["metadata"]["uid"]
    forms = (uid, uid.replace("-", "_"))
    found = []
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            cgroup = (entry / "cgroup").read_text()
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(form in cgroup for form in forms) and any(program in word for word in words):
            found.append(int(entry.name))
    if not found:
        pytest.skip("the tests do not run on the pod's node, so its processes cannot be touched")
    return sorted(found)


def kill(pod: Object, program: str) -> None:
    """`kill -9` all processes of a pod whose command line has this word."""
    for pid in processes(pod, program):
        os.kill(pid, signal.SIGKILL)


def enter(pod: Object, program: str, *command: str) -> str:
    """Run a command of the pod's image in the pod's view of the file system, as root."""
    pid = processes(pod, program)[0]
    done = subprocess.run(
        ["nsenter", f"--target={pid}", "--mount", "--", *command],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout
