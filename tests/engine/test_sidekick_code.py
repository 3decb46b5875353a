"""Which code is taken: a text or a zip with one entry point that can be imported in time. All else has its reason."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit import sidekicks as kit
from midstream_engine.errors import LoadError
from midstream_engine.sidekicks import entry
from midstream_engine.sidekicks.launch import Limits
from midstream_engine.sidekicks.settings import SidekickSettings

GOOD = "def process(inputs): return {'y': inputs['x']}"


@pytest.fixture(scope="module")
def ground() -> Iterator[kit.Ground]:
    with kit.ground() as made:
        yield made


def refusal(ground: kit.Ground, code: str | bytes) -> LoadError:
    with pytest.raises(LoadError) as refused:
        ground.acquire(code)
    assert "model 'pre'" not in refused.value.message, "whoever loads it names step and model"
    assert 0 == len(ground.sidekicks)
    return refused.value


def zipped(**files: str | bytes) -> bytes:
    """Names with `__` for a slash and without `.py`."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            path = name.replace("__", "/")
            archive.writestr(path if "." in path else f"{path}.py", text)
    return content.getvalue()


def damaged(content: bytes) -> bytes:
    """With a byte of the first file turned."""
    turned = bytearray(content)
    turned[60] ^= 0xFF
    return bytes(turned)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("def process(inputs)\n    pass", "syntax error in pre/model.py, line 1: expected ':'"),
        ("x = 1\n  y = 2", "syntax error in pre/model.py, line 2: unexpected indent"),
        (
            b"\xff\xfe\x00",
            r"neither Python code in UTF-8 nor a zip archive; it begins with b'\xff\xfe\x00'",
        ),
        (b"\x7fELF\x02\x01\x01\0\0", "neither Python code in UTF-8 nor a zip archive"),
        (b"x = '\0'", "neither Python code"),
        ("# coding: latin-1\nname = 'ü'".encode("latin-1"), "has neither"),
        ("", "has neither"),
        (
            "x = 1",
            "model.py must have one function, process(inputs) or wallaroo_json(data); it has neither",
        ),
        ("def process(i): ...\ndef wallaroo_json(d): ...", "it has both"),
        ("process = 3", "it is a int"),
        ("async def process(inputs): ...", "it is a coroutine"),
        ("def process(): ...", "must take one argument"),
        ("def process(a, b): ...", "must take one argument"),
        ("import no_such_package", "it imports 'no_such_package', which is not installed"),
        ("from numpy import no_such_name", "ImportError: cannot import name"),
        ("1 / 0", "it raised ZeroDivisionError: division by zero when it was imported"),
        ("raise SystemExit(3)", "it raised SystemExit: 3 when it was imported"),
        ("raise KeyboardInterrupt", "it raised KeyboardInterrupt"),
        ("(f := lambda: f())()", "RecursionError"),
        ("(" * 1000, "model.py"),
    ],
)
def test_code_that_cannot_serve_is_refused(ground: kit.Ground, code: str | bytes, why: str) -> None:
    """With what is wrong and where, and never again for the same bytes."""
    error = refusal(ground, code)
    assert "InvalidCode" == error.reason
    assert not error.transient
    assert why in error.message


def test_a_failing_import_is_told_with_its_line(ground: kit.Ground) -> None:
    """The end of the traceback names the file as the model, not where it was unpacked."""
    error = refusal(ground, "def ready():\n    raise ValueError('no')\n\nready()")
    assert 'File "pre/model.py", line 2, in ready' in error.message
    assert error.message.endswith("ValueError: no")


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import os; print('now'); os._exit(7)", "exit code 7; it had printed\nnow"),
        ("import ctypes; ctypes.string_at(0)", "signal SIGSEGV"),
        ("import os; os.kill(os.getpid(), 9)", "signal SIGKILL (from outside"),
        (
            "import os\nfor n in range(3, 999):\n  try: os.write(n, b'?' * 99)\n  except OSError: pass",
            "something else",
        ),
    ],
)
def test_code_that_crashes_at_import_is_refused(ground: kit.Ground, code: str, why: str) -> None:
    """With how it ended and what it printed last."""
    error = refusal(ground, code)
    assert "SidekickCrashed" == error.reason
    assert why in error.message


def test_code_that_eats_memory_at_import_is_refused() -> None:
    """The limit holds from the first line on."""
    settings = SidekickSettings(limits=Limits(memory=256 << 20))
    with kit.ground(settings) as ground:
        error = refusal(ground, "kept = [bytes(1 << 20) for _ in range(1000)]")
        assert "SidekickCrashed" == error.reason
        assert "a worker may have 256 MiB" in error.message


def test_code_that_does_not_finish_importing_is_refused() -> None:
    """After the time that a start may take; its process is gone."""
    with kit.ground(SidekickSettings(start_seconds=1.0)) as ground:
        error = refusal(ground, "import os\nprint(os.getpid())\nwhile True: pass")
        assert "SidekickTimedOut" == error.reason
        assert "not imported within 1 s" in error.message
        assert kit.gone(int(ground.wait("sidekick_output")["line"]))


def test_slow_imports_are_waited_for(ground: kit.Ground) -> None:
    """As long as they are within the time."""
    with ground.use("import time; time.sleep(0.5)\n" + GOOD) as sidekick:
        assert {"y": [1.0]} == kit.ask(sidekick)


def test_a_zip_has_its_own_modules_packages_and_data(ground: kit.Ground) -> None:
    """`model.py` is the entry; the rest is imported and read beside it."""
    code = zipped(
        model="""
from pathlib import Path
import numpy as np
from factors import double
from shop.prices import add
TEXT = (Path(__file__).parent / "shop" / "name.txt").read_text()
def process(inputs): return {"y": add(double(inputs["x"])), "t": [TEXT]}
""",
        factors="def double(x): return x * 2",
        shop____init__="",
        shop__prices="def add(x): return x + 1",
        **{"shop__name.txt": "prïce"},
    )
    with ground.use(code) as sidekick:
        assert {"y": [3.0], "t": ["prïce"]} == kit.ask(sidekick)


def test_a_zip_with_one_module_needs_no_special_name(ground: kit.Ground) -> None:
    """The only .py file at the top is the entry."""
    with ground.use(zipped(preprocess=GOOD, helpers__more="")) as sidekick:
        assert {"y": [1.0]} == kit.ask(sidekick)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (
            zipped(a=GOOD, b=""),
            "must have model.py, or exactly one .py file, at its top; it has a.py, b.py",
        ),
        (zipped(sub__model=GOOD), "it has none"),
        (zipped(), "it has none"),
        (zipped(model=GOOD)[:-30], "the zip cannot be unpacked"),
        (damaged(zipped(model=GOOD * 9)), "the zip cannot be unpacked"),
        (zipped(model="import helper", helper="def"), "syntax error in pre/helper.py, line 1"),
        (
            zipped(model="import helper", helper="import no_such_package"),
            "imports 'no_such_package'",
        ),
    ],
)
def test_a_zip_that_cannot_serve_is_refused(ground: kit.Ground, code: bytes, why: str) -> None:
    """With what it has, and which file is wrong."""
    error = refusal(ground, code)
    assert "InvalidCode" == error.reason
    assert why in error.message


def test_a_zip_that_unpacks_to_too_much_is_refused(ground: kit.Ground) -> None:
    """Before it is unpacked."""
    size = entry.MAX_UNPACKED_BYTES // 8 + 1
    code = zipped(model=GOOD, **{f"{n}.bin": bytes(size) for n in range(8)})
    assert len(code) < 2 << 20
    assert "are unpacked" in refusal(ground, code).message


def test_files_of_a_zip_stay_in_its_folder(ground: kit.Ground, tmp_path: Path) -> None:
    """A path that leads out of it does not."""
    code = zipped(model=GOOD, **{f"..__..__..__..__..__..__{tmp_path}/out.py": "x = 1"})
    with ground.use(code) as sidekick:
        kit.ask(sidekick)
    assert [] == list(tmp_path.iterdir())


def test_a_failure_in_another_module_is_shown_with_its_place(ground: kit.Ground) -> None:
    """By the name it has in the zip."""
    code = zipped(
        model="import helper\ndef process(inputs): return helper.go()",
        helper="def go():\n    return [][1]",
    )
    with ground.use(code) as sidekick, pytest.raises(Exception, match="IndexError") as failed:
        kit.ask(sidekick)
    assert 'File "pre/helper.py", line 2, in go' in str(failed.value)


def test_a_module_that_tests_itself_does_not(ground: kit.Ground) -> None:
    """It is imported, not run as a program, and dataclasses find its module."""
    code = """
        from dataclasses import dataclass
        from typing import ClassVar
        @dataclass
        class Factor:
            of: ClassVar["str"] = "x"
            by: "float" = 2.0
        def process(inputs): return {"y": inputs[Factor.of] * Factor().by}
        if __name__ == "__main__":
            raise SystemExit("tested")
    """
    with ground.use(code) as sidekick:
        assert {"y": [2.0]} == kit.ask(sidekick)


def test_no_host_is_a_failure_that_may_heal(tmp_path: Path) -> None:
    """The container may still be starting: when it is there, the same code is taken."""
    settings = SidekickSettings(host=tmp_path / "host.sock")
    with kit.ground(settings) as ground:
        error = refusal(ground, GOOD)
        assert "SidekickUnavailable" == error.reason
        assert error.transient
        assert str(settings.host) in error.message
        with kit.host(tmp_path), ground.use(GOOD) as sidekick:
            assert {"y": [1.0]} == kit.ask(sidekick)


def test_no_room_for_a_process_is_a_failure_that_may_heal(tmp_path: Path) -> None:
    """As when there is no folder for workers; an engine without Python models does not need one."""
    folder = tmp_path / "folder"
    with kit.ground(SidekickSettings(folder=folder)) as ground:
        error = refusal(ground, GOOD)
        assert "SidekickUnavailable" == error.reason
        assert error.transient
        folder.mkdir()
        with ground.use(GOOD) as sidekick:
            assert {"y": [1.0]} == kit.ask(sidekick)
    assert [] == list(folder.iterdir())
