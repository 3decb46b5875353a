"""What a plan says, worked out from what was observed."""

from pathlib import Path
from typing import Any

import pytest

from midstream import observe, plan, problems
from midstream.observe import Running, Schema
from midstream.resolve import Resolved, StepModel
from midstream_api import version
from midstream_api.engineconfig import ResolvedModel, ResolvedStep, RevisionDocument
from midstream_api.model import InputField, Missing

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
    document = RevisionDocument(
        pipeline="house-price", version=version.version_of("house-price", steps), steps=steps
    )
    return Resolved(
        document,
        version.revision_id(document),
        allow,
        tuple(
            StepModel(step.name, step.model, Path(f"/cache/{step.model.sha256}"), from_cache=False)
            for step in steps
        ),
    )


def _running(resolved: Resolved, schema: Schema = SCHEMA, pipeline: str = "house-price") -> Running:
    models = [
        {
            "step": one.step,
            "name": one.model.name,
            "version": one.model.version,
            "sha256": one.model.sha256,
        }
        for one in resolved.models
    ]
    return Running(
        pipeline, resolved.version, resolved.revision, models, schema.inputs, schema.outputs
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
            ["the same models; inputs, golden rows or sources differ"],
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
    resolved = _resolved(*models)
    paths = [str(one.path) for one in resolved.models]
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
        assert [field["name"] for field in schema.inputs] == ["a", "b"]


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
