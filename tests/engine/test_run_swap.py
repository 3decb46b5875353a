"""`midstream run`: the manifest, or a model it names, changes; the running service follows."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kit import client, models
from kit.serving import Service, manifest_of, serving, version_in


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for the whole file, with two models beside its manifest: `one` says 18 and `two` 36."""
    folder = tmp_path_factory.mktemp("house-price")
    models.scaled(folder / "one.onnx", 1.0)
    models.scaled(folder / "two.onnx", 2.0)
    (folder / "pipeline.yaml").write_text(manifest(folder, "one"))
    with serving(folder / "pipeline.yaml") as service:
        service.wait_for("serving")
        yield service
        assert service.stop() == 0, service.heard()


@pytest.fixture
def service(running: Service, folder: Path) -> Service:
    """The service with the model `one`, whatever the test before left behind."""
    one = manifest(folder, "one")
    if not running.manifest.is_file() or running.manifest.read_text() != one:
        version = client.infer(running.port).version
        back = "no_change" if version == version_in(one, folder) else "swapped"
        running.wait_for(back, after=running.write(one))
    return running


@pytest.fixture
def folder(running: Service) -> Path:
    return running.manifest.parent


def manifest(folder: Path, name: str) -> str:
    return manifest_of((name, folder / f"{name}.onnx"))


def rewrite(path: Path, text: str) -> None:
    path.write_text(text)


def rewrite_slowly(path: Path, text: str) -> None:
    with path.open("w") as file:
        for character in text:
            file.write(character)
            file.flush()


def rename_over(path: Path, text: str) -> None:
    new = path.with_name("new.yaml")
    new.write_text(text)
    new.replace(path)


def remove_then_create(path: Path, text: str) -> None:
    path.unlink()
    path.write_text(text)


def swap_link(path: Path, text: str) -> None:
    target = path.with_name("elsewhere.yaml")
    target.write_text(text)
    new = path.with_name("new.yaml")
    new.symlink_to(target)
    new.replace(path)


@pytest.mark.parametrize(
    "save", [rewrite, rewrite_slowly, rename_over, remove_then_create, swap_link]
)
def test_saving_the_manifest_swaps(
    service: Service, folder: Path, save: Callable[[Path, str], None]
) -> None:
    """However an editor saves, the new model answers, and the answer names its version."""
    new = manifest(folder, "two")
    before = client.infer(service.port)
    heard = len(service.events)
    save(service.manifest, new)
    service.wait_for("swapped", after=heard, version=version_in(new, folder))
    after = client.infer(service.port)

    assert (before.outputs, after.outputs) == ([18.0], [36.0])
    assert after.version == version_in(new, folder) != before.version


def test_a_model_that_is_trained_anew_in_place_swaps(service: Service, folder: Path) -> None:
    """A local model file is watched like the manifest itself."""
    models.scaled(folder / "fresh.onnx", 3.0)
    service.wait_for("swapped", after=service.write(manifest(folder, "fresh")))
    before = client.infer(service.port)
    heard = len(service.events)
    models.scaled(folder / "fresh.onnx", 4.0)
    service.wait_for("swapped", after=heard)
    after = client.infer(service.port)

    assert (before.outputs, after.outputs) == ([54.0], [72.0])
    assert before.version != after.version


def test_a_change_that_changes_nothing_swaps_nothing(service: Service, folder: Path) -> None:
    """A comment more is no new revision; that is said once."""
    two = manifest(folder, "two")
    before = client.infer(service.port)
    heard = service.write(manifest(folder, "one") + "# a comment\n")
    service.wait_for("no_change", after=heard)
    during = client.infer(service.port)
    service.swap(two, version_in(two, folder))

    assert during.version == before.version
    said = [event["event"] for event in service.events[heard:]]
    assert (said.count("no_change"), said.count("swapped")) == (1, 1)


def test_swapping_back_gives_the_same_version_again(service: Service, folder: Path) -> None:
    """A, B, A: the third version is the first, and its loading is told again."""
    one, two = manifest(folder, "one"), manifest(folder, "two")
    first = client.infer(service.port)
    heard = len(service.events)
    service.swap(two, version_in(two, folder))
    service.swap(one, version_in(one, folder))
    last = client.infer(service.port)

    assert (last.version, last.outputs) == (first.version, first.outputs)
    loaded = [event for event in service.events[heard:] if event["event"] == "loaded"]
    assert [event["model"] for event in loaded] == ["two", "one"]


def broken_yaml(folder: Path) -> str:
    return manifest(folder, "one") + "  : :\n"


def unknown_field(folder: Path) -> str:
    return manifest(folder, "one").replace("metadata:", "metadatas:")


def missing_model(folder: Path) -> str:
    return manifest(folder, "nowhere")


def not_a_model(folder: Path) -> str:
    models.not_onnx(folder / "three.onnx")
    return manifest(folder, "three")


def fails_warm_up(folder: Path) -> str:
    models.fails_at_run(folder / "three.onnx")
    return manifest(folder, "three")


def other_outputs(folder: Path) -> str:
    models.two_outputs(folder / "three.onnx")
    return manifest(folder, "three")


def undeployed(folder: Path) -> str:
    return manifest(folder, "two") + "  deployed: false\n"


def pinned(folder: Path) -> str:
    return manifest(folder, "one") + f"  version: {version_in(manifest(folder, 'two'), folder)}\n"


def other_pipeline(folder: Path) -> str:
    return manifest(folder, "two").replace("name: house-price", "name: flat-price")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (other_pipeline, "PipelineRenamed"),
        (undeployed, "NotDeployed"),
        (pinned, "VersionNotHere"),
        (broken_yaml, "InvalidManifest"),
        (unknown_field, "InvalidManifest"),
        (missing_model, "SourceNotFound"),
        (not_a_model, "InvalidModel"),
        (fails_warm_up, "WarmupFailed"),
        (other_outputs, "SchemaChanged"),
    ],
)
def test_a_refused_change_leaves_the_old_version_serving(
    service: Service, folder: Path, change: Callable[[Path], str], reason: str
) -> None:
    """What cannot serve is refused with its reason, the old answers go on, and the next good change swaps."""
    two = manifest(folder, "two")
    before = client.infer(service.port)
    heard = service.write(change(folder))
    refused = service.events[service.wait_for("refused", after=heard)]
    during = client.infer(service.port)
    status = client.get(service.port, "/status").value
    swapped = service.write(two)
    service.wait_for("swapped", after=swapped, version=version_in(two, folder))
    after = client.infer(service.port)

    assert refused["reason"] == reason
    assert (during.version, during.outputs) == (before.version, before.outputs)
    assert (status["version"], status["ready"]) == (before.version, True)
    of_the_manifest = {"InvalidManifest", "NotDeployed", "PipelineRenamed", "VersionNotHere"}
    if reason in {*of_the_manifest, "SourceNotFound"}:
        assert status["manifest"]["accepted"] is False
        assert str(folder / "pipeline.yaml") in status["manifest"]["problems"][0]
    else:
        assert (status["rollout"]["state"], status["rollout"]["reason"]) == ("Refused", reason)
    assert after.outputs == [36.0]


def test_a_model_file_that_comes_later_is_taken_when_it_comes(
    service: Service, folder: Path
) -> None:
    """A manifest that names a file which is not there yet is refused, and taken once the file is there."""
    heard = service.write(manifest(folder, "later"))
    service.wait_for("refused", after=heard, reason="SourceNotFound")
    heard = len(service.events)
    models.scaled(folder / "later.onnx", 3.0)
    service.wait_for("swapped", after=heard)
    after = client.infer(service.port)

    assert after.outputs == [54.0]


def test_the_newest_of_many_changes_wins(service: Service, folder: Path) -> None:
    """Of changes that come faster than they can be rolled out, the last one ends up serving."""
    for number in range(3, 9):
        models.scaled(folder / f"m{number}.onnx", float(number))
    heard = len(service.events)
    for number in range(3, 9):
        service.write(manifest(folder, f"m{number}"))
    last = version_in(manifest(folder, "m8"), folder)
    service.wait_for("swapped", after=heard, version=last)
    after = client.infer(service.port)

    assert (after.version, after.outputs) == (last, [144.0])


def test_a_manifest_that_is_gone_changes_nothing(service: Service, folder: Path) -> None:
    """Deleting the manifest is refused as a change; the pipeline goes on, and a new manifest is taken."""
    before = client.infer(service.port)
    heard = len(service.events)
    service.manifest.unlink()
    service.wait_for("refused", after=heard, reason="InvalidManifest")
    during = client.infer(service.port)
    heard = service.write(manifest(folder, "two"))
    service.wait_for("swapped", after=heard)
    after = client.infer(service.port)

    assert during == before._replace(text=during.text)
    assert after.outputs == [36.0]


def test_replacing_one_step_of_two_loads_one_model(tmp_path: Path) -> None:
    """The step that stays keeps its session; only the new one is loaded."""
    half = ("half", models.elementwise(tmp_path / "half.onnx", 0.5, output_name="tensor"))
    chains = [
        manifest_of(half, ("one", models.scaled(tmp_path / "one.onnx", 1.0))),
        manifest_of(half, ("two", models.scaled(tmp_path / "two.onnx", 2.0))),
    ]
    (tmp_path / "pipeline.yaml").write_text(chains[0])
    with serving(tmp_path / "pipeline.yaml") as service:
        before = client.infer(service.port)
        heard = service.write(chains[1])
        service.wait_for("freed", after=service.wait_for("swapped", after=heard))
        after = client.infer(service.port)

    assert (before.outputs, after.outputs) == ([9.0], [18.0])
    loaded = [event for event in service.events[heard:] if event["event"] == "loaded"]
    assert {event["model"]: event["reused"] for event in loaded} == {"half": True, "two": False}


def test_code_that_runs_already_is_kept(tmp_path: Path) -> None:
    """A swap of the model behind it does not load the code again, and says so."""
    code = '\'def process(inputs): return {"tensor": inputs["tensor"]}\''
    for name, factor in (("one", 1.0), ("two", 2.0)):
        models.scaled(tmp_path / f"{name}.onnx", factor)
    text = manifest(tmp_path, "one")
    head, steps, model = text.partition("  steps:\n")
    double = f"  - name: same\n    model: {{name: same, framework: Python, source: {{inline: {code}}}}}\n"
    (tmp_path / "pipeline.yaml").write_text(f"{head}{steps}{double}{model}")
    with serving(tmp_path / "pipeline.yaml") as service:
        first = service.events[service.wait_for("loaded", model="same")]
        heard = service.write((tmp_path / "pipeline.yaml").read_text().replace("one", "two"))
        kept = service.events[service.wait_for("loaded", after=heard, model="same")]
        service.wait_for("swapped", after=heard)
    assert (first["reused"], kept["reused"]) == (False, True)
    assert kept["message"] == "kept same, which is loaded already"


def test_the_resource_policy_swaps_too(tmp_path: Path) -> None:
    """With the policy that never holds two revisions, the swap happens and nothing fails for good."""
    models.scaled(tmp_path / "one.onnx", 1.0)
    models.scaled(tmp_path / "two.onnx", 2.0)
    (tmp_path / "pipeline.yaml").write_text(manifest(tmp_path, "one"))
    two = manifest(tmp_path, "two")
    with serving(tmp_path / "pipeline.yaml", "--policy", "resource") as service:
        before = client.infer(service.port)
        heard = service.write(two)
        swapped = service.wait_for("swapped", after=heard, version=version_in(two, tmp_path))
        after = client.infer(service.port)

    assert (before.outputs, after.outputs) == ([18.0], [36.0])
    said = [event["event"] for event in service.events[heard:swapped]]
    assert said.index("freed") < said.index("loaded"), "the old one goes first"


def test_the_times_of_a_swap_are_in_the_status(service: Service, folder: Path) -> None:
    """Each stage of the last rollout is there, in milliseconds, and so it is in the metrics."""
    two = manifest(folder, "two")
    swap = service.swap(two, version_in(two, folder))
    found = client.get(service.port, "/status").value["rollout"]["stages"]
    metrics = client.get(service.port, "/metrics").text

    assert found.keys() >= {"resolved", "fetched", "hashed", "built", "warmed", "prepared"}
    assert found.keys() >= {"activated", "total", "freed"}
    assert found["total"] >= found["prepared"] + found["activated"]
    assert swap.swapped["ms"] == pytest.approx(found["total"])
    assert 'midstream_rollouts_total{outcome="succeeded"}' in metrics
    assert 'midstream_rollout_stage_seconds{stage="total"}' in metrics
