"""Manifests: what is read, and what is said about those that cannot be."""

import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import corpus
from midstream import manifest, yamldoc
from midstream.manifest import ManifestError

SMALLEST = """\
apiVersion: midstream.dev/v1alpha1
kind: Pipeline
metadata: {name: house-price}
spec: {steps: [{name: predict, model: {name: rf, source: {uri: rf.onnx}}}]}
"""


def _problems(path: Path) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        manifest.load(path)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("path", corpus.INVALID, ids=corpus.name)
def test_invalid_manifest_is_explained(path: Path) -> None:
    """Every problem is told at once, with line, column, field, and what would be right."""
    assert _problems(path) == corpus.expected(path)


@pytest.mark.parametrize("path", corpus.VALID, ids=corpus.name)
def test_valid_manifest_is_read(path: Path) -> None:
    """A manifest of the corpus is a Pipeline."""
    assert manifest.load(path).pipeline.kind == "Pipeline"


def test_every_invalid_manifest_says_what_it_expects() -> None:
    """A file without expectations would test nothing."""
    assert [path.name for path in corpus.INVALID if not corpus.expected(path)] == []


def test_error_names_the_file_as_compilers_do(tmp_path: Path) -> None:
    """Editors jump to `file:line:column`."""
    path = tmp_path / "pipeline.yaml"
    path.write_text(SMALLEST.replace("name: rf,", "name: 3,"))
    with pytest.raises(ManifestError) as caught:
        manifest.load(path)
    said = 'spec.steps[0].model.name: expected a string, got the number 3; write "3"'
    assert str(caught.value) == f"{path}:4:40: {said}"


def test_missing_file_names_the_nearest_one(tmp_path: Path) -> None:
    """A typing error in a file's name is told as such."""
    (tmp_path / "pipeline.yaml").write_text(SMALLEST)
    there = tmp_path / "pipeline.yaml"
    assert _problems(tmp_path / "pipelin.yaml") == [f"no such file; did you mean '{there}'?"]


def test_missing_folder_is_named(tmp_path: Path) -> None:
    """When the folder is not there, that is what is said."""
    assert _problems(tmp_path / "no" / "pipeline.yaml") == [
        f"no such file; there is no folder '{tmp_path / 'no'}'"
    ]


def test_folder_is_not_a_manifest(tmp_path: Path) -> None:
    """A folder is refused as one."""
    assert _problems(tmp_path) == ["is a folder; name the manifest in it"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    """Permission denied is told as such."""
    path = tmp_path / "pipeline.yaml"
    path.write_text(SMALLEST)
    path.chmod(0)
    assert _problems(path) == ["permission denied; make the file readable for this user"]


def test_link_in_a_circle_is_refused(tmp_path: Path) -> None:
    """A link to itself is told by the system's own words."""
    path = tmp_path / "pipeline.yaml"
    path.symlink_to(path)
    assert _problems(path) == ["cannot be read: Too many levels of symbolic links"]


@pytest.mark.parametrize("content", ["", "\n\n", "   \n"])
def test_empty_file_is_refused(tmp_path: Path, content: str) -> None:
    """An editor that truncates before it writes is seen so for a moment."""
    path = tmp_path / "pipeline.yaml"
    path.write_text(content)
    assert _problems(path) == ["is empty; begin with apiVersion: midstream.dev/v1alpha1"]


def test_file_of_another_encoding_is_refused(tmp_path: Path) -> None:
    """The first byte that is not UTF-8 is pointed at."""
    path = tmp_path / "pipeline.yaml"
    path.write_bytes(SMALLEST.encode().replace(b"house-price", b"h\xe4user"))
    assert _problems(path) == ["3:19: not UTF-8: the byte 0xe4; save the file as UTF-8"]


def test_byte_order_mark_is_allowed(tmp_path: Path) -> None:
    """Some editors begin UTF-8 files with a mark."""
    path = tmp_path / "pipeline.yaml"
    path.write_text(SMALLEST, encoding="utf-8-sig")
    assert manifest.load(path).pipeline.metadata.name == "house-price"


def test_control_character_is_pointed_at(tmp_path: Path) -> None:
    """A character that YAML does not allow is named by its number."""
    path = tmp_path / "pipeline.yaml"
    path.write_text(SMALLEST.replace("predict", "pre\x07dict"))
    assert _problems(path) == ["4:26: not YAML: the character U+0007 is not allowed"]


def test_huge_file_is_refused_unread(tmp_path: Path) -> None:
    """Whoever names a model by mistake gets an answer at once."""
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.truncate(10 << 30)
    assert _problems(path) == ["is larger than 1048576 bytes; name a manifest, not a model"]


def test_status_is_accepted_and_ignored(tmp_path: Path) -> None:
    """The output of `kubectl get -o yaml` is a manifest, also when a cluster has written into it."""
    path = tmp_path / "pipeline.yaml"
    path.write_text(SMALLEST + "status: {conditions: [{type: Ready}]}\n")
    assert "status" not in manifest.load(path).pipeline.model_dump(by_alias=True)


def test_folder_of_a_linked_manifest_is_that_of_the_link(tmp_path: Path) -> None:
    """Paths in a manifest start where the user sees it, wherever the link leads."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "v1.yaml").write_text(SMALLEST)
    (tmp_path / "pipeline.yaml").symlink_to("real/v1.yaml")
    assert manifest.load(tmp_path / "pipeline.yaml").folder == tmp_path


def test_later_problem_points_at_the_line_of_its_field(tmp_path: Path) -> None:
    """What is found wrong when models are fetched is told at the field that led there."""
    path = tmp_path / "pipeline.yaml"
    path.write_text(SMALLEST)
    at = ("spec", "steps", 0, "model", "source", "uri")
    problem = manifest.load(path).problem(at, "is gone")
    assert str(problem) == "4:59: spec.steps[0].model.source.uri: is gone"


def test_later_problem_of_a_field_that_is_not_there_points_around_it(tmp_path: Path) -> None:
    """A field that was left out has no line; the one around it has."""
    path = tmp_path / "pipeline.yaml"
    path.write_text(SMALLEST)
    problem = manifest.load(path).problem(("spec", "steps", 0, "model", "sha256"), "differs")
    assert (problem.line, problem.column) == (4, 32)


# What scalars mean


def _value(text: str) -> Any:
    (document,) = yamldoc.parse(f"x: {text}\n")
    assert document.problems == ()
    return document.value["x"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6),
        ("-1.5E+3", -1500.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("1_000", 1000),
        ("+1", 1),
        ("0x1F", 31),
        ("0o14", 12),
        ("0b101", 5),
        ("yes", True),
        ("on", True),
        ("y", True),
        ("Off", False),
        ("n", False),
        ("~", None),
        ("Null", None),
        ("", None),
        ("'yes'", "yes"),
        ('"1"', "1"),
        ("2024-01-01", "2024-01-01"),
        ("190:20:30", "190:20:30"),
        ("1.2.3", "1.2.3"),
        ("1e", "1e"),
        ("!!str 3", "3"),
        ("!!float 3", 3.0),
        ("!!int '3'", 3),
        ("=", "="),
    ],
)
def test_scalars_mean_what_they_mean_to_kubectl(text: str, value: Any) -> None:
    """Measured with kubectl 1.35 against an API server."""
    found = _value(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("!!int three", "'three' is not a whole number"),
        ("!!float x", "'x' is not a number"),
        ("!!bool 3", "'3' is neither true nor false"),
        ("!!null 3", "'3' is not null"),
        ("!!binary aGk=", "the tag '!!binary' is not supported; leave it out"),
        ("!!set {a}", "the tag '!!set' is not supported; leave it out"),
        ("!mine [a]", "the tag '!mine' is not supported; leave it out"),
        (
            "!any(in.house < 0)",
            "the tag '!any(in.house' is not supported; put a text that begins with ! in quotes",
        ),
        (r'"\0"', r"'\x00' has a character that no text can hold"),
        (r'"\ud800"', r"'\ud800' has a character that no text can hold"),
        (
            "-9223372036854775809",
            "'-9223372036854775809' is a number of more than 64 bits; write it with a '.0'",
        ),
        ("9" * 5000, "is a number of more than 64 bits"),
    ],
)
def test_what_is_no_plain_data_is_a_problem(text: str, said: str) -> None:
    """A tag or a value that JSON does not have is told where it stands."""
    (document,) = yamldoc.parse(f"x: {text}\n")
    (problem,) = document.problems
    assert said in str(problem)
    assert (problem.line, problem.column, document.value) == (1, 4, {"x": None})


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("! in.flag", "put a text that begins with ! in quotes, as in failWhen: '!in.flag'"),
        ('!contains(in.a, "x")', "put a text that begins with ! in quotes"),
        ("!(in.a > 3)", "put a text that begins with ! in quotes"),
        ('"DE" == in.x', "put quotes of the other kind around a whole text"),
        ('in.x == "a: b"', "put quotes around a text that has ': ' in it"),
        ('{a: in.x == "a: b"}', "put quotes around a text with a comma, a bracket, a quote or"),
    ],
)
def test_an_expression_that_needs_quotes_is_told_so(text: str, advice: str) -> None:
    """What YAML reads as something else is refused with the remedy; a lone ! is never just left out."""
    with pytest.raises(yamldoc.NotYaml) as refused:
        yamldoc.parse(f"x: {text}\n")
    assert advice in str(refused.value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_that_python_writes_is_read_as_that_number(number: float) -> None:
    """Golden rows are copied from answers; they must arrive as they were."""
    assert _value(repr(number)) == number


@given(st.text())
def test_no_text_ends_in_a_surprise(text: str) -> None:
    """Any text is documents or a problem with a place."""
    try:
        values = [document.value for document in yamldoc.parse(text)]
    except yamldoc.NotYaml as error:
        values = [error.problem.message.removeprefix("not YAML: ")]
    assert not _has_nan(values)


def _has_nan(value: Any) -> bool:
    if isinstance(value, list | dict):
        return any(
            _has_nan(each) for each in (value.values() if isinstance(value, dict) else value)
        )
    return isinstance(value, float) and not math.isfinite(value)


# Hostile texts


def test_alias_bomb_is_refused() -> None:
    """Ten levels of ten aliases would be ten thousand million values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 11)]
    (document,) = yamldoc.parse("\n".join(lines))
    assert [problem.message for problem in document.problems] == ["its anchors expand to too much"]


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_deep_nesting_is_refused(opening: str) -> None:
    """A million brackets cost nothing."""
    with pytest.raises(yamldoc.NotYaml, match="nested more than 64 levels deep"):
        yamldoc.parse(opening * 100_000)


def test_nesting_within_the_limit_is_read() -> None:
    """Golden rows of images are nested a few levels."""
    (document,) = yamldoc.parse("[" * 64 + "]" * 64)
    assert document.problems == ()


def test_unusable_keys_are_problems_not_failures() -> None:
    """A key may be a list in YAML, a number, or empty; in a manifest it is a text."""
    (document,) = yamldoc.parse(
        "? [a, b]\n: 1\n? {c: d}\n: 2\n3: x\n? \n: y\n~: z\ny: 1\nkept: 1\n"
    )
    assert [problem.message for problem in document.problems] == [
        "a key must be a string, this one is not",
        "a key must be a string, this one is not",
        "a key must be a string, '3' is not",
        "a key must be a string, '' is not",
        "a key must be a string, '~' is not",
        "a key must be a string, 'y' is not",
    ]
    assert document.value == {"kept": 1}
