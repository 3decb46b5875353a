"""What a plan says, worked out from what was observed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from midstream import observe, plan, problems
from midstream.models import path
from midstream.observe import Running, Schema
from midstream.resolve import Resolved, StepModel
from midstream_api import version
from midstream_api.engineconfig import ResolvedModel, ResolvedStep, RevisionDocument
from midstream_api.model import DType, Framework, InputField, Missing, OutputField

TENSOR = {"name": "tensor", "dtype": "float32", "shape": [18]}
VARIABLE = {"name": "variable", "dtype": "float32", "shape": [1]}
SCHEMA = Schema([TENSOR], [VARIABLE])


def _model(name: str, **fields: Any) -> ResolvedModel:
    sha256 = f"{sum(name.encode()):064x}"
    return ResolvedModel(
        **{
            "name": name,
            "uri": f"file:///{name}.onnx",
            "sha256": sha256,
            "size": 2_000_000,
            **fields,
        }
    )


def _resolved(*models: ResolvedModel, names: str = "ab", allow: bool = False) -> Resolved:
    steps = [ResolvedStep(name=name, model=each) for name, each in zip(names, models, strict=False)]
    return replace(_of_steps(*steps), allow_schema_change=allow)


def _of_steps(*steps: ResolvedStep) -> Resolved:
    document = RevisionDocument(
        pipeline="house-price",
        version=version.version_of("house-price", steps),
        steps=list(steps),
    )
    found = tuple(
        StepModel(
            step=step.name,
            variant=placed.variant,
            at=path(index, placed.place),
            model=placed.model,
            path=Path(f"/cache/{placed.model.sha256}") if placed.model.inline is None else None,
            from_cache=False,
        )
        for index, step in enumerate(steps)
        for placed in step.models()
    )
    return Resolved(
        document, version.revision_id(document), allow_schema_change=False, models=found
    )


def _running(resolved: Resolved, schema: Schema = SCHEMA, pipeline: str = "house-price") -> Running:
    models = [
        {
            "step": one.step,
            "variant": one.variant,
            "name": one.model.name,
            "version": one.model.version,
            "sha256": one.model.sha256,
        }
        for one in resolved.models
    ]
    return Running(
        pipeline,
        resolved.version,
        resolved.revision,
        models,
        schema.inputs or [],
        schema.outputs or [],
    )


RF, GBR, PREPARE = _model("rf"), _model("gbr"), _model("prepare")


def test_nothing_running_means_a_start() -> None:
    """All models would be loaded; one file in two steps is loaded once."""
    assert plan.judge(_resolved(RF, GBR), SCHEMA, None) == plan.Verdict("start", loads=2)
    assert plan.judge(_resolved(RF, RF), SCHEMA, None) == plan.Verdict("start", loads=1)


def test_another_pipeline_running_is_not_compared_with() -> None:
    """A plan against the engine of another pipeline is a plan for a start."""
    running = _running(_resolved(RF), pipeline="other")
    assert plan.judge(_resolved(GBR), SCHEMA, running).action == "start"


def test_same_revision_changes_nothing() -> None:
    """Applying what runs already does nothing."""
    assert plan.judge(_resolved(RF), SCHEMA, _running(_resolved(RF))) == plan.Verdict("nothing")


def test_one_replaced_model_of_two_is_one_load() -> None:
    """Only what is new is loaded, and the sentences name the step."""
    before, after = _resolved(PREPARE, RF), _resolved(PREPARE, GBR)
    verdict = plan.judge(after, SCHEMA, _running(before))
    assert (verdict.action, verdict.loads, verdict.schema_changes) == ("swap", 1, [])
    assert verdict.changes == [
        "step b: model rf becomes gbr",
        f"step b: the bytes change, {RF.sha256[:12]}… becomes {GBR.sha256[:12]}…",
    ]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (_resolved(RF), _resolved(_model("rf", version="2")), ["step a: model rf becomes rf 2"]),
        (_resolved(RF), _resolved(RF, GBR), ["step b is new (model gbr)"]),
        (_resolved(RF, GBR), _resolved(RF), ["step b is gone (model gbr)"]),
        (
            _resolved(RF, GBR),
            _resolved(GBR, RF, names="ba"),
            ["the order of the steps becomes b, a"],
        ),
        (
            _resolved(RF),
            _resolved(_model("rf", inputs=[InputField(name="x")])),
            ["the same models; inputs, weights, validations, golden rows or sources differ"],
        ),
    ],
    ids=["version", "new step", "gone step", "order", "inputs"],
)
def test_changes_are_sentences(before: Resolved, after: Resolved, said: list[str]) -> None:
    """Each kind of change has words of its own."""
    assert plan.changed_steps(_running(before).models, after) == said


def test_change_of_outputs_is_refused_unless_allowed() -> None:
    """A swap that callers would notice needs spec.rollout.allowSchemaChange."""
    running = _running(_resolved(RF))
    other = Schema([TENSOR], [{**VARIABLE, "dtype": "float64"}])
    refused = plan.judge(_resolved(GBR), other, running)
    allowed = plan.judge(_resolved(GBR, allow=True), other, running)
    said = ["output 'variable' (float32[1]) becomes 'variable' (float64[1])"]
    assert (refused.action, refused.schema_changes) == ("refused", said)
    assert (allowed.action, allowed.schema_changes) == ("swap", said)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ([TENSOR], [TENSOR], []),
        ([TENSOR], [{**TENSOR, "shape": [None]}], []),
        ([TENSOR, VARIABLE], [VARIABLE, TENSOR], []),
        (
            [TENSOR],
            [{**TENSOR, "name": "house"}],
            ["input 'tensor' (float32[18]) is gone", "input 'house' (float32[18]) is new"],
        ),
        (
            [TENSOR],
            [{**TENSOR, "shape": [None, 17]}],
            ["input 'tensor' (float32[18]) becomes 'tensor' (float32[?, 17])"],
        ),
        (
            [TENSOR],
            [{**TENSOR, "shape": []}],
            ["input 'tensor' (float32[18]) becomes 'tensor' (float32)"],
        ),
    ],
    ids=["equal", "unknown length", "other order", "other name", "other shape", "no shape"],
)
def test_differences_are_what_callers_notice(
    before: observe.Fields, after: observe.Fields, said: list[str]
) -> None:
    """Names, types and known lengths; requests go by name, so the order is not seen."""
    assert plan.differences(before, after, "input") == said


def _composed(
    *models: ResolvedModel, reports: list[dict[str, Any]]
) -> tuple[observe.Schema, list[tuple[str, str]]]:
    """The schema, and each fault as the field that it is told at and its sentence."""
    return _composed_of(_resolved(*models), reports)


def _composed_of(
    resolved: Resolved, reports: list[dict[str, Any]]
) -> tuple[observe.Schema, list[tuple[str, str]]]:
    opened = [one for one in resolved.models if one.model.framework is Framework.ONNX]
    paths = [str(one.path) for one in opened]
    schema, faults = observe.compose(resolved, dict(zip(paths, reports, strict=True)))
    return schema, [(problems.dotted(one.at), one.message) for one in faults]


def test_pipeline_takes_what_its_first_step_takes_and_gives_what_its_last_gives() -> None:
    """Inputs have the names that callers use."""
    first = _model("prepare", inputs=[InputField(name="house")])
    schema, faults = _composed(
        first,
        RF,
        reports=[
            {"inputs": [{**TENSOR, "name": "float_input"}], "outputs": [TENSOR]},
            {"inputs": [TENSOR], "outputs": [VARIABLE]},
        ],
    )
    assert faults == []
    assert schema == Schema([{**TENSOR, "name": "house"}], [VARIABLE])


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (None, []),
        ([InputField(name="a"), InputField(name="b")], []),
        ([InputField(name="b", tensor="y"), InputField(name="a", tensor="x")], []),
        (
            [InputField(name="a")],
            ["step a: inputs lists 1 names, the model has 2: 'x' (float32[1]), 'y' (float32[1])"],
        ),
        (
            [InputField(name="a", tensor="z"), InputField(name="b")],
            [
                "step a: inputs names the tensor 'z', the model has 'x' (float32[1]), 'y' (float32[1])"
            ],
        ),
        (
            [InputField(name="a", tensor="y"), InputField(name="b")],
            ["step a: inputs has two entries for the model's 'y'"],
        ),
    ],
)
def test_inputs_are_renamed_by_position_or_tensor(
    inputs: list[InputField] | None, said: list[str]
) -> None:
    """Names that do not fit the model are told before anything is applied."""
    x, y = {**VARIABLE, "name": "x"}, {**VARIABLE, "name": "y"}
    schema, faults = _composed(
        _model("rf", inputs=inputs), reports=[{"inputs": [x, y], "outputs": [VARIABLE]}]
    )
    assert faults == [("spec.steps[0].model.inputs", text) for text in said]
    if inputs is not None and not said:
        assert [field["name"] for field in schema.inputs or []] == ["a", "b"]


def test_steps_that_do_not_connect_are_told() -> None:
    """What a step takes must be what the step before it gives."""
    report = {"inputs": [TENSOR], "outputs": [VARIABLE]}
    _, faults = _composed(PREPARE, RF, reports=[report, report])
    text = "step b takes 'tensor' (float32[18]), the step before it gives 'variable' (float32[1])"
    assert faults == [("spec.steps[1]", text)]


def test_missing_values_need_a_float() -> None:
    """The engine would refuse it, so the plan says so."""
    whole = {"inputs": [{**TENSOR, "dtype": "int64"}], "outputs": [VARIABLE]}
    allowed = _model("rf", inputs=[InputField(name="tensor", missing=Missing.ALLOW)])
    _, faults = _composed(allowed, reports=[whole])
    text = "step a: input 'tensor' has `missing: Allow`, which needs a float; the model takes int64"
    assert faults == [("spec.steps[0].model.inputs", text)]


def test_model_that_cannot_be_loaded_is_told() -> None:
    """The engine's own words are repeated, with the step, where its file is named."""
    _, faults = _composed(RF, reports=[{"error": "is not ONNX"}])
    assert faults == [("spec.steps[0].model.source.uri", "step a: is not ONNX")]


def _split(*variants: tuple[str, ResolvedModel], name: str = "b") -> ResolvedStep:
    each = [{"name": variant, "model": model} for variant, model in variants]
    return ResolvedStep.model_validate({"name": name, "split": {"variants": each}})


def _shadow(champion: ResolvedModel, challenger: ResolvedModel, name: str = "b") -> ResolvedStep:
    return ResolvedStep.model_validate(
        {
            "name": name,
            "shadow": {
                "champion": {"name": "first", "model": champion},
                "challengers": [{"name": "second", "model": challenger}],
            },
        }
    )


def _code(name: str, inline: str = "def process(inputs): ...", **fields: Any) -> ResolvedModel:
    return _model(name, uri=None, inline=inline, framework=Framework.PYTHON, **fields)


def test_changes_of_variants_name_them() -> None:
    """A variant is compared with the one of its name; a step that becomes a split has new models."""
    plain = _of_steps(ResolvedStep(name="b", model=RF))
    split = _of_steps(_split(("control", RF), ("rival", GBR)))
    swapped = _of_steps(_split(("control", RF), ("rival", PREPARE)))
    assert plan.changed_steps(_running(split).models, swapped) == [
        "step b (rival): model gbr becomes prepare",
        f"step b (rival): the bytes change, {GBR.sha256[:12]}… becomes {PREPARE.sha256[:12]}…",
    ]
    assert plan.changed_steps(_running(plain).models, split) == [
        "step b is gone (model rf)",
        "step b (control) is new (model rf)",
        "step b (rival) is new (model gbr)",
    ]


def test_variants_that_answer_differently_are_told() -> None:
    """Nobody behind a split knows who answered, so all variants give the same."""
    resolved = _of_steps(_split(("control", RF), ("rival", GBR)))
    report = {"inputs": [TENSOR], "outputs": [VARIABLE]}
    other = {**report, "outputs": [{**VARIABLE, "dtype": "float64"}]}
    schema, faults = _composed_of(resolved, [report, report])
    assert (schema, faults) == (SCHEMA, [])
    _, faults = _composed_of(resolved, [report, other])
    text = "step b (rival) gives 'variable' (float64[1]), the first variant gives 'variable' (float32[1])"
    assert faults == [("spec.steps[0].split.variants[1].model", text)]


def test_challengers_may_answer_differently() -> None:
    """What a shadow gives is what its champion gives."""
    report = {"inputs": [TENSOR], "outputs": [VARIABLE]}
    other = {**report, "outputs": [{**VARIABLE, "name": "other"}]}
    schema, faults = _composed_of(_of_steps(_shadow(RF, GBR)), [report, other])
    assert (schema, faults) == (SCHEMA, [])


def test_each_variant_must_fit_the_step_before() -> None:
    """The field that leads to it is that of the variant's own model."""
    steps = [ResolvedStep(name="a", model=PREPARE), _shadow(RF, GBR)]
    before = {"inputs": [TENSOR], "outputs": [TENSOR]}
    report = {"inputs": [TENSOR], "outputs": [VARIABLE]}
    odd = {**report, "inputs": [VARIABLE]}
    _, faults = _composed_of(_of_steps(*steps), [before, report, odd])
    text = "step b (second) takes 'variable' (float32[1]), the step before it gives 'tensor' (float32[18])"
    assert faults == [("spec.steps[1].shadow.challengers[0].model", text)]


def test_undeclared_code_fits_everything() -> None:
    """What code takes and gives is known only when it runs, unless the manifest says it."""
    report = {"inputs": [TENSOR], "outputs": [VARIABLE]}
    steps = [
        ResolvedStep(name="a", model=_code("pre")),
        ResolvedStep(name="b", model=RF),
        ResolvedStep(name="c", model=_code("post")),
    ]
    schema, faults = _composed_of(_of_steps(*steps), [report])
    assert (schema, faults) == (Schema(None, None), [])
    said = plan.describe(
        _of_steps(*steps), schema, "http://e", None, plan.Verdict("start", loads=3)
    )
    assert "  step a: pre, sha256 " in said[1]
    assert said[1].endswith(", in the manifest")
    assert said[4:6] == ["  takes what only running it tells", "  gives what only running it tells"]


def test_declared_code_is_held_to_its_word() -> None:
    """Declared names and types are checked as those of a model; what is not declared is any."""
    declared = _code(
        "pre",
        inputs=[
            InputField(name="house", dtype=DType.BOOL),
            InputField(name="rooms", dtype=DType.INT64, shape=[-1]),
        ],
        outputs=[OutputField(name="tensor", dtype=DType.FLOAT32, shape=[17])],
    )
    steps = ResolvedStep(name="a", model=declared), ResolvedStep(name="b", model=RF)
    schema, faults = _composed_of(_of_steps(*steps), [{"inputs": [TENSOR], "outputs": [VARIABLE]}])
    assert observe.list_fields(schema.inputs or []) == "'house' (bool), 'rooms' (int64[?])"
    text = "step b takes 'tensor' (float32[18]), the step before it gives 'tensor' (float32[17])"
    assert faults == [("spec.steps[1]", text)]


def test_code_that_is_no_python_is_told() -> None:
    """At the field that holds it, with the line in the code."""
    broken = _code("pre", inline="def process(inputs):\n  return {\n")
    _, faults = _composed_of(_of_steps(ResolvedStep(name="a", model=broken)), [])
    text = "step a: the code, line 2: not Python: '{' was never closed"
    assert faults == [("spec.steps[0].model.source.inline", text)]


def test_plan_reads_as_a_story() -> None:
    """What there is, what runs, what changes, and what would happen."""
    after = _resolved(GBR)
    running = _running(_resolved(RF))
    verdict = plan.judge(after, SCHEMA, running)
    assert plan.describe(after, SCHEMA, "http://127.0.0.1:8080", running, verdict) == [
        f"pipeline house-price, version {after.version}",
        f"  step a: gbr, sha256 {GBR.sha256[:12]}…, 2.0 MB, fetched",
        "  takes 'tensor' (float32[18])",
        "  gives 'variable' (float32[1])",
        f"http://127.0.0.1:8080 serves version {running.version}",
        "  step a: model rf becomes gbr",
        f"  step a: the bytes change, {RF.sha256[:12]}… becomes {GBR.sha256[:12]}…",
        "applying it would load 1 model and swap while requests go on",
    ]


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (plan.Verdict("nothing"), "applying it would change nothing"),
        (plan.Verdict("start", loads=2), "running it would load 2 models"),
        (
            plan.Verdict("refused", problems=["x"]),
            "applying it would be refused: house-price cannot be loaded",
        ),
        (
            plan.Verdict("refused", [], ["x"]),
            "applying it would be refused; spec.rollout.allowSchemaChange: true allows it",
        ),
    ],
)
def test_plan_ends_with_what_would_happen(verdict: plan.Verdict, said: str) -> None:
    """The last line is the answer."""
    assert plan.describe(_resolved(RF), SCHEMA, "http://engine", None, verdict)[-1] == said
