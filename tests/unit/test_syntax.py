"""Whether code can be read is found out without running it."""

import io
import zipfile

import pytest

from midstream import syntax


def _zip(**files: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "."), text)
    return data.getvalue()


@pytest.mark.parametrize(
    "code",
    [
        b"def process(inputs):\n    return inputs\n",
        b"# -*- coding: latin-1 -*-\nname = '\xe4'\n",
        b"pattern = '\\d'\n",
        b"raise SystemExit('it is not run')\n",
        _zip(model__py="x = 1\n", data__txt="not ( Python"),
    ],
    ids=["plain", "declared encoding", "doubtful escape", "not run", "archive"],
)
def test_code_that_can_be_read(code: bytes) -> None:
    """Nothing is said of code that compiles; none of it is run."""
    assert syntax.fault(code, "model.py") is None


@pytest.mark.parametrize(
    ("code", "line", "said"),
    [
        (b"def f(:\n", 1, "model.py, line 1: not Python: "),
        (b"x = 1\ny = (\n", 2, "model.py, line 2: not Python: '(' was never closed"),
        (b"name = '\xe4'\n", None, "not Python: "),
        (b"x = 1\0\n", None, "model.py"),
        (_zip(a__py="x = 1\n", b__py="y ="), None, "model.py/b.py, line 1: not Python: "),
        (_zip(data__txt="x"), None, "model.py holds no .py file"),
        (_zip(a__py="x = 1\n")[:-30] + b"\0" * 10, None, "model.py"),
    ],
    ids=["syntax", "later line", "encoding", "null", "in an archive", "no code", "cut archive"],
)
def test_code_that_cannot_be_read(code: bytes, line: int | None, said: str) -> None:
    """The sentence names the file and the line."""
    found = syntax.fault(code, "model.py")
    assert found is not None
    assert said in found.message
    assert line is None or found.line == line


def test_a_damaged_archive_is_told() -> None:
    """A checksum that does not fit is found before an engine finds it."""
    data = _zip(a__py="x = 1234567\n")
    found = syntax.fault(data.replace(b"1234567", b"1234568", 1), "code.zip")
    assert found is not None
    assert found.message == "code.zip: a.py in the archive is damaged; make the archive anew"
