"""The `midstream` command: arguments in, exit code out.

Exit codes: 0 done, 1 the manifest or what it names is wrong, 2 the command line itself is wrong (argparse).
Commands that need the engine import it only when they run, so `validate` works without onnxruntime.
"""

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from midstream import documents, manifest, plan, problems, push, resolve
from midstream_api import __version__
from midstream_api.steps import Step

SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}

DEFAULT_PORT = 8080


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args, unknown = parser().parse_known_args(argv)
    if unknown:
        # The parser of the whole would show the usage of the whole.
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    code: int = args.command(args)
    return code


def parser() -> argparse.ArgumentParser:
    """Build the parser; `args.command` of what it returns does the work, `args.parser` is the command's own."""
    top = argparse.ArgumentParser(
        prog="midstream",
        description="Serve machine-learning pipelines and change the models inside them while they serve.",
    )
    top.add_argument("--version", action="version", version=f"midstream {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND", title="commands")
    _add_run(
        commands.add_parser(
            "run", help="serve a pipeline, and swap its models when the file changes"
        )
    )
    _add_validate(
        commands.add_parser(
            "validate", help="say what is wrong with a manifest, with line and field"
        )
    )
    _add_plan(commands.add_parser("plan", help="say what applying a manifest would do"))
    _add_push(
        commands.add_parser(
            "push",
            help="bring local models to a registry, and write the manifest that names them there",
        )
    )
    return top


def _add_run(command: argparse.ArgumentParser) -> None:
    command.set_defaults(command=_run, parser=command)
    command.add_argument("manifest", type=Path, metavar="pipeline.yaml")
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    command.add_argument(
        "--port", type=_port, default=DEFAULT_PORT, help="0: any free one (%(default)s)"
    )
    command.add_argument(
        "--workers", type=_count, default=1, metavar="N", help="processes (%(default)s)"
    )
    command.add_argument(
        "--threads",
        type=_count,
        default=None,
        metavar="N",
        help="threads of each worker for large batches (default: the processors there are / workers)",
    )
    command.add_argument(
        "--json-logs", action="store_true", help="one JSON object per line, for machines"
    )
    _add_cache(command)
    command.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="where the config folder and crash marks lie (default: temporary)",
    )
    command.add_argument(
        "--policy",
        choices=["availability", "resource"],
        default="availability",
        help="availability: load the new beside the old; resource: unload first, requests wait (%(default)s)",
    )
    command.add_argument(
        "--max-body", type=size, default=16 * 2**20, metavar="SIZE", help="largest request (16Mi)"
    )
    command.add_argument(
        "--memory-limit",
        type=size,
        default=None,
        metavar="SIZE",
        help="refuse models that do not fit into this (default: the container's limit, or the machine's memory)",
    )


def _add_validate(command: argparse.ArgumentParser) -> None:
    command.set_defaults(command=_validate, parser=command)
    command.add_argument("manifest", type=Path, nargs="+", metavar="pipeline.yaml")
    command.add_argument(
        "--no-sources",
        action="store_true",
        help="do not look whether local model files exist and match",
    )


def _add_plan(command: argparse.ArgumentParser) -> None:
    command.set_defaults(command=plan.plan, parser=command)
    command.add_argument("manifest", type=Path, metavar="pipeline.yaml")
    command.add_argument(
        "--against",
        metavar="URL",
        default=None,
        help=f"the engine to compare with (default: http://127.0.0.1:{DEFAULT_PORT}, if one answers there)",
    )
    _add_cache(command)
    command.add_argument("--json", action="store_true", help="one JSON object, for machines")


def _add_push(command: argparse.ArgumentParser) -> None:
    command.set_defaults(command=push.main, parser=command)
    command.add_argument("manifest", type=Path, metavar="pipeline.yaml")
    command.add_argument(
        "--to",
        type=push.target,
        required=True,
        metavar="oci://REGISTRY/REPOSITORY",
        help="each model goes to a repository of its own below this one",
    )
    command.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="the new manifest (default: printed)"
    )
    command.add_argument(
        "--plain-http", action="store_true", help="the registry speaks HTTP without TLS"
    )


def _add_cache(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--cache",
        type=Path,
        default=default_cache(),
        metavar="DIR",
        help="where verified copies of models are kept ($MIDSTREAM_CACHE, or %(default)s)",
    )


def default_cache() -> Path:
    """`$MIDSTREAM_CACHE`, or `midstream` in the user's cache folder; a user without a home has one in /tmp."""
    named = os.environ.get("MIDSTREAM_CACHE")
    if named:
        return Path(named)
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache) / "midstream"
    try:
        return Path.home() / ".cache" / "midstream"
    except RuntimeError:  # an id that no user has, as containers are given
        return Path(tempfile.gettempdir()) / f"midstream-cache-{os.getuid()}"


def size(text: str) -> int:
    """Bytes from `16Mi`, `2G`, `1048576`: the suffixes that Kubernetes uses."""
    found = re.fullmatch(r"([0-9]+)([A-Za-z]*)", text)
    if not found or found[2] not in SUFFIXES or not int(found[1]):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size above 0; write bytes, or a number with one of {', '.join(filter(None, SUFFIXES))}"
        )
    return int(found[1]) * SUFFIXES[found[2]]


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 9999")
    return int(text)


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) >= 1 << 16:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; give a number from 0 to 65535")
    return int(text)


def _run(args: argparse.Namespace) -> int:
    """Serve; returns when the service has ended."""
    from midstream.run.main import run  # noqa: PLC0415  the engine is imported only to serve

    return run(args)


def _validate(args: argparse.Namespace) -> int:
    """Print of each manifest every problem, on standard error, or that it is valid."""
    code = 0
    for path in args.manifest:
        try:
            loaded = manifest.load(path)
        except manifest.ManifestError as error:
            sys.stderr.write(f"{error}\n")
            code = 1
            continue
        found = resolve.inline_problems(loaded)
        found += [] if args.no_sources else resolve.local_problems(loaded)
        if (oversize := documents.too_large(loaded)) is not None:
            found.append(oversize)
        for problem in sorted(found, key=lambda one: (one.line or 0, one.column or 0)):
            sys.stderr.write(f"{problems.at(path, problem)}\n")
            code = 1
        if not found:
            spec = loaded.pipeline.spec
            steps = ", ".join(f"{step.name} ({_kind(step)})" for step in spec.steps) or "none"
            _say(f"{path} is valid: pipeline {loaded.pipeline.metadata.name}, steps: {steps}")
    return code


def _kind(step: Step) -> str:
    """What a step runs: the model's name, or the kind of step and the names of all its models."""
    given = [placed.model.name for placed in step.models()]
    if step.model is not None:
        return given[0]
    return f"{'split' if step.split is not None else 'shadow'}: {', '.join(given)}"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
