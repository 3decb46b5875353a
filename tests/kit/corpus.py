"""The corpus of manifests, `tests/corpus`: what every reader of a v1alpha1 Pipeline must take, and what it must refuse.

The first line of a file says in a sentence what is special about it. An invalid file then has one comment for each
problem, `# expect: line:column: field: message; suggestion`, and `# operator: …` where an API server cannot judge it.
"""

from pathlib import Path

from midstream import yamldoc

FOLDER = Path(__file__).parents[1] / "corpus"
VALID = sorted((FOLDER / "valid").glob("*.yaml"))
INVALID = sorted((FOLDER / "invalid").glob("*.yaml"))

_EXPECT = "# expect: "
_LEFT = "\n# operator: "


def expected(path: Path) -> list[str]:
    """Return the problems that a file says it has."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix(_EXPECT) for line in lines if line.startswith(_EXPECT)]


def refused_as_data() -> list[Path]:
    """Return the invalid manifests that a reader of YAML can hand on; what is no data never reaches an API server."""
    found = []
    for path in sorted({*INVALID} - {*left_to_the_operator()}):
        try:
            documents = yamldoc.parse(path.read_text(encoding="utf-8"))
        except yamldoc.NotYaml:
            continue
        if len(documents) == 1 and not documents[0].problems:
            found.append(path)
    return found


def left_to_the_operator() -> list[Path]:
    """Return the invalid manifests that an API server takes, because its rules cannot say what is wrong."""
    return [path for path in INVALID if _LEFT in path.read_text(encoding="utf-8")]


def name(path: Path) -> str:
    """Name a test after its file."""
    return path.stem
