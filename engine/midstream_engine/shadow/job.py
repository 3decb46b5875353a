"""One batch of rows for one challenger: what is to be run, and what came of it.

Knows neither queue nor loop: `shadow` decides when and where a job runs.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from midstream_engine.errors import Overloaded, RequestError, SidekickTimedOut, StepFailed
from midstream_engine.schema import Array
from midstream_engine.shadow.comparison import Difference, Outcome, compare

Arrays = dict[str, Array]

_log = logging.getLogger(__name__)


class Leased(Protocol):
    """What a revision gives: both are called on the event loop's thread."""

    def acquire(self) -> bool:
        """Take a lease; False when it takes no more work."""

    def release(self) -> None:
        """Give one lease back."""


@dataclass(slots=True, eq=False, kw_only=True)
class ShadowJob:
    """One batch for one challenger."""

    step: str
    challenger: str
    revision: Leased
    rows: int
    seconds: float
    """The longest that it may take."""
    run: Callable[[float], Arrays] | None = None
    """Blocks, in a thread; without `stop` it should end by itself within about these seconds. Exactly one of `run` and
    `call`."""
    stop: Callable[[], None] | None = None
    """Called on the event loop's thread when the time is over: makes `run` raise."""
    call: Callable[[float], Awaitable[Arrays]] | None = None
    """The same as a coroutine; cancelled when it does not end by itself."""
    champion: Mapping[str, Array] | None = None
    """The champion's outputs, to compare with; None where they are not known yet."""
    size: int = 0
    """Bytes that the job keeps in memory: `comparison.size_of` its inputs and the champion's outputs."""
    done: Callable[[Arrays | None], None] | None = None
    """Called once on the event loop's thread: the outputs, or None when there are none, whatever the reason."""


@dataclass(slots=True)
class Found:
    """What a job came to."""

    outcome: Outcome
    outputs: Arrays | None = None
    ns: int = 0
    message: str = ""
    """Why there are no outputs."""
    differences: list[Difference] = field(default_factory=list)


def run(job: ShadowJob, seconds: float) -> Found:
    """Run and compare, in the caller's thread."""
    assert job.run is not None
    start = time.perf_counter_ns()
    try:
        outputs = job.run(seconds)
    except Exception as error:  # noqa: BLE001 - counted and told, whatever it is
        return failed(error)
    found = Found(Outcome.ANSWERED, outputs, time.perf_counter_ns() - start)
    if job.champion is not None:
        found.differences = differences(job, job.champion, outputs)
    return found


def differences(job: ShadowJob, champion: Mapping[str, Array], outputs: Arrays) -> list[Difference]:
    """As `compare`, but nothing that goes wrong with it is the challenger's fault, nor the caller's."""
    try:
        return compare(champion, outputs)
    except Exception as error:  # noqa: BLE001 - what was answered is not lost with it
        _log.error(
            "the outputs of challenger %r cannot be compared", job.challenger, exc_info=error
        )
        return []


def failed(error: BaseException) -> Found:
    """Whatever a challenger raised, sorted into time-outs, no room and other failures."""
    slow = isinstance(error, TimeoutError | SidekickTimedOut) or (
        isinstance(error, StepFailed) and error.reason == "StepTimedOut"
    )
    message = (
        error.message if isinstance(error, RequestError) else f"{type(error).__name__}: {error}"
    )
    if isinstance(error, Overloaded):
        # Its sidekick has as many calls as it takes: that says nothing about the challenger.
        return Found(Outcome.DROPPED, message=message)
    return Found(Outcome.TIMED_OUT if slow else Outcome.FAILED, message=message)


def tell(job: ShadowJob, outputs: Arrays | None) -> None:
    """Hand the outputs on. Never raises: the next job is not to suffer from whoever takes them."""
    if job.done is None:
        return
    try:
        job.done(outputs)
    except Exception as error:  # noqa: BLE001 - as above
        _log.error(
            "the outputs of challenger %r could not be handed on", job.challenger, exc_info=error
        )
