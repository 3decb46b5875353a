"""One pipeline of each kind of step, and of each format, through the load balancer of a real cluster."""

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tritonclient.http as triton

from kit import models
from kit.cluster import kinds, kubectl
from kit.cluster.kinds import KEY, Priced, manifest, onnx, pushed, python
from kit.cluster.kubectl import Object
from kit.cluster.pods import PATH, Reply
from kit.cluster.shelf import Shelf
from kit.cluster.spaces import Space, condition

ARROW = "application/vnd.apache.arrow.file"
TWO: Object = {"replicas": 2}
SPLIT = Priced(weights={"control": 5, "challenger": 7})

Serve = Callable[..., Object]


@pytest.fixture
def serve(space: Space, shelf: Shelf, tmp_path: Path) -> Serve:
    """Push a manifest of local files, apply what was written, and wait until it serves; its object."""

    def served(steps: Sequence[Object], **spec: Any) -> Object:
        space.apply(pushed(shelf, tmp_path, manifest(steps, **{"deployment": TWO, **spec})))
        return space.until_ready()

    return served


def good(reply: Reply) -> list[dict[str, Any]]:
    """The rows of a good answer."""
    assert reply.status == 200, reply.text
    found: list[dict[str, Any]] = reply.value
    return found


def test_python_in_the_manifest_a_model_and_pushed_python_are_one_chain(
    space: Space, serve: Serve, tmp_path: Path
) -> None:
    """Data goes from step to step in every engine, and the status lists the processes of the Python models."""
    priced = Priced()
    seen = serve(priced.steps(tmp_path))

    for reply in space.answering(kinds.rows()):
        assert [row["out"]["price"] for row in good(reply)] == [
            priced.price(row, "control") for row in kinds.rows()
        ]
    assert (
        good(space.ask(kinds.rows()))[0]["metadata"]["pipeline_version"]
        == seen["status"]["version"]
    )
    assert seen["status"]["versions"][0]["steps"] == ["prepare", "times-5", "plus-1000"]
    listed = space.until(lambda each: each["status"].get("sidekickCount") == 4, "all sidekicks")
    sidekicks = listed["status"]["sidekicks"]
    ips = {pod["status"]["podIP"] for pod in space.pods()}
    assert {each["status"] for each in sidekicks} == {"Running"}
    assert {each["ip"] for each in sidekicks} == ips
    assert sorted(each["name"].split("-")[2] for each in sidekicks) == [
        "plus",
        "plus",
        "prepare",
        "prepare",
    ]
    for engine in listed["status"]["engines"]:
        assert [each["name"] for each in engine["modelStatuses"]["models"]] == [
            "prepare",
            "times-5",
            "plus-1000",
        ]


def test_a_split_is_sticky_by_key_whichever_engine_is_asked(
    space: Space, serve: Serve, tmp_path: Path
) -> None:
    """A key has the same variant in every engine and every time; a literal key in the header decides for a request."""
    serve(SPLIT.steps(tmp_path, hashKey=KEY))
    sent = kinds.keyed(32)
    answers = [good(reply) for _ in range(2) for reply in space.answering(sent)]
    answers.append(good(space.ask(sent)))

    chosen = [[row["metadata"]["variants"]["predict"] for row in answer] for answer in answers]
    assert len(answers) == 5
    assert all(each == chosen[0] for each in chosen)
    assert set(chosen[0]) == {"control", "challenger"}
    for row, variant, said in zip(sent, chosen[0], answers[0], strict=True):
        (named,) = map(json.loads, said["out"]["_model_split"])
        assert named["name"] == f"times-{SPLIT.weights[variant]}"
        assert said["out"]["price"] == SPLIT.price(row, variant)
    with kubectl.forwarded("house-price-engine-lb", 29502, space.name) as port:
        for key, variant in (("0.1", "control"), ("0.9", "challenger")):
            body = _curl(port, json.dumps(sent[:1]).encode(), {"x-midstream-split-key": key})
            (row,) = json.loads(body)
            assert row["metadata"]["variants"] == {"predict": variant}


def test_a_split_by_key_takes_the_variant_that_the_key_names(
    space: Space, serve: Serve, tmp_path: Path
) -> None:
    """Values that are not named, and rows without the key, go to the default."""
    options = {"s-1": "challenger", "s-2": "challenger"}
    serve(SPLIT.steps(tmp_path, key=KEY, options=options, default="control"))
    sent = [*kinds.keyed(4), {"house": [1.0, 2.0, 3.0, 4.0]}]

    found = [row["metadata"]["variants"]["predict"] for row in good(space.ask(sent))]

    assert found == ["control", "challenger", "challenger", "control", "control"]


@pytest.mark.parametrize("wait", [True, False])
def test_challengers_in_the_shadow_change_nothing_of_the_answer(
    space: Space, serve: Serve, tmp_path: Path, wait: bool
) -> None:
    """The champion answers, also where a challenger fails; with `wait` the others' outputs stand beside it."""
    champion, other = (models.scaled(tmp_path / f"t{n}.onnx", n, 4) for n in (5, 7))
    crash = "def process(inputs):\n    raise RuntimeError('never right')\n"
    inputs = [{"name": "tensor", "dtype": "float32", "shape": [4]}]
    shadow: Object = {
        "champion": {"name": "champion", "model": onnx(champion)},
        "challengers": [
            {"name": "steady", "model": onnx(other)},
            {
                "name": "broken",
                "model": python("crash", {"inline": crash}, inputs, "variable", [1]),
            },
        ],
        "wait": wait,
    }
    serve([{"name": "predict", "shadow": shadow}])
    sent = [{"tensor": row["house"]} for row in kinds.rows()]

    rows = good(space.ask(sent))

    assert [row["out"]["variable"] for row in rows] == [[5 * sum(row["tensor"])] for row in sent]
    if wait:
        steady = [row["out_steady"]["variable"] for row in rows]
        assert steady == [[7 * sum(row["tensor"])] for row in sent]
    else:
        assert not [name for row in rows for name in row if name.startswith("out_")]
    text = _metrics(space)
    assert 'challenger="steady"' in text or 'variant="steady"' in text


def test_validations_say_what_they_found(space: Space, serve: Serve, tmp_path: Path) -> None:
    """Count, flag and text of each failed check; no answer is held back."""
    priced = Priced()
    prices = [priced.price(row, "control") for row in kinds.rows()]
    limit = sorted(prices)[4]
    checks = [
        {"name": "too-high", "expression": f"out.price < {limit}"},
        {"name": "odd house", "failWhen": "in.house[0] > 100.0"},
    ]
    serve(priced.steps(tmp_path), validations=checks)

    rows = good(space.ask(kinds.rows()))

    assert [row["out"]["price"] for row in rows] == prices
    failed = [price >= limit for price in prices]
    assert [row["anomaly"]["too-high"] for row in rows] == failed
    assert [row["anomaly"]["count"] for row in rows] == [int(each) for each in failed]
    assert not any(row["anomaly"]["odd house"] for row in rows)
    assert [len(row["check_failures"]) for row in rows] == [int(each) for each in failed]
    assert "out.price" in json.dumps(rows[-1]["check_failures"])


# Formats


def test_arrow_by_curl_and_the_open_protocol_by_a_real_client(
    space: Space, serve: Serve, tmp_path: Path
) -> None:
    """Binary bodies go through the load balancer both ways, packed ones too, and agree with the answer in JSON."""
    priced = Priced()
    seen = serve(priced.steps(tmp_path))
    sent = kinds.rows()
    wanted = [priced.price(row, "control") for row in sent]
    houses = np.array([row["house"] for row in sent], np.float32)
    with kubectl.forwarded("house-price-engine-lb", 29502, space.name) as port:
        table = pa.table({"house": pa.array(houses.tolist(), pa.list_(pa.float32()))})
        arrow = {"content-type": ARROW, "accept": ARROW}
        for headers, body in (
            (arrow, _file(table)),
            (
                {**arrow, "content-encoding": "gzip"},
                pa.compress(_file(table), "gzip", asbytes=True),
            ),
        ):
            answer = pa.ipc.open_file(_curl(port, body, headers)).read_all().flatten()
            assert answer["out.price"].to_pylist() == wanted
            assert set(answer["metadata.pipeline_version"].to_pylist()) == {
                seen["status"]["version"]
            }

        client = triton.InferenceServerClient(f"127.0.0.1:{port}")
        try:
            assert client.is_server_live()
            assert client.is_server_ready()
            assert client.is_model_ready("house-price")
            told = client.get_model_metadata("house-price")
            assert [each["name"] for each in told["inputs"]] == ["house"]
            for binary in (True, False):
                given = triton.InferInput("house", list(houses.shape), "FP32")
                given.set_data_from_numpy(houses, binary_data=binary)
                asked = [triton.InferRequestedOutput("price", binary_data=binary)]
                result = client.infer("house-price", [given], outputs=asked)
                assert result.as_numpy("price").reshape(-1).tolist() == wanted
            version = seen["status"]["version"]
            assert (
                client.infer("house-price", [given], model_version=version).as_numpy("price").size
                == 8
            )
        finally:
            client.close()


# What cannot serve


def test_a_bad_expression_is_refused_with_its_place_and_what_serves_goes_on(
    space: Space, serve: Serve, tmp_path: Path
) -> None:
    """One that is no expression, which the API server cannot tell, and one whose field no step has."""
    priced = Priced()
    steps = priced.steps(tmp_path)
    serving = serve(steps)["status"]["version"]
    before = space.identities()
    written = space.get()["spec"]

    for expression, reason, place in (
        ("out.price <", "InvalidSpec", "spec.validations[0].expression"),
        ("out.nothing < 1.0", "InvalidValidation", "out.nothing"),
    ):
        checks = [{"name": "high", "expression": expression}]
        space.apply(manifest(written["steps"], deployment=TWO, validations=checks))
        seen = space.until_refused(reason)
        assert place in condition(seen, "Stalled")["message"]
        assert condition(seen, "Available")["status"] == "True"
        assert {reply.version for reply in space.answering(kinds.rows())} == {serving}
        assert space.identities() == before

    # While the steps cannot be read, the rest of the spec is obeyed.
    space.apply(
        manifest(
            written["steps"],
            deployment={"replicas": 1},
            validations=[{**checks[0], "expression": "("}],
        )
    )
    space.until_pods(lambda pods: len(pods) == 1, "one engine")
    space.apply(manifest(written["steps"], deployment={"replicas": 1}))
    assert space.until_ready(serving)


def test_code_that_does_not_fit_is_refused_and_as_much_as_fits_is_swapped(
    space: Space, serve: Serve, tmp_path: Path
) -> None:
    """Two revisions of nearly 400 KiB are in the ConfigMap together; a larger one is refused with size and limit."""
    priced = Priced()
    serve(priced.steps(tmp_path))
    before = space.identities()

    def apply(count: int, factor: int) -> None:
        """Steps of 63 KB of code that is nothing but quotes and lines: 126 KB as JSON, and more as JSON in JSON."""
        pad = '""\n' * 21_000
        code = f"def process(inputs):\n    return {{'house': inputs['house'] * {factor}}}\n"
        each = [
            {
                "name": f"step-{n}",
                "model": python(f"m{n}", {"inline": code + pad}, kinds.HOUSE, "house", [4]),
            }
            for n in range(count)
        ]
        document = manifest(each, deployment=TWO, rollout={"allowSchemaChange": True})
        arguments = ("apply", "--server-side", "--force-conflicts", "-n", space.name, "-f", "-")
        kubectl.kubectl(*arguments, stdin=kubectl.documents(document))

    for factor in (2, 1):
        apply(3, factor)
        space.until_ready()
        (row,) = good(space.ask(kinds.rows(1)))
        assert row["out"]["house"] == [factor**3 * each for each in kinds.rows(1)[0]["house"]]
    assert space.identities() == before

    apply(4, 3)
    seen = space.until_refused("ConfigTooLarge")
    said = condition(seen, "Stalled")["message"]
    assert "the limit is 409600" in said
    assert "midstream push" in said
    assert condition(seen, "Available")["status"] == "True"
    assert space.identities() == before


def _file(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _curl(port: int, body: bytes, headers: Mapping[str, str]) -> bytes:
    """Ask with the real curl."""
    given = {"content-type": "application/json", **headers}
    done = subprocess.run(
        [
            *("curl", "-sS", "--fail-with-body", "--data-binary", "@-"),
            *(part for name, value in given.items() for part in ("-H", f"{name}: {value}")),
            f"http://127.0.0.1:{port}{PATH}",
        ],
        input=body,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _metrics(space: Space) -> str:
    ips = [pod["status"]["podIP"] for pod in space.pods()]
    return "".join(reply.text for reply in space.load_pod.ask(ips, 8081, "/metrics"))
