"""How much memory a process and its descendants really take: the sum of their PSS.

PSS (proportional set size) counts a page shared by n processes as 1/n in each, so the sum over a tree counts
every page once; the sum of RSS would count shared libraries once for each worker.
"""

from pathlib import Path

MIB = 1 << 20


def tree(pid: int) -> list[int]:
    """`pid` and all its living descendants."""
    found = [pid]
    for parent in found:  # grows while it is walked
        for task in _tasks(parent):
            try:
                children = (task / "children").read_text().split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            found.extend(int(child) for child in children)
    return found


def pss(pid: int) -> int:
    """The PSS of one process, in bytes; 0 when it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    kibibytes = next(
        (line.split()[1] for line in text.splitlines() if line.startswith("Pss:")), "0"
    )
    return int(kibibytes) * 1024


def peak_rss(pid: int) -> int:
    """The most memory that any one process of a tree has had so far (its resident set), in bytes."""
    return max(_peak(member) for member in tree(pid))


def tree_pss(pid: int) -> int:
    """The sum of the PSS of a process tree, in bytes."""
    return sum(pss(member) for member in tree(pid))


def _peak(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    peaks = (line.split()[1] for line in text.splitlines() if line.startswith("VmHWM:"))
    return int(next(peaks, "0")) * 1024


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return []
