"""`docs/open-inference-protocol.md` has the reasons and datatypes of the code, and no other."""

import ast
import re
from pathlib import Path

from midstream_engine.oip.datatypes import DTYPES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGE = (DOCS / "open-inference-protocol.md").read_text()
OTHERS = set(re.findall(r"^\| `(\w+)` \|", (DOCS / "errors.md").read_text(), re.MULTILINE))


def test_reasons_are_explained() -> None:
    """In this page what is of this protocol alone; the others are in the page of all errors."""
    used = set()
    for module in (ROOT / "engine" / "midstream_engine" / "oip").glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "reason":
                used |= {
                    each.value for each in ast.walk(node.value) if isinstance(each, ast.Constant)
                }
            elif isinstance(node, ast.Dict):
                pairs = zip(node.keys, node.values, strict=True)
                used |= {
                    value.value
                    for key, value in pairs
                    if isinstance(key, ast.Constant) and key.value == "reason"
                    if isinstance(value, ast.Constant)
                }
    table = PAGE.partition("\n## Errors\n")[2].partition("\n## ")[0]
    explained = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert {"WrongBinary", "UnknownVersion", "NoRows"} <= used
    assert used <= explained | OTHERS
    assert explained <= used


def test_datatypes_are_listed() -> None:
    """With what each is in JSON and as binary data."""
    table = PAGE.partition("\n### Datatypes\n")[2].partition("\n### ")[0]
    rows = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(DTYPES)
