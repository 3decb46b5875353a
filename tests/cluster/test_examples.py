"""One example of each kind as a user brings it to a cluster: pushed, applied, asked through the load balancer."""

import json
import urllib.request
from pathlib import Path

import pytest
import yaml

from kit.cluster import kubectl
from kit.cluster.shelf import Shelf
from kit.cluster.spaces import Space
from kit.examples import EXAMPLES, FOLDERS, cases, read, require


@pytest.mark.parametrize("folder", FOLDERS)
def test_example_answers_as_expected(
    space: Space, shelf: Shelf, tmp_path: Path, folder: str
) -> None:
    """The first manifest of the folder, with the address that `midstream push` gives its models."""
    manifest = min((EXAMPLES / folder).glob("*.yaml"))
    target = tmp_path / "pushed.yaml"
    shelf.push(manifest, f"tests/{folder}", "-o", str(target))
    document = yaml.safe_load(target.read_text())
    name = document["metadata"]["name"]
    document["metadata"].pop("namespace", None)
    space.apply(document)
    space.until_ready(name=name)

    with kubectl.forwarded(f"{name}-engine-lb", 29502, space.name) as port:
        for case in cases(manifest):
            address = f"http://127.0.0.1:{port}{case.get('path', f'/pipelines/{name}')}"
            body = (EXAMPLES / folder / case["body"]).read_bytes()
            request = urllib.request.Request(address, body, case["headers"])
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                given = read(answer.read(), answer.headers["Content-Type"])
            expected = json.loads((EXAMPLES / folder / case["expected"]).read_text())
            require(given, expected, f"{case['body']}: ")
