"""Every model of a manifest: which step and variant it belongs to, and the field that it stands at. Pure."""

from dataclasses import dataclass

from midstream import problems
from midstream.manifest import Manifest
from midstream.problems import FieldPath
from midstream_api.model import Model


@dataclass(frozen=True, slots=True)
class Written:
    """A model as a manifest has it."""

    step: str
    variant: str | None
    """The name of the variant, champion or challenger; None in a step that is a model."""
    at: FieldPath
    """`("spec", "steps", 1, "split", "variants", 0, "model")`."""
    model: Model

    @property
    def title(self) -> str:
        """Names it to people: `predict`, or `predict (control)`."""
        return title(self.step, self.variant)

    @property
    def source(self) -> FieldPath:
        """The field that holds its bytes or says where they are."""
        kind = "uri" if self.model.source.inline is None else "inline"
        return (*self.at, "source", kind)


def written(manifest: Manifest) -> list[Written]:
    """Return the models of all steps, in the order of the manifest."""
    return [
        Written(step.name, placed.variant, path(index, placed.place), placed.model)
        for index, step in enumerate(manifest.pipeline.spec.steps)
        for placed in step.models()
    ]


def path(step: int, place: str) -> FieldPath:
    """Return the field of a place below a step, such as `split.variants[0].model`."""
    return ("spec", "steps", step, *problems.parts(place))


def title(step: str, variant: str | None) -> str:
    """Name a model by its step, and by its variant where there are several."""
    return step if variant is None else f"{step} ({variant})"
