"""What `midstream run` prints, to people and to machines."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from midstream.run import greeting
from midstream.run.chorus import Chorus
from midstream.run.console import Console, duration, progress_line, sentence, size
from midstream_artifacts.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class BrokenPipe(io.StringIO):
    def write(self, _text: str) -> int:
        raise BrokenPipeError


def event(name: str, revision: str = "r", step: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"event": name, "revision": revision, "step": step, **fields}


def test_without_standard_output_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has no stream at all where standard output was closed before the start."""
    monkeypatch.setattr("sys.stdout", None)

    Console().say("stopped", "stopped")


# One voice


def test_an_event_is_passed_on_when_all_workers_have_said_it() -> None:
    """With two workers the event comes once, with the longest time."""
    chorus = Chorus(2)

    assert chorus.hear(0, event("loaded", step="predict", ms=5.0)) is None
    assert chorus.hear(1, event("loaded", step="predict", ms=7.0)) == event(
        "loaded", step="predict", ms=7.0
    )


def test_freed_memory_is_added_up() -> None:
    """What all workers freed is one sum."""
    chorus = Chorus(2)
    chorus.hear(0, event("freed", ms=1.0, bytes=10))

    assert chorus.hear(1, event("freed", ms=2.0, bytes=20)) == event("freed", ms=2.0, bytes=30)


def test_a_worker_that_starts_again_repeats_nothing() -> None:
    """Loading what is known already, after a restart, is not told a second time."""
    chorus = Chorus(1)
    assert chorus.hear(0, event("loaded", step="predict", ms=5.0)) is not None
    chorus.lose(0)

    assert chorus.hear(0, event("loaded", step="predict", ms=5.0)) is None


def test_a_worker_that_died_is_not_waited_for() -> None:
    """What the others have said is complete without it."""
    chorus = Chorus(2)
    chorus.hear(0, event("freed", ms=1.0, bytes=10))

    assert chorus.lose(1) == [event("freed", ms=1.0, bytes=10)]


def test_a_revision_that_comes_back_is_told_again() -> None:
    """Swapping A, B, A tells of A's loading twice."""
    chorus = Chorus(1)
    first = chorus.hear(0, event("loaded", "a", "predict", ms=1.0))

    chorus.begin("a")

    assert chorus.hear(0, event("loaded", "a", "predict", ms=1.0)) == first


# Lines


def test_people_get_a_line_with_the_time() -> None:
    """One line for each event; hints stand below without a time."""
    out = io.StringIO()
    console = Console(out)

    console.say("swapped", "swapped to x", version="x")
    console.hint("  more")

    first, second = out.getvalue().splitlines()
    assert first[2] == first[5] == ":"
    assert first[8:] == " swapped to x"
    assert second == "  more"


def test_machines_get_one_object_a_line() -> None:
    """Event, time and fields as JSON; hints are for people only."""
    out = io.StringIO()
    console = Console(out, json_lines=True)

    console.say("refused", "refused: a\nb", reason="InvalidModel")
    console.hint("  more")

    (line,) = out.getvalue().splitlines()
    value = json.loads(line)
    assert value.pop("time").endswith("+00:00")
    assert value == {"event": "refused", "message": "refused: a\nb", "reason": "InvalidModel"}


def test_nobody_reading_does_not_end_the_service() -> None:
    """A closed pipe silences the console and raises nothing."""
    console = Console(BrokenPipe())

    console.say("loaded", "loaded")
    console.say("loaded", "loaded")


def test_progress_is_one_rewritten_line_on_a_terminal() -> None:
    """Each report replaces the one before; what comes next stands on a line of its own."""
    out = Terminal()
    console = Console(out)

    console.progress("rf", Progress(1_000_000, 4_000_000, 2e6))
    console.progress("rf", Progress(2_000_000, 4_000_000, 2e6))
    console.say("other", "other")
    console.progress("rf", Progress(4_000_000, 4_000_000, 2e6))

    text = out.getvalue()
    assert text.startswith(
        "\r\x1b[Kfetching rf: 1.0 MB of 4.0 MB, 2.0 MB/s\r\x1b[Kfetching rf: 2.0"
    )
    assert "\r\x1b[K" in text[: text.index(" other")].rpartition("2.0 MB/s")[2]
    assert text.endswith("fetching rf: 4.0 MB of 4.0 MB, 2.0 MB/s\n")


def test_progress_without_a_terminal_is_a_line_now_and_then() -> None:
    """Into a file, only the first and the last of many quick reports are written."""
    out = io.StringIO()
    console = Console(out)

    for done in range(1, 101):
        console.progress("rf", Progress(done, 100, 0.0))

    assert [line[9:] for line in out.getvalue().splitlines()] == [
        "fetching rf: 1 B of 100 B",
        "fetching rf: 100 B of 100 B",
    ]


def test_a_quick_transfer_is_not_worth_a_line() -> None:
    """A small local file is read without a word."""
    out = Terminal()

    Console(out).progress("rf", Progress(100, 100, 0.0))

    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (event("loaded", model="rf", ms=12.3), "loaded rf in 12 ms"),
        (event("loaded", model="rf", ms=0.1, reused=True), "kept rf, which is loaded already"),
        (event("warmed", ms=1.26), "warmed up in 1.3 ms"),
        (event("verified", ms=1.0, rows=1), "verified 1 golden row in 1.0 ms"),
        (event("verified", ms=1.0, rows=2), "verified 2 golden rows in 1.0 ms"),
        (
            event(
                "unproven", step="s", variant="a", model="rf", error="ValueError: no", message="…"
            ),
            (
                "step s, variant a: the code of rf failed on a row of zeros (ValueError: no); "
                "golden rows in `verify` would prove it before it serves"
            ),
        ),
        (
            event("validation_blind", validation="low", field="x", message="it reads 'x'"),
            "validation low: it reads 'x'",
        ),
        (event("freed", bytes=12_345_678), "freed 12.3 MB"),
        (event("drained", ms=1.0), None),
        (event("never-heard-of"), None),
    ],
)
def test_events_in_words(given: dict[str, Any], expected: str | None) -> None:
    """Every event that a person cares about has its sentence; the others are passed over."""
    assert sentence(given) == expected


def test_a_file_that_only_gets_another_name_is_said_so() -> None:
    """Nothing is loaded, and what was kept is known by another name until now."""
    given = event("loaded", model="other", ms=0.1, reused=True)

    assert sentence(given, "rf") == "rf is now called other; its file is loaded already"


def test_quantities_in_words() -> None:
    """Sizes and times have the unit a person would choose."""
    assert [size(n) for n in (0, 999, 1500, 41_200_000, 328_000_000, 2_000_000_000)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "41.2 MB",
        "328 MB",
        "2.0 GB",
    ]
    assert [duration(ms) for ms in (0.42, 43.2, 999.0, 2500.0)] == [
        "0.4 ms",
        "43 ms",
        "999 ms",
        "2.5 s",
    ]
    assert progress_line("rf", Progress(5, None, 0.0)) == "fetching rf: 5 B"


# The greeting


def test_the_curl_line_sends_the_sample_beside_the_manifest(tmp_path: Path) -> None:
    """Where the manifest's folder has a sample request, that is what the line sends."""
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "one-row.json").write_text("[]")
    manifest = tmp_path / "pipeline.yaml"

    line = greeting.curl("http://127.0.0.1:8080", "house-price", manifest, inputs=())

    assert line == (
        "curl -sS http://127.0.0.1:8080/pipelines/house-price "
        "-H 'Content-Type: application/json; format=pandas-records' "
        f"--data-binary @{tmp_path}/samples/one-row.json; echo"
    )


def test_without_a_sample_the_curl_line_sends_a_row_of_zeros(tmp_path: Path) -> None:
    """Names, shapes and types are those of the model's inputs."""
    inputs: list[dict[str, Any]] = [
        {"name": "tensor", "dtype": "float32", "shape": [2, None]},
        {"name": "text", "dtype": "str", "shape": []},
        {"name": "flag", "dtype": "bool", "shape": [1]},
        {"name": "image", "dtype": "float32", "shape": [224, 224]},
    ]

    line = greeting.curl("http://h:1", "p", tmp_path / "pipeline.yaml", inputs)

    assert (
        line.partition(" -d ")[2]
        == '\'[{"tensor": [[0], [0]], "text": "", "flag": [false], "image": "..."}]\'; echo'
    )


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),  # noqa: S104 - a text
        ("::", "http://[::1]:80"),
        ("fe80::1", "http://[fe80::1]:80"),
        ("example", "http://example:80"),
    ],
)
def test_the_address_is_one_that_can_be_asked(host: str, expected: str) -> None:
    """An address that means all of this machine's is shown as one that reaches it."""
    assert greeting.base_url(host, 80) == expected


def test_the_manifest_may_say_how_to_swap(tmp_path: Path) -> None:
    """A comment `# swap: <command>` is printed as a command to run."""
    manifest = tmp_path / "pipeline.yaml"
    manifest.write_text("kind: Pipeline\n  # swap: sed -i s/rf/xgb/ pipeline.yaml\n# swaps\n")

    found = greeting.lines("http://h:1", "p", manifest, [])

    assert f"  swap it: edit {manifest}; it is swapped in when you save" in found
    assert "           or run: sed -i s/rf/xgb/ pipeline.yaml" in found
    assert greeting.lines("http://h:1", "p", tmp_path / "gone.yaml", [])[-1] == "  stop it: Ctrl-C"


def test_code_that_takes_whatever_comes_is_not_asked_with_nothing(tmp_path: Path) -> None:
    """A request cannot be made up for it, unless a sample lies beside the manifest."""
    manifest = tmp_path / "pipeline.yaml"
    said = greeting.lines("http://h:1", "p", manifest, [])[0]
    assert said == "  ask it:  POST rows as its first step reads them to http://h:1/pipelines/p"
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "one-row.json").write_text("[]")
    assert "curl" in greeting.lines("http://h:1", "p", manifest, [])[0]
