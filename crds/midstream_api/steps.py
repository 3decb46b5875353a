"""Steps of a pipeline: a model, a split between variants, or a champion with challengers in its shadow.

The same shapes serve twice: in a manifest, with models as users write them, and in a revision's document, with models
whose bytes are pinned.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, NamedTuple, Self, TypeVar

from pydantic import ConfigDict, Field, model_validator

from midstream_api import names
from midstream_api.base import Strict
from midstream_api.model import Model
from midstream_api.refusal import refusal, refuse_duplicates

M = TypeVar("M")
N = TypeVar("N")

KINDS = ("model", "split", "shadow")
"""Kinds of steps; each step is exactly one."""

_NAMED = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}

Name = Annotated[str, Field(min_length=1, max_length=63, pattern=names.DNS_LABEL)]
FieldName = Annotated[str, Field(min_length=1, max_length=128, pattern=names.FIELD_NAME)]


class Placed(NamedTuple, Generic[M]):
    """A model of a step, and where it stands."""

    place: str
    """Below the step: `model`, `split.variants[1].model`, `shadow.champion.model`."""
    variant: str | None
    """The name of the variant, champion or challenger."""
    model: M


class VariantOf(Strict, Generic[M]):
    """One of the models that a split chooses from."""

    name: Name
    """Survives swaps: keys, metrics and logs are bound to it."""
    weight: Annotated[int, Field(ge=0, le=1_000_000)] = 1
    """Its share is this by the sum of all weights."""
    model: M
    """What answers the rows that fall to it."""


class SplitOf(Strict, Generic[M]):
    """Each row is answered by one of several models."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "!has(self.hashKey) || !has(self.key)",
                    "message": "hashKey and key exclude each other; remove one",
                    "fieldPath": ".key",
                },
                {
                    "rule": "has(self.key) == has(self.options) && has(self.key) == has(self.default)",
                    "message": "a split by key has all of key, options and default",
                },
                {
                    "rule": "has(self.key) || self.variants.exists(v, !has(v.weight) || v.weight > 0)",
                    "message": "all weights are 0; give at least one variant a weight",
                    "fieldPath": ".variants",
                },
                {
                    "rule": "!has(self.default) || self.variants.exists(v, v.name == self.default)",
                    "message": "default is not the name of a variant",
                    "fieldPath": ".default",
                },
                {
                    "rule": "!has(self.options) "
                    "|| self.options.all(o, self.variants.exists(v, v.name == self.options[o]))",
                    "message": "options name what is not a variant",
                    "fieldPath": ".options",
                },
            ]
        }
    )

    hash_key: FieldName | None = None
    """An input field: rows with the same value go to the same variant, rows without it to a random one."""
    key: FieldName | None = None
    """An input field whose value is looked up in `options`."""
    options: (
        Annotated[
            dict[str, Annotated[str, Field(min_length=1, max_length=63)]],
            Field(min_length=1, max_length=64),
        ]
        | None
    ) = None
    """Value of `key`: name of the variant that answers."""
    default: Name | None = None
    """The variant for values that are not in `options`, and for rows without `key`."""
    variants: Annotated[
        list[VariantOf[M]], Field(min_length=1, max_length=16, json_schema_extra=_NAMED)
    ]
    """In the order in which a random number meets their weights. All give outputs of the same names and types."""

    @model_validator(mode="after")
    def _variants_can_be_chosen(self) -> Self:
        known = [variant.name for variant in self.variants]
        refuse_duplicates("variants", known)
        if self.hash_key is not None and self.key is not None:
            raise refusal(
                "split_key", "hashKey and key exclude each other; remove one", field="key"
            )
        given = {"key": self.key, "options": self.options, "default": self.default}
        absent = [name for name, value in given.items() if value is None]
        if absent and len(absent) < len(given):
            raise refusal(
                "split_key",
                f"a split by key has all of key, options and default; add {' and '.join(absent)}",
            )
        if absent and not any(variant.weight for variant in self.variants):
            raise refusal(
                "split_weights",
                "all weights are 0; give at least one variant a weight",
                field="variants",
            )
        for field, wanted in (
            ("default", [self.default] if self.default else []),
            ("options", list((self.options or {}).values())),
        ):
            for name in wanted:
                if name not in known:
                    raise refusal(
                        "split_variant",
                        f"{field} names {name!r}, which is not a variant; there are {', '.join(known)}",
                        field=field,
                    )
        return self


class ContenderOf(Strict, Generic[M]):
    """A champion or a challenger."""

    name: Name
    """Survives swaps: metrics and logs are bound to it."""
    model: M
    """What it runs."""


class ShadowOf(Strict, Generic[M]):
    """A champion answers; challengers get the same rows, and nobody waits for them."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "self.challengers.all(c, c.name != self.champion.name)",
                    "message": "the champion and a challenger have the same name; rename one",
                    "fieldPath": ".challengers",
                },
            ]
        }
    )

    champion: ContenderOf[M]
    """Its outputs are the step's."""
    challengers: Annotated[
        list[ContenderOf[M]], Field(min_length=1, max_length=8, json_schema_extra=_NAMED)
    ]
    """Compared with the champion in metrics and records."""
    wait: bool = False
    """Wait for the challengers, and give their outputs in the answer as `out_<name>`."""
    timeout_seconds: Annotated[int, Field(ge=1, le=300)] = 5
    """The longest that one challenger may take; then its work is dropped and counted."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        contenders = [each.name for each in self.challengers]
        refuse_duplicates("challengers", contenders)
        if self.champion.name in contenders:
            raise refusal(
                "duplicate_name",
                f"the champion and a challenger are both named {self.champion.name!r}; rename one",
                list="challengers",
                index=contenders.index(self.champion.name),
            )
        return self


class StepOf(Strict, Generic[M]):
    """One stage of a pipeline: exactly one of `model`, `split` and `shadow`."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "[has(self.model), has(self.split), has(self.shadow)].filter(x, x).size() == 1",
                    "message": "a step is exactly one of model, split and shadow",
                },
            ]
        }
    )

    name: Name
    """Survives swaps: metrics and logs are bound to it."""
    model: M | None = None
    """The model that this step runs."""
    split: SplitOf[M] | None = None
    """Models of which each row is answered by one."""
    shadow: ShadowOf[M] | None = None
    """A model that answers, and others that are compared with it."""

    @model_validator(mode="before")
    @classmethod
    def _exactly_one_kind(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        kinds = [key for key in KINDS if data.get(key) is not None]
        if len(kinds) > 1:
            raise refusal(
                "step_kind",
                f"step has {', '.join(kinds[:-1])} and {kinds[-1]}; "
                "a step is exactly one kind, so make it several steps",
                field=kinds[1],
            )
        # A field that is not known may be a kind that is misspelt, which is told better.
        if not kinds and data.keys() <= cls.model_fields.keys():
            raise refusal("step_kind", "step has no kind; give it one of model, split and shadow")
        return data

    def models(self) -> list[Placed[M]]:
        """All models, in the order of the manifest; the first answers, or may."""
        if self.model is not None:
            return [Placed("model", None, self.model)]
        if self.split is not None:
            return [
                Placed(f"split.variants[{index}].model", each.name, each.model)
                for index, each in enumerate(self.split.variants)
            ]
        assert self.shadow is not None
        champion, challengers = self.shadow.champion, self.shadow.challengers
        return [
            Placed("shadow.champion.model", champion.name, champion.model),
            *(
                Placed(f"shadow.challengers[{index}].model", each.name, each.model)
                for index, each in enumerate(challengers)
            ),
        ]

    @property
    def main(self) -> M:
        """The model that stands for the step where there is room for one: a split's first, a shadow's champion."""
        return self.models()[0].model


class Step(StepOf[Model]):
    """One stage of a pipeline: exactly one of `model`, `split` and `shadow`."""


def replaced(step: StepOf[M], replace: Callable[[M], N]) -> dict[str, Any]:
    """The fields of the same step with other models in it, for the constructor of another kind of step."""

    def contender(each: ContenderOf[M]) -> dict[str, Any]:
        return {"name": each.name, "model": replace(each.model)}

    fields: dict[str, Any] = {"name": step.name}
    if step.model is not None:
        fields["model"] = replace(step.model)
    elif step.split is not None:
        split = step.split
        fields["split"] = {
            "hash_key": split.hash_key,
            "key": split.key,
            "options": split.options,
            "default": split.default,
            "variants": [
                {"name": each.name, "weight": each.weight, "model": replace(each.model)}
                for each in split.variants
            ],
        }
    elif step.shadow is not None:
        shadow = step.shadow
        fields["shadow"] = {
            "champion": contender(shadow.champion),
            "challengers": [contender(each) for each in shadow.challengers],
            "wait": shadow.wait,
            "timeout_seconds": shadow.timeout_seconds,
        }
    return fields


def repeated_challenger(steps: Sequence[StepOf[Any]]) -> tuple[str, int, str] | None:
    """Find a challenger whose name an earlier step has given to another: both would answer in the same columns.

    Returns the name, the later step's index, and the field below that step.
    """
    seen: dict[str, int] = {}
    for index, step in enumerate(steps):
        for number, each in enumerate(step.shadow.challengers if step.shadow else []):
            if seen.setdefault(each.name, index) != index:
                return each.name, index, f"shadow.challengers[{number}].name"
    return None
