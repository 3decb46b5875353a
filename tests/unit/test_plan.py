"""What a plan says, worked out from what was observed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from midstream import blame, observe, plan, problems
from midstream.models import path
from midstream.observe import Running, Schema
from midstream.resolve import Resolved, StepModel
from midstream_api import version
from midstream_api.engineconfig import ResolvedModel, ResolvedStep, RevisionDocument
from midstream_api.model import Framework, InputField
from midstream_api.validation import Validation

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
        schema.inputs,
        schema.outputs,
        schema.optional,
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
        (_resolved(RF), _resolved(_model("rf", inputs=[InputField(name="x")])), []),
    ],
    ids=["version", "new step", "gone step", "order", "inputs"],
)
def test_changes_are_sentences(before: Resolved, after: Resolved, said: list[str]) -> None:
    """Each kind of change of models has words of its own."""
    assert plan.changed_steps(_running(before).models, after) == said


def test_what_changes_beside_the_models_is_named() -> None:
    """A service that lists its steps is compared with field by field; it is said when no answer changes."""
    after = _resolved(_model("rf", inputs=[InputField(name="x")]))
    running = replace(_running(_resolved(RF)), content=_resolved(RF).content())
    assert plan.judge(after, SCHEMA, running).changes == ["step a: new inputs"]
    moved = _resolved(_model("rf", uri="file:///other.onnx"))
    assert plan.judge(moved, SCHEMA, running).changes == [
        "golden rows or sources differ, and nothing that changes an answer"
    ]


def test_an_engine_by_itself_cannot_say_what_differs_beside_the_models() -> None:
    """It lists its models alone, so the plan says what may differ, and only where nothing else is told."""
    running = _running(_resolved(RF))
    after = _resolved(_model("rf", inputs=[InputField(name="x")]))
    assert plan.rules(running, after) == [
        "the same models; inputs, splits or validations differ, which this engine does not list"
    ]
    assert plan.rules(running, _resolved(GBR)) == []


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


def test_what_only_running_tells_is_no_change() -> None:
    """Code that declares nothing is not compared with code that declares nothing."""
    running = _running(_resolved(RF), Schema([TENSOR], None))
    unknown = Schema([TENSOR], None)
    assert plan.judge(_resolved(GBR), unknown, running).schema_changes == []
    said = plan.describe(_resolved(GBR), unknown, "http://e", None, plan.Verdict("start"))
    assert said[2:4] == ["  takes 'tensor' (float32[18])", "  gives what only running it tells"]


def test_what_one_side_declares_is_a_change() -> None:
    """An engine refuses it, because nothing tells that callers would not notice."""
    running = _running(_resolved(RF), Schema(None, [VARIABLE]))
    verdict = plan.judge(_resolved(GBR), Schema([TENSOR], None), running)
    assert verdict.action == "refused"
    assert verdict.schema_changes == [
        "inputs were not declared, and are now: 'tensor' (float32[18])",
        "outputs 'variable' (float32[1]) were declared, and are not any more",
    ]


def test_a_field_that_only_a_split_looked_at_is_a_part_of_the_inputs() -> None:
    """Callers that send it would be refused; one that comes new they need not send."""
    sticky = Schema([TENSOR], [VARIABLE], ("customer",))
    running = _running(_resolved(RF), sticky)
    verdict = plan.judge(_resolved(GBR), Schema([TENSOR], [VARIABLE], ("session",)), running)
    assert verdict.action == "refused"
    assert verdict.schema_changes == ["input 'customer', which a split looked at, is gone"]
    assert plan.judge(_resolved(GBR), sticky, _running(_resolved(RF))).schema_changes == []


def test_code_in_the_manifest_is_not_fetched() -> None:
    """The line of a model says where its bytes come from."""
    resolved = _of_steps(ResolvedStep(name="a", model=_code("pre")))
    said = plan.describe(resolved, SCHEMA, "http://e", None, plan.Verdict("start", loads=1))
    assert said[1].endswith(", in the manifest")


@pytest.mark.parametrize(
    ("reason", "message", "field"),
    [
        ("InvalidModel", "step 'a', model 'rf': is not ONNX", "steps[0].model.source.uri"),
        ("InvalidCode", "step 'd', model 'pre': it raised", "steps[3].model.source.inline"),
        ("InvalidInputs", "step 'a', model 'rf': inputs lists 1", "steps[0].model.inputs"),
        ("VerifyFailed", "step 'a', model 'rf': golden row 0", "steps[0].model.verify"),
        ("VerifyFailed", "golden rows: step 'a': it failed", "steps[0].model.verify"),
        (
            "InvalidModel",
            "step 'b', variant 'rival', model 'gbr': is not ONNX",
            "steps[1].split.variants[1].model.source.uri",
        ),
        (
            "VariantsDiffer",
            "step 'b', variant 'rival' gives 'x', step 'b', variant 'control' gives 'y'",
            "steps[1].split.variants[1].model",
        ),
        ("FixedBatch", "step 'b': a split gives its variants some", "steps[1]"),
        ("InvalidOptions", "step 'b': the option '01' of", "steps[1].split.options"),
        ("NamesDoNotConnect", "step 'c' takes 'x', step 'b' before it gives 'y'", "steps[2]"),
        ("InvalidValidation", "validation 'low', column 3 of 'x': no", "validations[1].failWhen"),
    ],
)
def test_what_an_engine_says_is_told_at_the_field_it_speaks_of(
    reason: str, message: str, field: str
) -> None:
    """Step, variant and reason lead to the line of the manifest."""
    resolved = _of_steps(
        ResolvedStep(name="a", model=RF),
        _split(("control", RF), ("rival", GBR)),
        _shadow(RF, GBR, name="c"),
        ResolvedStep(name="d", model=_code("pre")),
    )
    checks = [
        Validation(name="high", expression="out.x[0] < 1"),
        Validation(name="low", fail_when="out.x[0] < 1"),
    ]
    document = resolved.document.model_copy(update={"validations": checks})
    at = blame.place(replace(resolved, document=document), reason, message)
    assert at is not None
    assert problems.dotted(at) == f"spec.{field}"


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
