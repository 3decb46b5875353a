"""Every example is served as it is committed, asked what its samples ask, and answers what is expected of it."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit import examples
from kit.examples import EXAMPLES, FOLDERS
from kit.serving import serving
from midstream import manifest as manifests

MANIFESTS = sorted(
    path.relative_to(EXAMPLES).as_posix()
    for name in FOLDERS
    for path in EXAMPLES.glob(f"{name}/*.yaml")
)
ADDRESS = "http://127.0.0.1:8080"
"""What READMEs write; the tests take a free port."""


def _commands(manifest: Path) -> list[list[str]]:
    """The curl lines that the README has behind `midstream run` of this manifest, up to the next one."""
    text = (manifest.parent / "README.md").read_text(encoding="utf-8")
    shown = "\n".join(re.findall(r"```console\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    commands: list[list[str]] = []
    running = ""
    for line in shown.splitlines():
        words = shlex.split(line.removeprefix("$ ")) if line.startswith("$ ") else []
        if words[:2] == ["midstream", "run"]:
            running = words[2]
        elif (
            words[:1] == ["curl"] and running == f"examples/{manifest.parent.name}/{manifest.name}"
        ):
            commands.append(words)
    return commands


@pytest.fixture
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """One example, copied and served: its manifest, and its address."""
    name = Path(request.param)
    copied = tmp_path / "examples" / name.parent
    shutil.copytree(EXAMPLES / name.parent, copied)
    with serving(copied / name.name) as service:
        yield copied / name.name, f"http://127.0.0.1:{service.port}"


@pytest.mark.parametrize("served", MANIFESTS, indirect=True)
def test_example_answers_as_expected(served: tuple[Path, str]) -> None:
    """Each sample gets the answer that was worked out for it; each command of the README gets one, too."""
    manifest, address = served
    cases = examples.cases(manifest)
    assert cases, "an example without a sample shows nothing"
    pipeline = manifests.load(manifest).pipeline.metadata.name
    for case in cases:
        body = (manifest.parent / case["body"]).read_bytes()
        path = case.get("path", f"/pipelines/{pipeline}")
        request = urllib.request.Request(address + path, body, case["headers"])  # noqa: S310
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            given = examples.read(answer.read(), answer.headers["Content-Type"])
        expected = json.loads((manifest.parent / case["expected"]).read_text(encoding="utf-8"))
        examples.require(given, expected, f"{case['body']}: ")
    commands = _commands(manifest)
    assert commands, "the README has no curl line for it"
    if shutil.which("curl") is None:
        pytest.skip("there is no curl on this machine; all but the README's lines was asked")
    for words in commands:
        _run(words, address, manifest.parents[2])


def _run(words: list[str], address: str, root: Path) -> None:
    """Run a command as it is written, from the folder that holds `examples`."""
    command = [word.replace(ADDRESS, address) for word in words]
    if "-o" not in command:
        command += ["-o", "answer"]
    done = subprocess.run(
        [*command, "-w", "%{http_code}"],
        cwd=root, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "200"), (words, done.stderr)


def test_files_are_what_the_script_makes() -> None:
    """Models, samples and expected answers come from `examples/make.py`, and are still what it makes."""
    command = [sys.executable, str(EXAMPLES / "make.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("folder", FOLDERS)
def test_readme_speaks_of_every_manifest_and_sample(folder: str) -> None:
    """Whoever looks into the folder finds out what each file is for."""
    text = (EXAMPLES / folder / "README.md").read_text(encoding="utf-8")
    there = [*(EXAMPLES / folder).glob("*.yaml"), *(EXAMPLES / folder / "samples").iterdir()]
    assert [path.name for path in there if path.name not in text] == []
    assert f"[`{folder}/`]({folder}/)" in (EXAMPLES / "README.md").read_text(encoding="utf-8")


def test_examples_stay_small() -> None:
    """No model is so large that it would be felt in a clone."""
    files = [path for name in FOLDERS for path in (EXAMPLES / name).rglob("*") if path.is_file()]
    assert [path for path in files if path.stat().st_size > 20_000] == []
