"""From the manifest's file to the newest wish: a resolved revision, or why there is none.

Reading and fetching block, so they run in a thread of their own; a newer look at the manifest gives up the older
one and its downloads. Decides nothing: what to do with a wish is the supervisor's business.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from midstream import manifest as manifests
from midstream import problems, resolve
from midstream.manifest import Manifest, ManifestError
from midstream.problems import FieldPath
from midstream.resolve import Resolved, ResolveError, StepProgress
from midstream.run import watch
from midstream.run.rollout import Refusal
from midstream_artifacts.cache import Cache


@dataclass(frozen=True, slots=True)
class Wish:
    """What the manifest asks for now."""

    resolved: Resolved
    manifest: Manifest
    seen: float
    """When the change was noticed, on the monotonic clock, in seconds."""
    resolve_ms: float


@dataclass(frozen=True, slots=True)
class Unusable:
    """The manifest, or a source it names, cannot be used."""

    refusal: Refusal
    problems: tuple[str, ...]
    """With file, line and column."""


Outcome = Wish | Unusable


def wish(
    path: Path,
    cache: Cache,
    progress: StepProgress | None = None,
    cancelled: Callable[[], bool] | None = None,
    known: Callable[[watch.Signatures], None] | None = None,
) -> Outcome:
    """Read the manifest and fetch what it names. Blocks.

    `known` is told the states of all files that matter, taken before each is read: whatever differs later is a change.
    """
    seen = time.monotonic()
    states = watch.signatures([path])
    if path.is_fifo():  # opening it would wait for a writer, perhaps for ever
        if known is not None:
            known(states)
        text = f"{path}: is a pipe; name a file, which can be read again when it changes"
        return Unusable(Refusal("InvalidManifest", text), (text,))
    try:
        manifest = manifests.load(path)
    except ManifestError as error:
        if known is not None:
            known(states)
        lines = tuple(str(error).splitlines())
        return Unusable(Refusal("InvalidManifest", lines[0]), lines)
    if known is not None:
        known({**watch.signatures(watch.local_models(manifest)), **states})
    if not manifest.pipeline.spec.deployed:
        return _unusable(
            manifest,
            "NotDeployed",
            ("spec", "deployed"),
            "deployed is false, so there is nothing to serve",
            "remove the field, or make it true, to serve it here",
        )
    try:
        resolved = resolve.resolve(manifest, cache, progress, cancelled)
    except ResolveError as error:
        return Unusable(Refusal(error.reason, str(error), transient=error.transient), (str(error),))
    pinned = manifest.pipeline.spec.version
    if pinned and pinned != resolved.version:
        return _unusable(
            manifest,
            "VersionNotHere",
            ("spec", "version"),
            f"{pinned} is not the version of these steps, and there is no history here",
            f"remove the field to serve these, which are {resolved.version}",
        )
    return Wish(resolved, manifest, seen, (time.monotonic() - seen) * 1e3)


def _unusable(
    manifest: Manifest, reason: str, at: FieldPath, message: str, suggestion: str
) -> Unusable:
    text = problems.at(manifest.path, manifest.problem(at, message, suggestion))
    return Unusable(Refusal(reason, text), (text,))


def renamed(found: Wish, name: str) -> Unusable | None:
    """Return why a wish is not for the service that runs as `name`; None when it is. Pure."""
    if found.resolved.pipeline == name:
        return None
    return _unusable(
        found.manifest,
        "PipelineRenamed",
        ("metadata", "name"),
        f"a running service keeps its name, {name!r}",
        "stop it and run the file to change it",
    )


def left_aside(manifest: Manifest) -> list[str]:
    """Return the fields of the manifest that only a cluster acts on."""
    spec = manifest.pipeline.spec
    return [field for field in ("deployment", "tags") if field in spec.model_fields_set]


class Wishes:
    """At most one look at the manifest counts: the newest. Used from the event loop's thread."""

    def __init__(
        self,
        path: Path,
        cache: Cache,
        progress: StepProgress,
        known: Callable[[watch.Signatures], None],
        deliver: Callable[[Outcome], None],
    ) -> None:
        self._path = path
        self._cache = cache
        self._progress = progress
        self._known = known
        self._deliver = deliver
        self._cancel = threading.Event()
        self._thread: threading.Thread | None = None

    def renew(self) -> None:
        """Look at the manifest now; `deliver` is called with the outcome unless a newer look begins before."""
        self._cancel.set()
        self._cancel = cancel = threading.Event()
        loop = asyncio.get_running_loop()

        def tell(function: Callable[..., None], *args: object) -> None:
            def unless_given_up() -> None:
                if not cancel.is_set():
                    function(*args)

            if not cancel.is_set():
                loop.call_soon_threadsafe(unless_given_up)

        def look() -> None:
            outcome = wish(
                self._path,
                self._cache,
                lambda step, done: tell(self._progress, step, done),
                cancel.is_set,
                lambda known: tell(self._known, known),
            )
            tell(self._deliver, outcome)

        # A daemon, so that a server which does not answer cannot hold up the end of the process.
        self._thread = threading.Thread(target=look, name="midstream-wish", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Give up what is under way."""
        self._cancel.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)
