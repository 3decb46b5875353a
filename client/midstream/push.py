"""Brings a manifest's local models to a registry, and writes the same manifest with their addresses there.

The way from a laptop to a cluster. A model goes to `<repository>/<its name>`, under its version or the first digits of
its SHA-256; the manifest names it by digest, so nothing that is pushed later changes what it means. What is there is
not sent again. Sources that are not local stay as they are, and so does code in the manifest itself. Nothing is
written unless every model is there.
"""

import argparse
import dataclasses
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from midstream import dockerconfig, documents, manifest, models, problems
from midstream.manifest import Manifest
from midstream.problems import FieldPath
from midstream.rewrite import CannotRewrite, Setting, rewrite
from midstream_api.model import Framework, Model
from midstream_artifacts import errors, layout, push
from midstream_artifacts.pins import Pinned
from midstream_artifacts.progress import Progress
from midstream_artifacts.references import Reference
from midstream_artifacts.registry import RegistryAccess
from midstream_artifacts.sources import Source


class PushError(Exception):
    """A manifest cannot be pushed."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where models are brought."""

    base: Reference
    """Registry and repository that the models lie below."""
    access: RegistryAccess


def main(args: argparse.Namespace) -> int:
    """Push, and write the new manifest; exit code 1 when that cannot be done."""
    try:
        loaded = manifest.load(args.manifest)
        target = Target(args.to, RegistryAccess(dockerconfig.path(), args.plain_http))
        text = pushed(loaded, target, _tell)
        if args.output is None:
            sys.stdout.buffer.write(text.encode())
            sys.stdout.flush()
        else:
            _write(args.output, text)
    except (manifest.ManifestError, PushError) as error:
        _tell(str(error))
        return 1
    return 0


def target(text: str) -> Reference:
    """Understand `--to`. Raises argparse.ArgumentTypeError."""
    try:
        reference = Reference.parse(text.rstrip("/"))
    except errors.InvalidSource as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if reference.digest or ":" in text.rsplit("/", 1)[-1]:
        raise argparse.ArgumentTypeError(
            f"{text!r} has a tag or a digest; give oci://registry/repository alone"
        )
    return reference


def pushed(loaded: Manifest, target: Target, tell: Callable[[str], None]) -> str:
    """Bring every local model to the registry; return the manifest's text with their addresses.

    Blocking. Raises PushError for the first that fails, and before any is sent for a manifest that no cluster has room
    for.
    """
    if (problem := documents.too_large(loaded)) is not None:
        raise PushError(problems.at(loaded.path, problem))
    settings: list[Setting] = []
    work = _Work(target, tell)
    for one in models.written(loaded):
        given = one.model.source
        if given.uri is None:
            tell(f"step {one.title}: its code stands in the manifest and stays there")
            continue
        try:
            source = Source.parse(given.uri, loaded.folder)
            if source.path is None:
                tell(f"step {one.title}: {source} is not a local file and stays as it is")
                continue
            pinned = work.push(one.title, source.path, one.model)
        except errors.ArtifactError as error:
            wrong_digest = isinstance(error, errors.DigestMismatch)
            field: FieldPath = (*one.at, "sha256") if wrong_digest else one.source
            raise PushError(problems.at(loaded.path, loaded.problem(field, str(error)))) from error
        settings.append(Setting(one.source, pinned.uri))
        if target.access.insecure or given.insecure:
            insecure = target.access.insecure
            settings.append(Setting((*one.at, "source", "insecure"), insecure, behind="uri"))
        settings.append(Setting((*one.at, "sha256"), pinned.sha256, behind="source"))
    try:
        return rewrite(loaded, settings) if settings else loaded.text
    except CannotRewrite as error:
        raise PushError(problems.at(loaded.path, error.problem)) from error


def place(base: Reference, model: Model) -> Reference:
    """Return where a model goes; without a tag when it has no version. Pure. Raises InvalidSource.

    Repositories and tags are stricter than names and versions: what they cannot hold becomes `-`.
    """

    def allowed(found: re.Match[str]) -> str:
        return found[0] if re.fullmatch(r"\.|__?|-+", found[0]) else "-"

    name = re.sub(r"[._-]+", allowed, model.name.lower())
    reference = Reference.parse(f"oci://{base.registry}/{base.repository}/{name}")
    if model.version is None:
        return dataclasses.replace(reference, tag=None)
    tag = re.sub(r"[^A-Za-z0-9._-]", "-", model.version)
    return dataclasses.replace(reference, tag=re.sub(r"^(?=[.-])", "_", tag)[:128])


class _Work:
    """One push of a manifest: what is done already."""

    def __init__(self, target: Target, tell: Callable[[str], None]) -> None:
        self._target = target
        self._tell = tell
        self._done: dict[tuple[Path, Reference], Pinned] = {}
        self._holders: dict[Path, str] = {}
        """A repository that has the file."""

    def push(self, step: str, path: Path, model: Model) -> Pinned:
        """Bring one model to its place; `step` names it to people. Raises an ArtifactError."""
        file, reference = path.resolve(), place(self._target.base, model)
        if (pinned := self._done.get((file, reference))) is not None:
            self._tell(f"step {step}: {path.name} as above: {pinned.uri}")
            return pinned

        def report(progress: Progress) -> None:
            _progress(
                f"{path.name}: {progress.done / 1e6:.1f} of {(progress.total or 0) / 1e6:.1f} MB"
            )

        result = push.push(
            path,
            reference,
            self._target.access,
            kind=layout.PYTHON if model.framework is Framework.PYTHON else layout.ONNX,
            sha256=model.sha256,
            mount=self._holders.get(file),
            progress=report,
        )
        what = "pushed" if result.uploaded else "the registry has its bytes"
        what = what if result.uploaded or result.tagged else "nothing to do"
        self._tell(f"step {step}: {path.name}: {what}: {result.pinned.uri}")
        if result.moved_from is not None:
            self._tell(
                f"step {step}: the tag has moved from sha256:{result.moved_from}; manifests that name that digest "
                "hold good as long as the registry keeps what has no tag"
            )
        self._done[file, reference] = result.pinned
        self._holders.setdefault(file, reference.repository)
        return result.pinned


def _write(path: Path, text: str) -> None:
    """Replace the file in one stroke, so that nobody reads half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            temporary.write_text(text, encoding="utf-8", newline="")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise PushError(f"{path}: cannot be written: {error.strerror}") from error


def _tell(text: str) -> None:
    """Say something beside the manifest, which goes to standard output."""
    sys.stderr.write(f"{_CLEAR if sys.stderr.isatty() else ''}{text}\n")


def _progress(text: str) -> None:
    """Show a line that the next one replaces, to people only."""
    if sys.stderr.isatty():
        sys.stderr.write(f"{_CLEAR}{text}")
        sys.stderr.flush()


_CLEAR = "\r\x1b[K"
