"""Every kind of step through a real engine: what goes in over HTTP, what comes out, what is counted."""

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from kit import models
from kit.engine import EngineProcess, engine
from kit.folder import ConfigFolder
from kit.pipelines import onnx, python, revision
from kit.raw import eventually

ROW = {"tensor": [1.0] * 18}
DOUBLE = "def process(inputs):\n    return {'variable': inputs['variable'] * 2}\n"


@contextmanager
def serving(folder: Path, spec: dict[str, Any], *options: str) -> Iterator[EngineProcess]:
    """An engine that serves a spec."""
    config = ConfigFolder(folder / "config")
    wanted = revision(spec)
    config.write(wanted)
    with engine(folder, *options) as running:
        running.wait("serving", version=wanted.version)
        yield running


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """Adds the 18 numbers of `tensor` up, as `variable`."""
    return models.scaled(tmp_path / "one.onnx", 1.0)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Twice as much."""
    return models.scaled(tmp_path / "two.onnx", 2.0)


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Three times as much."""
    return models.scaled(tmp_path / "three.onnx", 3.0)


def outs(reply: Any) -> list[dict[str, Any]]:
    """The outputs of each row of a good answer."""
    assert 200 == reply.status, reply.body
    return [row["out"] for row in reply.json()]


def split(*variants: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"steps": [{"name": "predict", "split": {"variants": list(variants), **fields}}]}


def test_a_split_answers_each_row_with_one_variant(tmp_path: Path, one: Path, two: Path) -> None:
    """The values are the variant's whose name the answer gives, and metrics count its rows."""
    spec = split(
        {"name": "control", "model": onnx(one)}, {"name": "challenger", "model": onnx(two)}
    )
    with serving(tmp_path, spec) as running:
        rows = running.post([ROW] * 200).json()
        seen: Counter[str] = Counter()
        for row in rows:
            (said,) = (json.loads(each) for each in row["out"]["_model_split"])
            assert {"one": [18.0], "two": [36.0]}[said["name"]] == row["out"]["variable"]
            assert said["name"] == json.loads(row["metadata"]["last_model"])["model_name"]
            variant = row["metadata"]["variants"]["predict"]
            assert {"one": "control", "two": "challenger"}[said["name"]] == variant
            seen[variant] += 1
        assert {"control", "challenger"} == seen.keys()
        text = running.get("/metrics").body.decode()
        for variant, number in seen.items():
            assert (
                f'midstream_engine_variant_rows_total{{pipeline="house-price",step="predict",variant="{variant}"}} '
                f"{float(number)}"
            ) in text


def test_a_literal_key_stands_for_the_random_number(tmp_path: Path, one: Path, two: Path) -> None:
    """0.4 of two equal weights is the first variant, 0.6 the second, for all rows."""
    spec = split({"name": "a", "model": onnx(one)}, {"name": "b", "model": onnx(two)})
    with serving(tmp_path, spec) as running:
        for key, value in (("0.4", 18.0), ("0.6", 36.0)):
            reply = running.post([ROW] * 50, headers={"x-midstream-split-key": key})
            assert {value} == {out["variable"][0] for out in outs(reply)}
        refused = running.post([ROW], headers={"x-midstream-split-key": "1.4"})
        assert 400 == refused.status
        assert "x-midstream-split-key" in refused.json()["error"]


def test_a_swap_that_takes_a_splits_own_field_away_is_refused(
    tmp_path: Path, one: Path, two: Path
) -> None:
    """Callers send it; one that comes new they may leave out."""
    variants = ({"name": "a", "model": onnx(one)}, {"name": "b", "model": onnx(two)})
    config = ConfigFolder(tmp_path / "config")
    plain = revision(split(*variants))
    sticky = revision(split(*variants, hashKey="session"))
    other = revision(split(*variants, hashKey="customer"))
    config.write(plain)
    with engine(tmp_path) as running:
        running.wait("serving", version=plain.version)
        config.write(plain, sticky)
        running.wait("serving", version=sticky.version)
        for changed in (other, plain):
            config.write(sticky, changed)
            refused = running.wait("refused", version=changed.version)
            assert "SchemaChanged" == refused["reason"]
            assert "input 'session', which a split looked at, is gone" in refused["message"]
        assert 200 == running.post([{**ROW, "session": "u-1"}]).status
        status = running.get("/status").json()
        shown = {each["version"]: each["optionalInputs"] for each in status["revisions"]}
        assert ["session"] == shown[sticky.version]


def test_a_key_is_sticky_and_need_not_be_an_input(tmp_path: Path, one: Path, two: Path) -> None:
    """Rows of one session go to one variant, in any batch; the field is echoed and no model sees it."""
    spec = split(
        {"name": "a", "model": onnx(one)},
        {"name": "b", "model": onnx(two)},
        hashKey="session_id",
    )
    with serving(tmp_path, spec) as running:
        rows = [{**ROW, "session_id": f"user-{number}"} for number in range(40)]
        first = outs(running.post(rows))
        assert {18.0, 36.0} == {out["variable"][0] for out in first}
        for number, row in enumerate(rows):
            assert first[number]["variable"] == outs(running.post([row]))[0]["variable"]
        answered = running.post([rows[0], ROW]).json()
        assert rows[0] == answered[0]["in"]
        assert ROW == answered[1]["in"]


def test_a_key_split_looks_the_value_up(tmp_path: Path, one: Path, two: Path) -> None:
    """What is in the options goes to its variant, everything else to the default."""
    spec = split(
        {"name": "home", "model": onnx(one)},
        {"name": "abroad", "model": onnx(two)},
        key="country",
        options={"de": "home", "7": "home"},
        default="abroad",
    )
    with serving(tmp_path, spec) as running:
        rows = [{**ROW, "country": "de"}, {**ROW, "country": "fr"}, {**ROW, "country": 7}, ROW]
        assert [18.0, 36.0, 18.0, 36.0] == [out["variable"][0] for out in outs(running.post(rows))]


def test_an_option_that_never_matches_is_refused(tmp_path: Path, one: Path, two: Path) -> None:
    """Where a model says what type the key is; the message has what to write."""
    code = python(
        "def process(inputs):\n    return {'tensor': [[1.0] * 18] * len(inputs['kind'])}\n",
        inputs=[{"name": "kind", "dtype": "int64"}],
        outputs=[{"name": "tensor", "dtype": "float32", "shape": [18]}],
    )
    spec = split(
        {"name": "a", "model": onnx(one)},
        {"name": "b", "model": onnx(two)},
        key="kind",
        options={"1": "a", "02": "b"},
        default="a",
    )
    spec["steps"].insert(0, {"name": "make", "model": code})
    config = ConfigFolder(tmp_path / "config")
    config.write(revision(spec))
    with engine(tmp_path) as running:
        refused = running.wait("refused")
        assert "InvalidOptions" == refused["reason"]
        assert (
            "step 'predict': the option '02' of the split never matches, because no value of 'kind' (int64) "
            "has this text; write '2'"
        ) == refused["message"]


@pytest.mark.parametrize(
    ("code", "reason", "said"),
    [
        ("import nothing_of_this_name", "InvalidCode", "No module named 'nothing_of_this_name'"),
        ("import os; os._exit(3)", "SidekickCrashed", "when it was imported, its process ended"),
    ],
)
def test_code_that_cannot_be_imported_is_named_once(
    tmp_path: Path, code: str, reason: str, said: str
) -> None:
    """The message begins with step and model, and goes on with what is wrong."""
    config = ConfigFolder(tmp_path / "config")
    config.write(revision({"steps": [{"name": "prepare", "model": python(code, "pre")}]}))
    with engine(tmp_path) as running:
        refused = running.wait("refused")
        assert reason == refused["reason"]
        assert refused["message"].startswith("step 'prepare', model 'pre': ")
        assert said in refused["message"]
        assert 1 == refused["message"].count("model 'pre'")


def test_variants_with_other_outputs_are_refused(tmp_path: Path, one: Path) -> None:
    """The message names both variants and what each gives."""
    other = models.linear(tmp_path / "other.onnx", input_name="tensor", output_name="price")
    spec = split({"name": "a", "model": onnx(one)}, {"name": "b", "model": onnx(other)})
    config = ConfigFolder(tmp_path / "config")
    config.write(revision(spec))
    with engine(tmp_path) as running:
        refused = running.wait("refused")
        assert "VariantsDiffer" == refused["reason"]
        for part in ("variant 'a'", "'variable'", "variant 'b'", "'price'"):
            assert part in refused["message"]


def shadow(
    champion: Path, *challengers: tuple[str, dict[str, Any]], **fields: Any
) -> dict[str, Any]:
    return {
        "steps": [
            {
                "name": "predict",
                "shadow": {
                    "champion": {"name": "champion", "model": onnx(champion)},
                    "challengers": [{"name": n, "model": m} for n, m in challengers],
                    **fields,
                },
            }
        ]
    }


def test_challengers_run_in_the_shadow(tmp_path: Path, one: Path, two: Path, three: Path) -> None:
    """The champion answers alone; metrics say how far each challenger is from it."""
    with serving(tmp_path, shadow(one, ("x", onnx(two)), ("y", onnx(three)))) as running:
        rows = running.post([ROW, ROW]).json()
        assert [{"variable": [18.0]}] * 2 == [row["out"] for row in rows]
        assert not any(name.startswith("out_") for name in rows[0])

        def compared(challenger: str) -> str:
            text = running.get("/metrics").body.decode()
            start = "midstream_engine_shadow_absolute_difference_sum"
            wanted = f'challenger="{challenger}"'
            found = [
                line for line in text.splitlines() if line.startswith(start) and wanted in line
            ]
            return found[0].rpartition(" ")[2] if found else ""

        eventually(lambda: compared("x") == "36.0", "x is 18 from each of two rows")
        eventually(lambda: compared("y") == "72.0", "y is 36 from each of two rows")


def test_an_answer_can_wait_for_challengers(tmp_path: Path, one: Path, two: Path) -> None:
    """With wait their outputs are in the answer; one that fails is null and the champion answers."""
    broken = python("def process(inputs):\n    raise ValueError('no')\n", "broken")
    spec = shadow(one, ("x", onnx(two)), ("broken", broken), wait=True)
    with serving(tmp_path, spec) as running:
        (row,) = running.post([ROW]).json()
        assert {"variable": [18.0]} == row["out"]
        assert {"variable": [36.0]} == row["out_x"]
        assert row["out_broken"] is None


def test_code_stands_between_models(tmp_path: Path, one: Path) -> None:
    """A Python model gets the outputs of the step before and gives the inputs of the next."""
    after = models.linear(
        tmp_path / "after.onnx", n_features=1, input_name="variable", output_name="price"
    )
    spec = {
        "steps": [
            {"name": "predict", "model": onnx(one)},
            {"name": "double", "model": python(DOUBLE, "double")},
            {"name": "price", "model": onnx(after)},
        ]
    }
    with serving(tmp_path, spec) as running:
        first = outs(running.post([ROW, {"tensor": [2.0] * 18}]))
        assert first[0].keys() == {"price"}
        assert first[0]["price"] != first[1]["price"]
        report = running.get("/status").json()
        assert ["double"] == [each["model"] for each in report["sidekicks"]]
        assert 0 == running.stop()


def test_code_alone_takes_any_fields(tmp_path: Path) -> None:
    """Columns of a first step that declares nothing are what the rows have."""
    code = (
        "import json\n"
        "def wallaroo_json(data):\n"
        "    given = json.loads(data)\n"
        "    names = given['colnames']\n"
        "    return {'tensor_fields': ['names', 'total'],\n"
        "            'names': [','.join(names)] * len(given['query']),\n"
        "            'total': [[row[0] * row[1]] for row in given['query']]}\n"
    )
    spec = {"steps": [{"name": "shape", "model": python(code)}]}
    with serving(tmp_path, spec) as running:
        rows = [{"price": 2.5, "pieces": 4}, {"price": 1.5, "pieces": 3}]
        assert [
            {"names": "price,pieces", "total": [10.0]},
            {"names": "price,pieces", "total": [4.5]},
        ] == outs(running.post(rows))


@pytest.mark.parametrize(
    ("code", "status", "reason", "said"),
    [
        ("raise ValueError('too few rooms')", 502, "SidekickFailed", "ValueError: too few rooms"),
        ("import os; os._exit(3)", 502, "SidekickFailed", "3"),
        ("while True: pass", 504, "SidekickTimedOut", "2 s"),
        ("return {'other': inputs['tensor']}", 502, "SidekickFailed", "'other'"),
    ],
)
def test_what_code_does_wrong_costs_its_request(
    tmp_path: Path, code: str, status: int, reason: str, said: str
) -> None:
    """The answer names step and cause, and the next request is answered."""
    lines = (
        "def process(inputs):\n"
        "    if inputs['tensor'][0, 0] > 1:\n"
        f"        {code}\n"
        "    return {'variable': inputs['tensor'][:, :1]}\n"
    )
    model = python(
        lines,
        inputs=[{"name": "tensor", "dtype": "float64", "shape": [18]}],
        outputs=[{"name": "variable", "dtype": "float64", "shape": [1]}],
    )
    spec = {"steps": [{"name": "shape", "model": model}]}
    with serving(tmp_path, spec, "--infer-seconds", "2") as running:
        refused = running.post([{"tensor": [2.0] * 18}])
        assert (status, reason) == (refused.status, refused.json()["reason"])
        assert refused.json()["error"].startswith("step 'shape': ")
        assert said in refused.json()["error"]
        assert [{"variable": [1.0]}] == outs(running.post([ROW]))


def test_validations_say_which_rows_failed(tmp_path: Path, one: Path) -> None:
    """The answer stays; each row says how many and which validations failed, and in which words."""
    spec = {
        "steps": [{"name": "predict", "model": onnx(one, "housing-model")}],
        "validations": [
            {"name": "price too high", "expression": "housing-model.outputs[0][0] < 20.0"},
            {"name": "low", "failWhen": "out.variable[0] < 10"},
        ],
    }
    with serving(tmp_path, spec) as running:
        rows = [{"tensor": [value] * 18} for value in (1.0, 2.0, 0.1)]
        answered = running.post(rows).json()
        assert [0, 1, 1] == [row["anomaly"]["count"] for row in answered]
        assert {"count": 1, "price too high": True, "low": False} == answered[1]["anomaly"]
        assert [
            [],
            [{"False": {"expr": "housing-model.outputs[0][0] < 20"}}],
            [{"True": {"expr": "out.variable[0] < 10"}}],
        ] == [row["check_failures"] for row in answered]
        assert 'validation="low"} 1.0' in running.get("/metrics").body.decode()


def test_a_model_without_batches_runs_once_for_each_row(tmp_path: Path) -> None:
    """With batch: Single the file's first dimension belongs to the row."""
    path = models.fixed_batch(tmp_path / "image.onnx", 4)
    spec = {"steps": [{"name": "look", "model": onnx(path, batch="Single")}]}
    with serving(tmp_path, spec) as running:
        report = running.get("/status").json()["revisions"][0]
        (name,) = (field["name"] for field in report["inputs"])
        rows = [{name: [[float(n)] * 18] * 4} for n in (1, 2)]
        assert [{"variable": [[18.0]] * 4}, {"variable": [[36.0]] * 4}] == outs(running.post(rows))


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("string", ["a", "ü \U0001f600"]),
        ("int64", [2**62 + 1, -(2**63)]),
        ("float16", [0.5, 1.5]),
        ("bool", [True, False]),
        ("uint8", [0, 255]),
        ("float64", [0.1, 1e300]),
    ],
)
def test_values_of_every_type_come_back_as_they_were(
    tmp_path: Path, dtype: str, values: list[Any]
) -> None:
    """An identity of that type answers what it was sent, exactly."""
    path = models.identity(tmp_path / "same.onnx", dtype)
    spec = {"steps": [{"name": "same", "model": onnx(path)}]}
    with serving(tmp_path, spec) as running:
        (field,) = running.get("/status").json()["revisions"][0]["inputs"]
        rows = [{field["name"]: [value]} for value in values]
        assert values == [next(iter(out.values()))[0] for out in outs(running.post(rows))]


def test_arrow_goes_in_and_out(tmp_path: Path, one: Path) -> None:
    """An Arrow table is a request, and an answer where it is asked for."""
    table = pa.table({"tensor": pa.array([[1.0] * 18, [2.0] * 18], pa.list_(pa.float32()))})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    kind = "application/vnd.apache.arrow.file"
    with serving(tmp_path, {"steps": [{"name": "predict", "model": onnx(one)}]}) as running:
        body = sink.getvalue().to_pybytes()
        reply = running.post(body, "/infer", kind, headers={"Accept": kind})
        assert kind == reply.headers["content-type"]
        answered = pa.ipc.open_file(reply.body).read_all()
        assert [[18.0], [36.0]] == [row["variable"] for row in answered["out"].to_pylist()]
        asked = running.post(
            gzip.compress(body),
            "/infer?dataset=out.variable&dataset_separator=.",
            kind,
            headers={"Content-Encoding": "gzip", "Accept": "application/json; format=columnar"},
        )
        assert {"out.variable": [[18.0], [36.0]]} == asked.json()


def test_the_rows_answered_last_can_be_asked_for(tmp_path: Path, one: Path, two: Path) -> None:
    """`POST /logs` has them oldest first, with the outputs of challengers that nobody waited for."""
    spec = shadow(one, ("x", onnx(two)))
    with serving(tmp_path, spec, "--recent-rows", "3") as running:
        answered = [running.post([{"tensor": [float(n)] * 18}]).json()[0] for n in range(5)]

        def kept() -> list[dict[str, Any]]:
            rows: list[dict[str, Any]] = running.post({}, "/logs").json()
            return rows

        eventually(lambda: all("out_x" in row for row in kept()), "challengers have answered")
        rows = kept()
        assert [{"variable": [2 * row["out"]["variable"][0]]} for row in rows] == [
            row.pop("out_x") for row in rows
        ]
        assert answered[2:] == rows


def test_a_validation_that_reads_what_is_not_there_is_told_once(tmp_path: Path) -> None:
    """Nothing declares what the code gives: rows fail, and the log says why, with the fields that there are."""
    code = "def process(inputs):\n    return {'band': inputs['x'] * 2}\n"
    spec = {
        "steps": [{"name": "double", "model": python(code)}],
        "validations": [{"name": "low", "expression": "out.bond < 100"}],
    }
    with serving(tmp_path, spec) as running:
        for _ in range(2):
            (row,) = running.post([{"x": 1}]).json()
            assert [{"False": {"expr": "out.bond < 100"}}] == row["check_failures"]
        told = running.wait("validation_blind")
        assert ("low", "bond") == (told["validation"], told["field"])
        assert "it reads 'bond', and the pipeline gives 'band'" in told["message"]
        assert 1 == sum(event["event"] == "validation_blind" for event in running.events)
