"""Tests of the engine's inside that are told as async functions, and the revisions that they speak of."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit import models
from kit.folder import document, entry, model
from kit.live import play
from midstream_api.engineconfig import RevisionDocument


def story(function: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Make an async test one that pytest can run."""

    @functools.wraps(function)
    def run(tmp_path: Path) -> None:
        play(lambda: function(tmp_path))

    del run.__wrapped__  # pytest would look through it
    return run


def scaled(folder: Path, factor: float, **fields: Any) -> RevisionDocument:
    """A revision of one model that answers `factor` times the sum."""
    return document(model(models.scaled(folder / f"x{factor:g}.onnx", factor), **fields))


def id_of(revision: RevisionDocument) -> str:
    """The revision's id."""
    return entry(revision).revision
