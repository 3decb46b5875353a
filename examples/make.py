"""Make models, samples and expected answers of the small examples: `python examples/make.py` writes them again.

With `--check` nothing is written; the exit code is 1 when a file is not what would be written. What is expected is
worked out here with numpy alone, not by asking a model: the tests ask a real engine and compare. The committed files
were made by numpy 2.4.6, onnx 1.23.2 and pyarrow 26.0.1. `house-price/` has a script of its own.
"""

import argparse
import hashlib
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from onnx_models import (
    REGIONS,
    Array,
    brightness_model,
    linear,
    net_areas_model,
    price_and_class_model,
    regions_model,
    two_inputs_model,
)
from sample_files import (
    Rows,
    archive,
    arrow_file,
    arrow_stream,
    case,
    cases,
    document,
    lines,
)

HERE = Path(__file__).parent


HOUSES = np.array(
    [[120, 4, 30], [62, 2, 80], [210, 7, 5], [48, 1, 110], [95, 3, 12], [8, 0, 1]], np.float32
)
"""Area in square metres, rooms, age in years."""
SESSIONS = ["u-1", "u-2", "u-3", "u-4", "u-5", "u-6"]
COUNTRIES = ["DE", "NO", "FR", "AT", None, "DE"]


def main(argv: Sequence[str] | None = None) -> int:
    """Write, or check, every file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing, exit 1 on a difference"
    )
    check = parser.parse_args(argv).check
    code = 0
    for path, content in files().items():
        target = HERE / path
        if target.exists() and target.read_bytes() == content:
            continue
        if check:
            print(f"{path} is not what examples/make.py writes")
            code = 1
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            print(f"wrote {path}, {len(content)} bytes")
    return code


def files() -> dict[str, bytes]:
    """Return the content of every file, by its path below this folder."""
    made: dict[str, bytes] = {}
    for folder, example in (
        ("demand-curve", demand_curve()),
        ("split", split()),
        ("shadow", shadow()),
        ("validations", validations()),
        ("chained", chained()),
        ("several-inputs", several_inputs()),
        ("without-batches", without_batches()),
        ("text", text()),
        ("code", code()),
        ("formats", formats()),
    ):
        made |= {f"{folder}/{name}": content for name, content in example.items()}
    return made


# The prices that most examples are about, once with numpy and once as a model


def by_area(houses: Array) -> Array:
    """3,000 for each square metre, 500 less for each year, and 20,000. [N, 3] -> [N]."""
    return np.asarray(3000 * houses[:, 0] - 500 * houses[:, 2] + 20_000)


def by_rooms(houses: Array) -> Array:
    """90,000 for each room and 1,000 for each square metre. [N, 3] -> [N]."""
    return np.asarray(90_000 * houses[:, 1] + 1000 * houses[:, 0])


def by_area_model() -> bytes:
    return linear("house", "price", [3000, 0, -500], 20_000)


def by_rooms_model() -> bytes:
    return linear("house", "price", [1000, 90_000, 0], 0)


def priced(prices: Array) -> Rows:
    return [{"out": {"price": [float(price)]}} for price in prices]


def house_rows(**more: Sequence[Any]) -> Rows:
    """The houses as a request has them; fields of `more` that are None are left out."""
    return [
        {"house": house.tolist()}
        | {name: column[row] for name, column in more.items() if column[row] is not None}
        for row, house in enumerate(HOUSES)
    ]


# The examples


def demand_curve() -> dict[str, bytes]:
    """Code, a model, and code."""
    price = np.array([4.25, 2.5, 12.75, 0.85, 10.5])
    known = np.array([False, True, False, True, True])
    orders: Rows = [
        {"Date": f"2010-12-0{day}", "cust_known": bool(k), "StockCode": "21928", "UnitPrice": p}
        for day, (p, k) in enumerate(zip(price.tolist(), known, strict=True), 1)
    ]
    prepared = np.stack([price, known, price * known], axis=1)
    weights, bias = np.array([-3.25, 5.5, -1.5]), 40.75
    quantity = prepared @ weights + bias
    whole = np.maximum(np.round(quantity), 0)
    return {
        "models/demand-curve.onnx": linear(
            "model_input", "expected_quantity", weights.tolist(), bias
        ),
        "samples/orders.json": lines(orders),
        "expected/pipeline.json": lines([{"out": {"quantity": int(each)}} for each in whole]),
        "expected/without-post.json": lines(
            [{"out": {"expected_quantity": [each]}} for each in quantity.tolist()]
        ),
        "expected/only-code.json": lines(
            [{"out": {"model_input": row}} for row in prepared.tolist()]
        ),
        "cases.json": cases(
            [
                case(manifest, "samples/orders.json", f"expected/{manifest}.json")
                for manifest in ("pipeline", "without-post", "only-code")
            ]
        ),
    }


def split() -> dict[str, bytes]:
    """Which variant a row falls to: by a number, by the hash of a session, by a country."""
    area, rooms = by_area(HOUSES), by_rooms(HOUSES)
    sticky = np.array([chosen(session, {"control": 1, "challenger": 1}) for session in SESSIONS])
    central = np.array([country in {"DE", "AT"} for country in COUNTRIES])

    def answers(is_first: Array, first: str, second: str) -> bytes:
        rows = priced(np.where(is_first, area, rooms))
        for row, one in zip(rows, is_first, strict=True):
            row["metadata"] = {"variants": {"predict": first if one else second}}
        return lines(rows)

    every = np.full(len(HOUSES), fill_value=True)
    names = ("control", "challenger")
    return {
        "models/by-area.onnx": by_area_model(),
        "models/by-rooms.onnx": by_rooms_model(),
        "samples/houses.json": lines(house_rows()),
        "samples/sessions.json": lines(house_rows(session=SESSIONS)),
        "samples/countries.json": lines(house_rows(country=COUNTRIES)),
        "expected/control.json": answers(every, *names),
        "expected/challenger.json": answers(~every, *names),
        "expected/sessions.json": answers(sticky == "control", *names),
        "expected/countries.json": answers(central, "by-area", "by-rooms"),
        "cases.json": cases(
            [
                # Of 2:1 the first two thirds of the numbers from 0 to 1 are the first variant's.
                case("random", "samples/houses.json", "expected/control.json", key="0.66"),
                case("random", "samples/houses.json", "expected/challenger.json", key="0.67"),
                case("sticky", "samples/sessions.json", "expected/sessions.json"),
                case("sticky", "samples/houses.json", "expected/control.json", key="0.4"),
                case("by-key", "samples/countries.json", "expected/countries.json"),
            ]
        ),
    }


def chosen(key: str, weights: Mapping[str, int]) -> str:
    """The variant of a key: weighted rendezvous hashing as docs/split-and-shadow.md has it."""

    def score(name: str) -> float:
        digest = hashlib.blake2b(f"{name}\0{key}".encode(), digest_size=8).digest()
        return -weights[name] / math.log((int.from_bytes(digest, "big") // 2**12 + 0.5) / 2**52)

    return max(weights, key=score)


def shadow() -> dict[str, bytes]:
    """A champion's answers, alone and with those of two challengers."""
    area = by_area(HOUSES)
    rounded = np.round(3000 * HOUSES[:, 0], -4)
    waiting = priced(area)
    for row, rooms, whole in zip(waiting, by_rooms(HOUSES), rounded, strict=True):
        row["out_by-rooms"] = {"price": [float(rooms)]}
        row["out_rounded"] = {"price": [float(whole)]}
    return {
        "models/by-area.onnx": by_area_model(),
        "models/by-rooms.onnx": by_rooms_model(),
        "samples/houses.json": lines(house_rows()),
        "expected/pipeline.json": lines(priced(area)),
        "expected/waiting.json": lines(waiting),
        "cases.json": cases(
            [
                case("pipeline", "samples/houses.json", "expected/pipeline.json"),
                case("waiting", "samples/houses.json", "expected/waiting.json"),
            ]
        ),
    }


def validations() -> dict[str, bytes]:
    """What is said of each row: how many conditions failed, which, and their text."""
    prices = by_area(HOUSES)
    high = ~(prices < 500_000)
    no_house = (HOUSES[:, 0] < 10) | (HOUSES[:, 1] == 0)
    too_high = ~(prices < 900_000)
    texts = [
        {"False": {"expr": "out.price[0] < 500000"}},
        {"True": {"expr": "in.house[0] < 10 or in.house[1] == 0"}},
        {"False": {"expr": "price-by-area.outputs[0][0] < 900000"}},
    ]
    names = ("price-too-high", "no-house", "by-the-models-name")
    rows = priced(prices)
    for row, *failed in zip(rows, high, no_house, too_high, strict=True):
        found = [bool(each) for each in failed]
        row["anomaly"] = {"count": sum(found), **dict(zip(names, found, strict=True))}
        row["check_failures"] = [one for one, each in zip(texts, found, strict=True) if each]
    return {
        "models/by-area.onnx": by_area_model(),
        "samples/houses.json": lines(house_rows()),
        "expected/pipeline.json": lines(rows),
        "cases.json": cases([case("pipeline", "samples/houses.json", "expected/pipeline.json")]),
    }


def chained() -> dict[str, bytes]:
    """Two models that fit by their names, and two that are made to fit by position."""
    net = HOUSES * np.array([0.75, 1, 1], np.float32)
    of_two = 2000 * net[:, 0] + 1000 * HOUSES[:, 0]
    measured: Rows = [{"measured": house.tolist()} for house in HOUSES]
    areas: Rows = [{"areas": house.tolist()} for house in HOUSES]
    return {
        "models/net-areas.onnx": net_areas_model(),
        "models/by-area.onnx": by_area_model(),
        "models/two-inputs.onnx": two_inputs_model(),
        "samples/areas.json": lines(areas),
        "samples/measured.json": lines(measured),
        "expected/by-name.json": lines(priced(by_area(net))),
        "expected/by-position.json": lines(priced(of_two)),
        "cases.json": cases(
            [
                case("by-name", "samples/areas.json", "expected/by-name.json"),
                case("by-position", "samples/measured.json", "expected/by-position.json"),
            ]
        ),
    }


def several_inputs() -> dict[str, bytes]:
    """Five inputs of five types, four outputs of four."""
    area = np.array([100.0, 62.5, 8.0])
    rooms = np.array([3, 5, 0])
    garden = np.array([True, False, True])
    share = np.array([1.0, 0.5, 0.25])
    ages = np.array([[30, 12], [110, 7], [1, 2]])
    price = (3000 * area + 50_000 * garden) * share
    given = [
        {"area": [a], "rooms": int(r), "garden": bool(g), "share": s, "ages": y}
        for a, r, g, s, y in zip(
            area.tolist(), rooms, garden, share.tolist(), ages.tolist(), strict=True
        )
    ]
    rows = [
        {"out": {"price": [p], "class": int(c), "historic": bool(h), "half_share": s / 2}}
        for p, c, h, s in zip(
            price.tolist(),
            (rooms > 2).astype(int) + (rooms > 4),
            ages.max(axis=1) > 100,
            share.tolist(),
            strict=True,
        )
    ]
    return {
        "models/price-and-class.onnx": price_and_class_model(),
        "samples/houses.json": lines(given),
        "expected/pipeline.json": lines(rows),
        "cases.json": cases([case("pipeline", "samples/houses.json", "expected/pipeline.json")]),
    }


def without_batches() -> dict[str, bytes]:
    """Two pictures for a model that takes one."""
    pictures = np.array([[[0, 0.5, 1], [0.25, 0.25, 0.25]], [[1, 1, 1], [0, 0, 0.75]]])
    rows = [
        {"out": {"mean": float(each.mean()), "lines": each.mean(axis=1).tolist()}}
        for each in pictures
    ]
    return {
        "models/brightness.onnx": brightness_model(),
        "samples/pictures.json": lines([{"picture": each.tolist()} for each in pictures]),
        "expected/pipeline.json": lines(rows),
        "cases.json": cases([case("pipeline", "samples/pictures.json", "expected/pipeline.json")]),
    }


def text() -> dict[str, bytes]:
    """Names of towns, and what belongs to them."""
    towns = ["Bern", "Zürich", "Atlantis", "Genève"]
    found = [REGIONS.get(town, ("nowhere", 0.0)) for town in towns]
    return {
        "models/regions.onnx": regions_model(),
        "samples/towns.json": lines([{"town": town} for town in towns]),
        "expected/pipeline.json": lines(
            [{"out": {"region": region, "factor": factor}} for region, factor in found]
        ),
        "cases.json": cases([case("pipeline", "samples/towns.json", "expected/pipeline.json")]),
    }


def code() -> dict[str, bytes]:
    """Code in the manifest, and code in an archive."""
    houses: Rows = [{"above": 80.0, "basement": 40.0}, {"above": 72.5, "basement": None}]
    totals = [("large", 120.0), ("small", 72.5)]
    use = [20.0, 75.0, 129.5, 400.0]
    classes = [("A", 10.0), ("C", 37.5), ("D", 64.75), ("G", 200.0)]
    return {
        "energy.zip": archive(HERE / "code" / "energy"),
        "samples/houses.json": lines(houses),
        "samples/uses.json": lines([{"use": each} for each in use]),
        "expected/inline.json": lines(
            [{"out": {"total": total, "size": size}} for size, total in totals]
        ),
        "expected/archive.json": lines(
            [{"out": {"class": name, "percent": percent}} for name, percent in classes]
        ),
        "cases.json": cases(
            [
                case("inline", "samples/houses.json", "expected/inline.json"),
                case("archive", "samples/uses.json", "expected/archive.json"),
            ]
        ),
    }


COLUMNAR = "application/json; format=columnar"
ARROW_FILE = "application/vnd.apache.arrow.file"
ARROW_STREAM = "application/vnd.apache.arrow.stream"


def formats() -> dict[str, bytes]:
    """The same houses in every form that they can be sent in."""
    prices = by_area(HOUSES)
    table = pa.table({"house": pa.FixedSizeListArray.from_arrays(pa.array(HOUSES.ravel()), 3)})
    tensor = {
        "name": "house",
        "shape": list(HOUSES.shape),
        "datatype": "FP32",
        "data": HOUSES.ravel().tolist(),
    }
    answer = {
        "name": "price",
        "shape": [len(HOUSES), 1],
        "datatype": "FP32",
        "data": prices.tolist(),
    }
    columns = {"house": HOUSES.tolist()}
    return {
        "models/by-area.onnx": by_area_model(),
        "samples/rows.json": lines(house_rows()),
        "samples/columns.json": document(columns),
        "samples/houses.arrow": arrow_file(table),
        "samples/houses.arrows": arrow_stream(table),
        "samples/open-inference.json": document({"id": "6", "inputs": [tensor]}),
        "expected/rows.json": lines(priced(prices)),
        "expected/columns.json": document({"out.price": [[price] for price in prices.tolist()]}),
        "expected/arrow.json": document({"out": [row["out"] for row in priced(prices)]}),
        "expected/open-inference.json": document(
            {"model_name": "house-formats", "id": "6", "outputs": [answer]}
        ),
        "cases.json": cases(
            [
                case("pipeline", "samples/rows.json", "expected/rows.json"),
                case(
                    "pipeline",
                    "samples/columns.json",
                    "expected/columns.json",
                    kind=COLUMNAR,
                    accept=COLUMNAR,
                ),
                case(
                    "pipeline",
                    "samples/houses.arrow",
                    "expected/arrow.json",
                    kind=ARROW_FILE,
                    accept=ARROW_FILE,
                ),
                case(
                    "pipeline",
                    "samples/houses.arrows",
                    "expected/arrow.json",
                    kind=ARROW_STREAM,
                    accept=ARROW_STREAM,
                ),
                case(
                    "pipeline",
                    "samples/houses.arrow",
                    "expected/rows.json",
                    kind=ARROW_FILE,
                    accept="application/json",
                ),
                case(
                    "pipeline",
                    "samples/open-inference.json",
                    "expected/open-inference.json",
                    kind="application/json",
                    path="/v2/models/house-formats/infer",
                ),
            ]
        ),
    }


if __name__ == "__main__":
    sys.exit(main())
