"""What `kubectl apply` says to manifests that a cluster refuses, and the page that shows it.

`python -m kit.refusals` in `tests/` writes docs/manifest-errors.md anew; it needs KUBECONFIG, and the CRD in force.
"""

import re
import subprocess
from pathlib import Path

from kit import corpus

PAGE = Path(__file__).parents[2] / "docs" / "manifest-errors.md"

SHOWN: dict[str, tuple[str, str]] = {
    "name-begins-with-digit": ("metadata.name", "begin with a letter"),
    "long-pipeline-name": ("metadata.name", "shorten it"),
    "missing-steps": ("spec.steps", "Required value"),
    "no-steps": ("spec.steps", "add one, or say deployed: false"),
    "bad-step-name": ("spec.steps[0].name", "use lower-case letters, digits and '-'"),
    "duplicate-step-names": ("spec.steps[1]", "Duplicate value"),
    "missing-model": ("spec.steps[0]", "exactly one of model, split and shadow"),
    "unknown-field-misspelt": ("spec.steps[0].modle", "unknown field"),
    "other-step-kind": ("spec.steps[0].ensemble", "unknown field"),
    "two-kinds": ("spec.steps[0]", "exactly one of model, split and shadow"),
    "number-as-version": ("spec.steps[0].model.version", "must be of type string"),
    "wrong-framework": ("spec.steps[0].model.framework", 'supported values: "ONNX", "Python"'),
    "missing-uri": ("spec.steps[0].model.source", "give exactly one of uri and inline"),
    "two-sources": ("spec.steps[0].model.source", "give exactly one of uri and inline"),
    "inline-onnx": ("spec.steps[0].model.source", "the model needs framework: Python"),
    "inline-too-long": ("spec.steps[0].model.source.inline", "65536"),
    "secret-without-registry": ("spec.steps[0].model.source.secretRef", "remove it, or give such"),
    "insecure-without-registry": ("spec.steps[0].model.source.insecure", "remove it, or give such"),
    "bad-secret-name": ("spec.steps[0].model.source.secretRef.name", "use lower-case letters"),
    "short-sha256": ("spec.steps[0].model.sha256", "64 lower-case hexadecimal digits"),
    "duplicate-input-names": ("spec.steps[0].model.inputs[1]", "Duplicate value"),
    "dtype-of-onnx": ("spec.steps[0].model.inputs", "for framework: Python only"),
    "tensor-of-python": ("spec.steps[0].model.inputs", "under their own names"),
    "outputs-of-onnx": ("spec.steps[0].model.outputs", "for framework: Python only"),
    "single-rows-of-python": ("spec.steps[0].model.batch", "gets all rows of a request"),
    "unknown-dtype": ("spec.steps[0].model.outputs[0].dtype", '"float32"'),
    "uneven-verify-rows": ("spec.steps[0].model.verify.outputs", "give one row of outputs"),
    "large-tolerance": ("spec.steps[0].model.verify.tolerance", "less than or equal to 1"),
    "weights-all-zero": ("spec.steps[0].split.variants", "give at least one variant a weight"),
    "duplicate-variant-names": ("spec.steps[0].split.variants[1]", "Duplicate value"),
    "split-with-both-keys": ("spec.steps[0].split.key", "remove one"),
    "key-without-options": ("spec.steps[0].split", "has all of key, options and default"),
    "unknown-default": ("spec.steps[0].split.default", "not the name of a variant"),
    "unknown-option": ("spec.steps[0].split.options", "not a variant"),
    "challenger-misspelt": ("spec.steps[0].shadow.challenger", "unknown field"),
    "challenger-named-as-champion": ("spec.steps[0].shadow.challengers", "rename one"),
    "challenger-of-two-steps": ("spec.steps", "columns out_<name>"),
    "no-timeout": ("spec.steps[0].shadow.timeoutSeconds", "greater than or equal to 1"),
    "validation-with-both": ("spec.validations[0]", "exactly one of expression and failWhen"),
    "validation-named-count": ("spec.validations[0].name", "choose another name"),
    "duplicate-validation-names": ("spec.validations[1]", "Duplicate value"),
    "sidekick-as-flag": ("spec.deployment.sidekick", "must be of type object"),
    "no-replicas": ("spec.deployment.replicas", "greater than or equal to 1"),
    "too-many-replicas": ("spec.deployment.replicas", "less than or equal to 100"),
    "bad-quantity": ("spec.deployment.engine.resources.requests.cpu", "such as 250m, 1 or 512Mi"),
    "unknown-arch": ("spec.deployment.engine.arch", 'supported values: "amd64", "arm64"'),
    "bad-service-type": (
        "spec.deployment.engineLB.service.type",
        'supported values: "ClusterIP", "NodePort", "LoadBalancer"',
    ),
    "annotation-not-text": (
        "spec.deployment.engineLB.service.annotations.example.com/internal",
        "must be of type string",
    ),
    "version-not-uuid": ("spec.version", "a version is a UUID"),
    "deployed-as-text": ("spec.deployed", "must be of type boolean"),
    "tags-as-text": ("spec.tags", "must be of type array"),
}
"""Manifests of the corpus, each with the field that the API server's message names, and what it says would be right."""

_HEAD = """\
# What a cluster says to a wrong manifest

`kubectl apply` refuses these before anything happens. `midstream validate` says the same with line and column, all at
once.
The table is made from the manifests in `tests/corpus/invalid` by asking both; a cluster test checks that it is current.

| Manifest | `kubectl apply` | `midstream validate` |
|---|---|---|
"""

_FRAMES = (
    re.compile(r'^The Pipeline "[^"]*" is invalid: '),
    re.compile(r"^Error from server \(\w+\): .*?cannot be handled as a Pipeline: "),
)
_NOT_CHECKED = "some validation rules were not checked"


def judge(path: Path) -> subprocess.CompletedProcess[str]:
    """Ask the API server, changing nothing; every manifest is put into the namespace `default`."""
    text = re.sub(r"(?<=namespace: )[-a-z0-9]+", "default", path.read_text(encoding="utf-8"))
    return subprocess.run(
        ["kubectl", "apply", "--dry-run=server", "--namespace", "default", "-f", "-"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def said(stderr: str) -> list[str]:
    """Return the reasons that kubectl printed, without its frame, in a settled order."""
    text = " ".join(stderr.split())
    for frame in _FRAMES:
        text = frame.sub("", text)
    parts = [part.strip() for part in re.split(r"(?:^| )\* ", text)]
    return sorted(part for part in parts if part and _NOT_CHECKED not in part)


def page(messages: dict[str, list[str]]) -> str:
    """Return the page for what the API server said to each manifest that is shown."""
    rows = []
    for name in SHOWN:
        path = corpus.INVALID[0].with_name(f"{name}.yaml")
        about = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        cells = [about, _cell(messages[name]), _cell(corpus.expected(path))]
        rows.append(f"| {' | '.join(cells)} |\n")
    return _HEAD + "".join(rows)


def ask() -> dict[str, list[str]]:
    """Return what the API server says to each manifest that is shown."""
    folder = corpus.FOLDER / "invalid"
    return {name: said(judge(folder / f"{name}.yaml").stderr) for name in SHOWN}


def _cell(lines: list[str]) -> str:
    return "<br>".join(f"`{line}`".replace("|", "\\|") for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page(ask()), encoding="utf-8")
