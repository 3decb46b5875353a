"""What an HTTP status that is not the wanted one means, as an error; the same for every kind of address."""

from midstream_artifacts import headers
from midstream_artifacts.errors import (
    SourceDenied,
    SourceError,
    SourceNotFound,
    SourceRefused,
    SourceUnreachable,
)
from midstream_artifacts.http import Answer

_RETRIED = {408, 425, 429}
"""Client errors that are no verdict on the request. All 5xx are retried too."""


def refusal(answer: Answer) -> SourceError:
    """Return the error for an answer of a web server that is not the file."""
    said = f"{answer.shown} answers {answer.status}"
    match answer.status:
        case 401 | 403:
            return SourceDenied(f"{said}; give an address that may be read without logging in")
        case 404 | 410:
            return SourceNotFound(f"{said}; correct the address, or put the file there")
        case _:
            return momentary(answer) or SourceRefused(
                f"{said}, where 200 was expected; give the address of the file itself"
            )


def momentary(answer: Answer) -> SourceUnreachable | None:
    """Return the error when asking again may help, with the wait that the server asks for."""
    if answer.status in _RETRIED or answer.status >= 500:
        return SourceUnreachable(
            f"{answer.shown} answers {answer.status}", headers.retry_after_s(answer.headers)
        )
    return None


def require_plain(answer: Answer) -> None:
    """Refuse bytes that are packed on the way: their digest would not be the file's."""
    encoding = answer.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        raise SourceRefused(
            f"{answer.shown} sends the file packed ({encoding!r}) though asked not to; its digest would not be "
            "the file's. Switch Content-Encoding off on the server"
        )
