"""The manager and what callers see: a swap that would change it is refused unless that is wanted."""

from pathlib import Path

from kit import models, pipelines
from kit.folder import document, model
from kit.live import live
from kit.story import scaled, story


@story
async def test_resource_preserving_refuses_a_schema_change_too(tmp_path: Path) -> None:
    """Callers know the revision that was unloaded a moment ago."""
    stable = scaled(tmp_path, 1)
    other = document(model(models.linear(tmp_path / "other.onnx", output_name="price")))
    async with live(tmp_path, "resource") as engine:
        engine.wish(stable)
        await engine.wait("serving", stable)
        engine.wish(stable, other)
        await engine.wait("refused", other, reason="SchemaChanged")
        await engine.wait("serving", stable)
        engine.wish(stable, other, allow_schema_change=True)
        await engine.wait("serving", other)


@story
async def test_allowing_a_schema_change_later_lets_the_refused_candidate_through(
    tmp_path: Path,
) -> None:
    """The candidate is the same revision as before; only the permission is new."""
    stable = scaled(tmp_path, 1)
    other = document(model(models.linear(tmp_path / "other.onnx", output_name="price")))
    async with live(tmp_path) as engine:
        engine.wish(stable)
        await engine.wait("serving", stable)
        engine.wish(stable, other)
        told = await engine.wait("refused", other, reason="SchemaChanged")
        assert "output 'variable' (float32[1]) is gone" in told["message"]
        assert "allowSchemaChange" in told["message"]
        engine.wish(stable, other, allow_schema_change=True)
        await engine.wait("serving", other)


@story
async def test_a_schema_that_is_not_declared_any_more_is_refused(tmp_path: Path) -> None:
    """And the other way round: nobody can tell that callers would not notice."""
    declared = scaled(tmp_path, 1)
    code = pipelines.python("def process(inputs): return inputs")
    unknown = pipelines.revision({"steps": [{"name": "predict", "model": code}]})
    async with live(tmp_path) as engine:
        engine.wish(declared)
        await engine.wait("serving", declared)
        engine.wish(declared, unknown)
        told = await engine.wait("refused", unknown, reason="SchemaChanged")
        assert (
            "outputs 'variable' (float32[1]) were declared, and are not any more"
            in (told["message"])
        )
        engine.wish(declared, unknown, allow_schema_change=True)
        await engine.wait("serving", unknown)
        engine.wish(unknown)
        await engine.wait("freed", declared)
        engine.wish(unknown, declared)
        told = await engine.wait("refused", declared, reason="SchemaChanged")
        assert "inputs were not declared, and are now: 'tensor' (float32[18])" in told["message"]
