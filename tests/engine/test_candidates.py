"""Candidates that may not serve: each is refused with its reason, and what serves is untouched."""

import hashlib
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit import models, origin
from kit.engine import engine
from kit.folder import document, entry, model
from kit.started import ROW, scaled, started
from midstream_api.engineconfig import ResolvedModel, RevisionDocument
from midstream_engine.revisions.marks import MARK_FILE

GOLDEN = {"inputs": [ROW], "outputs": [{"variable": [36.0]}]}
"""What a model of factor 2 answers."""


def one(path: Path, **fields: Any) -> RevisionDocument:
    """A revision of this file."""
    return document(model(path, **fields))


def golden(folder: Path, **changes: Any) -> RevisionDocument:
    """A model of factor 2 with golden rows that are spoilt."""
    return scaled(folder, 2, verify={**GOLDEN, **changes})


def missing_file(folder: Path) -> RevisionDocument:
    """The file was there when the document was written."""
    made = scaled(folder, 2)
    (folder / "x2.onnx").unlink()
    return made


def a_directory(folder: Path) -> RevisionDocument:
    """The file has become a folder."""
    made = scaled(folder, 2)
    (folder / "x2.onnx").unlink()
    (folder / "x2.onnx").mkdir()
    return made


def wrong_sha256(folder: Path) -> RevisionDocument:
    """The file has other bytes than promised."""
    made = scaled(folder, 2)
    models.scaled(folder / "x2.onnx", 3)
    return made


def two_steps(first: Path, second: Path) -> RevisionDocument:
    """Two models in a row."""
    return document(model(first), model(second))


def names_that_do_not_connect(folder: Path) -> RevisionDocument:
    """The first step gives `rooms`, the second takes `tensor`."""
    return two_steps(
        models.elementwise(folder / "first.onnx", 2, input_name="tensor", output_name="rooms"),
        models.scaled(folder / "second.onnx", 3),
    )


BAD: dict[str, tuple[Callable[[Path], RevisionDocument], str, str]] = {
    "a file that is not there": (missing_file, "SourceNotFound", "model 'x2'"),
    "a directory": (a_directory, "SourceIsADirectory", "model 'x2'"),
    "a wrong sha256": (wrong_sha256, "DigestMismatch", "the manifest promises"),
    "a file that is not ONNX": (
        lambda folder: one(models.not_onnx(folder / "page.onnx")),
        "InvalidModel",
        "step 'step-0', model 'page': the file is not an ONNX model",
    ),
    "an empty file": (lambda folder: one(_empty(folder)), "InvalidModel", "model 'empty'"),
    "a truncated file": (
        lambda folder: one(
            models.truncated(folder / "cut.onnx", models.scaled(folder / "whole.onnx", 2))
        ),
        "InvalidModel",
        "cut off",
    ),
    "an operator set that nobody has": (
        lambda folder: one(models.unsupported_opset(folder / "opset.onnx")),
        "InvalidModel",
        "opset",
    ),
    "external data": (
        lambda folder: one(models.external_data(folder / "external.onnx")),
        "InvalidModel",
        "external data",
    ),
    "inputs that are brain floats": (
        lambda folder: one(models.identity(folder / "brain.onnx", "bfloat16")),
        "UnsupportedType",
        "tensor(bfloat16)",
    ),
    "no dimension for rows": (
        lambda folder: one(models.no_batch(folder / "single.onnx")),
        "NoBatchDimension",
        "first dimension must be the batch",
    ),
    "names that do not connect": (
        names_that_do_not_connect,
        "NamesDoNotConnect",
        "step 'step-1' takes 'tensor' (float32[18]), step 'step-0' before it gives 'rooms'",
    ),
    "too few names for the inputs": (
        lambda folder: one(models.two_inputs(folder / "two.onnx"), inputs=[{"name": "a"}]),
        "InvalidInputs",
        "inputs lists 1 names, the model has 2",
    ),
    "an exception at warm-up": (
        lambda folder: one(models.fails_at_run(folder / "run.onnx")),
        "WarmupFailed",
        "step 'step-0'",
    ),
    "a warm-up that swallows rows": (
        lambda folder: one(models.collapses_batch(folder / "rows.onnx")),
        "WarmupFailed",
        "as many rows as it gets",
    ),
    "golden rows that come out otherwise": (
        lambda folder: golden(folder, outputs=[{"variable": [36.1]}]),
        "VerifyFailed",
        "golden row 0, variable: expected [36.1], got [36.0] (tolerance 1e-06)",
    ),
    "golden rows of another shape": (
        lambda folder: golden(folder, outputs=[{"variable": [36.0, 36.0]}]),
        "VerifyFailed",
        "expected the shape [2], got [1]",
    ),
    "golden rows with an unknown input": (
        lambda folder: golden(folder, inputs=[{"house": [1.0] * 18}]),
        "VerifyInvalid",
        "spec.steps[0].model.verify.inputs",
    ),
    "golden rows with an unknown output": (
        lambda folder: golden(folder, outputs=[{"price": [36.0]}]),
        "VerifyInvalid",
        "verify.outputs[0] names 'price', the model gives variable",
    ),
    "golden rows that are words": (
        lambda folder: golden(folder, outputs=[{"variable": ["much"]}]),
        "VerifyInvalid",
        "verify.outputs[0].variable is not numbers",
    ),
    "golden rows with a number that no float holds": (
        lambda folder: golden(folder, outputs=[{"variable": [10**400]}]),
        "VerifyInvalid",
        "is not numbers",
    ),
    "other outputs than callers know": (
        lambda folder: one(models.linear(folder / "price.onnx", output_name="price")),
        "SchemaChanged",
        "output 'variable' (float32[1]) is gone; output 'price' (float32[1]) is new",
    ),
    "other inputs than callers know": (
        lambda folder: one(models.linear(folder / "house.onnx", input_name="house")),
        "SchemaChanged",
        "input 'tensor' (float32[18]) is gone",
    ),
    "another type of output": (
        lambda folder: one(models.linear(folder / "f8.onnx", output_dtype="float64")),
        "SchemaChanged",
        "output 'variable' (float32[1]) became 'variable' (float64[1])",
    ),
}


def _empty(folder: Path) -> Path:
    path = folder / "empty.onnx"
    path.touch()
    return path


@pytest.mark.parametrize("policy", ["availability", "resource"])
def test_bad_candidates_are_refused_with_their_reason(tmp_path: Path, policy: str) -> None:
    """One engine is asked to serve each of them in turn, and serves its stable revision all the while."""
    with started(tmp_path, "--policy", policy) as it:
        for what, (make, reason, said) in BAD.items():
            folder = tmp_path / what
            folder.mkdir()
            bad = make(folder)
            it.config.write(it.stable, bad)
            told = it.wait("refused", bad)
            assert (what, reason) == (what, told["reason"])
            assert said in told["message"], what
            report = it.report_of(bad)
            assert ("FAILED", reason) == (report["state"], report["reason"]), what
            assert said in report["message"], what
            it.assert_untouched()
        assert len(BAD) == it.metric("refused_revisions_total")
        good = scaled(tmp_path, 2)
        it.config.write(it.stable, good)
        it.wait("serving", good)
        assert 36.0 == it.value()
        assert 0 == it.running.stop()
        assert "" == it.running.stderr


def test_a_model_that_cannot_fit_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    """The limit, what is in use and what the model needs are in the message; no session was made."""
    big = one(models.big_mlp(tmp_path / "big.onnx", 40))
    with started(tmp_path, "--memory-limit", str(150_000_000)) as it:
        it.config.write(it.stable, big)
        told = it.wait("refused", big, reason="ModelDoesNotFit")
        assert "the limit is 150.0 MB" in told["message"]
        assert not it.report_of(big)["transient"]
        assert 1 == it.metric("sessions_created_total")
        it.assert_untouched()


def test_a_size_in_the_document_that_is_too_small_does_not_help(tmp_path: Path) -> None:
    """The file on the disk counts."""
    made = model(models.big_mlp(tmp_path / "big.onnx", 40)).model_copy(update={"size": 1})
    with started(tmp_path, "--memory-limit", str(150_000_000)) as it:
        it.config.write(it.stable, document(made))
        it.wait("refused", document(made), reason="ModelDoesNotFit")
        assert 1 == it.metric("sessions_created_total")


def test_a_warm_up_that_hangs_is_stopped_and_refused(tmp_path: Path) -> None:
    """It may take as long as `--warm-up-seconds`, and the next candidate has its chance."""
    hanging = one(models.hangs(tmp_path / "hangs.onnx"))
    with started(tmp_path, "--warm-up-seconds", "0.1") as it:
        it.config.write(it.stable, hanging)
        told = it.wait("refused", hanging, reason="WarmupFailed")
        assert "did not answer within 0.1 s" in told["message"]
        it.assert_untouched()


def test_a_warm_up_that_nothing_can_stop_does_not_hold_up_the_engine(tmp_path: Path) -> None:
    """It is given up: the next candidate is loaded, and the engine still ends when it is told to."""
    hanging = one(models.hangs_for_good(tmp_path / "hangs.onnx"))
    with started(tmp_path, "--warm-up-seconds", "0.1") as it:
        it.config.write(it.stable, hanging)
        told = it.wait("refused", hanging, reason="WarmupFailed")
        assert "cannot be stopped" in told["message"]
        it.assert_untouched()
        good = scaled(tmp_path, 2)
        it.config.write(it.stable, good)
        it.wait("serving", good)
        assert 0 == it.running.stop()
        assert "" == it.running.stderr


def test_an_engine_ends_while_a_candidate_is_warmed_up(tmp_path: Path) -> None:
    """SIGTERM ends it, and the next engine does not blame the candidate."""
    hanging = one(models.hangs(tmp_path / "hangs.onnx"))
    with started(tmp_path) as it:
        it.config.write(it.stable, hanging)
        it.wait("loaded", hanging)
        assert (tmp_path / "state" / MARK_FILE).exists()
        assert 0 == it.running.stop()
    assert not (tmp_path / "state" / MARK_FILE).exists()


def test_a_candidate_that_kills_the_process(tmp_path: Path) -> None:
    """The next engine serves stable, says why, does not try again, and does once the wish has changed."""
    deadly = one(models.crashes_process(tmp_path / "deadly.onnx"), inputs=[{"name": "tensor"}])
    with started(tmp_path) as it:
        it.config.write(it.stable, deadly)
        assert -signal.SIGSEGV == it.running.process.wait(30)
    assert entry(deadly).revision in (tmp_path / "state" / MARK_FILE).read_text()

    for _ in range(2):  # the mark holds for every engine that starts, until the wish changes
        with engine(tmp_path) as running:
            running.wait("candidate_killed_engine", revision=entry(deadly).revision)
            running.wait("serving", version=it.stable.version)
            (report,) = (
                each
                for each in running.get("/status").json()["revisions"]
                if each["revision"] == entry(deadly).revision
            )
            assert "CandidateKilledEngine" == report["reason"]
            assert "deadly" in report["message"]
            assert 200 == running.post([ROW]).status

    with engine(tmp_path) as running:
        running.wait("serving", version=it.stable.version)
        it.config.write(it.stable)
        running.wait("config_accepted", sequence=it.config.sequence)
        assert not (tmp_path / "state" / MARK_FILE).exists()
        it.config.write(it.stable, deadly)
        assert -signal.SIGSEGV == running.process.wait(30)


def test_an_engine_that_finds_the_mark_of_stable_serves_it(tmp_path: Path) -> None:
    """There is nothing better to serve."""
    stable = scaled(tmp_path, 1)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / MARK_FILE).write_text(f'{{"revision": "{entry(stable).revision}"}}')
    with started(tmp_path, stable=stable) as it:
        it.assert_untouched()


def test_a_source_that_is_gone_for_now_heals_by_itself(tmp_path: Path) -> None:
    """The server does not answer, then fails, then has the file: nobody needs to touch the config."""
    data = models.scaled(tmp_path / "x2.onnx", 2).read_bytes()
    with origin.Origin().running() as server:
        uri = server.serve("/x2.onnx", origin.status(404), origin.file(data))
        remote = document(_remote(uri, data))
        with started(tmp_path) as it:
            it.config.write(it.stable, remote)
            told = it.wait("refused", remote)
            assert "SourceNotFound" == told["reason"]
            assert not it.report_of(remote)["transient"]
            # What is permanent is tried again when the wish has dropped it.
            it.config.write(it.stable)
            it.running.wait("config_accepted", sequence=it.config.sequence)
            it.config.write(it.stable, remote)
            it.wait("serving", remote)
            assert 36.0 == it.value()


def test_a_broken_transfer_heals_by_itself(tmp_path: Path) -> None:
    """The engine tries again after a while, without a change of the config."""
    data = models.scaled(tmp_path / "x2.onnx", 2).read_bytes()
    with origin.Origin().running() as server:
        broken = [origin.status(503)] * 20
        uri = server.serve("/x2.onnx", *broken, origin.file(data))
        remote = document(_remote(uri, data))
        with started(tmp_path) as it:
            it.config.write(it.stable, remote)
            it.wait("refused", remote, reason="SourceUnreachable")
            assert it.report_of(remote)["transient"]
            server.serve("/x2.onnx", origin.file(data))
            it.wait("serving", remote)


def test_a_fetch_that_nobody_wants_any_more_ends(tmp_path: Path) -> None:
    """A source that never answers does not hold up the newest wish."""
    data = models.scaled(tmp_path / "x2.onnx", 2).read_bytes()
    with origin.Origin().running() as server:
        stalled = threading.Event()
        uri = server.serve("/x2.onnx", origin.file(data, cut=10, stall=stalled, until=server.free))
        remote = document(_remote(uri, data))
        with started(tmp_path) as it:
            it.config.write(it.stable, remote)
            assert stalled.wait(30)
            newest = scaled(tmp_path, 3)
            it.config.write(it.stable, newest)
            it.wait("dropped", remote)
            it.wait("serving", newest)
            assert 54.0 == it.value()


def test_an_emptied_cache_is_filled_again(tmp_path: Path) -> None:
    """A copy that was removed is fetched anew; with the source gone, too, what serves goes on serving."""
    old, new = scaled(tmp_path, 2), scaled(tmp_path, 3)
    with started(tmp_path) as it:
        it.config.write(it.stable, old)
        it.wait("serving", old)
        it.config.write(it.stable, new)
        it.wait("freed", old)
        for copy in (tmp_path / "cache" / "sha256").glob("*/*"):
            copy.unlink()
        it.config.write(it.stable, old)
        it.wait("serving", old)
        assert 36.0 == it.value()


def test_a_damaged_copy_in_the_cache_is_replaced(tmp_path: Path) -> None:
    """It is hashed again right before it is loaded, removed, and fetched again by itself."""
    old, new = scaled(tmp_path, 2), scaled(tmp_path, 3)
    with started(tmp_path) as it:
        it.config.write(it.stable, old)
        it.wait("serving", old)
        it.config.write(it.stable, new)
        it.wait("freed", old)
        sha256 = old.steps[0].main.sha256
        copy = tmp_path / "cache" / "sha256" / sha256[:2] / sha256
        copy.chmod(0o600)
        copy.write_bytes(b"damaged")
        it.config.write(it.stable, old)
        told = it.wait("refused", old)
        assert "CacheDamaged" == told["reason"]
        it.wait("serving", old)
        assert hashlib.sha256(copy.read_bytes()).hexdigest() == sha256


def _remote(uri: str, data: bytes) -> ResolvedModel:
    return ResolvedModel(
        name="remote", uri=uri, sha256=hashlib.sha256(data).hexdigest(), size=len(data)
    )
