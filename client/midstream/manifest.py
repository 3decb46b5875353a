"""A manifest file becomes a checked `Pipeline`, or a list of everything that is wrong with it.

The file is read once. Whether its models exist is not asked here: `midstream.resolve` does that.
"""

import difflib
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from midstream import problems, yamldoc
from midstream.problems import FieldPath, Problem
from midstream_api import names
from midstream_api.pipeline import Pipeline

MAX_BYTES = 1 << 20
"""Size limit of a manifest."""

MAX_PROBLEMS = 100
"""More are counted, not told."""

_BEGIN = f"begin with apiVersion: {names.API_VERSION}"


class ManifestError(Exception):
    """A manifest cannot be used; `problems` says why, all at once, in the order of the file."""

    def __init__(self, path: Path, found: list[Problem]) -> None:
        self.path = path
        self.problems = sorted(found[:MAX_PROBLEMS], key=lambda p: (p.line or 0, p.column or 0))
        if len(found) > MAX_PROBLEMS:
            more = f"and {len(found) - MAX_PROBLEMS} more problems"
            self.problems.append(Problem(None, None, "", more))
        super().__init__("\n".join(problems.at(path, problem) for problem in self.problems))


@dataclass(frozen=True, slots=True)
class Manifest:
    """A file that holds one valid Pipeline."""

    path: Path
    """As it was given; messages repeat it."""
    pipeline: Pipeline
    text: str = field(repr=False, compare=False)
    """What is in the file."""
    _document: yamldoc.Document = field(repr=False, compare=False)

    @property
    def folder(self) -> Path:
        """What paths in the manifest are relative to: the folder of `path`, links not followed."""
        return self.path.absolute().parent

    def place(self, at: FieldPath) -> yamldoc.Place | None:
        """Return where a field stands in `text`; None when it is not there."""
        return self._document.place(at)

    def problem(self, at: FieldPath, message: str, suggestion: str | None = None) -> Problem:
        """Describe something that was found wrong later, at the line where the field stands."""
        return Problem(*self._document.locate(at), problems.dotted(at), message, suggestion)

    def problem_inside(self, at: FieldPath, line: int, message: str) -> Problem:
        """Describe something that was found wrong in a line, from 1, of the text that a field holds.

        At that line where the text is a block of lines, else at the field.
        """
        problem, place = self.problem(at, message), self.place(at)
        if place is None or self.text[place.start] != "|":
            return problem
        # The block begins in the line after its mark.
        first = self.text.count("\n", 0, place.start) + 1
        return replace(problem, line=first + line, column=1)


def load(path: str | Path) -> Manifest:
    """Read and check the manifest at `path`.

    Raises ManifestError with every problem there is.
    """
    path = Path(path)
    text = _read(path)
    document = _one_document(path, text)
    found = list(document.problems)
    if not isinstance(document.value, dict):
        what = "a list" if isinstance(document.value, list) else "a single value"
        message = f"expected a mapping with apiVersion, kind, metadata and spec, got {what}"
        found.append(Problem(*document.locate(()), "", message, _BEGIN))
        raise ManifestError(path, found)
    try:
        pipeline = Pipeline.read(document.value)
    except ValidationError as error:
        raise ManifestError(path, found + _explained(error, document)) from error
    if found:
        raise ManifestError(path, found)
    return Manifest(path, pipeline, text, document)


def _explained(error: ValidationError, document: yamldoc.Document) -> list[Problem]:
    # Where YAML had a problem the data is null; that is not told a second time.
    known = {problem.field for problem in document.problems}
    # Finding a place takes time in a long file, so a hostile one is not explained to the end.
    errors = [one for one in error.errors(include_url=False) if not _follows(one, known)]
    explained = [
        problems.explain(one, document.locate, document.written) for one in errors[:MAX_PROBLEMS]
    ]
    unexplained = [Problem(None, None, "", "not told")] * len(errors[MAX_PROBLEMS:])
    return [problem for problem in explained if problem.field not in known] + unexplained


def _follows(error: ErrorDetails, known: set[str]) -> bool:
    """Whether a field is said to be missing only because what YAML has there is no data."""
    around = problems.dotted(tuple(error["loc"]))
    return error["type"].endswith("_kind") and any(one.startswith(f"{around}.") for one in known)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise _unreadable(path, "no such file", _neighbour(path)) from error
    except IsADirectoryError as error:
        raise _unreadable(path, "is a folder", "name the manifest in it") from error
    except PermissionError as error:
        raise _unreadable(
            path, "permission denied", "make the file readable for this user"
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise _unreadable(path, f"cannot be read: {reason}") from error
    if len(data) > MAX_BYTES:
        raise _unreadable(path, f"is larger than {MAX_BYTES} bytes", "name a manifest, not a model")
    if not data.strip():
        raise _unreadable(path, "is empty", _BEGIN)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        message = f"not UTF-8: the byte 0x{data[error.start]:02x}"
        problem = Problem(line, column, "", message, "save the file as UTF-8")
        raise ManifestError(path, [problem]) from error


def _unreadable(path: Path, message: str, suggestion: str | None = None) -> ManifestError:
    return ManifestError(path, [Problem(None, None, "", message, suggestion)])


def _neighbour(path: Path) -> str | None:
    try:
        there = sorted(entry.name for entry in path.parent.iterdir())
    except OSError:
        return f"there is no folder {str(path.parent)!r}"
    near = difflib.get_close_matches(path.name, there, n=1)
    return f"did you mean {str(path.with_name(near[0]))!r}?" if near else None


def _one_document(path: Path, text: str) -> yamldoc.Document:
    """Return the one document of a file; other kinds beside it and second Pipelines are refused."""
    try:
        documents = yamldoc.parse(text)
    except yamldoc.NotYaml as error:
        raise ManifestError(path, [error.problem]) from error
    if not documents:
        raise _unreadable(path, "holds no manifest", _BEGIN)
    if len(documents) == 1:
        return documents[0]
    found: list[Problem] = []
    pipelines = 0
    for document in documents:
        kind = document.value.get("kind") if isinstance(document.value, dict) else None
        position = document.locate(())
        if kind == names.PIPELINE_KIND:
            pipelines += 1
            if pipelines > 1:
                suggestion = "give each Pipeline a file of its own"
                found.append(Problem(*position, "", "a second Pipeline in one file", suggestion))
        else:
            what = (
                f"a document of kind {problems.quoted(kind)}" if kind else "a document without kind"
            )
            suggestion = "a manifest holds one Pipeline and nothing else"
            found.append(Problem(*position, "", what, suggestion))
    raise ManifestError(path, found)
