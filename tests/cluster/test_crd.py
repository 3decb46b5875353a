"""A real API server takes the CRD, and judges the corpus of manifests as the types do."""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from kit import corpus, refusals

CRD = Path(__file__).parents[2] / "crds" / "pipelines.yaml"
SECONDS = 60.0


def kubectl(*arguments: str) -> str:
    """Run kubectl and return what it prints; it must succeed."""
    done = subprocess.run(
        ["kubectl", *arguments], capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    """The CRD as it is committed, in force."""
    assert "KUBECONFIG" in os.environ, "set KUBECONFIG to a cluster's configuration"
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRD))
    kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", str(CRD))
    # A schema is in force a moment after it was taken; no condition says when.
    newest = corpus.FOLDER / "valid" / "everything.yaml"
    deadline = time.monotonic() + SECONDS
    while (judged := refusals.judge(newest)).returncode != 0:
        assert time.monotonic() < deadline, judged.stderr


@pytest.mark.parametrize("path", corpus.VALID, ids=corpus.name)
def test_valid_manifest_is_accepted(path: Path) -> None:
    """What the types accept, the API server accepts."""
    judged = refusals.judge(path)
    assert judged.returncode == 0, judged.stderr


@pytest.mark.parametrize("path", corpus.left_to_the_operator(), ids=corpus.name)
def test_what_no_rule_can_say_is_left_to_the_operator(path: Path) -> None:
    """The API server takes it, so the operator has to refuse it; rules that could judge it would show here."""
    judged = refusals.judge(path)
    assert judged.returncode == 0, judged.stderr


@pytest.mark.parametrize("path", corpus.refused_as_data(), ids=corpus.name)
def test_invalid_manifest_is_refused(path: Path) -> None:
    """What the types refuse, the API server refuses."""
    judged = refusals.judge(path)
    assert judged.returncode != 0, judged.stdout


@pytest.mark.parametrize(("name", "told"), refusals.SHOWN.items(), ids=refusals.SHOWN)
def test_refusal_names_the_field_and_what_would_be_right(name: str, told: tuple[str, str]) -> None:
    """Whoever reads `kubectl apply`'s answer knows where to look and what to write."""
    messages = refusals.said(refusals.judge(corpus.FOLDER / "invalid" / f"{name}.yaml").stderr)
    field, right = told
    assert [message for message in messages if field in message and right in message], messages


def test_page_shows_what_the_server_says() -> None:
    """docs/manifest-errors.md is current; `cd tests && python -m kit.refusals` writes it anew."""
    assert refusals.PAGE.read_text(encoding="utf-8") == refusals.page(refusals.ask())


def test_defaults_are_filled_in_and_nothing_else() -> None:
    """A user's object grows by plain defaults only, and by a status that says that nobody has looked yet."""
    path = corpus.FOLDER / "valid" / "smallest.yaml"
    created: dict[str, Any] = json.loads(
        kubectl("create", "--dry-run=server", "-o", "json", "-f", str(path))
    )
    assert set(created["spec"]) == {"steps", "deployed", "version"}
    assert created["status"] == {"observedGeneration": -1}
    assert not created["metadata"].keys() & {"finalizers", "annotations", "labels"}


def test_every_field_is_explained() -> None:
    """`kubectl explain` leads to the depths of the deployment."""
    said = kubectl("explain", "pipelines.spec.deployment.engineLB.service")
    assert "annotations" in said
    assert "For the provider of the load balancer" in said


def test_columns_say_how_a_pipeline_is() -> None:
    """`kubectl get pipelines` has the columns that an operator of a cluster looks for first."""
    columns = kubectl(
        "get", "crd", "pipelines.midstream.dev", "-o",
        "jsonpath={.spec.versions[0].additionalPrinterColumns[*].name}",
    ).split()  # fmt: skip
    assert columns[:4] == ["Ready", "Reason", "Model", "Version"]
    assert columns[-1] == "Age"
