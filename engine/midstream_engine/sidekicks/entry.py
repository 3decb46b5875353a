"""Users' code: from bytes to the one function that is called, and from what it raises to a few lines of text.

Runs in a worker. The code is a Python text, or a zip of modules. The standard library only.
"""

import inspect
import io
import linecache
import os
import sys
import traceback
import types
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import decode_source
from pathlib import Path
from typing import Any

FUNCTIONS = ("process", "wallaroo_json")
MAIN = "model.py"

MAX_ENTRIES = 10_000
MAX_UNPACKED_BYTES = 512 << 20

OWN_FRAMES = 2
RAISED_LINES = 4
LINE_CHARACTERS = 160

_OWN_FOLDER = str(Path(__file__).parent) + os.sep


class InvalidCode(Exception):
    """The code cannot be served."""


@dataclass(frozen=True, slots=True)
class Entry:
    kind: str
    """Which of `FUNCTIONS`."""
    function: Callable[[Any], Any]


class NoRoom(Exception):
    """The code cannot be unpacked here, now: a full disk, for instance."""


class Code:
    """The code of one model, unpacked in a folder of its own that is first on `sys.path`."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._folder = folder

    def load(self, content: bytes) -> Entry:
        """Unpack, run and look for the entry point. Raises InvalidCode and NoRoom."""
        try:
            main = self._unpack(content)
        except OSError as error:
            raise NoRoom(f"the code cannot be unpacked: {error.strerror or error}") from error
        sys.path.insert(0, str(self._folder))
        source = (self._folder / main).read_bytes()
        module = self._run(main, source)
        return _entry(module, main)

    def _unpack(self, content: bytes) -> str:
        self._folder.mkdir()
        if not content.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            if not _is_text(content):
                raise InvalidCode(
                    f"it is neither Python code in UTF-8 nor a zip archive; it begins with {content[:8]!r}"
                )
            (self._folder / MAIN).write_bytes(content)
            return MAIN
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                _check_size(archive)
                archive.extractall(self._folder)
        except (InvalidCode, MemoryError, OSError):
            raise  # the last one is the disk's
        except Exception as error:  # each packing method has errors of its own
            raise InvalidCode(f"the zip cannot be unpacked: {summary(error)}") from error
        return _main_of(sorted(path.name for path in self._folder.glob("*.py")))

    def _run(self, main: str, source: bytes) -> types.ModuleType:
        name = main.removesuffix(".py")
        shown = self._shown(main)
        try:
            compiled = compile(source, shown, "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise InvalidCode(self.explain_syntax(error)) from error
        text = source.decode(errors="replace")
        # Tracebacks show the lines although no file has this name.
        linecache.cache[shown] = (len(source), None, text.splitlines(keepends=True), shown)
        module = types.ModuleType(name)
        module.__file__ = str(self._folder / main)
        sys.modules[name] = module
        try:
            exec(compiled, module.__dict__)  # noqa: S102 - this is what a worker is for
        except MemoryError:
            raise
        except SyntaxError as error:
            raise InvalidCode(self.explain_syntax(error)) from error
        except ModuleNotFoundError as error:
            raise InvalidCode(
                f"it imports {error.name!r}, which is not installed; bring it in the zip, or in an image made from "
                f"the engine's\n{self.tail(error)}"
            ) from error
        except BaseException as error:
            # SystemExit is no reason to end: the engine wants to hear why.
            raise InvalidCode(
                f"it raised {summary(error)} when it was imported\n{self.tail(error)}"
            ) from error
        return module

    def _shown(self, file: str) -> str:
        return f"{self._name}/{file}"

    def explain_syntax(self, error: BaseException) -> str:
        if not isinstance(error, SyntaxError):
            return f"it cannot be compiled: {summary(error)}"
        file = (error.filename or self._shown(MAIN)).replace(str(self._folder), self._name)
        line = f", line {error.lineno}" if error.lineno else ""
        text = f": {error.text.strip()[:200]}" if error.text else ""
        return f"syntax error in {file}{line}: {error.msg}{text}"

    def tail(self, error: BaseException) -> str:
        """The end of the traceback: the last two frames in the code's own files, the last of all, and the error.

        Each with its file and line; at most 12 lines and 2,000 characters. A library may have put many frames between
        the code's line and what was raised.
        """
        frames = [
            (frame, line)
            for frame, line in traceback.walk_tb(error.__traceback__)
            if not frame.f_code.co_filename.startswith(_OWN_FOLDER)
        ]
        own = [n for n, (frame, _) in enumerate(frames) if self._is_own(frame.f_code.co_filename)]
        kept = sorted({*own[-OWN_FRAMES:], len(frames) - 1} if frames else ())
        lines: list[str] = []
        before = -1
        for number in kept:
            if number > before + 1:
                lines.append("  …")
            before = number
            (shown,) = traceback.StackSummary.extract(iter([frames[number]]))
            file = _cut(shown.filename.replace(str(self._folder), self._name), from_end=True)
            lines.append(f'  File "{file}", line {shown.lineno}, in {shown.name[:60]}')
            if shown.line:
                lines.append(f"    {_cut(shown.line)}")
        said = traceback.TracebackException(type(error), error, None, compact=True)
        raised = "".join(said.format_exception_only()).replace(str(self._folder), self._name)
        text = raised.rstrip().splitlines()
        if len(text) > RAISED_LINES:
            text = [*text[: RAISED_LINES - 2], "…", text[-1]]
        return "\n".join(lines + [_cut(line) for line in text])

    def _is_own(self, file: str) -> bool:
        return file.startswith((f"{self._name}/", f"{self._folder}{os.sep}"))


def _cut(text: str, *, from_end: bool = False) -> str:
    if len(text) <= LINE_CHARACTERS:
        return text
    return f"…{text[-LINE_CHARACTERS:]}" if from_end else f"{text[:LINE_CHARACTERS]}…"


def summary(error: BaseException) -> str:
    """`ValueError: the first line of its text`."""
    try:
        text = str(error).strip()
    except Exception:  # noqa: BLE001 - the user's own class
        text = ""
    first = text.splitlines()[0][:300] if text else ""
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _is_text(content: bytes) -> bool:
    """Whether the interpreter could read it: it may say that it has another encoding than UTF-8."""
    try:
        return b"\0" not in content and bool(decode_source(content) or True)
    except (SyntaxError, UnicodeDecodeError):
        return False


def _check_size(archive: zipfile.ZipFile) -> None:
    entries = archive.infolist()
    size = sum(entry.file_size for entry in entries)
    if len(entries) > MAX_ENTRIES or size > MAX_UNPACKED_BYTES:
        raise InvalidCode(
            f"the zip has {len(entries)} files of {size} bytes; at most {MAX_ENTRIES} files of "
            f"{MAX_UNPACKED_BYTES} bytes are unpacked"
        )


def _main_of(modules: list[str]) -> str:
    if MAIN in modules:
        return MAIN
    if len(modules) == 1:
        return modules[0]
    found = ", ".join(modules[:20]) or "none"
    raise InvalidCode(
        f"the zip must have {MAIN}, or exactly one .py file, at its top; it has {found}"
    )


def _entry(module: types.ModuleType, main: str) -> Entry:
    found = {name: getattr(module, name) for name in FUNCTIONS if hasattr(module, name)}
    if len(found) != 1:
        has = "has both" if found else "has neither"
        raise InvalidCode(
            f"{main} must have one function, process(inputs) or wallaroo_json(data); it {has}"
        )
    ((kind, function),) = found.items()
    if not callable(function) or inspect.iscoroutinefunction(function):
        what = "a coroutine" if callable(function) else f"a {type(function).__name__}"
        raise InvalidCode(f"{kind} in {main} must be a plain function; it is {what}")
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise InvalidCode(f"{kind} in {main} must take one argument: {error}") from error
    except ValueError:
        pass  # written in C, without a signature
    return Entry(kind, function)
