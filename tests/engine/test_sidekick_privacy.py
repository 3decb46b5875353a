"""What users' code cannot read of the processes that start it: their environment and their memory."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from kit import client
from kit import sidekicks as kit
from kit.engine import engine
from kit.folder import ConfigFolder
from kit.pipelines import python, revision
from kit.serving import serving
from midstream_engine.sidekicks.settings import SidekickSettings

PRY = """
import os
from pathlib import Path

def look(pid, name):
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return "secret" if name == "environ" and b"swordfish" in file.read() else "open"
    except OSError as error:
        return type(error).__name__

def process(inputs):
    pid, found = os.getppid(), []
    while pid:
        found.append(f"{look(pid, 'environ')} {look(pid, 'mem')}")
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return {"found": [",".join(found)] * len(inputs["x"])}
"""
"""What it may read of its parents, nearest first: of each its environment and its memory."""

CLOSED = "PermissionError PermissionError"


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the environment of what the test starts; in that of the test's own process it is too late to be seen."""
    monkeypatch.setenv("WORD", "swordfish")


def check(parents: str, closed: int) -> None:
    """No parent shows the secret, and the nearest ones show nothing."""
    found = parents.split(",")
    assert [CLOSED] * closed == found[:closed]
    assert "secret" not in parents


def test_code_reads_nothing_of_its_engine(tmp_path: Path) -> None:
    """Whoever the user is."""
    wanted = revision({"steps": [{"name": "pry", "model": python(PRY)}]})
    ConfigFolder(tmp_path / "config").write(wanted)
    with engine(tmp_path) as running:
        running.wait("serving", version=wanted.version)
        (row,) = running.post([{"x": 1}]).json()
    check(row["out"]["found"], closed=1)


def test_code_reads_nothing_of_what_starts_engines(tmp_path: Path) -> None:
    """`midstream run` has the user's whole environment, and its engines the same."""
    model = {"name": "pry", "framework": "Python", "source": {"inline": PRY}}
    manifest: dict[str, Any] = {
        "apiVersion": "midstream.dev/v1alpha1",
        "kind": "Pipeline",
        "metadata": {"name": "house-price"},
        "spec": {"steps": [{"name": "pry", "model": model}]},
    }
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump(manifest))
    with serving(path) as service:
        (row,) = client.infer(service.port, [{"x": 1}]).value
    check(row["out"]["found"], closed=2)


def test_code_reads_nothing_of_its_host(tmp_path: Path) -> None:
    """A host in a container of its own is closed as an engine is."""
    with (
        kit.host(tmp_path) as host,
        kit.ground(SidekickSettings(host=host.path)) as ground,
        ground.use(PRY) as sidekick,
    ):
        check(kit.ask(sidekick, kit.column(1))["found"][0], closed=1)


def test_code_gains_no_rights(tmp_path: Path) -> None:
    """Not by starting programs that have more: neither it nor what it starts may look into closed processes."""
    code = """
    from pathlib import Path
    import subprocess

    def process(inputs):
        texts = Path("/proc/self/status").read_text(), subprocess.run(
            ["cat", "/proc/self/status"], capture_output=True, text=True, check=True
        ).stdout
        lines = [dict(line.split(":", 1) for line in text.splitlines()) for text in texts]
        rights = 1 << 19 | 1 << 21 | 1 << 38
        may = [int(each[name], 16) & rights for each in lines for name in ("CapEff", "CapPrm")]
        return {"may": [sum(may)], "new": [int(each["NoNewPrivs"]) for each in lines][:1]}
    """
    with kit.ground(SidekickSettings(folder=tmp_path)) as ground, ground.use(code) as sidekick:
        found = kit.ask(sidekick, kit.column(1))
        assert (0, 1) == (found["may"][0], found["new"][0])
