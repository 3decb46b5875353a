"""From a file to an OCI registry: uploads a model as one artifact, and nothing that is there already.

What is sent is what was hashed: the registry checks the digest, so a file that changes meanwhile is refused there.
Blocking. Writes nothing on this machine. An upload that breaks off begins anew.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from midstream_artifacts import layout
from midstream_artifacts.errors import SourceRefused, SourceUnreachable
from midstream_artifacts.local import opened, read_failed
from midstream_artifacts.patience import Attempt, Patience, retried
from midstream_artifacts.pins import Pinned
from midstream_artifacts.progress import Meter, Progress
from midstream_artifacts.references import Reference
from midstream_artifacts.registry import RegistryAccess, Repository

_CHUNK = 1 << 18
_TAG_DIGITS = 12
_PATIENCE = Patience(read_s=300.0)
"""A registry may take minutes to store what it got before it answers."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What the registry has now."""

    pinned: Pinned
    """Address by digest, and the model file."""
    uploaded: bool
    """The bytes of the model were sent; false when the registry had them."""
    tagged: bool
    """The tag is new or was moved; false when it named this manifest already."""
    moved_from: str | None
    """SHA-256 of the manifest that the tag named before; None when there was none, or the same."""


def push(
    path: Path,
    reference: Reference,
    access: RegistryAccess,
    *,
    kind: str = layout.ONNX,
    sha256: str | None = None,
    mount: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    patience: Patience = _PATIENCE,
) -> Pushed:
    """Bring the regular file `path` to `reference`. One without a tag gets the first 12 digits of the file's SHA-256.

    `kind` is the media type that the artifact says the file has. `mount` is another repository of the registry that
    has the bytes: where the registry can, they are not sent again. With `sha256` a file with another digest is refused
    before anything is asked. Raises an `ArtifactError`.
    """
    attempt = Attempt(f"pushing {path} to {reference}", patience.total_s, cancelled)
    with opened(path) as descriptor:
        digest, size = _hashed(path, descriptor, attempt)
        layout.require_promised(path, digest, size, sha256)
        if reference.tag is None:
            reference = replace(reference, tag=digest[:_TAG_DIGITS])
        repository = Repository(reference, access, patience, attempt, writes=True)
        file = _File(path, descriptor, digest, size, attempt, Meter(progress))

        def upload() -> bool:
            return _put_blob(repository, digest, file.pieces, size, mount)

        uploaded = retried(patience, attempt, upload)
    retried(
        patience,
        attempt,
        lambda: _put_blob(repository, layout.EMPTY_SHA256, None, len(layout.EMPTY_BYTES), None),
    )
    body = layout.manifest(layout.Layer(digest, size, path.name, kind))
    manifest = hashlib.sha256(body).hexdigest()
    before = retried(patience, attempt, repository.tagged)
    if before != manifest:
        retried(patience, attempt, lambda: _put_manifest(repository, body))
    pinned = Pinned(str(reference.at(manifest)), f"sha256:{manifest}", digest, size)
    tagged = before != manifest
    return Pushed(pinned, uploaded, tagged, before if tagged else None)


class _File:
    """The model file, open for as long as it may have to be sent."""

    def __init__(
        self, path: Path, descriptor: int, sha256: str, size: int, attempt: Attempt, meter: Meter
    ) -> None:
        self._path = path
        self._descriptor = descriptor
        self._sha256 = sha256
        self._size = size
        self._attempt = attempt
        self._meter = meter

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes from the first on."""
        done = 0
        while done < self._size:
            self._attempt.check()
            with read_failed(self._path):
                data = os.pread(self._descriptor, min(_CHUNK, self._size - done), done)
            if not data:
                raise SourceRefused(f"{self._path} became shorter while it was sent; push it again")
            done += len(data)
            self._meter.moved(len(data), done=done, total=self._size)
            yield data
        self._meter.finished(self._size)


def _hashed(path: Path, descriptor: int, attempt: Attempt) -> tuple[str, int]:
    hasher, size = hashlib.sha256(), 0
    with read_failed(path):
        while data := os.pread(descriptor, 1 << 20, size):
            hasher.update(data)
            size += len(data)
            attempt.check()
    return hasher.hexdigest(), size


def _put_blob(
    repository: Repository,
    sha256: str,
    pieces: Callable[[], Iterator[bytes]] | None,
    size: int,
    mount: str | None,
) -> bool:
    """Bring one blob, `pieces` or the empty document, to the repository; false when it was there."""
    digest = f"sha256:{sha256}"
    if repository.has(repository.uri("blobs", digest)):
        return False
    start = repository.uri("blobs", "uploads", "")
    if mount is not None:
        start += "?" + urlencode({"mount": digest, "from": mount})
    with repository.send("POST", start, {"Content-Length": "0"}, b"") as answer:
        if answer.status == 201 and mount is not None:
            return False
        if answer.status != 202:
            raise repository.refusal(answer)
        there = repository.location(answer)
    there += ("&" if urlsplit(there).query else "?") + urlencode({"digest": digest})
    kind = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
    body = layout.EMPTY_BYTES if pieces is None else pieces()
    with repository.send("PUT", there, kind, body) as answer:
        if answer.status == 404:
            # The upload has expired, or the registry was started anew: begin again.
            raise SourceUnreachable(f"{answer.shown} answers 404: the registry forgot the upload")
        if answer.status not in {201, 204}:
            raise repository.refusal(answer)
    return True


def _put_manifest(repository: Repository, body: bytes) -> None:
    """Let the reference's tag name the manifest."""
    there = repository.uri("manifests", str(repository.reference.tag))
    with repository.send("PUT", there, {"Content-Type": layout.MANIFEST}, body) as answer:
        if answer.status != 201:
            raise repository.refusal(answer)
