"""Make the project's virtual environments: once, from pins with hashes, with the standard library alone.

Guarantees: what is asked for is complete when this returns 0; a second call that has nothing to do
returns at once; an interrupted call leaves nothing that a later call takes for complete; two calls at
the same time do not disturb each other. It does not choose the Python: `environment.sh` does.

A stamp in the environment remembers the digest of each requirements file that it was made from. The
stamp goes before anything is changed and comes back after the last change, so its presence is proof.
"""

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
STAMP = ".midstream.json"

# pip settings of the person calling would break an environment, or ask questions nobody can answer.
PIP_ENVIRONMENT = {
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_INPUT": "1",
    "PIP_REQUIRE_VIRTUALENV": "0",
    "PIP_ROOT_USER_ACTION": "ignore",
    "PIP_USER": "0",
}


@dataclass(frozen=True)
class Profile:
    """One thing that can be asked for: a folder, and the requirements files that fill it, in order."""

    folder: str
    requirements: tuple[str, ...]
    with_project: bool = True
    programs: tuple[str, ...] = ()
    """Of Debian packages with the same name, for tests: wanted, not needed."""


PROFILES = {
    "run": Profile(".venv", ("run",)),
    # dev.txt repeats every pin of run.txt, so one pip call does both.
    "dev": Profile(".venv", ("dev",), programs=("docker-registry",)),
    "train": Profile(".venv", ("dev", "train")),
    "bench": Profile(".venv-bench", ("bench",), with_project=False),
    "kserve": Profile(".venv-kserve", ("kserve",), with_project=False),
}
# What a finished installation of one file also gives.
CONTAINS = {"dev": ("run",)}

# An installed project remembers its metadata and its version from these.
PROJECT = (ROOT / "pyproject.toml", ROOT / "crds" / "midstream_api" / "__init__.py")


class SetupError(Exception):
    """The environment cannot be made; the message says what would help."""


def main(argv: list[str]) -> int:
    """Make what the one argument names; 0 when it is there, 1 with a message when it cannot be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("profile", choices=PROFILES)
    profile = PROFILES[parser.parse_args(argv).profile]
    os.environ.update(PIP_ENVIRONMENT)
    try:
        with only_one_at_a_time():
            make(profile)
            for program in profile.programs:
                provide(program)
    except SetupError as error:
        say(f"cannot make {profile.folder}: {error}")
        return 1
    except subprocess.CalledProcessError as error:
        say(
            f"cannot make {profile.folder}: `{' '.join(map(str, error.cmd))}`"
            f" ended with {error.returncode}. Run the same make target again to go on."
        )
        return 1
    except KeyboardInterrupt:
        say("interrupted. Run the same make target again to go on.")
        return 130
    return 0


def make(profile: Profile) -> None:
    """Bring the profile's folder to what its requirements files say now."""
    folder = ROOT / profile.folder
    stamp = read_stamp(folder)
    if not is_sound(folder, stamp):
        remove_stamp(folder)
        create(folder)
        stamp = {"python": sys.version, "folder": str(folder)}
    wanted = {name: digest(requirements(name)) for name in profile.requirements}
    missing = [name for name in wanted if stamp.get(name) != wanted[name]]
    project = digest(*PROJECT) if profile.with_project else stamp.get("project", "")
    if not missing and stamp.get("project", "") == project:
        return
    remove_stamp(folder)
    for name in missing:
        install(folder, name)
    if profile.with_project:
        install_project(folder)
    if missing:
        # Other pins may have been moved by these, so what else was asked for earlier is checked
        # again when it is asked for again.
        stamp = {"python": sys.version, "folder": str(folder)}
    for name in profile.requirements:
        stamp |= {given: digest(requirements(given)) for given in (name, *CONTAINS.get(name, ()))}
    write_stamp(folder, stamp | {"project": project})
    say(f"{profile.folder} is ready.")


def requirements(name: str) -> Path:
    """Return the pins of that name."""
    return ROOT / "requirements" / f"{name}.txt"


def digest(*paths: Path) -> str:
    """Return the sha256 of the files' bytes, one after the other."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def read_stamp(folder: Path) -> dict[str, str]:
    """Return the folder's stamp; empty when there is none or it is not readable as one."""
    try:
        stamp = json.loads((folder / STAMP).read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(folder: Path, stamp: dict[str, str]) -> None:
    """Replace the folder's stamp in one go."""
    temporary = folder / f"{STAMP}.new"
    temporary.write_text(json.dumps(stamp, indent=1))
    temporary.replace(folder / STAMP)


def remove_stamp(folder: Path) -> None:
    """Take the proof away before the first change."""
    (folder / STAMP).unlink(missing_ok=True)


def is_sound(folder: Path, stamp: dict[str, str]) -> bool:
    """Tell whether an environment is of this Python, in this place, and able to install.

    Scripts in an environment carry its path, so one that was moved or copied is made anew.
    """
    same = stamp.get("python") == sys.version and stamp.get("folder") == str(folder)
    return same and python_of(folder).exists()


def python_of(folder: Path) -> Path:
    """Return the environment's interpreter."""
    return folder / "bin" / "python"


def create(folder: Path) -> None:
    """Make an empty environment with pip in it, in place of whatever is there."""
    if folder.is_symlink() or folder.is_file():
        msg = f"{folder} is a file or a link. Remove it and try again."
        raise SetupError(msg)
    shutil.rmtree(folder, ignore_errors=True)
    version = ".".join(map(str, sys.version_info[:3]))
    say(f"making {folder.name} with Python {version} ({sys.executable})")
    if has_ensurepip() or (os.geteuid() == 0 and install_venv_package()):
        run(sys.executable, "-m", "venv", folder)
        return
    wheel = fetch_pip_wheel()
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    # A wheel is a zip file that Python can run from: pip installs itself.
    run(python_of(folder), f"{wheel}/pip", "install", "--quiet", "--no-index", "--no-deps", wheel)


def has_ensurepip() -> bool:
    """Tell whether `python -m venv` can put pip into what it makes: Debian packs that apart."""
    command = [sys.executable, "-c", "import venv, ensurepip"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def install_venv_package() -> bool:
    """Install Debian's package for `python -m venv`, as root; False when that did not help."""
    if not is_debian_python():
        return False
    package = f"python3.{sys.version_info.minor}-venv"
    say(f"installing Debian's {package}, which `python3 -m venv` needs")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install_it = ["apt-get", "install", "--yes", "--no-install-recommends", "-qq", package]
    if subprocess.run(install_it, check=False, env=environment, capture_output=True).returncode:
        # A fresh Debian has no package lists yet, and an old one has lists of packages that are gone.
        subprocess.run(["apt-get", "update", "-qq"], check=False, env=environment)
        subprocess.run(install_it, check=False, env=environment)
    return has_ensurepip()


def is_debian_python() -> bool:
    """Tell whether this Python came with Debian's packages."""
    return sys.base_prefix == "/usr" and shutil.which("apt-get") is not None


def fetch_pip_wheel() -> Path:
    """Return a pip wheel out of Debian's package of it, fetched into the project's own folder.

    Needs no rights: apt works on a state folder of its own, and nothing on the machine changes.
    apt checks the package against Debian's signatures as it does for root.
    """
    if not is_debian_python() or shutil.which("dpkg") is None:
        msg = (
            f"{sys.executable} has no ensurepip, so `python -m venv` does not work with it."
            " Install your system's package for it (often python3-venv), or choose another"
            " Python: make PYTHON=/path/to/python3 setup"
        )
        raise SetupError(msg)
    try:
        unpacked = unpack("python3-pip-whl", "python3-venv is not installed")
    except subprocess.CalledProcessError as error:
        msg = (
            "Debian's packages cannot be fetched (see above)."
            " As root, this does the same: apt-get update && apt-get install python3-venv"
        )
        raise SetupError(msg) from error
    wheel = next(iter(sorted(unpacked.glob("usr/share/python-wheels/pip-*.whl"))), None)
    if wheel is None:
        msg = "Debian's python3-pip-whl did not bring a pip wheel. As root: apt-get install python3-venv"
        raise SetupError(msg)
    return wheel


def provide(program: str) -> None:
    """Fetch a program that tests use, if the machine has none; tests that miss it say so."""
    if shutil.which(program) is not None or shutil.which("apt-get") is None:
        return
    try:
        unpack(program, "tests use it, and it is not installed")
    except subprocess.CalledProcessError:
        say(f"{program} cannot be fetched (see above); tests that need it are skipped")


def unpack(package: str, why: str) -> Path:
    """Return the folder that holds a Debian package's files; fetch it once, with the state of apt in .cache.

    Raises CalledProcessError. The folder appears whole or not at all.
    """
    unpacked = CACHE / "debian" / package
    if unpacked.exists():
        return unpacked
    say(f"fetching Debian's {package} into .cache ({why})")
    private = CACHE / "debian" / "apt"
    shutil.rmtree(private, ignore_errors=True)
    packages = private / "packages"
    for name in ("state/lists/partial", "cache/archives/partial", "packages", "partial"):
        (private / name).mkdir(parents=True)
    apt = (
        "apt-get",
        "-qq",
        f"-oDir::State={private / 'state'}",
        "-oDir::State::status=/var/lib/dpkg/status",
        f"-oDir::Cache={private / 'cache'}",
        # The sandbox user of apt cannot write into a folder that is ours.
        "-oAPT::Sandbox::User=",
    )
    run(*apt, "update")
    run(*apt, "download", package, cwd=packages)
    for archive in packages.glob("*.deb"):
        run("dpkg", "-x", archive, private / "partial")
    (private / "partial").rename(unpacked)
    # The package lists are larger than everything else, and of no further use.
    shutil.rmtree(private)
    return unpacked


def install(folder: Path, name: str) -> None:
    """Install one file of pins: every package by its hash, as a wheel, and nothing that is not named."""
    say(f"installing requirements/{name}.txt into {folder.name}")
    # --only-binary: building from source would fetch build tools that no hash vouches for.
    options = ("--require-hashes", "--only-binary", ":all:", "--no-deps")
    run(*pip(folder), "install", *quietly(), *options, "--requirement", requirements(name))


def install_project(folder: Path) -> None:
    """Install the project itself, editable, with the build tools that are already there."""
    options = ("--quiet", "--no-deps", "--no-build-isolation")
    run(*pip(folder), "install", *options, "--editable", ROOT)


def pip(folder: Path) -> tuple[str, ...]:
    """Return the command that runs the environment's pip."""
    return (str(python_of(folder)), "-m", "pip")


def quietly() -> tuple[str, ...]:
    """Progress is for people: in a log it is noise."""
    return () if sys.stdout.isatty() else ("--quiet",)


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    """Run a command and show what it prints; raise CalledProcessError when it fails."""
    subprocess.run(command, check=True, cwd=cwd, stdin=subprocess.DEVNULL)


@contextmanager
def only_one_at_a_time() -> Iterator[None]:
    """Hold the lock; two makes in two terminals take turns."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "environment.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up to finish")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def say(message: str) -> None:
    """Print one line about the set-up, apart from what tools print."""
    print(f"set-up: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
