"""Faults of Python models: code that has them, and what each of them costs.

`docs/python-models.md` shows the same table.
"""

from dataclasses import dataclass

from midstream_engine.errors import RequestError, SidekickFailed, SidekickTimedOut

FAULTY = """
    import ctypes, gc, multiprocessing, os, resource, signal, socket, subprocess, sys, threading, time
    import numpy as np

    kept = []

    def grow():
        while True:
            kept.append(np.ones(1 << 20))

    def grow_in_small_pieces():
        while True:
            kept.append([str(n) for n in range(1000)])

    def flood():
        while True:
            print("flood " * 20)

    def flood_without_lines():
        while True:
            os.write(2, b"x" * 65536)

    def write_everywhere():
        for descriptor in range(3, 1024):
            try:
                os.write(descriptor, b"not an answer at all, but long enough")
            except OSError:
                pass

    def close_everything():
        os.closerange(0, 1024)

    def stay_in_c():
        # PyDLL keeps the interpreter's lock: no thread of Python runs meanwhile.
        ctypes.PyDLL(None).sleep(1000)

    def leave_children():
        for _ in range(20):
            if os.fork() == 0:
                time.sleep(1000)
        os._exit(5)

    def fork_and_return():
        for _ in range(3):
            os.fork()

    def process(inputs):
        what = str(inputs["x"][0])
        if what != "well":
            result = eval(what)
            if isinstance(result, dict):
                return result
        return {"y": np.ones(1), "pid": np.array([os.getpid()])}
"""


@dataclass(frozen=True)
class Outcome:
    """What a request with a fault is told."""

    does: str
    error: type[RequestError]
    says: str
    replaced: bool = True
    """The worker is another one afterwards."""


OUTCOMES: dict[str, Outcome] = {
    "raises an exception": Outcome("1 / 0", SidekickFailed, "ZeroDivisionError", replaced=False),
    "calls `sys.exit`": Outcome("sys.exit(3)", SidekickFailed, "SystemExit: 3", replaced=False),
    "ends its process (`os._exit`)": Outcome("os._exit(3)", SidekickFailed, "exit code 3"),
    "aborts in native code": Outcome("os.abort()", SidekickFailed, "signal SIGABRT"),
    "accesses memory that is not there": Outcome(
        "ctypes.string_at(0)", SidekickFailed, "signal SIGSEGV"
    ),
    "is killed": Outcome("os.kill(os.getpid(), 9)", SidekickFailed, "signal SIGKILL (from outside"),
    "loops without end": Outcome(
        "exec('while True: pass')", SidekickTimedOut, "did not answer within"
    ),
    "sleeps": Outcome("time.sleep(1000)", SidekickTimedOut, "did not answer within"),
    "hangs in native code that keeps the interpreter": Outcome(
        "stay_in_c()", SidekickTimedOut, "did not answer within"
    ),
    "stops its process": Outcome(
        "os.kill(os.getpid(), signal.SIGSTOP)", SidekickTimedOut, "did not answer within"
    ),
    "ignores signals and sleeps": Outcome(
        "[signal.signal(n, signal.SIG_IGN) for n in (1, 2, 3, 15)] and time.sleep(1000)",
        SidekickTimedOut,
        "did not answer within",
    ),
    "eats memory": Outcome("grow()", SidekickFailed, "a worker may have 384 MiB"),
    "eats memory in small pieces": Outcome(
        "grow_in_small_pieces()", SidekickFailed, "a worker may have 384 MiB"
    ),
    "asks for more memory than there is": Outcome(
        "np.ones(1 << 40)", SidekickFailed, "a worker may have 384 MiB"
    ),
    "returns more than 64 MiB": Outcome(
        "{'y': np.zeros((1, 65 << 20), np.int8)}",
        SidekickFailed,
        "its answer is too large",
        replaced=False,
    ),
    "returns another number of rows": Outcome(
        "{'y': [1, 2]}", SidekickFailed, "as many rows", replaced=False
    ),
    "returns something else than rows of numbers, booleans or text": Outcome(
        "{'y': [{}]}", SidekickFailed, "a dict", replaced=False
    ),
    "floods its output": Outcome("flood()", SidekickTimedOut, "did not answer within"),
    "floods its output without lines": Outcome(
        "flood_without_lines()", SidekickTimedOut, "did not answer within"
    ),
    "writes to descriptors that are not its own": Outcome(
        "write_everywhere()", SidekickFailed, "something else than an answer"
    ),
    "closes descriptors that are not its own": Outcome(
        "close_everything()", SidekickFailed, "process ended"
    ),
    "leaves children behind and ends": Outcome("leave_children()", SidekickFailed, "exit code 5"),
}
