"""What can go wrong in an engine, as domain errors without HTTP codes.

    EngineError
    ├── ConfigError     the config folder cannot be obeyed; what serves goes on serving
    ├── LoadError       a revision cannot serve; `transient` ones may heal by themselves
    └── RequestError    one request is answered with an error
        ├── BadInput        the body does not fit the pipeline's inputs
        ├── InvalidHTTP     the bytes are not a request
        ├── HeadTooLarge
        ├── BodyTooLarge
        ├── TooSlow         the request does not arrive
        ├── MethodNotAllowed
        ├── UnsupportedMediaType
        ├── NotAcceptable
        ├── UnknownPipeline
        ├── NotReady        nothing serves (yet)
        ├── Overloaded      try again later
        ├── StepFailed      the model raised or took too long
        ├── SidekickFailed      a Python model raised, or its process died
        ├── SidekickTimedOut    a Python model took too long
        └── InternalError   a defect of the engine

`reason` is a CamelCase constant for machines, the message a sentence for people. `docs/errors.md` lists them all.
"""

import traceback
from typing import ClassVar


class EngineError(Exception):
    """Base of all errors of the engine."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class ConfigError(EngineError):
    """The config folder is unreadable, incomplete, older or contradictory."""


class LoadError(EngineError):
    """A revision could not be made ready. The revision that serves is untouched."""

    def __init__(
        self, reason: str, message: str, *, transient: bool = False, trace: str | None = None
    ) -> None:
        super().__init__(reason, message)
        self.transient = transient
        self.trace = trace
        """Of `InternalError` only: the traceback, as text."""


def contained(error: Exception) -> LoadError:
    """Whatever went wrong with a revision, as a LoadError without traceback and cause.

    Their frames would keep alive what they worked on, sessions above all. What nobody foresaw becomes `InternalError`
    and keeps its traceback as text.
    """
    if isinstance(error, LoadError):
        return LoadError(error.reason, error.message, transient=error.transient, trace=error.trace)
    if isinstance(error, MemoryError):
        return LoadError("ModelDoesNotFit", "out of memory while loading", transient=True)
    return LoadError(
        "InternalError",
        f"{type(error).__name__}: {error}; this is a defect of the engine, please report it with its log",
        trace="".join(traceback.format_exception(error)),
    )


class RequestError(EngineError):
    """One request cannot be answered."""

    default_reason: ClassVar[str] = "RequestFailed"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        field: str | None = None,
        row: int | None = None,
    ) -> None:
        super().__init__(reason or self.default_reason, message)
        self.field = field
        self.row = row


class BadInput(RequestError):
    default_reason = "BadInput"


class InvalidHTTP(RequestError):
    default_reason = "InvalidHTTP"


class HeadTooLarge(RequestError):
    default_reason = "HeadTooLarge"


class TooSlow(RequestError):
    default_reason = "TooSlow"


class MethodNotAllowed(RequestError):
    default_reason = "MethodNotAllowed"


class BodyTooLarge(RequestError):
    default_reason = "BodyTooLarge"


class UnsupportedMediaType(RequestError):
    default_reason = "UnsupportedMediaType"


class NotAcceptable(RequestError):
    default_reason = "NotAcceptable"


class UnknownPipeline(RequestError):
    default_reason = "UnknownPipeline"


class NotReady(RequestError):
    default_reason = "NotReady"


class Overloaded(RequestError):
    default_reason = "Overloaded"


class StepFailed(RequestError):
    default_reason = "StepFailed"


class SidekickFailed(RequestError):
    default_reason = "SidekickFailed"


class SidekickTimedOut(RequestError):
    default_reason = "SidekickTimedOut"


class InternalError(RequestError):
    default_reason = "InternalError"
