"""Whether the code of a Python model can be read at all: syntax and archive, without running any of it."""

import warnings
import zipfile
from io import BytesIO
from typing import NamedTuple

MAX_ARCHIVE_BYTES = 256 << 20
"""Of code in one archive; what is beyond is left for the engine to judge."""


class Fault(NamedTuple):
    """What is wrong with code."""

    message: str
    line: int | None
    """From 1; None where it is not about a line, or about one inside an archive."""


def fault(code: bytes, name: str) -> Fault | None:
    """Return what is wrong with a model's code; None when it can be read.

    `name` is what the code is called in the sentence. A zip archive is known by its content, and every `.py` in it is
    looked at. Which of them an engine calls, and whether their imports are there, is not asked here.
    """
    if not zipfile.is_zipfile(BytesIO(code)):
        return _fault_in_module(code, name)
    try:
        with zipfile.ZipFile(BytesIO(code)) as archive:
            if (broken := archive.testzip()) is not None:
                return Fault(
                    f"{name}: {broken} in the archive is damaged; make the archive anew", None
                )
            modules = [one for one in archive.infolist() if one.filename.endswith(".py")]
            if not modules:
                return Fault(
                    f"{name} holds no .py file; an archive of code needs at least one", None
                )
            if sum(one.file_size for one in modules) > MAX_ARCHIVE_BYTES:
                return None
            for one in modules:
                if found := _fault_in_module(archive.read(one), f"{name}/{one.filename}"):
                    return found._replace(line=None)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        return Fault(f"{name} is not a readable zip archive: {error}", None)
    return None


def _fault_in_module(code: bytes, name: str) -> Fault | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a doubtful escape is no fault
            compile(code, name, "exec", dont_inherit=True)  # runs nothing
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        return Fault(f"{name}{line}: not Python: {error.msg}", error.lineno)
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        return Fault(f"{name}: not Python: {error}", None)
    return None
