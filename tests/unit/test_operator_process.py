"""Around the core: settings, events, health, numbers and logs."""

import asyncio
import json
import logging
from typing import Any

import aiohttp
import pytest

from kit import virtual
from midstream_api.status import RolloutStatus, Stage, StageTimes
from midstream_operator import logs, settings
from midstream_operator.errors import ClusterError
from midstream_operator.events import BURST, REFILL_SECONDS, REPEAT_SECONDS, Board, Events
from midstream_operator.health import Health
from midstream_operator.metrics import CONTENT_TYPE, Metrics
from midstream_operator.observed import Object

IMAGES = {"ENGINE_IMAGE": "registry/engine:1", "ENGINE_LB_IMAGE": "registry/lb:1"}


def test_settings_come_from_the_environment_and_arguments_win() -> None:
    """A chart sets variables; a person at a shell gives arguments."""
    read = settings.read(
        ["--engine-image", "mine", "--workers", "3", "--namespace", "a", "--namespace", "b"],
        {
            **IMAGES,
            "NAMESPACES": "c",
            "PORT": "9000",
            "IMAGE_PULL_POLICY": "Never",
            "JSON_LOGS": "1",
        },
    )
    assert (read.engine_image, read.engine_lb_image) == ("mine", "registry/lb:1")
    assert (read.namespaces, read.workers, read.port) == (("a", "b"), 3, 9000)
    assert (read.pull_policy, read.json_logs) == ("Never", True)


def test_without_namespaces_all_are_looked_after() -> None:
    """An empty variable, as a chart leaves it, is none."""
    read = settings.read([], {**IMAGES, "NAMESPACES": " , "})
    assert read.namespaces == ()
    assert read.size_limit == 2 << 30


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        ([], {}, "ENGINE_IMAGE is required"),
        (["--workers", "0"], IMAGES, "0 is not a positive number"),
        ([], {**IMAGES, "PORT": "http"}, "--port: invalid"),
        ([], {**IMAGES, "IMAGE_PULL_POLICY": "Sometimes"}, "'Sometimes'"),
    ],
)
def test_settings_that_cannot_be_used_are_named(
    arguments: list[str],
    environment: dict[str, str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The process ends with a sentence before it touches anything."""
    with pytest.raises(SystemExit):
        settings.read(arguments, environment)
    assert said in capsys.readouterr().err


class Wall(Board):
    """Where events are posted to; refuses as told."""

    def __init__(self) -> None:
        self.posted: list[Object] = []
        self.repeats: list[Object] = []
        self.refusals: list[ClusterError] = []

    async def create(self, obj: Object) -> Object:
        if self.refusals:
            raise self.refusals.pop(0)
        self.posted.append(obj)
        return obj

    async def merge(self, kind: Any, namespace: str, name: str, patch: Object) -> Object:
        del kind, namespace, name
        self.repeats.append(patch)
        return patch


def pipeline(generation: int = 1) -> Object:
    metadata = {"name": "one", "namespace": "here", "uid": "u", "generation": generation}
    return {"apiVersion": "midstream.dev/v1alpha1", "kind": "Pipeline", "metadata": metadata}


def posting(script: Any) -> tuple[Wall, list[str]]:
    """Run a script against events in virtual time; return what was posted and counted."""
    wall, counted = Wall(), list[str]()

    async def run() -> None:
        events = Events(wall, counted.append)
        poster = asyncio.create_task(events.run())
        await script(events, wall)
        await events.drain()
        poster.cancel()

    virtual.run(run())
    return wall, counted


def test_the_same_words_about_the_same_generation_are_one_event() -> None:
    """Told once; how often it happened is told now and then."""

    async def script(events: Events, _: Wall) -> None:
        for _round in range(10):
            events.post(pipeline(), "Warning", "Broken", "it is broken", "Rollout")
            await asyncio.sleep(REPEAT_SECONDS / 5)
        events.post(pipeline(2), "Warning", "Broken", "it is broken", "Rollout")

    wall, counted = posting(script)
    assert len(wall.posted) == 2
    assert [patch["series"]["count"] for patch in wall.repeats] == [6]
    assert counted.count("repeated") == 9


def test_a_pipeline_cannot_flood_its_namespace() -> None:
    """However many different things are said, only so many are posted; others are not held up by it."""

    async def script(events: Events, _: Wall) -> None:
        for number in range(BURST + 10):
            events.post(pipeline(), "Normal", "Said", f"number {number}", "Rollout")
        await asyncio.sleep(REFILL_SECONDS)
        events.post(pipeline(), "Normal", "Said", "later", "Rollout")

    wall, counted = posting(script)
    assert len(wall.posted) == BURST + 1
    assert counted.count("limited") == 10


def test_an_event_that_cannot_be_posted_is_lost_and_posted_anew_the_next_time() -> None:
    """A busy API server is asked again; one that refuses is not."""

    async def script(events: Events, wall: Wall) -> None:
        wall.refusals = [ClusterError(0, "Unreachable", "away"), ClusterError(503, "Busy", "busy")]
        events.post(pipeline(), "Normal", "Said", "after two attempts", "Rollout")
        await events.drain()
        wall.refusals = [ClusterError(403, "Forbidden", "not allowed")]
        for _round in range(2):
            events.post(pipeline(), "Normal", "Said", "in vain", "Rollout")
            await events.drain()

    wall, counted = posting(script)
    assert [event["note"] for event in wall.posted] == ["after two attempts", "in vain"]
    assert counted == ["posted", "lost", "posted"]


def test_health_is_what_the_checks_say() -> None:
    """Not ready from the first moment on, until it is told what to ask."""

    async def run() -> None:
        health, wrong = Health(lambda: b"numbers 1\n", CONTENT_TYPE), ["stuck: watch of pods"]
        port = await health.start("127.0.0.1", 0)

        async def ask(path: str) -> tuple[int, str]:
            async with session.get(path) as answer:
                return answer.status, await answer.text()

        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            assert await ask("/healthz") == (200, "ok\n")
            assert await ask("/readyz") == (503, "the operator is starting\n")
            health.watch([lambda: wrong[0] if wrong else None], [lambda: None])
            assert await ask("/healthz") == (503, "stuck: watch of pods\n")
            assert await ask("/readyz") == (200, "ok\n")
            wrong.clear()
            assert await ask("/healthz") == (200, "ok\n")
            assert await ask("/metrics") == (200, "numbers 1\n")
        await health.close()

    asyncio.run(run())


def test_a_swap_is_counted_with_the_time_of_each_stage() -> None:
    """The product reports its own service level."""
    numbers = Metrics()
    stages = StageTimes(
        seen="2026-11-21T14:05:09.000Z",
        warmed="2026-11-21T14:05:09.400Z",
        serving="2026-11-21T14:05:10.100Z",
    )
    numbers.swapped(RolloutStatus(stage=Stage.DONE, generation=1, stages=stages))
    numbers.gauge("waiting", "What waits", lambda: 7, kind="pods")
    text = numbers.expose().decode()
    assert 'midstream_swap_stage_seconds_sum{stage="serving"} 1.1' in text
    assert 'midstream_swap_stage_seconds_sum{stage="warmed"} 0.4' in text
    assert 'midstream_rollouts_total{result="done"} 1.0' in text
    assert 'midstream_waiting{kind="pods"} 7.0' in text


def test_logs_are_lines_of_text_or_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Each with what it is about; kopf's talk of every attempt is left out."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        for as_json in (False, True):
            logs.set_up(as_json=as_json)
            said = logging.getLogger("midstream_operator.main")
            said.warning("will be tried again: %s", "why", extra={"pipeline": "one"})
            logging.getLogger("kopf.activities").info("login succeeded")
            logging.getLogger("kopf.clients").error("Request attempt #1 failed; will retry: GET")
    finally:
        root.handlers, root.level = before
    text, line = capsys.readouterr().err.splitlines()
    assert text.endswith("WARNING will be tried again: why pipeline=one")
    told = json.loads(line)
    assert (told["level"], told["pipeline"]) == ("warning", "one")
    assert told["message"] == "will be tried again: why"
