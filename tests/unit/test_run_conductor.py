"""From wishes and reports to the config folder: the acting half of a rollout, without processes.

The workers are real ones that are never started; what they report is set by hand.
"""

import io
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kit import models
from midstream import manifest as manifests
from midstream import resolve
from midstream.run.child import Starter
from midstream.run.conductor import RETRY_SECONDS, Conductor, difference, names
from midstream.run.console import Console
from midstream.run.folder import ConfigFolder
from midstream.run.rollout import Death, Refusal
from midstream.run.wishes import Unusable, Wish
from midstream.run.worker import Launch, Worker
from midstream_artifacts.cache import Cache
from midstream_engine.revisions import source
from midstream_engine.revisions.marks import MARK_FILE

MANIFEST = """\
apiVersion: midstream.dev/v1alpha1
kind: Pipeline
metadata: {{name: {pipeline}}}
spec:
  steps:
  - name: predict
    model: {{name: {name}, source: {{uri: {name}.onnx}}}}
"""


class Stage:
    """A conductor with one worker whose reports the test writes."""

    def __init__(self, folder: Path, listener: socket.socket) -> None:
        self.folder = folder
        self.cache = Cache(folder / "cache")
        self.renewed = 0
        self.out = io.StringIO()
        launch = Launch(
            starter=Starter(),
            listener=listener,
            config=folder / "config",
            state=folder / "state",
            cache=folder / "cache",
            policy="availability",
            max_body=1,
            threads=1,
            memory_limit=1,
        )
        self.worker = Worker(0, launch, {}, lambda: None, lambda _death: None)
        self.mark = launch.folder(0) / MARK_FILE
        self.mark.parent.mkdir(parents=True)
        self.conductor = Conductor(
            ConfigFolder(folder / "config"),
            "uid",
            self.wish("one", 1.0).resolved,
            Console(self.out, json_lines=True),
            lambda _revision: None,
            self._renew,
        )
        self.conductor.workers = [self.worker]
        self.conductor.publish()
        self.conductor.turn(0.0)

    def _renew(self) -> None:
        self.renewed += 1

    def wish(self, name: str, factor: float, pipeline: str = "house-price") -> Wish:
        models.scaled(self.folder / f"{name}.onnx", factor)
        path = self.folder / f"{name}.yaml"
        path.write_text(MANIFEST.format(name=name, pipeline=pipeline))
        manifest = manifests.load(path)
        return Wish(resolve.resolve(manifest, self.cache), manifest, seen=0.0, resolve_ms=1.0)

    def obeys(self, state: str = "READY", refusal: Refusal | None = None) -> None:
        """Let the worker report that it has done what the folder says, or failed at the candidate."""
        wish = source.read(self.folder / "config").wish
        self.worker.status = {
            "uid": wish.uid,
            "sequence": wish.sequence,
            "serving": {"revision": wish.goal.serve, "version": "v"},
            "config": {"accepted": True, "reason": None, "message": None},
            "revisions": [
                {
                    "revision": revision,
                    "state": "READY" if revision == wish.goal.stable else state,
                    "prepared": False,
                    "reason": refusal.reason if refusal else None,
                    "message": refusal.message if refusal else None,
                    "transient": bool(refusal and refusal.transient),
                    "stages": {"built": 1.0},
                }
                for revision in wish.goal.hold
            ],
        }

    def goal(self) -> tuple[str, str, int]:
        """What the folder says: stable, served, and how many are held."""
        wish = source.read(self.folder / "config").wish
        return wish.goal.stable, wish.goal.serve, len(wish.goal.hold)

    def said(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.getvalue().splitlines()]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with socket.socket() as listener:
        yield Stage(tmp_path, listener)


def test_a_wish_is_prepared_then_served_then_stable(stage: Stage) -> None:
    """The folder goes through the three states, each only after the worker has confirmed the one before."""
    new = stage.wish("two", 2.0)
    one, two = stage.conductor.stable.revision, new.resolved.revision

    stage.conductor.want(new)
    stage.conductor.turn(1.0)
    assert stage.goal() == (one, one, 2)
    stage.conductor.turn(1.1)
    assert stage.goal() == (one, one, 2)
    stage.obeys()
    stage.conductor.turn(1.2)
    assert stage.goal() == (one, two, 2)
    stage.obeys()
    stage.conductor.turn(1.3)
    assert stage.goal() == (two, two, 1)
    assert not stage.conductor.restless

    assert [event["event"] for event in stage.said()] == ["swapped"]
    assert stage.conductor.sequence == 4
    assert stage.conductor.record is not None
    assert stage.conductor.record.report()["state"] == "Succeeded"


def test_a_failed_candidate_is_dropped_and_not_tried_again(stage: Stage) -> None:
    """After a permanent refusal the folder holds the stable revision alone, and time changes nothing."""
    one = stage.conductor.stable.revision
    stage.conductor.want(stage.wish("two", 2.0))
    stage.conductor.turn(1.0)
    stage.obeys("FAILED", Refusal("VerifyFailed", "row 0"))
    stage.conductor.turn(1.1)

    assert stage.goal() == (one, one, 1)
    stage.obeys()
    stage.conductor.turn(1.2)
    stage.conductor.turn(1e9)
    assert stage.goal() == (one, one, 1)
    assert (stage.renewed, stage.conductor.restless) == (0, False)
    assert [(event["event"], event["reason"]) for event in stage.said()] == [
        ("refused", "VerifyFailed")
    ]


def test_a_refusal_by_an_engine_is_told_at_its_line(stage: Stage) -> None:
    """File, line and field stand before what an engine says of a step, in the printed line and in the status."""
    stage.conductor.want(stage.wish("two", 2.0))
    stage.conductor.turn(1.0)
    stage.obeys("FAILED", Refusal("InvalidModel", "step 'predict', model 'two': is not ONNX"))
    stage.conductor.turn(1.1)

    text = (
        f"{stage.folder}/two.yaml:7:33: spec.steps[0].model.source.uri: "
        "step 'predict', model 'two': is not ONNX"
    )
    (refused,) = stage.said()
    assert refused["message"] == f"refused: InvalidModel: {text}"
    assert stage.conductor.record is not None
    assert stage.conductor.record.report()["message"] == text


def test_a_running_service_keeps_its_name(stage: Stage) -> None:
    """A manifest of another name is refused at its line before any worker is told, until the name is back."""
    sequence = stage.conductor.sequence
    stage.conductor.want(stage.wish("two", 2.0, pipeline="flat-price"))
    stage.conductor.turn(1.0)

    assert (stage.conductor.sequence, stage.conductor.accepted) == (sequence, False)
    (refused,) = stage.said()
    assert refused["reason"] == "PipelineRenamed"
    assert refused["message"] == (
        f"refused: PipelineRenamed: {stage.folder}/two.yaml:3:12: metadata.name: a running service keeps "
        "its name, 'house-price'; stop it and run the file to change it"
    )

    stage.conductor.want(stage.wish("two", 2.0))
    stage.conductor.turn(1.1)
    assert (stage.conductor.accepted, stage.goal()[2]) == (True, 2)


def test_a_model_that_is_only_renamed_is_known_by_its_name_before(stage: Stage) -> None:
    """Of a candidate's file that the stable revision has under another name alone, that name is told."""
    other, two = stage.wish("other", 1.0), stage.wish("two", 2.0)
    loaded = {
        "event": "loaded",
        "step": "predict",
        "model": "other",
        "revision": other.resolved.revision,
    }
    assert stage.conductor.called_before(loaded) is None, "there is no candidate"
    stage.conductor.want(other)
    stage.conductor.turn(1.0)
    assert stage.conductor.called_before(loaded) == "one"
    stage.conductor.want(two)
    stage.conductor.turn(1.1)
    assert stage.conductor.called_before(loaded) is None, "it is not the candidate any more"
    newest = {**loaded, "model": "two", "revision": two.resolved.revision}
    assert stage.conductor.called_before(newest) is None


def test_a_newer_wish_replaces_a_candidate_that_is_being_prepared(stage: Stage) -> None:
    """The first candidate is given up at once, and the newer one takes its place."""
    one = stage.conductor.stable.revision
    stage.conductor.want(stage.wish("two", 2.0))
    stage.conductor.turn(1.0)
    newer = stage.wish("three", 3.0)
    stage.conductor.want(newer)
    stage.conductor.turn(1.1)

    assert newer.resolved.revision in source.read(stage.folder / "config").wish.goal.hold
    assert stage.goal() == (one, one, 2)
    assert stage.conductor.outcomes["superseded"] == 1


def test_taking_a_change_back_gives_the_candidate_up(stage: Stage) -> None:
    """When the stable revision is wanted again, the candidate is dropped, and that is said."""
    first = stage.wish("one", 1.0)
    stage.conductor.want(stage.wish("two", 2.0))
    stage.conductor.turn(1.0)
    stage.conductor.want(first)
    stage.conductor.turn(1.1)

    assert stage.goal() == (first.resolved.revision, first.resolved.revision, 1)
    assert [event["event"] for event in stage.said()] == ["superseded"]


def test_a_wish_that_comes_during_the_activation_waits_for_its_end(stage: Stage) -> None:
    """At most two revisions are in the folder, so the newer one begins when the other has been promoted."""
    two, three = stage.wish("two", 2.0), stage.wish("three", 3.0)
    stage.conductor.want(two)
    stage.conductor.turn(1.0)
    stage.obeys()
    stage.conductor.turn(1.1)
    stage.conductor.want(three)
    stage.conductor.turn(1.2)
    assert stage.goal()[1] == two.resolved.revision
    stage.obeys()
    stage.conductor.turn(1.3)

    stable, serve, held = stage.goal()
    assert (stable, serve, held) == (two.resolved.revision, two.resolved.revision, 2)
    assert three.resolved.revision in source.read(stage.folder / "config").wish.goal.hold


def test_transient_failures_are_tried_again_with_growing_waits(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest is looked at again after each wait, the same trouble is told once, and a change starts over."""
    clock = 100.0
    monkeypatch.setattr("midstream.run.conductor.time.monotonic", lambda: clock)
    trouble = Unusable(Refusal("SourceUnreachable", "no answer", transient=True), ("no answer",))
    for number, wait in enumerate([*RETRY_SECONDS, RETRY_SECONDS[-1]]):
        stage.conductor.want(trouble)
        stage.conductor.turn(clock + wait - 0.001)
        assert stage.renewed == number
        clock += wait
        stage.conductor.turn(clock)
        assert stage.renewed == number + 1
    assert len(stage.said()) == 1

    before = stage.renewed
    stage.conductor.changed()
    stage.conductor.want(trouble)
    stage.conductor.turn(clock + RETRY_SECONDS[0])
    assert stage.renewed == before + 2
    assert len(stage.said()) == 2


def test_a_worker_killed_from_outside_may_try_the_candidate_once_more(stage: Stage) -> None:
    """The mark is deleted once for each rollout; the second time the candidate is refused, and remembered."""
    two = stage.wish("two", 2.0)
    killed = Death(0, 7, signal="SIGKILL", mark=two.resolved.revision)
    stage.conductor.want(two)
    stage.conductor.turn(1.0)
    stage.mark.write_text("{}")
    stage.conductor.died(killed, stage.worker)
    assert not stage.mark.exists()
    stage.mark.write_text("{}")
    stage.conductor.died(killed, stage.worker)
    assert stage.mark.exists()
    stage.obeys()
    stage.conductor.turn(1.1)

    stage.conductor.changed()
    stage.conductor.want(two)
    stage.conductor.turn(1.2)

    assert stage.goal()[2] == 1, "it is refused without being touched"
    assert [event["reason"] for event in stage.said()] == ["CandidateKilledEngine"] * 2


def test_a_folder_that_cannot_be_written_is_written_later(stage: Stage) -> None:
    """A full or vanished disk delays a rollout; it is told once and tried again."""
    config = stage.folder / "config"
    config.rename(stage.folder / "away")
    config.write_text("in the way")
    two = stage.wish("two", 2.0)
    stage.conductor.want(two)
    stage.conductor.turn(1.0)
    stage.conductor.turn(1.1)
    assert stage.conductor.restless
    config.unlink()
    stage.conductor.turn(1.2)

    assert stage.goal()[2] == 2
    assert [event["event"] for event in stage.said()] == ["config_unwritable"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text.replace("name: one", "name: two"), "one → two"),
        (lambda text: text.replace("one,", "one, version: '2',"), "one → one 2"),
        (lambda text: text.replace("one.onnx", "two.onnx"), "one: new file"),
        (
            lambda text: text.replace("{name: one,", "{name: one, inputs: [{name: x}],"),
            "predict: new inputs",
        ),
        (lambda text: text.replace("name: predict", "name: guess"), "steps predict → guess"),
        (lambda text: text + "    #\n", "the same models"),
        (
            lambda text: text.replace(
                "one.onnx}", "one.onnx}, verify: {inputs: [{x: 1}], outputs: [{z: 2}]}"
            ),
            "predict: new golden rows",
        ),
    ],
)
def test_a_swap_is_described_by_what_changes(
    tmp_path: Path, change: Callable[[str], str], expected: str
) -> None:
    """Names and versions where they differ, else what else is new."""
    models.scaled(tmp_path / "one.onnx", 1.0)
    models.scaled(tmp_path / "two.onnx", 2.0)
    found = []
    text = MANIFEST.format(name="one", pipeline="house-price")
    for number, each in enumerate((text, change(text))):
        path = tmp_path / f"{number}.yaml"
        path.write_text(each)
        found.append(resolve.resolve(manifests.load(path), Cache(tmp_path / "cache")))

    assert difference(*found) == expected


SPLIT = """\
apiVersion: midstream.dev/v1alpha1
kind: Pipeline
metadata: {name: house-price}
spec:
  steps:
  - name: prepare
    model: {name: clean, framework: Python, source: {inline: "def process(inputs): return inputs"}}
  - name: predict
    split:
      variants:
      - {name: control, weight: 2, model: {name: one, source: {uri: one.onnx}}}
      - {name: rival, weight: 1, model: {name: two, source: {uri: two.onnx}}}
  validations:
  - {name: high, failWhen: "out.variable[0] > 9.0"}
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("name: two, source: {uri: two.onnx}", "name: one, source: {uri: one.onnx}", "two → one"),
        ("source: {uri: two.onnx}", "source: {uri: one.onnx}", "two: new file"),
        ("return inputs", "return {}", "clean: new file"),
        ("weight: 1", "weight: 3", "predict: weights 2:3"),
        ("name: rival", "name: other", "predict (rival) is gone; predict (other): two is new"),
        (
            "> 9.0",
            "> 8.0",
            "validation high: failWhen is now 'out.variable[0] > 8.0'",
        ),
        ("name: high", "name: higher", "validation high is gone; validation higher is new"),
        (
            "weight: 1, model: {name: two",
            "weight: 3, model: {name: dos",
            "two → dos; predict: weights 2:3",
        ),
    ],
    ids=[
        "model",
        "file",
        "code",
        "weights",
        "variant",
        "validation",
        "validation's name",
        "two things",
    ],
)
def test_a_swap_of_variants_is_told_by_their_names(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    """Each variant is compared with the one of its name before; weights and validations count, too."""
    models.scaled(tmp_path / "one.onnx", 1.0)
    models.scaled(tmp_path / "two.onnx", 2.0)
    found = []
    for number, text in enumerate((SPLIT, SPLIT.replace(old, new))):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text)
        found.append(resolve.resolve(manifests.load(path), Cache(tmp_path / "cache")))

    assert difference(*found) == expected
    assert names(found[0]) == "clean, one, two"
