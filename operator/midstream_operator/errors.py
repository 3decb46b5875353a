"""Errors of the operator's own.

    ClusterError    the API server refused a call, or could not be reached

What is wrong with a pipeline is never an error here but a finding that goes into its status.
"""

import http

_HEALS = frozenset({0, 401, 403, 408, 409, 425, 429})
"""Beside 5xx. 401: a token is being rotated. 403: a quota is full, or a role is not bound yet."""


class ClusterError(Exception):
    """A call to the API server that did not succeed."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status; 0 when there was no answer."""
        self.reason = reason
        """As Kubernetes gives it, `Conflict` or `Forbidden`; `Unreachable` or `Timeout` when there was no answer."""
        self.message = message
        """Says what was attempted, on which object, and what the answer was."""

    @property
    def transient(self) -> bool:
        """The same call may succeed later without a change by the caller."""
        return self.status in _HEALS or self.status >= 500

    @property
    def overloaded(self) -> bool:
        """Nothing is wrong with the call: the server is away, busy or was faster. Worth asking again soon."""
        return self.status in {0, http.HTTPStatus.CONFLICT, http.HTTPStatus.TOO_MANY_REQUESTS} or (
            self.status >= 500
        )
