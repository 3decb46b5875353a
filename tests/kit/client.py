"""Single requests, one connection each: what a test asks beside the load."""

import http.client
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

SECONDS = 30.0
ROW = {"tensor": [1.0] * 18}
"""The models of the kit add these up: `scaled(2.0)` says 36."""


class Answer(NamedTuple):
    status: int
    version: str
    """The revision's version, from the header; empty when there is none."""
    text: str

    @property
    def value(self) -> Any:
        """The body as JSON."""
        return json.loads(self.text)

    @property
    def outputs(self) -> list[float]:
        """The first output of each row, as single numbers."""
        return [next(iter(row["out"].values()))[0] for row in self.value]


def infer(port: int, rows: Sequence[Mapping[str, Any]] = (ROW,)) -> Answer:
    """Ask the pipeline `house-price`."""
    content = {"Content-Type": "application/json; format=pandas-records"}
    return _ask(port, "POST", "/pipelines/house-price", json.dumps(list(rows)), content)


def get(port: int, path: str) -> Answer:
    return _ask(port, "GET", path, None, {})


def _ask(port: int, method: str, path: str, body: str | None, headers: Mapping[str, str]) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        version = response.headers.get("x-midstream-version", "")
        return Answer(response.status, version, response.read().decode())
    finally:
        connection.close()
