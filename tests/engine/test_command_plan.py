"""`midstream plan` on real files, against a real engine."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from kit import commands, models
from kit.commands import run, sha256, write
from kit.engine import engine
from kit.folder import ConfigFolder
from kit.serving import serving as run_service
from midstream import manifest, resolve
from midstream_artifacts.cache import Cache


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two models and the manifest of one step."""
    return commands.house(tmp_path)


@pytest.fixture
def whole(folder: Path) -> Path:
    """A manifest of every kind of step, with a file and a piece of code."""
    return commands.whole(folder)


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """A server that answers everything with `body`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A real engine that serves the folder's manifest; its address."""
    resolved = resolve.resolve(manifest.load(folder / "pipeline.yaml"), Cache(folder / "cache"))
    ConfigFolder(folder / "config").write(resolved.document)
    with engine(folder) as running:
        running.wait("serving")
        yield f"http://127.0.0.1:{running.port}"


def plan(
    capsys: pytest.CaptureFixture[str], folder: Path, against: str, path: Path
) -> tuple[int, dict[str, Any]]:
    """Run `plan --json`: exit code and document."""
    code, out, _ = run(
        capsys, "plan", path, "--cache", folder / "cache", "--against", against, "--json"
    )
    return code, json.loads(out)


def test_plan_against_a_running_engine(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing, a swap, and a refused change of outputs, each as the engine would do it."""
    with serving(folder) as url:
        code, said = plan(capsys, folder, url, folder / "pipeline.yaml")
        assert (code, said["action"], said["loads"]) == (0, "nothing", 0)
        assert said["inputs"] == [{"name": "tensor", "dtype": "float32", "shape": [18]}]

        code, said = plan(capsys, folder, url, write(folder, "gbr"))
        assert (code, said["action"], said["loads"]) == (0, "swap", 1)
        assert said["changes"][0] == "step predict: model rf becomes gbr"
        assert said["models"][0]["sha256"] == sha256(folder / "gbr.onnx")

        models.two_outputs(folder / "two.onnx")
        code, said = plan(capsys, folder, url, write(folder, "two"))
        assert (code, said["action"]) == (1, "refused")
        assert said["schemaChanges"] == [
            "output 'variable' (float32[1]) is gone",
            "output 'total' (float32[1]) is new",
            "output 'largest' (int64) is new",
        ]
        allowed = write(folder, "two", rollout="  rollout: {allowSchemaChange: true}\n")
        assert plan(capsys, folder, url, allowed)[1]["action"] == "swap"


def test_plan_knows_the_fields_that_only_splits_look_at(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without them callers that send one would be refused, so the engine refuses the swap."""
    path = folder / "pipeline.yaml"
    variants = "".join(
        f"          - {{name: {name}, model: {{name: {name}, source: {{uri: {name}.onnx}}}}}}\n"
        for name in ("rf", "gbr")
    )
    head = path.read_text().partition("      model:")[0]
    path.write_text(f"{head}      split:\n        hashKey: session\n        variants:\n{variants}")
    with serving(folder) as url:
        path.write_text(f"{head}      split:\n        variants:\n{variants}")
        code, said = plan(capsys, folder, url, path)
        assert (code, said["action"], said["optionalInputs"]) == (1, "refused", [])
        assert said["schemaChanges"] == ["input 'session', which a split looked at, is gone"]


def test_plan_tells_of_code_that_fails_on_a_row_of_zeros(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would serve all the same, for zeros need not mean anything to it."""
    (folder / "part.py").write_text("def process(inputs):\n    raise ValueError('no')\n")
    path = folder / "pipeline.yaml"
    text = path.read_text().replace("name: rf", "name: part").replace("rf.onnx", "part.py")
    path.write_text(
        f"{text}        framework: Python\n        inputs: [{{name: x, dtype: int64}}]\n"
    )
    said = (
        "step 'predict': the code failed on a row of zeros (ValueError: no); "
        "golden rows in `verify` would prove it before it serves"
    )
    code, out, _ = run(capsys, "plan", path, "--cache", folder / "cache")
    assert (code, f"  {said}" in out.splitlines()) == (0, True)
    code, out, _ = run(capsys, "plan", path, "--cache", folder / "cache", "--json")
    assert (code, json.loads(out)["doubts"]) == (0, [said])


def test_plan_for_people_ends_with_what_would_happen(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text says the same as the document."""
    with serving(folder) as url:
        path = write(folder, "gbr")
        code, out, _ = run(capsys, "plan", path, "--cache", folder / "cache", "--against", url)
    assert code == 0
    assert out.splitlines()[-1] == "applying it would load 1 model and swap while requests go on"


def test_plan_names_what_differs_from_a_running_service(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `midstream run` serves is compared step by step, not by its models alone."""
    cache = whole.parent / "cache"
    with run_service(whole) as service:
        service.wait_for("serving")
        url = f"http://127.0.0.1:{service.port}"
        text = whole.read_text().replace("variants:", "hashKey: home\n        variants:", 1)
        other = whole.with_name("other.yaml")
        other.write_text(text.replace("< 100.0", "< 99.0"))
        code, out, errors = run(capsys, "plan", other, "--cache", cache, "--against", url)
    assert (code, errors) == (0, "")
    assert "  step predict: hashKey home" in out.splitlines()
    assert "  validation high: expression is now 'out.price[0] < 99.0'" in out.splitlines()


def test_a_flag_that_plan_does_not_know_is_told_with_its_usage(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not with the usage of the command that holds all commands."""
    with pytest.raises(SystemExit) as ended:
        run(capsys, "plan", folder / "pipeline.yaml", "--port", "8081")
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith("usage: midstream plan ")
    assert "--against" in said
    assert "midstream plan: error: unrecognized arguments: --port 8081" in said


def test_plan_refuses_what_the_engine_could_not_load(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is no model is found out before anything is applied, and told first, where it is named."""
    models.not_onnx(folder / "text.onnx")
    with serving(folder) as url:
        path = write(folder, "text")
        code, said = plan(capsys, folder, url, path)
        _, out, errors = run(capsys, "plan", path, "--cache", folder / "cache", "--against", url)
    assert (code, said["action"]) == (1, "refused")
    (problem,) = said["problems"]
    assert problem.startswith(
        f"{path}:10:11: spec.steps[0].model.source.uri: step 'predict', model 'text': "
    )
    assert errors == f"{problem}\n"
    assert out.splitlines()[-1] == "applying it would be refused: house-price cannot be loaded"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("", "", None),
        (
            'inputs["tensor"] * 2',
            'inputs["tensor"] * two',
            None,  # only a request finds out
        ),
        (
            "def process",
            "def proces",
            ":7:57: spec.steps[0].model.source.uri: step 'prepare', model 'double': ",
        ),
        ("uri: gbr.onnx", "uri: two.onnx", ":19:40: spec.steps[2].split.variants[0].model: "),
        (
            "out.price[0] < 100.0",
            "out.cost[0] < 100.0",
            ":26:20: spec.validations[0].expression: validation 'high', column ",
        ),
    ],
    ids=["as it is", "fails later", "no entry point", "variants differ", "validation"],
)
def test_plan_knows_every_rule_of_the_engine(
    whole: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, said: str | None
) -> None:
    """Code is imported, variants are compared and validations compiled, as when it is applied."""
    models.two_outputs(whole.parent / "two.onnx")
    code = whole.parent / "double.py"
    code.write_text(code.read_text().replace(old, new))
    whole.write_text(whole.read_text().replace(old, new, 1))
    exit_code, out, errors = run(capsys, "plan", whole, "--cache", whole.parent / "cache")
    assert (exit_code, errors.startswith(f"{whole}{said}") or errors) == (
        (0, "") if said is None else (1, True)
    )
    if said is None:
        assert "  takes what only running it tells" in out.splitlines()
        assert "  gives 'price' (float32[1])" in out.splitlines()


def test_plan_tries_golden_rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a candidate would be refused for is known before it is one."""
    rows = f"{{inputs: [{{tensor: {[1.0] * 18}}}], outputs: [{{variable: 17.0}}]}}"
    path = write(folder, "rf", extra=f"        verify: {rows}\n")
    code, _, errors = run(capsys, "plan", path, "--cache", folder / "cache")
    assert code == 1
    assert errors.startswith(f"{path}:11:9: spec.steps[0].model.verify: step 'predict', model 'rf'")
    assert "expected [17.0]" in errors or "expected 17.0" in errors


def test_plan_where_another_server_has_the_port_is_for_a_start(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no engine was named, what else answers there is no error, and not called nothing."""
    with answering(b"hello") as url:
        monkeypatch.setattr("midstream.plan.DEFAULT_URL", url)
        code, out, _ = run(capsys, "plan", folder / "pipeline.yaml", "--cache", folder / "cache")
    assert code == 0
    assert out.splitlines()[-2:] == [
        f"no Midstream serves at {url}; name another address with --against URL",
        "running it would load 1 model",
    ]


def test_plan_against_an_engine_that_is_not_there_is_an_error(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where an engine was named, its absence is told."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        code, _, errors = run(
            capsys, "plan", folder / "pipeline.yaml", "--cache", folder / "cache", "--against", url
        )
    assert (code, errors) == (1, f"nothing answers at {url}: Connection refused\n")


@pytest.mark.parametrize(
    "body", [b"hello", b"[]", b"{}", b'{"serving": {"revision": "x"}, "revisions": []}']
)
def test_plan_against_something_else_is_an_error(
    folder: Path, capsys: pytest.CaptureFixture[str], body: bytes
) -> None:
    """Another server on the port is told as such."""
    with answering(body) as url:
        code, _, errors = run(
            capsys, "plan", folder / "pipeline.yaml", "--cache", folder / "cache", "--against", url
        )
    assert (code, errors) == (1, f"what answers at {url} is not a Midstream engine\n")


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "http://127.0.0.1:99999", "http://[::1"])
def test_plan_against_what_is_no_address_is_an_error(
    folder: Path, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    """The message shows the form of one."""
    code, _, errors = run(
        capsys, "plan", folder / "pipeline.yaml", "--cache", folder / "cache", "--against", url
    )
    assert (code, errors.partition("; ")[2]) == (1, "write http://host:port\n")


def test_plan_is_not_led_astray_by_what_lies_in_the_folder(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's own `numpy.py` is not what the inspection of the models imports."""
    with serving(folder) as url:
        (folder / "numpy.py").write_text("raise SystemExit('not the library')\n")
        monkeypatch.chdir(folder)
        code, said = plan(capsys, folder, url, Path("pipeline.yaml"))
    assert (code, said["action"]) == (0, "nothing")


def test_plan_of_a_broken_manifest_says_what_is_wrong(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `validate` does, and as a document with --json."""
    path = write(folder, "xgb")
    code, _, errors = run(capsys, "plan", path, "--cache", folder / "cache")
    assert (code, errors.startswith(f"{path}:10:11: ")) == (1, True)
    code, out, _ = run(capsys, "plan", path, "--cache", folder / "cache", "--json")
    assert (code, json.loads(out)["error"].startswith(f"{path}:10:11: ")) == (1, True)
