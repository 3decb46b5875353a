"""The config folder as `midstream run` writes it: read by the engine's own reader and by a reader in a hurry."""

import shutil
import threading
from pathlib import Path

import pytest

from kit import models
from midstream import manifest as manifests
from midstream import resolve
from midstream.resolve import Resolved
from midstream.run import folder
from midstream_api import names
from midstream_artifacts.cache import Cache
from midstream_engine.revisions import source


def resolved(tmp_path: Path, factor: float, *, schema: bool = False) -> Resolved:
    """A revision of one model that multiplies by `factor`."""
    model = models.scaled(tmp_path / f"{factor}.onnx", factor)
    path = tmp_path / f"{factor}.yaml"
    path.write_text(
        f"""\
apiVersion: midstream.dev/v1alpha1
kind: Pipeline
metadata: {{name: house-price}}
spec:
  rollout: {{allowSchemaChange: {str(schema).lower()}}}
  steps: [{{name: predict, model: {{name: scaled, source: {{uri: {model.name}}}}}}}]
"""
    )
    return resolve.resolve(manifests.load(path), Cache(tmp_path / "cache"))


def test_the_engine_reads_what_was_written(tmp_path: Path) -> None:
    """Stable and candidate are held, and exactly the one that is asked for is served."""
    one, two = resolved(tmp_path, 1.0), resolved(tmp_path, 2.0, schema=True)
    config = folder.ConfigFolder(tmp_path / "config")

    config.write(folder.files("u", 7, one, two, serve=two.revision))
    reading = source.read(config.path)
    wish = reading.wish

    assert reading.assignment_error is None
    assert (wish.uid, wish.sequence, wish.pipeline) == ("u", 7, "house-price")
    assert wish.goal.stable == one.revision
    assert wish.goal.serve == two.revision
    assert set(wish.goal.hold) == {one.revision, two.revision}
    assert wish.documents == {one.revision: one.document, two.revision: two.document}
    assert wish.allow_schema_change


def test_what_is_wished_no_more_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a promotion only the new revision's document is in the folder, and old states do not pile up."""
    monkeypatch.setattr(folder, "KEPT_SECONDS", 0.0)
    one, two = resolved(tmp_path, 1.0), resolved(tmp_path, 2.0)
    config = folder.ConfigFolder(tmp_path / "config")

    for sequence in range(1, 6):
        config.write(folder.files("u", sequence, one, two, serve=one.revision))
    config.write(folder.files("u", 6, two, None, serve=two.revision))

    visible = {entry.name for entry in config.path.iterdir() if not entry.name.startswith("..")}
    assert visible == {names.INDEX_FILE, names.ASSIGNMENT_FILE, f"{two.revision}.json"}
    states = [entry for entry in config.path.iterdir() if entry.is_dir() and not entry.is_symlink()]
    assert states == [(config.path / names.DATA_LINK).resolve()]
    wish = source.read(config.path).wish
    assert wish.goal.hold == (two.revision,)


def test_states_that_somebody_cleared_away_are_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next write makes everything anew, and the removal of old states passes over what is gone."""
    monkeypatch.setattr(folder, "KEPT_SECONDS", -1.0)
    one = resolved(tmp_path, 1.0)
    config = folder.ConfigFolder(tmp_path / "config")
    config.write(folder.files("u", 1, one, None, serve=one.revision))
    assert config.intact
    shutil.rmtree(config.path)
    assert not config.intact

    config.write(folder.files("u", 2, one, None, serve=one.revision))

    assert config.intact
    assert source.read(config.path).wish.sequence == 2


def test_a_write_that_fails_changes_nothing(tmp_path: Path) -> None:
    """When a file cannot be written, the folder keeps its last state and no rest of the new one."""
    one = resolved(tmp_path, 1.0)
    config = folder.ConfigFolder(tmp_path / "config")
    config.write(folder.files("u", 1, one, None, serve=one.revision))
    before = sorted(config.path.iterdir())

    with pytest.raises(OSError, match="missing"):
        config.write({names.INDEX_FILE: b"{}", "missing/file": b""})

    assert sorted(config.path.iterdir()) == before
    assert source.read(config.path).wish.sequence == 1


def test_the_files_can_be_read_by_their_plain_names(tmp_path: Path) -> None:
    """As in a folder that the kubelet projects, each name is a link through `..data`."""
    one = resolved(tmp_path, 1.0)
    config = folder.ConfigFolder(tmp_path / "config")
    content = folder.files("u", 1, one, None, serve=one.revision)

    config.write(content)

    for name, data in content.items():
        assert (config.path / name).readlink() == Path(names.DATA_LINK, name)
        assert (config.path / name).read_bytes() == data


def test_a_reader_never_sees_a_mixture(tmp_path: Path) -> None:
    """While the folder is written again and again, every read gives one whole state, in order."""
    one, two = resolved(tmp_path, 1.0), resolved(tmp_path, 2.0)
    config = folder.ConfigFolder(tmp_path / "config")
    config.write(folder.files("u", 1, one, None, serve=one.revision))
    last = 400

    def write() -> None:
        for sequence in range(2, last + 1):
            serve = one if sequence % 2 else two
            config.write(folder.files("u", sequence, one, two, serve=serve.revision))

    writer = threading.Thread(target=write)
    writer.start()
    seen = [1]
    try:
        while seen[-1] < last:
            reading = source.read(config.path)
            assert reading.assignment_error is None
            wish = reading.wish
            assert wish.sequence >= seen[-1]
            assert (
                wish.sequence == 1
                or wish.goal.serve == (one if wish.sequence % 2 else two).revision
            )
            seen.append(wish.sequence)
    finally:
        writer.join()
