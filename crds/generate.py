"""Write the CustomResourceDefinitions, `crds/*.yaml`, from the types of `midstream_api`.

With `--check` nothing is written; the exit code is 1 when a file is not what would be written.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from midstream_api import crdgen

FOLDER = Path(__file__).parent

HEADER = """\
# Generated from crds/midstream_api by `make generate`. Do not edit: change the types.
"""


def main(argv: list[str] | None = None) -> int:
    """Write, or check, every file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing, exit 1 on a difference"
    )
    check = parser.parse_args(argv).check
    code = 0
    for path, text in files().items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if check:
            sys.stderr.write(f"{path.name} is not what the types say; run `make generate`\n")
            code = 1
        else:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {path.name}\n")
    return code


def files() -> dict[Path, str]:
    """Return what each generated file must hold."""
    return {FOLDER / "pipelines.yaml": HEADER + render(crdgen.pipeline_crd())}


def render(document: dict[str, Any]) -> str:
    """Return YAML in the order of the data, without anchors."""
    return yaml.dump(document, Dumper=_Plain, sort_keys=False, width=100, allow_unicode=True)


class _Plain(yaml.SafeDumper):
    """Writes a value that occurs twice twice, and indents lists as `kubectl` users do."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


if __name__ == "__main__":
    sys.exit(main())
