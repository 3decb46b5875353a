"""How long the interpreter of a worker stood still: a 1 ms ticker in its process, see `into_worker`."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_FOLDER = Path(__file__).parent / "into_worker"
_CAPACITY = 1 << 20  # 17 minutes


def prepare(file: Path) -> Mapping[str, str]:
    """Make the file for the notes; returns the environment that puts a ticker into a service's workers."""
    file.write_bytes(bytes(_CAPACITY * 8))
    return {"PYTHONPATH": str(_FOLDER), "MIDSTREAM_BENCH_TICKS": str(file)}


def read(file: Path) -> NDArray[np.float64]:
    """The times noted so far, in seconds of `time.monotonic`."""
    noted = np.fromfile(file, np.float64)
    return noted[1 : 1 + int(noted[0])]
