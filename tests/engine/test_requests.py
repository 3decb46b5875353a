"""Requests to a real engine: what is taken, what is refused and how, and that nothing is left behind."""

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kit import models
from kit.engine import EngineProcess, Reply, engine
from kit.folder import ConfigFolder, document, model
from kit.raw import Raw, chunked, head, metric, post, raw
from kit.rounds import FOREVER, rounds

ROW = [float(number) for number in range(18)]
GOOD = [{"tensor": ROW}]
SUM = 153.0
MAX_BODY = 100_000


@contextmanager
def serving(folder: Path, path: Path, *options: str, **fields: Any) -> Iterator[EngineProcess]:
    """An engine that serves one model."""
    ConfigFolder(folder / "config").write(document(model(path, **fields)))
    with engine(folder, *options) as running:
        running.wait("serving")
        yield running


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """An engine with a model that sums 18 numbers, and a small limit for bodies."""
    folder = tmp_path_factory.mktemp("house")
    path = models.scaled(folder / "sum.onnx", 1)
    with serving(folder, path, "--max-body", str(MAX_BODY)) as running:
        yield running
        assert running.stop() == 0
        assert running.stderr == ""


@pytest.fixture
def untouched(house: EngineProcess) -> Iterator[EngineProcess]:
    """The engine, with a look before and after: the same bits, the same revision, nothing kept."""
    before = house.post(GOOD)
    assert before.status == 200
    yield house
    after = house.post(GOOD)
    assert (after.status, after.json()[0]["out"]) == (200, {"variable": [SUM]})
    assert after.headers["x-midstream-version"] == before.headers["x-midstream-version"]
    for gauge in ("buffered_bytes", "queued_batches", "waiting_requests"):
        assert metric(house, gauge) == 0


def refused(reply: Reply, status: int, reason: str) -> dict[str, Any]:
    """The body of a refusal, its common form checked."""
    said: dict[str, Any] = reply.json()
    assert (reply.status, said["reason"]) == (status, reason)
    assert reply.headers["content-type"] == "application/json"
    assert said["error"]
    assert said.keys() <= {"error", "reason", "field", "row"}
    return said


def body(*values: Any) -> bytes:
    return json.dumps([{"tensor": value} for value in values]).encode()


BAD: dict[str, tuple[bytes, str, str | None, int | None]] = {
    "an empty body": (b"", "EmptyBody", None, None),
    "half a body": (body(ROW)[:-5], "NotJSON", None, None),
    "no JSON": (b"tensor=1", "NotJSON", None, None),
    "deep nesting": (b"[" * 50_000, "NotJSON", None, None),
    "an object": (b'{"tensor":1}', "NotRecords", "tensor", None),
    "no rows": (b"[]", "NoRows", None, None),
    "rows that are lists": (json.dumps([ROW]).encode(), "NotRecords", None, 0),
    "a wrong name": (b'[{"tensr":[1]}]', "WrongFields", "tensor", 0),
    "a name too many": (
        b'[{"tensor":' + json.dumps(ROW).encode() + b',"id":1}]',
        "WrongFields",
        "id",
        0,
    ),
    "too few numbers": (body(ROW, ROW[1:]), "WrongShape", "tensor", 1),
    "a ragged row": (body([1, [2]]), "RaggedRows", "tensor", 0),
    "a string": (body(["1", *ROW[1:]]), "WrongType", "tensor", 0),
    "a boolean": (body(ROW, [True, *ROW[1:]]), "WrongType", "tensor", 1),
    "null": (body(ROW, ROW, [None, *ROW[1:]]), "MissingValue", "tensor", 2),
    "NaN": (body([float("nan"), *ROW[1:]]), "MissingValue", "tensor", 0),
    "Infinity": (body([float("inf"), *ROW[1:]]), "NotFinite", "tensor", 0),
    "a number beyond float32": (body([1e39, *ROW[1:]]), "OutOfRange", "tensor", 0),
    "a nest in a value": (
        b'[{"tensor":' + b"[" * 900 + b"]" * 900 + b"}]",
        "WrongShape",
        "tensor",
        0,
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_bodies_are_400_with_their_place(untouched: EngineProcess, what: str) -> None:
    """Status, reason, field and row say what is wrong; what serves goes on as before."""
    data, reason, field, row = BAD[what]
    said = refused(untouched.post(data), 400, reason)
    assert (said.get("field"), said.get("row")) == (field, row)


def test_answers_name_revision_and_model(untouched: EngineProcess) -> None:
    """Both addresses answer the same rows, in order, with the version in header and rows."""
    rows = [{"tensor": [float(number)] * 18} for number in range(5)]
    for path in ("/infer", "/pipelines/house-price", "/pipelines/house%2Dprice", "/infer?a=b&c"):
        reply = untouched.post(rows, path)
        assert reply.status == 200
        assert reply.headers["content-type"] == "application/json; format=pandas-records"
        answered = reply.json()
        assert [row["in"] for row in answered] == rows
        assert [row["out"]["variable"] for row in answered] == [[18.0 * n] for n in range(5)]
        assert {row["metadata"]["pipeline_version"] for row in answered} == {
            reply.headers["x-midstream-version"]
        }


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "application/json",
        "application/json; format=pandas-records",
        "application/json;format=pandas-records",
        "Application/JSON; charset=utf-8",
        "Content-Type: application/json; format=pandas-records",
        "content-type:application/json",
    ],
)
def test_content_types_of_records_are_taken(
    untouched: EngineProcess, content_type: str | None
) -> None:
    """JSON by any spelling, also with the header's name once more in front of it."""
    assert untouched.post(GOOD, content_type=content_type).status == 200


@pytest.mark.parametrize(
    "content_type",
    [
        "text/csv",
        "application/json; format=arrow",
        "application/vnd.apache.parquet",
        "x" * 5000,
        "\xff",
    ],
)
def test_other_content_types_are_415(untouched: EngineProcess, content_type: str) -> None:
    """The refusal shows the type, not more than a part of it, and what would be right."""
    said = refused(untouched.post(GOOD, content_type=content_type), 415, "UnsupportedMediaType")
    assert content_type[:100] in said["error"] or "\\xff" in said["error"]
    assert "application/json; format=pandas-records" in said["error"]
    assert len(said["error"]) < 300


def test_a_compressed_body_without_a_word_is_refused_clearly(untouched: EngineProcess) -> None:
    """Without Content-Encoding nothing is unpacked: the answer says what it looks like."""
    packed = gzip.compress(json.dumps(GOOD).encode())
    said = refused(untouched.post(packed), 400, "NotJSON")
    assert "looks compressed" in said["error"]


@pytest.mark.parametrize("name", ["other", "house%20price", "House-Price", "%00", "é", "x" * 300])
def test_unknown_pipelines_are_404(untouched: EngineProcess, name: str) -> None:
    """The answer names the pipeline that is here."""
    with raw(untouched) as connection:
        connection.send(post(GOOD, "/pipelines/" + name.replace("é", "%C3%A9")))
        answer = connection.answer()
    assert (answer.status, answer.reason) == (404, "UnknownPipeline")
    assert "'house-price'" in answer.json()["error"]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/nothing",
        "/infer/",
        "/infer/x",
        "/pipelines/",
        "/pipelines/house%2Fprice",
        "/status/",
        "//infer",
    ],
)
def test_unknown_paths_are_404_in_the_same_form(untouched: EngineProcess, path: str) -> None:
    """Management answers errors as inference does, and lists what there is."""
    said = refused(untouched.post(GOOD, path), 404, "NotFound")
    assert "POST /infer" in said["error"]
    assert "/status" in said["error"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/infer", "/pipelines/house-price"])
def test_other_methods_on_inference_are_405(
    untouched: EngineProcess, method: str, path: str
) -> None:
    """With the method that is allowed."""
    reply = untouched.post(b"", path, method=method)
    refused(reply, 405, "MethodNotAllowed")
    assert reply.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "path", ["/status", "/pipelines", "/models", "/metrics", "/livez", "/readyz"]
)
def test_other_methods_on_management_are_405(untouched: EngineProcess, path: str) -> None:
    """In the same form."""
    reply = untouched.post(b"x" * 200_000, path)
    refused(reply, 405, "MethodNotAllowed")
    assert reply.headers["allow"] == "GET"


def test_head_is_answered_without_a_body(untouched: EngineProcess) -> None:
    """Nothing follows the head, so that the next answer is found."""
    with raw(untouched) as connection:
        for path in (b"/infer", b"/livez", b"/nothing"):
            connection.send(b"HEAD %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
            assert connection.answer(head=True).status in (404, 405)
            connection.send(post(GOOD))
            assert connection.answer().status == 200


def test_a_body_that_says_it_is_too_large_is_413(untouched: EngineProcess) -> None:
    """By its Content-Length alone, before anything of it is sent."""
    with raw(untouched) as connection:
        connection.send(head("/infer", f"Content-Length: {MAX_BODY + 1}", "Expect: 100-continue"))
        answer = connection.answer()
        assert (answer.status, answer.reason) == (413, "BodyTooLarge")
        assert str(MAX_BODY) in answer.json()["error"]
        assert answer.headers["connection"] == "close"
        assert connection.end() == b""


def test_a_body_that_grows_too_large_is_413(untouched: EngineProcess) -> None:
    """In chunks, without a length; a client that goes on sending sees the answer and no reset."""
    with raw(untouched) as connection:
        connection.send(head("/infer", "Transfer-Encoding: chunked"))
        for _ in range(20):
            connection.send(b"2710\r\n" + b" " * 10_000 + b"\r\n")
        assert connection.answer().status == 413
        assert connection.end() == b""


def test_the_largest_body_is_taken(untouched: EngineProcess) -> None:
    """The limit itself is within the limit."""
    data = json.dumps(GOOD).encode().ljust(MAX_BODY)
    assert untouched.post(data).status == 200
    assert untouched.post(data + b" ").status == 413


def test_a_chunked_body_is_taken(untouched: EngineProcess) -> None:
    """One chunk or a thousand, with extensions and trailers."""
    data = json.dumps(GOOD).encode()
    bodies = (
        chunked(data),
        chunked(*(data[i : i + 1] for i in range(len(data)))),
        b"%x;name=value\r\n%b\r\n0\r\nX-Check: 1\r\n\r\n" % (len(data), data),
    )
    with raw(untouched) as connection:
        for each in bodies:
            connection.send(head("/infer", "Transfer-Encoding: chunked"), each)
            answer = connection.answer()
            assert answer.status == 200
            assert answer.json()[0]["out"] == {"variable": [SUM]}


def test_expect_continue_is_answered(untouched: EngineProcess) -> None:
    """100 first, then the answer; also where uvicorn's way is taken."""
    data = json.dumps(GOOD).encode()
    with raw(untouched) as connection:
        for path in ("/infer", "http://localhost/infer"):
            connection.send(head(path, f"Content-Length: {len(data)}", "Expect: 100-continue"))
            assert connection.answer().status == 100
            connection.send(data)
            assert connection.answer().status == 200


def test_http_1_0_is_answered_and_closed(untouched: EngineProcess) -> None:
    """Without keep-alive the connection ends with the answer, and no 100 is sent."""
    with raw(untouched) as connection:
        request = post(GOOD, "/infer", "Expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0", 1)
        connection.send(request)
        answer = connection.answer()
        assert answer.status == 200
        assert answer.headers["connection"] == "close"
        assert connection.end() == b""


def test_a_trace_is_sent_back(untouched: EngineProcess) -> None:
    """`traceparent` comes back as it was, on both ways; one that is none does not."""
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with raw(untouched) as connection:
        for path in ("/infer", "http://localhost/infer"):
            connection.send(post(GOOD, path, f"traceparent: {trace}"))
            assert connection.answer().headers["traceparent"] == trace
            connection.send(post(GOOD, path, "traceparent: " + "x" * 10_000))
            assert "traceparent" not in connection.answer().headers
            connection.send(post(GOOD, path))
            assert "traceparent" not in connection.answer().headers


def test_refusals_are_counted_by_their_status(untouched: EngineProcess) -> None:
    """The metric of requests has each of them."""
    before = metric(untouched, "requests_total", code="400")
    untouched.post(b"[]")
    assert metric(untouched, "requests_total", code="400") == before + 1


# Other models


def test_a_model_of_integers(tmp_path: Path) -> None:
    """Whole numbers arrive exactly, and no others."""
    path = models.identity(tmp_path / "m.onnx", "int64", (None, 2))
    with serving(tmp_path, path) as running:
        reply = running.post(body([2**62 + 1, -(2**63)], [3, 4]))
        assert [row["out"]["variable"] for row in reply.json()] == [[2**62 + 1, -(2**63)], [3, 4]]
        refused(running.post(body([1, 2.5])), 400, "WrongType")
        refused(running.post(body([1, 2**63])), 400, "OutOfRange")
        refused(running.post(body([1, "2"])), 400, "WrongType")


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32", "uint8", "bool"])
def test_models_of_other_types(tmp_path: Path, dtype: str) -> None:
    """What goes in comes out in the same type."""
    path = models.identity(tmp_path / "m.onnx", dtype, (None,))
    values = [True, False] if dtype == "bool" else [0, 100]
    with serving(tmp_path, path) as running:
        reply = running.post(body(*values))
        assert [row["out"]["variable"] for row in reply.json()] == values
        refused(running.post(body("1")), 400, "WrongType")


def test_a_model_with_a_fixed_batch(tmp_path: Path) -> None:
    """Exactly as many rows as the model insists on."""
    with serving(tmp_path, models.fixed_batch(tmp_path / "m.onnx", 4)) as running:
        assert [row["out"] for row in running.post(GOOD * 4).json()] == [{"variable": [SUM]}] * 4
        for count in (1, 3, 5):
            said = refused(running.post(GOOD * count), 400, "WrongBatch")
            assert f"{count} rows" in said["error"]
            assert "exactly 4" in said["error"]


def test_a_model_with_two_inputs(tmp_path: Path) -> None:
    """Fields go by name, in any order; each that is missing is named."""
    with serving(tmp_path, models.two_inputs(tmp_path / "m.onnx")) as running:
        row = {"input_2": [1] * 5, "input_1": [1] * 10}
        assert running.post([row, row]).json()[1]["out"] == {"variable": [60.0]}
        said = refused(running.post([row, {"input_1": [1] * 10}]), 400, "WrongFields")
        assert (said["field"], said["row"]) == ("input_2", 1)
        assert "'input_1' (float32[10]), 'input_2' (float32[5])" in said["error"]


def test_a_model_with_two_outputs(tmp_path: Path) -> None:
    """Each row has both, in their own types."""
    with serving(tmp_path, models.two_outputs(tmp_path / "m.onnx")) as running:
        expected = {"total": [SUM], "largest": 17}
        assert [row["out"] for row in running.post(GOOD * 2).json()] == [expected] * 2


def test_what_a_model_answers_with_nan_is_null(tmp_path: Path) -> None:
    """The other rows keep their numbers."""
    with serving(tmp_path, models.nan_at(tmp_path / "m.onnx", 7)) as running:
        reply = running.post(body([7, *ROW[1:]], ROW))
        assert [row["out"]["variable"] for row in reply.json()] == [[None], [SUM]]


def test_missing_values_where_they_are_allowed(tmp_path: Path) -> None:
    """`missing: Allow` hands null and NaN to the model as NaN, and Infinity to nobody."""
    path = models.identity(tmp_path / "m.onnx", "float32", (None, 2))
    inputs = [{"name": "values", "missing": "Allow"}]
    with serving(tmp_path, path, inputs=inputs) as running:
        reply = running.post(b'[{"values":[1,null]},{"values":[NaN,2]}]')
        assert [row["out"]["variable"] for row in reply.json()] == [[1, None], [None, 2]]
        assert [row["in"]["values"] for row in reply.json()] == [[1, None], [None, 2]]
        refused(running.post(b'[{"values":[1,Infinity]}]'), 400, "NotFinite")


def test_a_model_that_fails_on_a_request_names_its_step(tmp_path: Path) -> None:
    """500 for that request, in line or in a thread; the next one is answered."""
    path = models.looks_up(tmp_path / "m.onnx")
    ConfigFolder(tmp_path / "config").write(
        document(model(models.elementwise(tmp_path / "e.onnx", 1)), model(path))
    )
    for options in ((), ("--inline-ns", "0")):
        with engine(tmp_path, *options) as running:
            running.wait("serving")
            said = refused(running.post([{"house": [99.0] * 18}]), 500, "StepFailed")
            assert "step 'step-1'" in said["error"]
            assert "out of data bounds" in said["error"]
            assert str(tmp_path) not in said["error"]
            reply = running.post([{"house": [3.0] * 18}])
            assert reply.json()[0]["out"] == {"variable": [300.0]}
            assert running.stop() == 0
            assert running.stderr == ""


def test_a_model_that_does_not_come_back_is_stopped(tmp_path: Path) -> None:
    """StepTimedOut names the step; others are answered meanwhile and afterwards."""
    path = rounds(tmp_path / "m.onnx")
    options = ("--inline-ns", "0", "--infer-seconds", "0.5", "--threads", "2")
    with serving(tmp_path, path, *options) as running:
        stuck = Raw(running.port)
        stuck.send(post(body([FOREVER, 1])))
        assert running.post(body([1, 2])).json()[0]["out"] == {"variable": [3.0]}
        answer = stuck.answer()
        stuck.close()
        assert (answer.status, answer.reason) == (500, "StepTimedOut")
        assert "step 'step-0': the model did not answer within 0.5 s" in answer.json()["error"]
        assert running.post(body([1, 2])).status == 200
        assert metric(running, "queued_batches") == 0
        assert metric(running, "buffered_bytes") == 0


def test_before_anything_serves_requests_are_503(tmp_path: Path) -> None:
    """NotReady with Retry-After, and with the reason once there is one."""
    (tmp_path / "config").mkdir()
    with engine(tmp_path) as running:
        reply = running.post(GOOD)
        said = refused(reply, 503, "NotReady")
        assert reply.headers["retry-after"] == "1"
        assert "still loading" in said["error"]
        assert running.get("/readyz").status == 503
        ConfigFolder(tmp_path / "config").write(
            document(model(models.not_onnx(tmp_path / "m.onnx")))
        )
        running.wait("refused")
        said = refused(running.post(GOOD), 503, "NotReady")
        assert "not an ONNX model" in said["error"]
