"""The story of a swap, told by itself: load, swap, swap back, a broken model refused; then what was measured.

Starts `midstream run` on a copy of the example, keeps 8 clients asking all the time, and edits the manifest as a
person would. Every answer is held against the expected answers of the version it names: one that fits no version, or
another than it says, counts as mixed. Run it with `make demo`; told to end, by Ctrl-C too, it
leaves nothing running.
"""

import argparse
import http.client
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CLIENTS = 8
SETTLE_SECONDS = 2.0
"""Of steady load between two changes, to have something to compare with."""
WAIT_SECONDS = 60.0
INTERRUPTED = 130
LEGEND = """\
stages: resolved, prepared (fetched, hashed, built, warmed), activated: in all total; then the old is drained and freed
"""
TYPE = "application/json; format=pandas-records"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: when (seconds), which sample row, and what came back."""

    start: float
    end: float
    row: int
    status: int
    version: str
    price: float


class Clients(threading.Thread):
    """One thread a client, each on its own connection, asking until told to stop."""

    def __init__(self, port: int, rows: list[Any], stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.port, self.rows, self.stop = port, rows, stop
        self.asked: list[Asked] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)
        bodies = [json.dumps([row]) for row in self.rows]
        number = 0
        while not self.stop.is_set():
            row = number % len(bodies)
            number += 1
            start = time.monotonic()
            status, version, price = 0, "", 0.0
            try:
                connection.request(
                    "POST", "/pipelines/house-price", bodies[row], {"Content-Type": TYPE}
                )
                answer = connection.getresponse()
                content = json.loads(answer.read())
                status, version = answer.status, answer.headers["x-midstream-version"]
                price = content[0]["out"]["variable"][0] if status == 200 else 0.0
            except (OSError, http.client.HTTPException, ValueError):
                connection.close()
            self.asked.append(Asked(start, time.monotonic(), row, status, version, price))
        connection.close()


class Service:
    """`midstream run`, and its events as it prints them."""

    def __init__(self, manifest: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "midstream", "run", str(manifest), "--port", "0", "--json-logs"],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.events: list[dict[str, Any]] = []
        self._news = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.events.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self.events.append({"event": "ended"})
            self._news.notify_all()

    def wait(self, *names: str, after: int = 0) -> dict[str, Any]:
        """The first event with one of these names, from number `after` on."""
        deadline = time.monotonic() + WAIT_SECONDS
        with self._news:
            while True:
                for event in self.events[after:]:
                    if event["event"] in names:
                        return event
                    if event["event"] == "ended":
                        raise SystemExit("midstream run ended; what it said is above")
                if not self._news.wait(deadline - time.monotonic()):
                    raise SystemExit(f"waited {WAIT_SECONDS:.0f} s for {' or '.join(names)}")


@contextmanager
def serving(manifest: Path) -> Iterator[Service]:
    service = Service(manifest)
    try:
        yield service
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # again: it is ending, let it
        raise
    finally:
        service.process.terminate()
        service.process.wait()


@contextmanager
def asking(port: int, rows: list[Any]) -> Iterator[list[Clients]]:
    """Clients that ask until the end of the block; their last answers are in by then."""
    stop = threading.Event()
    clients = [Clients(port, rows, stop) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        yield clients
    finally:
        stop.set()
        for client in clients:
            client.join()


def status(port: int) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)
    connection.request("GET", "/status")
    content: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return content


def quantile(values: list[float], part: float) -> float:
    """Nearest rank; 0 when there is nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


def latency(asked: list[Asked], start: float, end: float) -> str:
    """p50 and p99 of the requests that overlap a span of time."""
    times = [(a.end - a.start) * 1e3 for a in asked if a.end >= start and a.start <= end]
    return f"p50 {quantile(times, 0.5):6.2f} ms   p99 {quantile(times, 0.99):6.2f} ms   ({len(times)} requests)"


def write(manifest: Path, model: str) -> None:
    """Save the manifest with another model, in one stroke as editors do."""
    text = (HERE / "pipeline.yaml").read_text()
    text = text.replace("rf-house-price", f"{model}-house-price").replace(
        "models/rf.onnx", f"models/{model}.onnx"
    )
    new = manifest.with_suffix(".new")
    new.write_text(text)
    new.replace(manifest)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--settle", type=float, default=SETTLE_SECONDS, help="seconds of steady load"
    )
    settle: float = parser.parse_args().settle
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return play(settle)
    except KeyboardInterrupt:
        print("demo: interrupted", flush=True)
        return INTERRUPTED


def play(settle: float) -> int:
    # First the house that the README asks for, then those that tell the models apart.
    rows: list[Any] = []
    expected: dict[str, list[float]] = {model: [] for model in ("rf", "gbr", "xgb")}
    for sample in ("one-row", "distinct-rows"):
        rows += json.loads((HERE / "samples" / f"{sample}.json").read_text())
        for model, prices in expected.items():
            answers = json.loads((HERE / "expected" / f"{model}.json").read_text())[sample]
            prices += [row["variable"][0] for row in answers]
    with tempfile.TemporaryDirectory(prefix="midstream-demo-") as folder:
        shutil.copytree(HERE / "models", Path(folder) / "models")
        (Path(folder) / "models" / "broken.onnx").write_bytes(
            (HERE / "models" / "xgb.onnx").read_bytes()[:5000]
        )
        manifest = Path(folder) / "pipeline.yaml"
        write(manifest, "rf")
        print("Starting midstream run on a copy of examples/house-price/pipeline.yaml", flush=True)
        with serving(manifest) as service:
            return tell(service, manifest, rows, expected, settle)


def tell(
    service: Service,
    manifest: Path,
    rows: list[Any],
    expected: dict[str, list[float]],
    settle: float,
) -> int:
    port = int(service.wait("serving")["port"])
    spans: list[tuple[str, float, float, float, dict[str, Any]]] = []
    refusal: dict[str, Any] = {}
    with asking(port, rows) as clients:
        versions = {status(port)["version"]: "rf"}
        print(f"{CLIENTS} clients are asking on http://127.0.0.1:{port}\n", flush=True)
        for title, model in (
            ("swap: random forest → XGBoost", "xgb"),
            ("swap back: XGBoost → random forest", "rf"),
            ("swap: random forest → gradient boosting", "gbr"),
            ("a broken model: the first 5,000 bytes of one", "broken"),
        ):
            before = time.monotonic()
            time.sleep(settle)
            heard = len(service.events)
            start = time.monotonic()
            write(manifest, model)
            happened = service.wait("swapped", "refused", after=heard)
            end = time.monotonic()
            now = status(port)
            if happened["event"] == "refused":
                refusal = happened
            else:
                versions[now["version"]] = model
            spans.append((title, before, start, end, now.get("rollout") or {}))
        time.sleep(settle)
        last = time.monotonic()
    asked = sorted((a for client in clients for a in client.asked), key=lambda a: a.start)
    failed = sum(a.status != 200 for a in asked)
    mixed = sum(
        a.status == 200 and a.price != expected[versions[a.version]][a.row]
        if a.version in versions
        else a.status == 200
        for a in asked
    )
    report(asked, spans, last, refusal, expected, versions)
    print(f"requests sent {len(asked)}   failed {failed}   mixed {mixed}")
    return 0 if failed == mixed == 0 and refusal else 1


def report(
    asked: list[Asked],
    spans: list[tuple[str, float, float, float, dict[str, Any]]],
    last: float,
    refusal: dict[str, Any],
    expected: dict[str, list[float]],
    versions: dict[str, str],
) -> None:
    for title, before, start, end, rollout in spans:
        then = min(last, end + start - before)
        print(title)
        print(f"  before  {latency(asked, before, start)}")
        print(f"  during  {latency(asked, start, end)}")
        print(f"  after   {latency(asked, end, then)}")
        stages = rollout.get("stages") or {}
        if stages:
            print("  stages  " + "   ".join(f"{name} {ms:.1f} ms" for name, ms in stages.items()))
        if title.startswith("a broken"):
            print(f"  {refusal.get('message')}")
        print()
    print(LEGEND)
    print("The house of samples/one-row.json, as each version answered it")
    for version, model in versions.items():
        first = next((a for a in asked if a.version == version and a.row == 0), None)
        if first is not None:
            print(
                f"  {model:4} {version}   {first.price:12,.2f}   expected {expected[model][0]:12,.2f}"
            )
    print()


if __name__ == "__main__":
    sys.exit(main())
