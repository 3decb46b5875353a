"""The steps as they are written become a revision document, or a sentence that says which field is in the way."""

import asyncio
import hashlib
import re
from typing import Any

import pytest

from kit.situations import OWNER
from midstream_api import version
from midstream_api.engineconfig import RevisionDocument
from midstream_api.model import Framework
from midstream_api.pipeline import PipelineSpec
from midstream_operator.look import Look
from midstream_operator.resolve import Resolver, Unresolved, secrets_of

CODE = "def process(inputs):\n    return {'naïve': inputs['x']}\n"


def python(name: str, code: str = CODE, **fields: Any) -> dict[str, Any]:
    """A model whose code stands in the manifest."""
    return {"name": name, "framework": "Python", "source": {"inline": code}, **fields}


def split(*models: dict[str, Any], name: str = "predict") -> dict[str, Any]:
    variants = [{"name": f"variant-{n}", "model": each} for n, each in enumerate(models)]
    return {"name": name, "split": {"variants": variants}}


def shadow(champion: dict[str, Any], *challengers: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "watch",
        "shadow": {
            "champion": {"name": "champion", "model": champion},
            "challengers": [
                {"name": f"challenger-{n}", "model": each} for n, each in enumerate(challengers)
            ],
        },
    }


def resolved(
    *steps: dict[str, Any], logins: dict[str, Any] | None = None, **fields: Any
) -> RevisionDocument:
    spec = PipelineSpec.read({"steps": list(steps), **fields})
    return asyncio.run(Resolver(1 << 20).document("house-price", spec, logins or {}))


def test_code_in_the_manifest_is_pinned_to_its_bytes() -> None:
    """The digest and the size are those of its UTF-8 text; there is no address."""
    (model,) = resolved({"name": "prepare", "model": python("pre")}).models()

    data = CODE.encode()
    assert (model.framework, model.uri, model.inline) == (Framework.PYTHON, None, CODE)
    assert (model.sha256, model.size) == (hashlib.sha256(data).hexdigest(), len(data))
    assert len(data) == len(CODE) + 1


def test_every_model_of_every_step_is_pinned_in_its_place() -> None:
    """Variants with names and weights, champion and challengers, and the fields of each model."""
    made = resolved(
        {"name": "prepare", "model": python("pre", "1", version="7")},
        {
            "name": "predict",
            "split": {
                "hashKey": "session",
                "variants": [
                    {"name": "a", "weight": 2, "model": python("rf", "2")},
                    {"name": "b", "model": python("gbr", "3")},
                ],
            },
        },
        shadow(python("x", "4"), python("y", "5", outputs=[{"name": "o", "dtype": "int64"}])),
    )

    assert [(model.name, model.inline) for model in made.models()] == [
        ("pre", "1"),
        ("rf", "2"),
        ("gbr", "3"),
        ("x", "4"),
        ("y", "5"),
    ]
    chosen = made.steps[1].split
    assert chosen is not None
    assert chosen.hash_key == "session"
    assert [(each.name, each.weight) for each in chosen.variants] == [("a", 2), ("b", 1)]
    assert made.models()[0].version == "7"
    assert [field.name for field in made.models()[4].outputs or []] == ["o"]
    assert RevisionDocument.model_validate_json(version.dump(made)) == made


def test_validations_are_part_of_the_document_and_of_the_version() -> None:
    """Another check of the same models is another version."""
    step = {"name": "prepare", "model": python("pre")}
    check = {"name": "high", "expression": "out.y < 5.0"}
    plain, checked = resolved(step), resolved(step, validations=[check])

    assert [each.name for each in checked.validations] == ["high"]
    assert checked.version != plain.version
    assert checked.version == version.version_of("house-price", checked.steps, checked.validations)


@pytest.mark.parametrize(
    ("steps", "place"),
    [
        ([{"name": "predict", "model": {}}], "spec.steps[0].model.source"),
        (
            [{"name": "prepare", "model": python("pre")}, split({}, python("rf"))],
            "spec.steps[1].split.variants[0].model.source",
        ),
        ([split(python("rf"), {})], "spec.steps[0].split.variants[1].model.source"),
        ([shadow({}, python("rf"))], "spec.steps[0].shadow.champion.model.source"),
        (
            [shadow(python("x"), python("y"), {})],
            "spec.steps[0].shadow.challengers[1].model.source",
        ),
    ],
)
def test_a_model_that_cannot_be_resolved_is_named_by_its_place(
    steps: list[dict[str, Any]], place: str
) -> None:
    """Step, model, and the field of the manifest."""

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: {"name": "local", "source": {"uri": "rf.onnx"}}
                if key == "model" and not each
                else filled(each)
                for key, each in value.items()
            }
        return [filled(each) for each in value] if isinstance(value, list) else value

    with pytest.raises(Unresolved) as said:
        resolved(*filled(steps))

    assert said.value.reason == "SourceIsLocal"
    step = steps[-1]["name"]
    assert str(said.value).startswith(
        f"step {step!r}, model 'local' ({place}): 'rf.onnx' is a path"
    )


def test_the_first_model_that_fails_is_told() -> None:
    """In the order of the manifest, however many there are and whichever is known first."""
    models = [{"name": f"m{n}", "source": {"uri": f"m{n}.onnx"}} for n in range(12)]
    with pytest.raises(Unresolved, match=r"model 'm0' \(spec\.steps\[0\]\.split\.variants\[0\]"):
        resolved(split(*models))


def test_code_that_is_not_what_was_promised_is_refused() -> None:
    """`sha256` holds for code in the manifest, too."""
    right = hashlib.sha256(CODE.encode()).hexdigest()
    assert resolved({"name": "prepare", "model": python("pre", sha256=right)})

    with pytest.raises(Unresolved) as said:
        resolved({"name": "prepare", "model": python("pre", sha256="b" * 64)})
    assert (said.value.reason, said.value.transient) == ("DigestMismatch", False)
    assert f"inline has sha256 {right}, and spec.steps[0].model.sha256 promises" in str(said.value)


def test_secrets_of_all_models_are_found_with_the_first_place_that_needs_them() -> None:
    """A variant or a challenger has a login of its own."""

    def private(name: str, secret: str) -> dict[str, Any]:
        uri = f"oci://registry.example.com/{name}:1"
        return {"name": name, "source": {"uri": uri, "secretRef": {"name": secret}}}

    spec = PipelineSpec.read(
        {
            "steps": [
                split(private("a", "red"), private("b", "blue")),
                shadow(python("x"), private("c", "red"), private("d", "green")),
            ]
        }
    )
    assert secrets_of(spec) == {
        "blue": "step 'predict', model 'b' (spec.steps[0].split.variants[1].model.source)",
        "green": "step 'watch', model 'd' (spec.steps[1].shadow.challengers[1].model.source)",
        "red": "step 'predict', model 'a' (spec.steps[0].split.variants[0].model.source)",
    }


# A spec that does not validate


def look(spec: dict[str, Any]) -> Look:
    meta = {
        "name": OWNER.name,
        "namespace": OWNER.namespace,
        "uid": OWNER.uid,
        "generation": 1,
    }
    return Look.at({"metadata": meta, "spec": spec}, now=0.0, seen=0.0)


GOOD = {"name": "prepare", "model": python("pre")}
AROUND = {"deployment": {"replicas": 3}, "version": "", "tags": ["blue"]}


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (
            {"steps": [GOOD], "validations": [{"name": "high", "expression": "out.y <"}]},
            r"^spec\.validations\[0\]\.expression: column \d+: ",
        ),
        (
            {"steps": [GOOD], "validations": [{"name": "count", "failWhen": "out.y < 1"}]},
            r"^spec\.validations\[0\]\.name: 'count' is ",
        ),
        (
            {"steps": [split(python("a"), {"name": "b", "source": {}})]},
            r"^spec\.steps\[0\]\.split\.variants\[1\]\.model\.source: give exactly one of",
        ),
        (
            {"steps": [GOOD, GOOD]},
            r"^spec\.steps\[1\]: .*two entries named 'prepare'",
        ),
        (
            {"steps": [{"name": "new", "ensemble": {}}]},
            r"^spec\.steps\[0\]",
        ),
        ({"steps": []}, r"^spec\.steps: a pipeline that is deployed needs"),
    ],
)
def test_steps_that_break_a_rule_leave_the_rest_of_the_spec_as_it_is(
    spec: dict[str, Any], told: str
) -> None:
    """The API server cannot check every rule: the failure names the field, and the pods are looked after meanwhile."""
    read, failure = look({**AROUND, **spec}).spec()

    assert failure is not None
    assert (failure.reason, failure.transient) == ("InvalidSpec", False)
    assert re.search(told, failure.message), failure.message
    assert read is not None
    assert (read.steps, read.validations, read.deployed) == ([], [], True)
    assert (read.deployment.replicas, read.tags) == (3, ["blue"])


def test_an_undeployed_pipeline_with_bad_steps_stays_undeployed() -> None:
    """Whatever the steps say, pods are not started for them."""
    bad = {"name": "high", "expression": "("}
    read, _ = look({"steps": [GOOD], "validations": [bad], "deployed": False}).spec()
    assert read is not None
    assert read.deployed is False


def test_a_spec_whose_other_fields_cannot_be_read_is_no_spec() -> None:
    """A field that is newer than this operator may mean anything."""
    read, failure = look({"steps": [GOOD], "autoscale": {"max": 3}}).spec()
    assert read is None
    assert failure is not None
    assert failure.message == "spec.autoscale: this operator does not know the field; upgrade it"


def test_a_spec_that_validates_is_read_whole() -> None:
    """With all its steps, and no failure."""
    read, failure = look({"steps": [GOOD], **AROUND}).spec()
    assert failure is None
    assert read is not None
    assert [step.name for step in read.steps] == ["prepare"]
