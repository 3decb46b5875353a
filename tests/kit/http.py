"""An engine for tests of HTTP, and requests whose answers say which one they belong to."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kit.engine import EngineProcess, engine
from kit.folder import ConfigFolder, document, model
from kit.raw import Answer, eventually, get, metric, post, raw
from kit.rounds import rounds

SLOW = 200_000
"""Rounds that take some tenths of a second."""

ROWS = 1000
"""Rows that go to a thread."""

ABSOLUTE = "http://localhost/infer"
"""An address of inference that is left to uvicorn."""


@contextmanager
def http_engine(folder: Path, *options: str) -> Iterator[EngineProcess]:
    """An engine that answers one row at once and many rows in a thread."""
    folder.mkdir(exist_ok=True)
    ConfigFolder(folder / "config").write(document(model(rounds(folder / "rounds.onnx"))))
    with engine(folder, *options) as running:
        running.wait("serving")
        yield running


def check_clean(running: EngineProcess) -> None:
    """It answers, and nothing is kept for anybody."""
    with raw(running) as connection:
        connection.send(request("hot", 7))
        check("hot", 7, connection.answer())
    eventually(lambda: metric(running, "queued_batches") == 0, "threads are free")
    eventually(lambda: metric(running, "buffered_bytes") == 0, "no bytes are kept")


def request(kind: str, number: int, *lines: str) -> bytes:
    """A request of a kind: `hot`, `thread`, `asgi` (inference left to uvicorn), `get`, `bad`, `missing`, `head`."""
    one = [{"tensor": [0, number]}]
    many = [{"tensor": [SLOW, number]}] + [{"tensor": [0, 0]}] * (ROWS - 1)
    made = {
        "hot": post(one, "/infer", *lines),
        "thread": post(many, "/infer", *lines),
        "asgi": post(one, ABSOLUTE, *lines),
        "get": get("/livez", *lines),
        "bad": post([{"tensor": [0, number, 1]}], "/infer", *lines),
        "missing": get(f"/{number}", *lines),
        "wrong": get("/infer", *lines),
    }
    return made[kind]


def check(kind: str, number: int, answer: Answer) -> None:
    """The answer is the one to that request."""
    said = answer.json()
    if kind in ("hot", "asgi"):
        assert said[0]["out"] == {"variable": [float(number)]}
    elif kind == "thread":
        assert len(said) == ROWS
        assert said[0]["out"] == {"variable": [float(SLOW + number)]}
    elif kind == "get":
        assert said == {"live": True}
    else:
        reason = {"bad": "WrongShape", "missing": "NotFound", "wrong": "MethodNotAllowed"}[kind]
        assert said["reason"] == reason
        assert kind != "missing" or f"'/{number}'" in said["error"]
