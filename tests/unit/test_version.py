"""The version is derived from the content that changes answers, and from nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from midstream_api import version
from midstream_api.engineconfig import ResolvedModel, ResolvedStep, RevisionDocument
from midstream_api.model import DType, Framework, InputField, Missing, OutputField, Verify
from midstream_api.validation import Validation

GOLDEN = Path(__file__).parents[1] / "corpus" / "versions.json"
"""Documents with the digests that they had when they were first committed. They must never change."""

CASES: list[dict[str, Any]] = json.loads(GOLDEN.read_text(encoding="utf-8"))


def _model(**changes: Any) -> ResolvedModel:
    given = {
        "name": "rf",
        "uri": "file:///models/rf.onnx",
        "sha256": "a" * 64,
        "size": 100,
    }
    return ResolvedModel(**{**given, **changes})


def _version(*models: ResolvedModel, pipeline: str = "house-price") -> str:
    steps = [ResolvedStep(name=f"s{i}", model=model) for i, model in enumerate(models)]
    return version.version_of(pipeline, steps)


@pytest.mark.parametrize("case", CASES, ids=[case["about"] for case in CASES])
def test_golden_digests(case: dict[str, Any]) -> None:
    """Digest, version and revision of a document are for ever what they were when it was committed."""
    document = RevisionDocument.model_validate(case["document"])
    steps, validations = document.steps, document.validations
    assert version.digest(steps, validations) == case["digest"]
    assert version.version_of(document.pipeline, steps, validations) == case["version"]
    assert version.revision_id(document) == case["revision"]


def test_golden_documents_carry_their_own_version() -> None:
    """Each golden document is one that Midstream would write."""
    for case in CASES:
        assert case["document"]["version"] == case["version"]


_PRINT_VERSIONS = """
import json, sys
from midstream_api import version
from midstream_api.engineconfig import RevisionDocument
for case in json.load(open(sys.argv[1])):
    print(version.revision_id(RevisionDocument.model_validate(case["document"])), case["about"])
"""


@pytest.mark.parametrize("seed", ["0", "1", "random"])
def test_same_content_has_the_same_version_in_another_process_and_folder(
    tmp_path: Path, seed: str
) -> None:
    """Neither the hash seed, nor the locale, nor the working folder enters a digest."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONHASHSEED": seed,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "LC_ALL": "C",
        "PYTHONUTF8": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", _PRINT_VERSIONS, str(GOLDEN)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == [f"{case['revision']} {case['about']}" for case in CASES]


VERIFY = Verify(inputs=[{"x": [1.0]}], outputs=[{"y": [2.0]}])


@pytest.mark.parametrize(
    "changes",
    [
        {"uri": "https://models.example.com/other/folder/rf.onnx"},
        {"size": 101},
        {"verify": VERIFY},
        {"version": None},
        {"inputs": None},
    ],
    ids=["another address", "another size", "golden rows", "no version said", "no inputs said"],
)
def test_what_changes_no_answer_changes_no_version(changes: dict[str, Any]) -> None:
    """Where the bytes lie, how the model is judged, and defaults that are spelled out do not matter."""
    assert _version(_model(**changes)) == _version(_model())


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "rf-2"},
        {"version": "2"},
        {"sha256": "b" * 64},
        {"inputs": [InputField(name="tensor")]},
        {"inputs": [InputField(name="tensor", missing=Missing.ALLOW)]},
        {"inputs": [InputField(name="tensor", tensor="x")]},
    ],
    ids=["name", "version", "bytes", "input name", "missing values", "input tensor"],
)
def test_what_changes_answers_changes_the_version(changes: dict[str, Any]) -> None:
    """Equal bytes under another model name or version are a new version, and so are other inputs."""
    versions = {_version(_model()), _version(_model(**changes))}
    versions.add(_version(_model(inputs=[InputField(name="other")])))
    assert len(versions) == 3


def _code(**changes: Any) -> ResolvedModel:
    code = "def process(inputs): return inputs"
    given = {"uri": None, "inline": code, "framework": Framework.PYTHON}
    return _model(**{**given, **changes})


def test_code_has_one_version_wherever_it_stands() -> None:
    """Code that moves from the manifest to a file of the same bytes is the same pipeline."""
    assert _version(_code()) == _version(_code(inline=None, uri="file:///code.py"))
    assert _version(_code()) != _version(_model())


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": [InputField(name="x", dtype=DType.INT64)]},
        {"inputs": [InputField(name="x", dtype=DType.BOOL, shape=[3])]},
        {"outputs": [OutputField(name="y", dtype=DType.BOOL)]},
    ],
    ids=["input type", "input shape", "outputs"],
)
def test_what_code_declares_is_part_of_the_version(changes: dict[str, Any]) -> None:
    """It decides which requests are refused, and what callers see."""
    plain = _code(inputs=[InputField(name="x", dtype=DType.BOOL)])
    assert len({_version(_code()), _version(plain), _version(_code(**changes))}) == 3


SPLIT: dict[str, Any] = {
    "variants": [{"name": "a", "model": _model()}, {"name": "b", "model": _model(name="xgb")}]
}
SHADOW: dict[str, Any] = {
    "champion": {"name": "a", "model": _model()},
    "challengers": [{"name": "b", "model": _model(name="xgb")}],
}
KEY = {"key": "country", "options": {"DE": "a"}, "default": "b"}


def _kinds() -> dict[str, ResolvedStep]:
    def step(**kind: Any) -> ResolvedStep:
        return ResolvedStep.model_validate({"name": "s0", **kind})

    weighted = [{**SPLIT["variants"][0], "weight": 2}, SPLIT["variants"][1]]
    return {
        "model": step(model=_model()),
        "split": step(split=SPLIT),
        "other order": step(split={"variants": SPLIT["variants"][::-1]}),
        "weights": step(split={"variants": weighted}),
        "sticky": step(split={**SPLIT, "hash_key": "id"}),
        "by key": step(split={**SPLIT, **KEY}),
        "other option": step(split={**SPLIT, **KEY, "options": {"DE": "b"}}),
        "shadow": step(shadow=SHADOW),
        "waiting": step(shadow={**SHADOW, "wait": True}),
    }


def test_every_change_of_who_answers_is_a_version_of_its_own() -> None:
    """Kind of step, weights, order, keys and options decide which model answers which row."""
    versions = {about: version.version_of("p", [step]) for about, step in _kinds().items()}
    assert len(set(versions.values())) == len(versions)


def test_where_the_bytes_of_variants_lie_does_not_matter() -> None:
    """The models of splits and shadows are pinned by their digests, too."""
    elsewhere = {
        "variants": [
            {**each, "model": each["model"].model_copy(update={"uri": "https://models.example/x"})}
            for each in SPLIT["variants"]
        ]
    }
    other = ResolvedStep.model_validate({"name": "s0", "split": elsewhere})
    assert version.version_of("p", [other]) == version.version_of("p", [_kinds()["split"]])


_NAMES = (
    "model",
    "source",
    "split",
    "champion",
    "shadow",
    "variants",
    "uri",
    "inline",
    "size",
    "verify",
)
"""What users may call their own things, too."""


@pytest.mark.parametrize("name", _NAMES)
def test_users_may_call_things_as_the_manifest_does(name: str) -> None:
    """Values of a key, variants, fields and models are content by whatever name they go."""
    models = [
        _model(
            name=name, inputs=[InputField(name=name, missing=Missing.ALLOW)], uri=f"file:///{at}"
        )
        for at in ("here", "there")
    ]

    def step(model: ResolvedModel, option: str, variant: str) -> ResolvedStep:
        variants = [{"name": variant, "model": model}, {"name": "other", "model": _model()}]
        split = {
            "variants": variants,
            "key": name,
            "options": {option: variant},
            "default": "other",
        }
        return ResolvedStep.model_validate({"name": "s0", "split": split})

    told = [step(models[0], name, name), step(models[1], name, name)]
    told += [step(models[0], f"{name}s", name), step(models[0], name, f"{name}s")]
    versions = [version.version_of("p", [each]) for each in told]
    assert versions[0] == versions[1]
    assert len(set(versions)) == 3
    option = version.content([told[0]])["steps"][0]["split"]["options"]
    assert option == {name: name}


def test_no_place_of_bytes_is_content_in_any_kind_of_step() -> None:
    """Wherever a step has a model, its content names no address, size or golden rows."""
    for about, step in _kinds().items():
        told = step.model_dump(by_alias=True)
        models = len(step.models())
        assert str(told).count("file:///models/rf.onnx") == models, about
        (found,) = version.content([step])["steps"]
        text = version.canonical(found)
        assert text.count(b'"sha256"') == models, about
        for part in (b'"uri"', b'"inline"', b'"insecure"', b'"size"', b'"verify"'):
            assert part not in text, about


def test_validations_are_part_of_the_version() -> None:
    """What is said of answers is content; without validations the version is what it was before there were any."""
    steps = [_kinds()["model"]]
    high = Validation(name="high", expression="out.y[0] < 1")
    other = Validation(name="high", fail_when="out.y[0] < 1")
    versions = {version.version_of("p", steps, found) for found in ([], [high], [other])}
    assert len(versions) == 3
    assert version.version_of("p", steps, []) == version.version_of("p", steps)


def test_order_of_steps_matters() -> None:
    """The same models the other way round are another pipeline."""
    first, second = _model(name="a"), _model(name="b")
    assert _version(first, second) != _version(second, first)


def test_names_of_steps_matter() -> None:
    """Metrics and logs are bound to step names, so renaming a step is a change."""
    one = [ResolvedStep(name="predict", model=_model())]
    other = [ResolvedStep(name="guess", model=_model())]
    assert version.version_of("p", one) != version.version_of("p", other)


def test_pipeline_name_matters() -> None:
    """Two pipelines never share a version."""
    assert _version(_model(), pipeline="a") != _version(_model(), pipeline="b")


def test_order_of_keys_does_not_matter() -> None:
    """Equal content gives equal bytes."""
    assert version.canonical({"b": 1, "a": [{"d": 2, "c": 3}]}) == b'{"a":[{"c":3,"d":2}],"b":1}'


def test_texts_are_kept_as_they_are() -> None:
    """UTF-8, not escapes, so that other languages arrive at the same digest easily."""
    assert version.canonical({"name": "Zürich"}) == '{"name":"Zürich"}'.encode()


def test_what_json_cannot_hold_has_no_digest() -> None:
    """NaN has no canonical form."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        version.canonical({"x": float("nan")})


def test_golden_rows_make_a_new_revision_of_the_same_version() -> None:
    """An engine checks new golden rows although the answers stay the same."""
    documents = [
        RevisionDocument(
            pipeline="p",
            version=_version(model),
            steps=[ResolvedStep(name="s0", model=model)],
        )
        for model in (_model(), _model(verify=VERIFY))
    ]
    assert documents[0].version == documents[1].version
    assert version.revision_id(documents[0]) != version.revision_id(documents[1])
