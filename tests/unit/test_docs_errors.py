"""`docs/errors.md` has every reason that the code can give, with the code that it has over HTTP, and no other."""

import ast
import functools
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from midstream_artifacts import errors as artifact_errors
from midstream_engine import errors
from midstream_engine.dataplane import STATUS_CODES

ROOT = Path(__file__).parents[2]
ENGINE = ROOT / "engine" / "midstream_engine"
DOCUMENT = (ROOT / "docs" / "errors.md").read_text()
CONSTANT = re.compile(r"[A-Z][a-z]+([A-Z][A-Za-z]*)+")
CLASSES = {
    name: kind
    for name, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.RequestError) and kind is not errors.RequestError
}

OTHERS = {"BackOff", "BoundHotProtocol", "InvalidProtobuf", "NaN", "NoSuchFile", "RequestFailed"}
"""What looks like a reason: the state of a worker, a class, errors of onnxruntime, a word, and the default of a base
that is never raised itself."""

BODIES = (ENGINE / "formats", ENGINE / "oip")
"""They read bodies: a reason that is not tied to a class there is one of BadInput."""


def rows(title: str) -> dict[str, list[str]]:
    """The cells of a section's table behind the reason, by the reason."""
    section = DOCUMENT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    assert section, title
    lines = re.findall(r"^\| `([A-Za-z]+)` \|(.*)\|$", section, re.MULTILINE)
    assert len({reason for reason, _ in lines}) == len(lines), "a reason stands there twice"
    return {reason: [cell.strip() for cell in cells.split(" | ")] for reason, cells in lines}


REQUESTS = rows("Requests")
CONFIG = rows("The config folder")
LOADING = rows("Loading a revision")
FETCHING = rows("Fetching models")


def constants(node: ast.AST) -> Iterator[str]:
    """Texts that are written as reasons, but for names of types in annotations."""
    for field, value in ast.iter_fields(node):
        if field in {"annotation", "returns"}:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from constants(child)
    text = node.value if isinstance(node, ast.Constant) else None
    if isinstance(text, str) and CONSTANT.fullmatch(text) and text not in OTHERS:
        yield text


def calls(folder: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a plain name below a folder."""
    for module in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                yield node.func.id, node


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((each.value for each in call.keywords if each.arg == name), None)


def found_below(*places: Path) -> set[str]:
    modules = [
        module
        for place in places
        for module in (place.rglob("*.py") if place.is_dir() else (place,))
    ]
    return {reason for module in modules for reason in constants(ast.parse(module.read_text()))}


@functools.cache
def reasons_of_requests() -> dict[str, int]:
    """Every reason that a refused request can have, and its status code."""
    found = {(kind.default_reason, code) for kind, code in STATUS_CODES.items()}
    for name, call in calls(ENGINE):
        reason = keyword(call, "reason")
        if name in CLASSES and reason is not None:
            code = STATUS_CODES[CLASSES[name]]
            found |= {(each, code) for each in constants(reason)}
        elif name == "_problem" and isinstance(call.args[0], ast.Constant):
            found |= {(each, int(str(call.args[0].value))) for each in constants(call.args[1])}
    known = {reason for reason, _ in found}
    found |= {(reason, STATUS_CODES[errors.BadInput]) for reason in found_below(*BODIES) - known}
    assert len(dict(found)) == len(found), "a reason with two status codes"
    return dict(found)


def reasons_of_the_config_folder() -> set[str]:
    return found_below(ENGINE / "revisions" / "source.py")


def reasons_of_loading() -> dict[str, set[str]]:
    """Every reason that a revision may be refused for, with what the page says of its healing.

    Reasons that a call does not spell out are what is left when all others are taken away.
    """
    found: dict[str, set[str]] = {}
    for name, call in calls(ENGINE):
        if name == "LoadError":
            heals = keyword(call, "transient")
            said = "yes" if isinstance(heals, ast.Constant) and heals.value else "no"
            for reason in constants(call.args[0]):
                found.setdefault(reason, set()).add(said)
    spelled_out = {
        *found,
        *reasons_of_requests(),
        *(kind.default_reason for kind in CLASSES.values()),
        *reasons_of_the_config_folder(),
        *reasons_of_artifacts(),
    }
    for reason in found_below(ENGINE) - spelled_out:
        found[reason] = {"no"}
    return found


def reasons_of_artifacts() -> set[str]:
    """The classes that say so in their docstring are never raised themselves."""
    classes = [kind for _, kind in inspect.getmembers(artifact_errors, inspect.isclass)]
    return {
        kind.__name__
        for kind in classes
        if issubclass(kind, artifact_errors.ArtifactError)
        and "never raised itself" not in (kind.__doc__ or "")
    }


def test_every_error_of_a_request_has_a_status_code() -> None:
    """A new class needs one, or the first such error would be a defect."""
    assert set(STATUS_CODES) == set(CLASSES.values())


def test_reasons_of_requests_are_explained() -> None:
    """All of them, no other, and with the status code that the data plane answers with."""
    assert {reason: int(cells[0]) for reason, cells in REQUESTS.items()} == reasons_of_requests()


def test_reasons_of_the_config_folder_are_explained() -> None:
    """All of them, and no other."""
    assert set(CONFIG) == reasons_of_the_config_folder()


def test_reasons_of_loading_are_explained() -> None:
    """All of them, no other, and whether they heal by themselves as the code says."""
    said = {reason: cells[0] for reason, cells in LOADING.items()}
    assert said == {
        reason: "some" if len(heals) > 1 else next(iter(heals))
        for reason, heals in reasons_of_loading().items()
    }


def test_reasons_of_artifacts_are_explained() -> None:
    """All of them, no other, and they heal where they are `transient`."""
    said = {reason: cells[0] for reason, cells in FETCHING.items()}
    assert said == {
        reason: "yes" if getattr(artifact_errors, reason).transient else "no"
        for reason in reasons_of_artifacts()
    }


def test_every_row_says_what_it_means() -> None:
    """No cell is empty, and each table has as many as its head."""
    for table, width in ((REQUESTS, 3), (CONFIG, 2), (LOADING, 3), (FETCHING, 2)):
        for reason, cells in table.items():
            assert len(cells) == width, reason
            assert all(cells), reason


@pytest.mark.parametrize(
    "page", ["open-inference-protocol.md", "formats.md", "python-models.md", "validations.md"]
)
def test_pages_on_requests_agree(page: str) -> None:
    """A reason that another page gives with its status code has the same one here."""
    text = (ROOT / "docs" / page).read_text()
    told = [
        *re.findall(r"^\| `([A-Za-z]+)` \| (\d{3}) \|", text, re.MULTILINE),
        *((reason, code) for code, reason in re.findall(r"(\d{3}) `([A-Z][A-Za-z]+)`", text)),
        *re.findall(r"`([A-Z][A-Za-z]+)` \((\d{3})\b", text),
        *((reason, code) for code, reason in re.findall(r"\| (\d{3}) \| `(\w+)` \|", text)),
    ]
    known = reasons_of_requests()
    for reason, code in told:
        assert known[reason] == int(code), reason


def test_every_reason_of_the_command_line_is_explained() -> None:
    """With what to do, in the page on running or in that on manifests; those of engines and sources are told here."""
    pages = "".join((ROOT / "docs" / name).read_text() for name in ("running.md", "manifest.md"))
    reasons = found_below(ROOT / "client")
    assert {"PortInUse", "InvalidManifest", "DocumentTooLarge"} <= reasons
    own = reasons - set(reasons_of_loading()) - reasons_of_artifacts()
    assert {reason for reason in own if f"`{reason}`" not in pages} == set()
