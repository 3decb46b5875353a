"""Errors as callers meet them: a constant to branch on, and whether trying again can help."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from midstream_artifacts import errors
from midstream_artifacts.errors import ArtifactError

TRANSIENT = {
    "SourceUnreachable",
    "SourceTimeout",
    "CacheDamaged",
    "NotCached",
    "CacheUnreadable",
    "CacheUnwritable",
    "NoSpace",
    "FetchCancelled",
}
BASES = {"SourceError", "CacheError"}


def below(kind: type[ArtifactError]) -> Iterator[type[ArtifactError]]:
    """Yield all classes that derive from `kind`."""
    for child in kind.__subclasses__():
        yield child
        yield from below(child)


def test_reason_is_the_name_and_transient_as_documented() -> None:
    """What the engine reports follows from the class alone."""
    kinds = [kind for kind in below(ArtifactError) if kind.__name__ not in BASES]
    assert {kind("x").reason for kind in kinds if kind.transient} == TRANSIENT
    assert all(kind("x").reason == kind.__name__ for kind in kinds)


def test_the_drawn_tree_is_the_real_one() -> None:
    """The module's docstring lists exactly the classes that exist."""
    drawn = set(re.findall(r"^[ │]*[├└]── (\w+)", errors.__doc__ or "", re.MULTILINE))
    assert drawn == {kind.__name__ for kind in below(ArtifactError)}


def test_every_reason_is_explained() -> None:
    """The documentation has a line for each reason, and says whether it may heal by itself."""
    page = (Path(__file__).parents[2] / "docs" / "artifacts.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (yes|no) \|", page, re.MULTILINE))
    kinds = [kind for kind in below(ArtifactError) if kind.__name__ not in BASES]
    assert rows == {kind.__name__: "yes" if kind.transient else "no" for kind in kinds}


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://models/a/rf.onnx", "https://models/a/rf.onnx"),
        (
            "https://ann:pw@models:81/rf.onnx?X-Sig=abc&v=1",
            "https://***@models:81/rf.onnx?X-Sig=***&v=***",
        ),
        ("https://models/rf.onnx?abc", "https://models/rf.onnx?***"),
        ("models/a@b?c=d.onnx", "models/a@b?c=d.onnx"),
        ("line\nbreak", "line�break"),
    ],
)
def test_redacted(uri: str, shown: str) -> None:
    """What identifies the file stays, what may be a secret goes; paths are no secrets."""
    assert errors.redacted(uri) == shown


def test_foreign_text_is_cut() -> None:
    """A server cannot flood a log through an address."""
    assert len(errors.redacted("https://models/" + "a" * 5000)) == 256
