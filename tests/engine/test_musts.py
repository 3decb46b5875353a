"""What the engine promises: one test, named after it, for every promise, against real engine processes.

Each promise is looked at more closely elsewhere: `test_candidates`, `test_config_folder`, `test_manager` and
`test_sessions`.
"""

import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kit import models
from kit.engine import EngineProcess, engine
from kit.folder import ConfigFolder, document, entry, model
from kit.rounds import rounds
from kit.started import ROW, Started, scaled, started
from midstream_api import names
from midstream_api.engineconfig import ResolvedModel
from midstream_engine.revisions.marks import MARK_FILE

EXAMPLE = Path(__file__).parents[2] / "examples" / "house-price"
GOLDEN = {"inputs": [ROW], "outputs": [{"variable": [36.0]}]}


def house(name: str) -> ResolvedModel:
    """One of the example's models."""
    return model(EXAMPLE / "models" / f"{name}.onnx", inputs=[{"name": "tensor"}])


# Load aside → verify sha256 → build → warm up → golden rows → swap one reference → drain by lease count → free


def test_a_swap_loads_aside_verifies_builds_warms_swaps_drains_and_frees_in_this_order(
    tmp_path: Path,
) -> None:
    """The events of both revisions tell it, and so do the stages in the status."""
    with started(tmp_path) as it:
        new = scaled(tmp_path, 2, verify=GOLDEN)
        it.config.write(new)
        it.wait("freed", it.stable)
        swap = [
            (each["revision"], each["event"])
            for each in it.running.events
            if "revision" in each
            and not (
                each["revision"] == entry(it.stable).revision
                and each["event"] in {"loading", "loaded", "warmed", "ready", "serving"}
            )
        ]
        told = ("loading", "loaded", "warmed", "verified", "ready", "serving")
        assert [
            *((entry(new).revision, event) for event in told),
            (entry(it.stable).revision, "drained"),
            (entry(it.stable).revision, "freed"),
        ] == swap
        stages = list(it.report_of(new)["stages"])
        assert ["fetched", "hashed", "built", "warmed", "verified", "served"] == stages


def test_an_old_revision_is_freed_only_when_its_last_request_is_done(tmp_path: Path) -> None:
    """A long request began before the swap and is answered after it, by the old revision."""
    slow = document(model(rounds(tmp_path / "slow.onnx")))
    new = document(model(models.linear(tmp_path / "new.onnx", n_features=2)))
    with ThreadPoolExecutor(1) as client, started(tmp_path, stable=slow) as it:
        # On a busy machine a request may be over before the swap is: then a longer one is sent.
        for number_of_rounds in (1e6, 1e7, 4e7):
            rows = [{"tensor": [number_of_rounds, 0.0]}] + [{"tensor": [0.0, 1.0]}] * 1999
            long = client.submit(it.running.post, rows)
            while it.metric("queued_batches") == 0 and not long.done():
                pass
            it.config.write(new)
            it.wait("serving", new)
            answered = it.running.post([{"tensor": [1.0, 1.0]}])
            seen = (it.metric("sessions"), "drained" in it.names(slow))
            if not long.done():
                break
            it.config.write(slow)
            it.wait("serving", slow)
        assert new.version == answered.headers["x-midstream-version"]
        assert (2, False) == seen

        reply = long.result()
        assert (200, slow.version) == (reply.status, reply.headers["x-midstream-version"])
        assert 2000 == len(reply.json())
        it.wait("drained", slow)
        it.wait("freed", slow)
        assert 1 == it.metric("sessions")


@pytest.mark.parametrize("stage", ["fetch", "verify sha256", "build", "warm up", "golden rows"])
def test_a_failure_at_any_point_leaves_the_serving_revision_untouched_and_is_reported(
    tmp_path: Path, stage: str
) -> None:
    """The reason is in the event and in the status."""
    with started(tmp_path) as it:
        if stage == "build":
            bad, reason = document(model(models.not_onnx(tmp_path / "bad.onnx"))), "InvalidModel"
        elif stage == "warm up":
            failing = models.fails_at_run(tmp_path / "bad.onnx")
            bad, reason = document(model(failing)), "WarmupFailed"
        else:
            golden = {**GOLDEN, "outputs": [{"variable": [37.0]}]}
            bad, reason = scaled(tmp_path, 2, verify=golden), "VerifyFailed"
        if stage == "fetch":
            (tmp_path / "x2.onnx").unlink()
            reason = "SourceNotFound"
        elif stage == "verify sha256":
            models.scaled(tmp_path / "x2.onnx", 3)
            reason = "DigestMismatch"
        it.config.write(it.stable, bad)
        it.wait("refused", bad, reason=reason)
        assert reason == it.report_of(bad)["reason"]
        it.assert_untouched()


def test_replacing_one_step_loads_one_model(tmp_path: Path) -> None:
    """The other step's session is the one that was there; answers change all the same."""
    old = document(house("prepare-a"), house("rf"))
    new = document(house("prepare-b"), house("rf"))
    with started(tmp_path, stable=old) as it:
        assert 2 == it.metric("sessions_created_total")
        houses = (EXAMPLE / "samples" / "distinct-rows.json").read_bytes()
        before = [row["out"] for row in it.running.post(houses).json()]
        it.config.write(new)
        it.wait("loaded", new, step="step-0", reused=False)
        it.wait("loaded", new, step="step-1", reused=True)
        it.running.wait("freed")
        assert 3 == it.metric("sessions_created_total")
        assert 2 == it.metric("sessions")
        after = [row["out"] for row in it.running.post(houses).json()]
        assert all(old != new for old, new in zip(before, after, strict=True))


def test_a_request_runs_on_exactly_one_revision_and_its_answer_names_it(tmp_path: Path) -> None:
    """While two-step pipelines are swapped under requests, value and version always belong together."""
    steps = {
        factor: model(
            models.elementwise(
                tmp_path / f"first-{factor}.onnx", factor, input_name="tensor", output_name="t"
            )
        )
        for factor in (2, 3)
    }
    second = {
        factor: model(
            models.linear(tmp_path / f"second-{factor}.onnx", [factor] * 18, input_name="t")
        )
        for factor in (5, 7)
    }
    every = {
        document(steps[a], second[b]).version: (document(steps[a], second[b]), 18.0 * a * b)
        for a in steps
        for b in second
    }
    revisions = [each for each, _ in every.values()]
    with started(tmp_path, stable=revisions[0]) as it:
        done = threading.Event()

        def client() -> int:
            count = 0
            while not done.is_set():
                reply = it.ask()
                assert 200 == reply.status
                wanted = every[reply.headers["x-midstream-version"]][1]
                assert wanted == reply.json()[0]["out"]["variable"][0]
                count += 1
            return count

        with ThreadPoolExecutor(2) as clients:
            asked = [clients.submit(client) for _ in range(2)]
            try:
                for number in range(1, 13):
                    wished = revisions[number % 4]
                    it.config.write(wished)
                    it.wait("serving", wished)
            finally:
                done.set()
            assert all(each.result() > 0 for each in asked)


# An unreadable, half-written or absent config never unloads a healthy pipeline


def test_an_unreadable_half_written_or_absent_config_never_unloads_a_healthy_pipeline(
    tmp_path: Path,
) -> None:
    """Cut off, replaced by a folder, or gone: each is reported, and requests are answered."""
    with started(tmp_path) as it:
        index = it.config.path / names.INDEX_FILE
        index.write_bytes(index.read_bytes()[:50])
        it.running.wait("config_refused", reason="ConfigInvalid")
        it.assert_untouched()
        index.unlink()
        it.running.wait("config_refused", reason="ConfigMissing")
        index.mkdir()
        it.running.wait("config_refused", reason="ConfigUnreadable")
        it.assert_untouched()
        shutil.rmtree(it.config.path)
        it.running.wait("config_refused", reason="ConfigMissing")
        it.assert_untouched()


def test_a_lower_sequence_of_the_same_uid_is_older_ignored_and_reported(tmp_path: Path) -> None:
    """Another uid starts a sequence of its own."""
    with started(tmp_path) as it:
        new = scaled(tmp_path, 2)
        it.config.write(new, sequence=0)
        it.running.wait("config_refused", reason="ConfigOlder")
        it.assert_untouched()
        it.config.uid = "another"
        it.config.write(new, sequence=0)
        it.wait("serving", new)


def test_the_same_sequence_with_other_content_is_refused(tmp_path: Path) -> None:
    """And the next sequence is obeyed."""
    with started(tmp_path) as it:
        new = scaled(tmp_path, 2)
        it.config.write(new, sequence=1)
        it.running.wait("config_refused", reason="ConfigConflict")
        it.assert_untouched()
        it.config.write(new, sequence=2)
        it.wait("serving", new)


@pytest.mark.parametrize("at_start", [True, False])
def test_an_assignment_naming_an_absent_revision_is_not_obeyed_and_means_stable_at_the_start(
    tmp_path: Path, at_start: bool
) -> None:
    """Later, whatever serves goes on serving."""
    stable, candidate, absent = (scaled(tmp_path, factor) for factor in (1, 2, 3))
    config = ConfigFolder(tmp_path / "config")
    config.write(stable, candidate)
    if at_start:
        config.write(stable, candidate, serve=absent, hold=[stable, absent])
    with engine(tmp_path) as running:
        first = stable if at_start else candidate
        if not at_start:
            running.wait("serving", version=candidate.version)
            config.write(stable, candidate, serve=absent, hold=[stable, absent])
        while True:
            refused = running.wait("config_refused")
            if refused["reason"] == "AssignmentUnknownRevision":
                break
        assert entry(absent).revision in refused["message"]
        if at_start and not any(each["event"] == "serving" for each in running.events):
            running.wait("serving", version=stable.version)
        assert first.version == running.post([ROW]).headers["x-midstream-version"]


# A candidate cannot take the old version with it


def test_what_cannot_fit_is_refused_before_loading(tmp_path: Path) -> None:
    """Nothing of it was built."""
    big = document(model(models.big_mlp(tmp_path / "big.onnx", 40)))
    with started(tmp_path, "--memory-limit", "150000000") as it:
        it.config.write(it.stable, big)
        it.wait("refused", big, reason="ModelDoesNotFit")
        assert 1 == it.metric("sessions_created_total")
        it.assert_untouched()


def test_an_engine_that_finds_a_mark_serves_stable_reports_it_and_does_not_try_again(
    tmp_path: Path,
) -> None:
    """The candidate killed the engine that loaded it; it has another chance when the wish has dropped it."""
    deadly = document(model(models.crashes_process(tmp_path / "deadly.onnx")))
    with started(tmp_path) as it:
        it.config.write(it.stable, deadly)
        assert -signal.SIGSEGV == it.running.process.wait(30)
    assert (tmp_path / "state" / MARK_FILE).exists()

    with engine(tmp_path) as running:
        again = Started(running, it.config, it.stable, tmp_path)
        again.wait("candidate_killed_engine", deadly, reason="CandidateKilledEngine")
        again.wait("serving", it.stable)
        again.assert_untouched()
        assert "CandidateKilledEngine" == again.report_of(deadly)["reason"]
        assert "loading" not in again.names(deadly)

        again.config.write(it.stable)
        running.wait("config_accepted", sequence=again.config.sequence)
        assert not (tmp_path / "state" / MARK_FILE).exists()
        again.config.write(it.stable, deadly)
        again.wait("loading", deadly)
        assert -signal.SIGSEGV == running.process.wait(30)


# Two policies


def test_availability_preserving_answers_every_request_during_swaps(tmp_path: Path) -> None:
    """None fails, and readiness holds."""
    _swap_under_requests(tmp_path, "availability", 2)


def test_resource_preserving_holds_one_revision_requests_wait_and_none_fails(
    tmp_path: Path,
) -> None:
    """At no time there are two sessions."""
    _swap_under_requests(tmp_path, "resource", 1)


def _swap_under_requests(tmp_path: Path, policy: str, sessions_at_most: int) -> None:
    revisions = [scaled(tmp_path, factor) for factor in (1, 2, 3)]
    with started(tmp_path, "--policy", policy, stable=revisions[0]) as it:
        done = threading.Event()

        def ask() -> set[int]:
            codes = set()
            while not done.is_set():
                codes.add(it.ask().status)
            return codes

        def watch() -> float:
            most = 0.0
            while not done.is_set():
                most = max(most, it.metric("sessions"))
            return most

        with ThreadPoolExecutor(3) as clients:
            asked = [clients.submit(ask) for _ in range(2)]
            watched = clients.submit(watch)
            try:
                for number in range(1, 7):
                    new = revisions[number % 3]
                    it.config.write(revisions[(number - 1) % 3], new)
                    it.wait("serving", new)
            finally:
                done.set()
            assert [{200}, {200}] == [each.result() for each in asked]
            assert watched.result() <= sessions_at_most


def test_resource_preserving_serves_stable_again_when_a_candidate_fails(tmp_path: Path) -> None:
    """Stable was unloaded for it, and comes back."""
    bad = document(model(models.fails_at_run(tmp_path / "bad.onnx")))
    with started(tmp_path, "--policy", "resource") as it:
        it.config.write(it.stable, bad)
        it.wait("freed", it.stable)
        it.wait("refused", bad, reason="WarmupFailed")
        it.wait("serving", it.stable)
        it.assert_untouched()


# Memory comes back; nothing phones home


def test_memory_comes_back_after_swaps(tmp_path: Path) -> None:
    """What is freed is told in bytes, and after the last swap one session is left of three."""
    big = document(model(models.big_mlp(tmp_path / "big.onnx", 40)))
    small = scaled(tmp_path, 2)
    with started(tmp_path) as it:
        it.config.write(big)
        it.wait("serving", big)
        with_big = it.status()["memory"]["rss"]
        it.config.write(small)
        freed = it.wait("freed", big)
        assert freed["bytes"] > 30e6
        assert with_big - it.status()["memory"]["rss"] > 30e6
        assert (1, 3) == (it.metric("sessions"), it.metric("sessions_created_total"))


def test_nothing_phones_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file in a new home, no thread but the engine's own, no word on standard error."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("CI", "GITHUB_ACTIONS", "ORT_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # numpy's threads are not meant
    with started(tmp_path) as it:
        it.config.write(it.stable, scaled(tmp_path, 2))
        it.running.wait("serving")
        threads = list(Path(f"/proc/{it.running.process.pid}/task").iterdir())
        assert 7 >= len(threads), "the loop, two to beat, three to fetch, load, pack; Arrow's own"
        assert 0 == it.running.stop()
        assert "" == it.running.stderr
    assert [] == list(home.rglob("*"))


# What a version is


def test_equal_bytes_under_another_name_are_a_new_version_and_share_the_session(
    tmp_path: Path,
) -> None:
    """The swap happens, and costs no load."""
    path = models.scaled(tmp_path / "x1.onnx", 1)
    other = document(model(path, "renamed"))
    with started(tmp_path) as it:
        assert it.stable.version != other.version
        it.config.write(other)
        it.wait("loaded", other, reused=True)
        it.wait("serving", other)
        assert other.version == it.version()
        it.wait("freed", it.stable)
        assert (1, 1) == (it.metric("sessions"), it.metric("sessions_created_total"))
        assert 18.0 == it.value()


def test_the_same_content_has_the_same_version_in_another_folder_and_process(
    tmp_path: Path,
) -> None:
    """Where the bytes lie is no part of it."""
    versions = []
    for name in ("here", "there"):
        folder = tmp_path / name
        folder.mkdir()
        with started(folder) as it:
            versions.append(it.version())
            assert str(folder) in str(it.stable.steps[0].main.uri)
    assert versions[0] == versions[1]


# Wishes


def test_the_newest_wish_wins(tmp_path: Path) -> None:
    """Many are written while one loads; what comes to serve in the end is the last, with nothing left over."""
    with started(tmp_path) as it:
        wishes = [scaled(tmp_path, factor) for factor in range(2, 12)]
        big = document(model(models.big_mlp(tmp_path / "big.onnx", 40)))
        it.config.write(it.stable, big)
        it.wait("loading", big)
        for wish in wishes:
            it.config.write(it.stable, wish)
        it.wait("serving", wishes[-1])
        it.config.write(wishes[-1])
        it.wait("freed", it.stable)
        assert 198.0 == it.value()
        assert 1 == it.metric("sessions")
        assert [] == [each for each in it.running.events if each["event"] == "refused"]


def test_a_to_b_and_back_to_a_serves_a(tmp_path: Path) -> None:
    """Back and forth faster than anything drains."""
    b = scaled(tmp_path, 2)
    with started(tmp_path) as it:
        for _ in range(5):
            it.config.write(b)
            it.wait("serving", b)
            it.config.write(it.stable)
            it.wait("serving", it.stable)
        it.wait("freed", b)
        it.assert_untouched()


def test_a_wish_for_what_serves_does_nothing(tmp_path: Path) -> None:
    """No load, no swap."""
    with started(tmp_path) as it:
        for _ in range(3):
            it.config.write(it.stable)
            it.running.wait("config_accepted", sequence=it.config.sequence)
        it.assert_untouched()
        assert 0 == it.metric("swaps_total")
        assert 1 == it.metric("sessions_created_total")


def test_a_schema_change_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    """The same candidate passes once the config allows it."""
    other = document(model(models.linear(tmp_path / "other.onnx", output_name="price")))
    with started(tmp_path) as it:
        it.config.write(it.stable, other)
        it.wait("refused", other, reason="SchemaChanged")
        it.assert_untouched()
        it.config.write(it.stable, other, allow_schema_change=True)
        it.wait("serving", other)
        assert [18.0] == it.ask().json()[0]["out"]["price"]


def test_two_engines_share_one_cache(tmp_path: Path) -> None:
    """They start at once on an empty cache, and each swaps on its own."""
    a, b = scaled(tmp_path, 1), scaled(tmp_path, 2)
    folders = [ConfigFolder(tmp_path / name / "config") for name in ("one", "two")]
    for folder in folders:
        folder.write(a)

    def start(folder: ConfigFolder) -> EngineProcess:
        return EngineProcess(folder.path, folder.path.parent / "state", tmp_path / "cache")

    with ThreadPoolExecutor(2) as starts:
        running = list(starts.map(start, folders))
    try:
        for engine_, folder in zip(running, folders, strict=True):
            engine_.wait("serving", version=a.version)
            folder.write(b)
            engine_.wait("serving", version=b.version)
            assert [36.0] == engine_.post([ROW]).json()[0]["out"]["variable"]
        assert [0, 0] == [each.stop() for each in running]
        assert ["", ""] == [each.stderr for each in running]
        assert 2 == len(list((tmp_path / "cache" / "sha256").glob("*/*")))
    finally:
        for each in running:
            each.stop(signal.SIGKILL)
