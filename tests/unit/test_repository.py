"""What must hold for the repository as a whole, and no linter looks at."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("artifacts", "client", "crds", "engine", "hub", "loadbalancer", "operator")
REQUIREMENTS = ("run", "dev", "train", "bench", "engine", "operator", "engine-lb")
NOT_OURS = re.compile(r"^(\.git|\.venv.*|\.cache|.*_cache|\.hypothesis|dist|__pycache__)$")

# Taken apart, so that this file does not contain what it looks for.
PLACES = {
    "a package index": r"pypi\." + "org|python" + r"hosted\.org",
    "an operating system's mirror": r"deb\.debian\." + "org|archive" + r"\.ubuntu\.com",
    "a folder of one machine": "/ro" + "ot/|/wo" + r"rk/|/home/[a-z]|/opt/whe" + "els|/Us" + "ers/",
}


def tracked_files() -> list[Path]:
    """Return every file of the project; without git, every file that is not made by tools."""
    if shutil.which("git") and (ROOT / ".git").exists():
        command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached"]
        listed = subprocess.run(command, check=False, capture_output=True, text=True)
        if listed.returncode == 0:
            paths = [ROOT / name for name in listed.stdout.split("\0") if name]
            return [path for path in paths if path.is_file()]
    return sorted(files_below(ROOT))


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, without what tools leave behind."""
    for path in folder.iterdir():
        if NOT_OURS.match(path.name) or path.is_symlink():
            continue
        if path.is_dir():
            yield from files_below(path)
        else:
            yield path


def text_of(path: Path) -> str:
    """Return a file's text; empty for one that is not text, such as a model."""
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return ""


def pins(name: str) -> set[str]:
    """Return the pinned packages of a requirements file, each with its marker."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    return {line.rstrip(" \\") for line in lines if line and not line.startswith((" ", "#"))}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_are_not_packages(room: str) -> None:
    """No top folder is a package: `operator/__init__.py` would hide the standard library's operator."""
    assert not (ROOT / room / "__init__.py").exists()


def test_no_place_is_named() -> None:
    """No file names a package index, a mirror or a folder of somebody's machine."""
    found = [
        f"{path.relative_to(ROOT)}:{number} names {what}: {line.strip()[:120]}"
        for path in tracked_files()
        for number, line in enumerate(text_of(path).splitlines(), start=1)
        for what, pattern in PLACES.items()
        if re.search(pattern, line)
    ]
    assert found == []


def test_modules_stay_small() -> None:
    """No module has more than 500 lines; beyond that it holds two things."""
    lengths = {
        str(path.relative_to(ROOT)): text_of(path).count("\n")
        for path in tracked_files()
        if path.suffix == ".py"
    }
    assert {name: length for name, length in lengths.items() if length > 500} == {}


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_every_pin_has_a_hash(name: str) -> None:
    """Every requirement is one exact version with at least one sha256, from no particular address."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    for entry in re.split(r"\n(?=\S)", re.sub(r"^\s*#.*\n?", "", text, flags=re.MULTILINE)):
        assert re.match(r"[a-z0-9-]+==[^ ;]+( ; [^\\]+)? \\\n", entry), entry[:200]
        assert "--hash=sha256:" in entry, entry[:200]
    assert "://" not in text


def test_tools_do_not_move_what_runs() -> None:
    """Tests run on exactly the versions that `make run` installs."""
    assert pins("run") <= pins("dev")


@pytest.mark.parametrize("name", ["engine", "operator", "engine-lb"])
def test_images_hold_what_was_tested(name: str) -> None:
    """What an image installs has the versions that the tests ran with."""
    assert pins(name) <= pins("dev")


def test_training_fits_into_the_same_environment() -> None:
    """A package that training shares with the tests has the same version there."""
    version = {pin.partition("==")[0]: pin for pin in pins("dev") if ";" not in pin}
    shared = [pin for pin in pins("train") if pin.partition("==")[0] in version]
    assert shared
    assert [pin for pin in shared if version[pin.partition("==")[0]] != pin] == []
