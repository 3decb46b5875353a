"""Memory of the process: the allocator's settings, the limit, and whether a model still fits.

glibc only where it says so; elsewhere those calls do nothing.
"""

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path

from midstream_engine.errors import LoadError

NEW_FILE_FACTOR = 2.2
"""Peak memory of loading a model, relative to its file (measured, `docs/decisions/0003-onnxruntime.md`)."""

_TUNABLES = "GLIBC_TUNABLES"
_LARGE_PAGES = "glibc.malloc.hugetlb"

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_THRESHOLD = 128 * 1024

_PAGE = os.sysconf("SC_PAGE_SIZE")

_CGROUP = Path("/sys/fs/cgroup")


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The variables for a process that loads models: those given, and large pages for its large blocks.

    Freeing a model, onnxruntime holds the GIL while the kernel takes back page by page, and in a thread that has let
    go of it the kernel's lock stops others which have it. With pages of 2 MB there are fewer by a factor of 512. glibc
    reads this at a process's start only (2.35 and newer), and asks for them where the kernel grants them on request.
    """
    tunables = given.get(_TUNABLES, "")
    if _LARGE_PAGES in tunables:
        return dict(given)
    added = f"{_LARGE_PAGES}=1"
    return {**given, _TUNABLES: f"{tunables}:{added}" if tunables else added}


def _libc() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("libc.so.6")
    except OSError:
        return None


def fix_allocator() -> None:
    """Pin glibc's thresholds, which otherwise grow with each freed model and keep its memory."""
    mallopt = getattr(_libc(), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _THRESHOLD)


def give_back() -> None:
    """Return freed memory to the system. Releases the GIL (CDLL does), takes 0.2 to 4 ms."""
    trim = getattr(_libc(), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident() -> int:
    """Resident memory of this process, in bytes."""
    # On the way of requests, and so without `pathlib`.
    descriptor = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    try:
        pages = int(os.read(descriptor, 200).split()[1])
    finally:
        os.close(descriptor)
    return pages * _PAGE


def cgroup_limit(root: Path = _CGROUP, membership: Path = Path("/proc/self/cgroup")) -> int | None:
    """The lowest memory limit over this process, in bytes; None where there is none. Knows cgroup v1 and v2."""
    limits: list[int] = []
    for own, name in _cgroup_folders(root, membership):
        for folder in (own, *own.parents):
            value = _read(folder / name)
            # v1 says "no limit" with a number near 2**63.
            if value is not None and value.isdigit() and int(value) < 1 << 62:
                limits.append(int(value))
            if folder == root:
                break
    return min(limits, default=None)


def _cgroup_folders(root: Path, membership: Path) -> list[tuple[Path, str]]:
    found: list[tuple[Path, str]] = []
    for line in (_read(membership) or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            found.append((root / path.lstrip("/"), "memory.max"))
        elif "memory" in controllers.split(","):
            found.append((root / "memory" / path.lstrip("/"), "memory.limit_in_bytes"))
    # Inside a container the path is that of the host and does not exist: the root is ours then.
    return [(folder if folder.is_dir() else _own(root, name), name) for folder, name in found]


def _own(root: Path, name: str) -> Path:
    return root if name == "memory.max" else root / "memory"


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def check_fits(size: int, limit: int | None) -> None:
    """Refuse a model that cannot be loaded beside what is resident now.

    size: bytes of the model file; limit: bytes this process may use, None for no limit but the machine's.
    Raises LoadError `ModelDoesNotFit`, which is permanent under a limit: waiting makes no room.
    """
    need = int(size * NEW_FILE_FACTOR)
    live = resident()
    if limit is not None and live + need > limit:
        raise LoadError(
            "ModelDoesNotFit",
            f"loading a model file of {_mb(size)} needs about {_mb(need)} beside the {_mb(live)} in use, "
            f"and the limit is {_mb(limit)}; raise the limit or use a smaller model",
        )
    free = _available()
    if free is not None and need > free:
        raise LoadError(
            "ModelDoesNotFit",
            f"loading a model file of {_mb(size)} needs about {_mb(need)}, "
            f"and this machine has {_mb(free)} free; free memory or use a smaller model",
            transient=True,
        )


def _available() -> int | None:
    for line in (_read(Path("/proc/meminfo")) or "").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
