"""The examples of `docs/open-inference-protocol.md` work as they stand."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.oip_engines import KSERVE, ROOT
from kit.serving import Service, serving

PAGE = (ROOT / "docs" / "open-inference-protocol.md").read_text()
BLOCKS = dict(
    re.findall(r"^## (With [^\n]+)\n\n```\w+\n(.+?)^```$", PAGE, re.MULTILINE | re.DOTALL)
)
SHOWN = json.loads(re.findall(r"```json\n(.+?)```", PAGE, re.DOTALL)[0])


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """`midstream run` of the example."""
    folder = tmp_path_factory.mktemp("house") / "house-price"
    shutil.copytree(ROOT / "examples" / "house-price", folder)
    with serving(folder / "pipeline.yaml") as service:
        yield service


def run(command: list[str | Path], house: Service, text: str) -> str:
    """What a command prints when it gets an example on its standard input."""
    done = subprocess.run(
        command,
        input=text.replace("127.0.0.1:8080", f"127.0.0.1:{house.port}"),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_request_with_curl_is_answered_as_shown(house: Service) -> None:
    """But for the engine's name."""
    if shutil.which("curl") is None:
        pytest.skip("there is no curl on this machine")
    said = json.loads(run(["sh"], house, BLOCKS["With curl"]))
    said["parameters"]["partition"] = SHOWN["parameters"]["partition"]
    assert said == SHOWN


def test_the_code_with_triton_s_client_runs(house: Service) -> None:
    """It prints the price and the version."""
    said = run([sys.executable, "-"], house, BLOCKS["With Triton's client"])
    assert said == f"[{SHOWN['outputs'][0]['data']}] {SHOWN['model_version']}\n"


@pytest.mark.skipif(
    not KSERVE.exists(), reason="KServe's client is not installed; `make test` installs it"
)
def test_the_code_with_kserve_s_client_runs(house: Service) -> None:
    """It prints the price and the version."""
    said = run([KSERVE, "-"], house, BLOCKS["With KServe's client"])
    assert said == f"[{SHOWN['outputs'][0]['data']}] {SHOWN['model_version']}\n"
