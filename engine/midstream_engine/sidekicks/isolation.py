"""What keeps users' code from reading the processes of the same user that start it.

By default a process may read the environment and the memory of every other one of its user. Guarantee: neither those of
the process that starts workers can be read by them, also when all of them are root's; nor can a worker get more rights
than it has. It is no sandbox: files, the network, and processes that nobody has closed are open to code as to the user.

Linux only. The standard library only, for a worker imports it.
"""

import ctypes
from typing import Any

_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITIES = (19, 21, 38)
"""CAP_SYS_PTRACE, CAP_SYS_ADMIN and CAP_PERFMON: each lets root read closed processes."""
_CAPABILITY_VERSION = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def close_process() -> None:
    """Have nobody but root read this process's environment and memory, and leave no core file. For good."""
    libc: Any = ctypes.CDLL(None)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def give_up_rights() -> None:
    """Be unable to read closed processes, which root's may, and to gain rights by starting programs. For good."""
    libc: Any = ctypes.CDLL(None)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    header = _Header(_CAPABILITY_VERSION, 0)
    sets = (_Sets * 2)()
    held = libc.capget(ctypes.byref(header), sets) == 0
    for number in _CAPABILITIES:
        libc.prctl(
            _PR_CAPBSET_DROP, number, 0, 0, 0
        )  # what a program of root's gets; others' get nothing
        half = sets[number // 32]
        for name, _ in _Sets._fields_:
            setattr(half, name, getattr(half, name) & ~(1 << number % 32))
    if held:
        libc.capset(ctypes.byref(header), sets)
