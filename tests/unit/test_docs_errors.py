"""`docs/errors.md` has every reason that the code can give, with the code that it has over HTTP, and no other."""

import ast
import inspect
import re
from pathlib import Path

import pytest

from midstream_artifacts import errors as artifact_errors
from midstream_engine import dataplane, errors
from midstream_engine.dataplane import STATUS_CODES

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "errors.md").read_text()
TABLE = {
    match[1]: match[0] for match in re.finditer(r"^\| `([A-Za-z]+)` \|.*$", DOCUMENT, re.MULTILINE)
}
CONSTANT = re.compile(r"[A-Z][a-z]+([A-Z][A-Za-z]*)+")

OTHERS = {"InvalidProtobuf", "NoSuchFile", "BoundHotProtocol", "RequestFailed"}
"""What looks like a reason: errors of onnxruntime, a class, and the default of a base that is never raised itself."""


def reasons_of_requests() -> dict[str, int]:
    """Every reason a refused request can have, and its status code."""
    found = {error.default_reason: code for error, code in STATUS_CODES.items()}
    records = (ROOT / "engine" / "midstream_engine" / "records.py").read_text()
    for node in ast.walk(ast.parse(records)):
        if isinstance(node, ast.Constant) and CONSTANT.fullmatch(str(node.value)):
            found[str(node.value)] = 400
    found.pop("NaN")
    return found


def strings(module: Path) -> set[str]:
    """The texts of a module that are written as reasons, but for names of types in annotations."""
    tree = ast.parse(module.read_text())
    places = [
        *(
            keyword.value
            for n in ast.walk(tree)
            if isinstance(n, ast.Call)
            for keyword in n.keywords
        ),
        *(argument for n in ast.walk(tree) if isinstance(n, ast.Call) for argument in n.args),
        *(item for n in ast.walk(tree) if isinstance(n, ast.Tuple) for item in n.elts),
        *(n.value for n in ast.walk(tree) if isinstance(n, ast.Assign | ast.AnnAssign) if n.value),
    ]
    return {
        place.value
        for place in places
        if isinstance(place, ast.Constant)
        and isinstance(place.value, str)
        and CONSTANT.fullmatch(place.value)
    }


def reasons_of_the_engine() -> set[str]:
    modules = (ROOT / "engine" / "midstream_engine").glob("*.py")
    return set().union(*(strings(module) for module in modules)) - OTHERS


def reasons_of_artifacts() -> set[str]:
    """The classes that say so in their docstring are never raised themselves."""
    classes = [kind for _, kind in inspect.getmembers(artifact_errors, inspect.isclass)]
    return {
        kind.__name__
        for kind in classes
        if issubclass(kind, artifact_errors.ArtifactError)
        and "never raised itself" not in (kind.__doc__ or "")
    }


def test_every_reason_of_the_code_is_explained() -> None:
    """A new reason needs a line that says what it means."""
    assert reasons_of_the_engine() | reasons_of_artifacts() | set(reasons_of_requests()) <= set(
        TABLE
    )


def test_every_reason_of_the_command_line_is_explained() -> None:
    """With what to do, in the page on running or in that on manifests."""
    pages = "".join((ROOT / "docs" / name).read_text() for name in ("running.md", "manifest.md"))
    modules = (ROOT / "client").rglob("*.py")
    reasons = set().union(*(strings(module) for module in modules))
    assert {"PortInUse", "InvalidManifest", "DocumentTooLarge"} <= reasons
    assert {reason for reason in reasons if f"`{reason}`" not in pages} == set()


def test_every_explained_reason_is_in_the_code() -> None:
    """A reason that is gone leaves the page, too."""
    known = reasons_of_the_engine() | reasons_of_artifacts() | set(reasons_of_requests())
    assert set(TABLE) <= known


@pytest.mark.parametrize("reason", sorted(reasons_of_requests()))
def test_reasons_of_requests_have_their_status_code(reason: str) -> None:
    """The page and the data plane agree."""
    assert f"| `{reason}` | {reasons_of_requests()[reason]} |" in DOCUMENT


def test_every_error_of_a_request_has_a_status_code() -> None:
    """A new class needs one, or the first such error would be a defect."""
    classes = {
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.RequestError) and kind is not errors.RequestError
    }
    assert set(dataplane.STATUS_CODES) == classes


@pytest.mark.parametrize("reason", sorted(reasons_of_artifacts()))
def test_reasons_of_artifacts_heal_as_the_page_says(reason: str) -> None:
    """`transient` is what the page calls healing."""
    heals = getattr(artifact_errors, reason).transient
    assert TABLE[reason].split("|")[2].strip() == ("yes" if heals else "no")
