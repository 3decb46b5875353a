"""Requests to fuzz with: each is made of a seed and a number, alone, so that any of them can be made again."""

import random
from collections.abc import Callable
from urllib.parse import urlencode

from fuzz.jsontree import changed, written
from fuzz.pipelines import Fuzzed
from fuzz.rows import rows_for
from fuzz.tables import damaged, table_body
from fuzz.tensors import tensor_body
from reference import wire
from reference.wire import Sent

BLOCK = 100
"""Inputs in a row for one pipeline, so that it is seldom swapped."""

_OIP = "/v2/models/house-price/infer"

_PATHS = ("/infer", "/infer", "/pipelines/house-price")

_JSON_TYPES = (
    "",
    "application/json",
    wire.RECORDS,
    wire.COLUMNAR,
    "Application/JSON;charset=UTF-8",
)

_TYPES = (
    *_JSON_TYPES,
    *(
        wire.ARROW_FILE,
        wire.ARROW_STREAM,
        "application/octet-stream",
        "text/csv",
        "*/*",
        ";",
        "json",
        "\xff",
    ),
    *(
        'application/json; format="pandas-records"',
        "application/json; format=x",
        "Content-Type: application/json",
    ),
)
_ACCEPTS = (
    *(wire.FORMATS * 2),
    *(
        "*/*",
        "application/*",
        "application/json",
        "text/html, */*;q=0.1",
        "application/json;q=0, */*",
    ),
)
_ODD_ACCEPTS = (
    "text/html",
    "*/*;q=0",
    ";;,",
    "application/json;format=x",
    "a/b;q=nan",
    ",".join(["*/*"] * 60),
    "\xff",
)
_ENCODINGS = ("gzip", "deflate", "zstd", "identity", "x-gzip")
_ODD_ENCODINGS = ("br", "gzip, zstd", "", "GZIP ", "\xff", "gzip" * 50)
_ACCEPTED = (
    "gzip",
    "zstd",
    "gzip;q=0.1, zstd;q=0",
    "*",
    "identity",
    "br",
    "gzip;q=x",
    ",,;=",
    "*;q=0",
    "\xff",
)
_SPLIT_KEYS = ("0", "0.4", "0.5", "1.0", "1e-3", ".5", "00.5")
_ODD_SPLIT_KEYS = (
    "1.1",
    "-1",
    "nan",
    "inf",
    "",
    " ",
    "0x1",
    "1e999",
    "0.5.5",
    "\xb2",
    "1" * 5000,
    "\xff",
    "1_0",
)
_QUERIES = (
    *(
        "dataset=*",
        "dataset=out",
        "dataset=in,out",
        "dataset_separator=.",
        "dataset=time&dataset=metadata",
    ),
    *(
        "dataset_exclude=metadata",
        "dataset=anomaly.count&dataset_separator=.",
        'dataset=["out","in"]',
    ),
    *(
        "dataset=%6fut",
        "x=y",
        "",
        "dataset=",
        "dataset=*&dataset_exclude=out,in&dataset_separator=.",
    ),
)
_COLUMNS = (
    *(
        "*",
        "time",
        "in",
        "out",
        "anomaly",
        "anomaly.count",
        "metadata",
        "metadata.elapsed",
        "in.tensor",
    ),
    *("out.total", "out.y0", "metadata.last_model", "metadata.partition"),
)
_ODD_QUERIES = (
    *(
        "dataset=nothing",
        "dataset=out.x",
        "dataset=[1]",
        "dataset=[",
        "dataset_separator=_",
        "dataset=%ff",
    ),
    *(
        "&" * 50,
        "dataset=" + "a," * 600,
        "&".join(["dataset=out"] * 1200),
        "dataset=%00",
        "dataset=[[]]",
    ),
    *(
        "dataset_exclude=" + "x" * 3000,
        "dataset=" + "[" * 900,
        "=",
        "%",
        "dataset=out%2etotal",
        "\xff=\xff",
    ),
)
_LENGTHS = ("0", "1", "-1", "abc", "9" * 30, " 5", "1e3", "+1", "\xb2", "")

_ODD_PATHS = (
    *("/infer", _OIP, "/pipelines/other", "/pipelines/house-price", "/pipelines/%ff%00"),
    *("/v2/models/other/infer", "/v2/models/house-price/versions/1/infer", "/v2/models//infer"),
    "/v2/models/house%2dprice/infer",
)

_ODD = {
    "accept": _ODD_ACCEPTS,
    "x-midstream-split-key": _ODD_SPLIT_KEYS,
    "content-type": _TYPES,
    "inference-header-content-length": _LENGTHS,
}

Body = Callable[[random.Random, Fuzzed, int], Sent]


def input_of(fuzzed: Fuzzed, seed: int, number: int) -> Sent:
    """An input for this pipeline. Four of nine fit; the others have one to three things changed."""
    rng = random.Random(f"{seed}/{number}")  # noqa: S311 - of a test
    changes = rng.choice((0, 0, 0, 0, 1, 1, 1, 2, 3))
    sent = rng.choices(_BODIES, _SHARES)[0](rng, fuzzed, changes)
    _head(rng, sent, odd=changes > 0 and rng.random() < 0.25)
    _pack(rng, sent, odd=changes > 0 and rng.random() < 0.25)
    return sent


def pipeline_of(number: int, count: int) -> int:
    """Which of `count` pipelines an input is for."""
    return number // BLOCK % count


# Bodies


def _records(rng: random.Random, fuzzed: Fuzzed, changes: int) -> Sent:
    tree = rows_for(rng, fuzzed)
    for _ in range(changes):
        tree = changed(rng, tree)
    return Sent(written(rng, tree), rng.choice(_PATHS), {"content-type": rng.choice(_JSON_TYPES)})


def _columns(rng: random.Random, fuzzed: Fuzzed, changes: int) -> Sent:
    rows = rows_for(rng, fuzzed)
    names = dict.fromkeys(name for row in rows for name in row)
    tree = {name: [row.get(name) for row in rows] for name in names}
    for _ in range(changes):
        tree = changed(rng, tree)
    return Sent(written(rng, tree), rng.choice(_PATHS), {"content-type": rng.choice(_JSON_TYPES)})


def _file(rng: random.Random, fuzzed: Fuzzed, changes: int) -> Sent:
    body = table_body(rng, fuzzed, changes, file=True)
    return Sent(body, rng.choice(_PATHS), {"content-type": wire.ARROW_FILE})


def _stream(rng: random.Random, fuzzed: Fuzzed, changes: int) -> Sent:
    body = table_body(rng, fuzzed, changes, file=False)
    return Sent(body, rng.choice(_PATHS), {"content-type": wire.ARROW_STREAM})


def _tensors(rng: random.Random, fuzzed: Fuzzed, changes: int) -> Sent:
    body, _ = tensor_body(rng, fuzzed, changes, binary=False)
    return Sent(body, _OIP, {"content-type": "application/json"})


def _binary(rng: random.Random, fuzzed: Fuzzed, changes: int) -> Sent:
    body, length = tensor_body(rng, fuzzed, changes, binary=True)
    headers = {"content-type": "application/octet-stream"}
    if length is not None:
        headers["inference-header-content-length"] = str(length)
    return Sent(body, _OIP, headers)


def _garbage(rng: random.Random, fuzzed: Fuzzed, _: int) -> Sent:
    """Bytes of no kind, or of another one than is said."""
    sent = rng.choices(_BODIES[:-1])[0](rng, fuzzed, 1)
    sent.headers["content-type"] = rng.choice(_TYPES)
    if rng.random() < 0.5:
        sent.body = damaged(rng, damaged(rng, sent.body))
    elif rng.random() < 0.5:
        sent.body = rng.randbytes(rng.choice((0, 1, 2, 10, 100, 1000)))
    sent.path = rng.choice((sent.path, "/infer", _OIP))
    return sent


_BODIES: tuple[Body, ...] = (_records, _columns, _file, _stream, _tensors, _binary, _garbage)
_SHARES = (20, 10, 12, 12, 12, 12, 4)


# Heads


def _head(rng: random.Random, sent: Sent, *, odd: bool) -> None:
    headers = sent.headers
    if rng.random() < 0.3:
        headers["accept"] = rng.choice(_ACCEPTS)
    if rng.random() < 0.2:
        headers["x-midstream-split-key"] = rng.choice(_SPLIT_KEYS)
    query = ""
    if rng.random() < 0.25:
        query = rng.choice(_QUERIES)
        if rng.random() < 0.3:
            names = rng.sample(_COLUMNS, 3)
            query = urlencode(
                [(rng.choice(("dataset", "dataset_exclude")), each) for each in names]
            )
    if rng.random() < 0.1:
        headers["traceparent"] = rng.choice(("00-ab-cd-01", "x" * 5000, "\xff"))
    if odd:
        match rng.randrange(4):
            case 0:
                query = rng.choice(_ODD_QUERIES)
            case 1:
                sent.path = rng.choice(_ODD_PATHS)
            case _:
                name = rng.choice(sorted(_ODD))
                headers[name] = rng.choice(_ODD[name])
    if query:
        sent.path += f"?{query}"


def _pack(rng: random.Random, sent: Sent, *, odd: bool) -> None:
    if rng.random() < 0.15:
        sent.headers["accept-encoding"] = rng.choice(_ACCEPTED)
    if rng.random() < 0.15:
        name = rng.choice(_ENCODINGS)
        sent.headers["content-encoding"] = name
        sent.body = wire.pack(sent.body, name.removeprefix("x-"))
    if odd:
        match rng.randrange(5):
            case 0:
                sent.headers["content-encoding"] = rng.choice(_ODD_ENCODINGS)
            case 1:
                sent.headers["content-encoding"] = rng.choice(_ENCODINGS)
            case 2 | 3:
                sent.body = damaged(rng, sent.body)
            case _:
                name = rng.choice(_ENCODINGS[:3])
                zeros = bytes(rng.choice((10**5, 2 * 10**6, 20 * 10**6)))
                sent.headers["content-encoding"] = name
                sent.body = wire.pack(zeros, name)
