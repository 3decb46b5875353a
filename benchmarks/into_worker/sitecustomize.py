"""A 1 ms ticker inside the engine's process, which knows nothing of it.

Python imports a module of this name at its start when it finds one; `benchmarks.ticker` puts this folder on the path
of the process that it starts. In a worker a thread then notes the time every millisecond. It needs the interpreter's
lock for that, so a gap between two notes is a time in which no request could be served either. The notes go to a
mapped file, which survives whatever becomes of the process.
"""

import mmap
import os
import sys
import threading
import time

PERIOD_SECONDS = 0.001


def tick(file: str) -> None:
    """Note the time until the file is full. Its first number says how many there are."""
    with open(file, "r+b") as handle, mmap.mmap(handle.fileno(), 0) as memory:  # noqa: PTH123
        notes = memoryview(memory).cast("d")
        for number in range(1, len(notes)):
            time.sleep(PERIOD_SECONDS)
            notes[number] = time.monotonic()
            notes[0] = number


if "midstream_engine" in sys.orig_argv and "serve" in sys.orig_argv:
    threading.Thread(
        target=tick, args=(os.environ["MIDSTREAM_BENCH_TICKS"],), name="ticker", daemon=True
    ).start()
