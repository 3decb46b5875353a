"""Keeps code of users from reading the process that had it started.

By default a process may read the environment and the memory of every other one of its user, and the engine, which
starts such code, is a child of this process. The engine closes itself.
"""

import ctypes
from collections.abc import Iterable
from typing import Any

from midstream_api.engineconfig import RevisionDocument
from midstream_api.model import Framework

_PR_SET_DUMPABLE = 4


def close_for(documents: Iterable[RevisionDocument]) -> None:
    """Have nobody but root read this process from now on where one of these has a Python model. Linux only."""
    if any(model.framework is Framework.PYTHON for each in documents for model in each.models()):
        libc: Any = ctypes.CDLL(None)
        libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
