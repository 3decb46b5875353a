"""Models in a registry, brought there by the real `midstream push`, and manifests made of them."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from kit.cluster.kubectl import Object
from kit.swapping import MODELS, PREPARES
from midstream_api.engineconfig import ResolvedModel, ResolvedStep
from midstream_api.model import InputField
from midstream_api.version import version_of

NAME = "house-price"
INPUTS = [{"name": "tensor"}]
_SECONDS = 120


@dataclass(frozen=True)
class Model:
    """A model that a registry has."""

    name: str
    path: Path
    """The file that was pushed."""
    source: Mapping[str, Any]
    """As `midstream push` wrote it into the manifest."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """More fields of the manifest: `sha256`, `version`, `verify`."""

    def document(self) -> Object:
        return {
            "name": self.name,
            "source": dict(self.source),
            "inputs": INPUTS,
            **self.extra,
        }

    def named(self, name: str) -> "Model":
        """The same bytes under another name."""
        return Model(name, self.path, self.source, self.extra)

    def saying(self, **extra: Any) -> "Model":
        """The same with more fields."""
        return Model(self.name, self.path, self.source, {**self.extra, **extra})

    def at(self, uri: str, **source: Any) -> "Model":
        """The same bytes, said to lie elsewhere."""
        return Model(self.name, self.path, {"uri": uri, **source}, self.extra)

    @property
    def uri(self) -> str:
        uri: str = self.source["uri"]
        return uri

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def pipeline(
    *models: Model, name: str = NAME, deployment: Mapping[str, Any] | None = None, **spec: Any
) -> Object:
    """A manifest whose steps are these models."""
    wanted: Object = {
        "steps": [
            {"name": step, "model": model.document()} for step, model in _steps(models).items()
        ],
        **spec,
    }
    if deployment is not None:
        wanted["deployment"] = dict(deployment)
    return {
        "apiVersion": "midstream.dev/v1alpha1",
        "kind": "Pipeline",
        "metadata": {"name": name},
        "spec": wanted,
    }


def version(*models: Model, name: str = NAME) -> str:
    """The version UUID of `pipeline(*models)`, by the contract alone."""
    return version_of(
        name,
        [
            ResolvedStep(
                name=step,
                model=ResolvedModel(
                    name=model.name,
                    version=model.extra.get("version"),
                    uri=model.uri,
                    sha256=model.sha256,
                    size=model.path.stat().st_size,
                    inputs=[InputField.model_validate(each) for each in INPUTS],
                ),
            )
            for step, model in _steps(models).items()
        ],
    )


def _steps(models: Sequence[Model]) -> dict[str, Model]:
    names = [*(f"prepare-{number}" for number in range(1, len(models))), "predict"]
    return dict(zip(names, models, strict=True)) if models else {}


class Shelf:
    """Pushes models, each once."""

    def __init__(self, registry: str, folder: Path) -> None:
        self.registry = registry
        self._folder = folder
        self._pushed: dict[tuple[str, Path], Model] = {}

    def model(self, path: Path, name: str | None = None) -> Model:
        """A model of the registry with the bytes of a file."""
        name = name or f"{path.stem}-house-price"
        if (name, path) not in self._pushed:
            self._pushed[name, path] = self._push(name, path)
        return self._pushed[name, path]

    def example(self, name: str) -> Model:
        """A model of the house-price example: `rf`, `gbr`, `xgb`, `prepare-a` or `prepare-b`."""
        return self.model({**MODELS, **PREPARES}[name])

    def push(self, manifest: Path, repository: str, *arguments: str) -> str:
        """`midstream push`, as a user types it; what it prints."""
        done = subprocess.run(
            [
                *(sys.executable, "-m", "midstream", "push", str(manifest)),
                *("--to", f"oci://{self.registry}/{repository}"),
                *(
                    ["--plain-http"]
                    if os.environ.get("MIDSTREAM_TEST_REGISTRY_TLS") is None
                    else []
                ),
                *arguments,
            ],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"midstream push: {done.stderr}{done.stdout}"
        return done.stdout

    def _push(self, name: str, path: Path) -> Model:
        local = Model(name, path, {"uri": str(path.resolve())})
        manifest = self._folder / f"{len(self._pushed)}-{name}.yaml"
        pushed = manifest.with_suffix(".pushed.yaml")
        manifest.write_text(yaml.safe_dump(pipeline(local)))
        self.push(manifest, f"tests/{name}", "-o", str(pushed))
        (step,) = yaml.safe_load(pushed.read_text())["spec"]["steps"]
        return Model(name, path, step["model"]["source"])
