"""Noticing that the manifest or a model has changed: real files, and looks taken one by one."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from midstream import manifest as manifests
from midstream.run.watch import LOOKS, LOOKS_GONE, Debounce, local_models, signature, signatures


def looks(debounce: Debounce, paths: list[Path], count: int) -> list[bool]:
    """Take so many looks and say which of them settled a change."""
    return [debounce.look(signatures(paths)) for _ in range(count)]


def rewrite(path: Path) -> None:
    path.write_text("two, longer")


def rename_over(path: Path) -> None:
    new = path.with_name("new")
    new.write_text("two")
    os.utime(new, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    new.replace(path)


def remove_and_create(path: Path) -> None:
    path.unlink()
    path.write_text("two, longer")


def make_readable_again(path: Path) -> None:
    path.chmod(0o400)


@pytest.mark.parametrize("save", [rewrite, rename_over, remove_and_create, make_readable_again])
def test_every_way_of_saving_is_noticed_once(tmp_path: Path, save: Callable[[Path], None]) -> None:
    """A change settles at the second look that agrees, and is told once."""
    path = tmp_path / "pipeline.yaml"
    path.write_text("one")
    debounce = Debounce(signatures([path]))
    assert not any(looks(debounce, [path], 3))

    save(path)

    assert looks(debounce, [path], 4) == [False] * (LOOKS - 1) + [True, False, False]


def test_a_swapped_symbolic_link_is_noticed(tmp_path: Path) -> None:
    """A link that leads elsewhere is a change, wherever in the path it is, even when the files are alike."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "pipeline.yaml").write_text("one")
    os.link(tmp_path / "a" / "pipeline.yaml", tmp_path / "b" / "pipeline.yaml")
    (tmp_path / "current").symlink_to("a")
    path = tmp_path / "current" / "pipeline.yaml"
    debounce = Debounce(signatures([path]))

    (tmp_path / "fresh").symlink_to("b")
    (tmp_path / "fresh").replace(tmp_path / "current")

    assert True in looks(debounce, [path], LOOKS)


def test_a_file_that_is_still_being_written_is_left_alone(tmp_path: Path) -> None:
    """While every look differs from the one before, nothing is told."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"")
    debounce = Debounce(signatures([path]))

    with path.open("ab") as file:
        for _ in range(10):
            file.write(b"x" * 100)
            file.flush()
            assert not debounce.look(signatures([path]))

    assert debounce.look(signatures([path]))


def test_a_file_that_is_gone_for_a_moment_is_not_told(tmp_path: Path) -> None:
    """A file that comes back as it was within a few looks has not changed."""
    path = tmp_path / "pipeline.yaml"
    path.write_text("one")
    debounce = Debounce(signatures([path]))

    path.rename(tmp_path / "away")
    assert not any(looks(debounce, [path], LOOKS_GONE - 1))
    (tmp_path / "away").rename(path)

    assert not any(looks(debounce, [path], LOOKS_GONE))


def test_a_file_that_stays_away_is_told(tmp_path: Path) -> None:
    """A file that is really gone is a change as well."""
    path = tmp_path / "pipeline.yaml"
    path.write_text("one")
    debounce = Debounce(signatures([path]))

    path.unlink()

    assert looks(debounce, [path], LOOKS_GONE) == [False] * (LOOKS_GONE - 1) + [True]


def test_a_missing_model_does_not_slow_down_the_manifest(tmp_path: Path) -> None:
    """A path that was missing before does not make a change of another wait longer."""
    path, missing = tmp_path / "pipeline.yaml", tmp_path / "none.onnx"
    path.write_text("one")
    debounce = Debounce(signatures([path, missing]))

    rewrite(path)

    assert looks(debounce, [path, missing], LOOKS)[-1]


def test_what_is_known_is_no_change(tmp_path: Path) -> None:
    """States that were taken when the files were read count as seen; later ones are changes."""
    path, model = tmp_path / "pipeline.yaml", tmp_path / "model.onnx"
    path.write_text("one")
    model.write_text("model")
    debounce = Debounce(signatures([path]))
    rewrite(path)

    debounce.know(signatures([path, model]))

    assert debounce.paths == [path, model]
    assert not any(looks(debounce, [path, model], 3))
    rewrite(model)
    assert True in looks(debounce, [path, model], LOOKS)


def test_a_symbolic_link_in_a_circle_is_nothing(tmp_path: Path) -> None:
    """A path that leads nowhere has no state, and looking at it raises nothing."""
    (tmp_path / "loop").symlink_to("loop")

    assert signature(tmp_path / "loop") is None
    assert signature(tmp_path / "loop" / "deeper") is None


def test_the_local_models_of_a_manifest(tmp_path: Path) -> None:
    """Local files of all steps and variants are found relative to the manifest's folder; nothing else is watched."""
    path = tmp_path / "pipeline.yaml"
    path.write_text(
        """\
apiVersion: midstream.dev/v1alpha1
kind: Pipeline
metadata: {name: house-price}
spec:
  steps:
    - {name: a, model: {name: a, source: {uri: models/a.onnx}}}
    - {name: b, model: {name: b, source: {uri: "https://models.example/b.onnx"}}}
    - {name: c, model: {name: c, source: {uri: "file:///models/c.onnx"}}}
    - {name: d, model: {name: d, source: {uri: "ftp://models.example/d.onnx"}}}
    - {name: e, model: {name: e, framework: Python, source: {inline: "x = 1"}}}
    - name: f
      split:
        variants:
          - {name: g, model: {name: g, source: {uri: models/g.onnx}}}
          - {name: h, model: {name: h, framework: Python, source: {uri: code/h.zip}}}
    - name: i
      shadow:
        champion: {name: j, model: {name: j, source: {uri: models/j.onnx}}}
        challengers: [{name: k, model: {name: k, source: {uri: models/k.onnx}}}]
"""
    )

    found = local_models(manifests.load(path))

    here = ["models/g.onnx", "code/h.zip", "models/j.onnx", "models/k.onnx"]
    assert found == [
        tmp_path / "models/a.onnx",
        Path("/models/c.onnx"),
        *(tmp_path / one for one in here),
    ]
