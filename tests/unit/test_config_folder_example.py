"""The config folder that the docs show is one that an engine obeys."""

import hashlib
import json
import re
from pathlib import Path

from midstream_api import names, version
from midstream_api.engineconfig import Assignment, Index, RevisionDocument

DOCS = Path(__file__).parents[2] / "docs"
FOLDER = DOCS / "examples" / "config-folder"


def _index() -> Index:
    return Index.model_validate_json((FOLDER / names.INDEX_FILE).read_bytes())


def test_documents_have_the_digests_that_the_index_promises() -> None:
    """File, digest, revision and version of each entry belong together."""
    for entry in _index().entries():
        data = (FOLDER / entry.document).read_bytes()
        document = RevisionDocument.model_validate_json(data)
        assert hashlib.sha256(data).hexdigest() == entry.sha256
        assert version.revision_id(document) == entry.revision
        steps, checks = document.steps, document.validations
        assert version.version_of(document.pipeline, steps, checks) == entry.version
        assert (document.version, document.pipeline) == (entry.version, _index().pipeline)


def test_files_are_the_bytes_that_midstream_writes() -> None:
    """Reading and writing a document gives the same bytes."""
    index = _index()
    assert (FOLDER / names.INDEX_FILE).read_bytes() == version.dump(index)
    assert version.dump(_assignment()) == (FOLDER / names.ASSIGNMENT_FILE).read_bytes()
    for entry in index.entries():
        data = (FOLDER / entry.document).read_bytes()
        assert version.dump(RevisionDocument.model_validate_json(data)) == data


def _assignment() -> Assignment:
    return Assignment.model_validate_json((FOLDER / names.ASSIGNMENT_FILE).read_bytes())


def test_assignment_belongs_to_the_index() -> None:
    """It has the index's uid and sequence, and names revisions that are there."""
    index, assignment = _index(), _assignment()
    assert (assignment.uid, assignment.sequence) == (index.uid, index.sequence)
    assert set(assignment.hold) == {entry.revision for entry in index.entries()}


def test_folder_holds_nothing_else() -> None:
    """Every file is one that the page speaks of."""
    page = (DOCS / "config-folder.md").read_text(encoding="utf-8")
    files = {path.name for path in FOLDER.iterdir()}
    expected = {entry.document for entry in _index().entries()}
    assert files == expected | {names.INDEX_FILE, names.ASSIGNMENT_FILE}
    assert all(name in page for name in files)


def test_page_shows_what_the_folder_holds() -> None:
    """The JSON of the page is that of the files, but for digests that are cut short."""
    page = (DOCS / "config-folder.md").read_text(encoding="utf-8")
    shown = re.findall(r"```json\n(.*?)\n```", page, re.DOTALL)
    files = [path.read_text(encoding="utf-8") for path in FOLDER.iterdir()]
    for block in shown:
        pattern = re.escape(block).replace("…", "[0-9a-f]+")
        assert any(re.fullmatch(pattern, file) for file in files), block
        json.loads(block)
