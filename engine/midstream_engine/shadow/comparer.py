"""The thread in which outputs of champions and challengers are compared: large ones take long.

Used on the event loop's thread. Bounds nothing: whoever puts something in looks at `waiting` first.
"""

import functools
from collections.abc import Callable, Mapping

from midstream_engine.schema import Array
from midstream_engine.shadow.comparison import Difference
from midstream_engine.shadow.job import Arrays, ShadowJob, differences
from midstream_engine.shadow.worker import Worker


class Comparer:
    """Has its thread only as long as there is something to compare."""

    def __init__(self, over: Callable[[], None], idle_seconds: float) -> None:
        """over: called after each comparison. idle_seconds: after which the thread ends."""
        self.waiting = 0
        """Comparisons in the thread, or waiting for it."""
        self._over = over
        self._idle_seconds = idle_seconds
        self._worker: Worker | None = None

    def put(
        self,
        job: ShadowJob,
        champion: Mapping[str, Array],
        outputs: Arrays,
        then: Callable[[list[Difference]], None],
    ) -> None:
        """Work out the differences, then call `then` with them on the event loop's thread."""

        def over(found: list[Difference]) -> None:
            self.waiting -= 1
            self._over()
            then(found)

        if self._worker is None:
            self._worker = Worker(
                "compare", first=False, idle=self._forget, idle_seconds=self._idle_seconds
            )
        self._worker.put(functools.partial(differences, job, champion, outputs), over)
        self.waiting += 1

    def stop(self) -> None:
        """End the thread after what was put in so far."""
        if self._worker is not None:
            self._worker.stop()

    def _forget(self) -> None:
        if self._worker is not None and not self.waiting:
            self._worker.stop()
            self._worker = None
