"""The one door to HTTP: asks for one address and hands on the raw bytes of the answer.

Follows redirects within limits, never from https down to http. Asks for the plain bytes (no compression). Turns
every failure of the transport into a `SourceError`; what a status means is the caller's business. Certificates
are checked against the system's authorities (`SSL_CERT_FILE` adds others), proxies are taken from `HTTP_PROXY`,
`HTTPS_PROXY` and `NO_PROXY`. Deadline and cancelling cut a body short at once; while the headers come, only the
time-outs for connection and next bytes hold.
"""

import logging
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from urllib.parse import SplitResult, unquote, urljoin, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3 import exceptions

from midstream_api import __version__
from midstream_artifacts.errors import (
    InvalidSource,
    SourceError,
    SourceRefused,
    SourceTimeout,
    SourceUnreachable,
    redacted,
    shortened,
)
from midstream_artifacts.patience import Attempt, Patience

_CHUNK = 1 << 18
_REDIRECTS = {301, 302, 303, 307, 308}
_WATCH_S = 0.2

# On level DEBUG this logger writes whole request lines, secrets in the query included.
logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)


_COMMON = {
    "User-Agent": f"midstream/{__version__}",
    "Accept": "*/*",
    "Accept-Encoding": "identity",
}
_NO_TLS = {
    "HTTP_REQUEST",
    "PACKET_LENGTH_TOO_LONG",
    "RECORD_LAYER_FAILURE",
    "UNKNOWN_PROTOCOL",
    "WRONG_VERSION_NUMBER",
}
"""What OpenSSL calls an answer that is not TLS."""


class Answer:
    """One answer whose body has not been read yet."""

    def __init__(self, response: urllib3.BaseHTTPResponse, shown: str, attempt: Attempt) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        """Case-insensitive."""
        self.shown = shown
        """The address that answered, without secrets."""
        self._response = response
        self._attempt = attempt
        self._closed = threading.Event()
        self._watch = threading.Thread(target=self._end_in_time, daemon=True)

    def read(self) -> bytes:
        """Return the bytes that came next, at most 256 KiB; empty at the end.

        Raises `SourceUnreachable` when the connection broke, `SourceTimeout` when nothing came.
        """
        with _explained(self.shown):
            return self._response.read1(_CHUNK, decode_content=False)

    @contextmanager
    def open(self) -> Iterator["Answer"]:
        """Watch over the reading for the length of the block, then close the connection."""
        self._watch.start()
        try:
            yield self
        finally:
            self._closed.set()
            self._watch.join()
            self._response.close()

    def _end_in_time(self) -> None:
        # A read blocks until the read time-out. Cancelling and the deadline shall not wait for that.
        while not self._closed.wait(_WATCH_S):
            if self._attempt.is_over():
                with suppress(
                    ValueError, RuntimeError, OSError
                ):  # the answer has just ended by itself
                    self._response.shutdown()
                return


class Web:
    """Asks, within the patience of one attempt. Belongs to one thread."""

    def __init__(
        self, patience: Patience, attempt: Attempt, plain: str = "write http:// if that is meant"
    ) -> None:
        self._patience = patience
        self._attempt = attempt
        self._plain = plain
        """What to do about a server that does not speak TLS, for the message."""

    @contextmanager
    def get(
        self,
        uri: str,
        headers: Mapping[str, str],
        *,
        login: Mapping[str, str] | None = None,
        method: str = "GET",
    ) -> Iterator[Answer]:
        """Ask for `uri` and yield the answer to the last redirect.

        `login` are headers for the server of `uri` alone. Raises `SourceUnreachable`, `SourceTimeout`,
        `SourceRefused` (redirects, certificate) or `InvalidSource`.
        """
        here = urlsplit(uri)
        home, login = _origin(here), _login(here) if login is None else login
        with closing(_Pools()) as pools:
            for _ in range(self._patience.redirects + 1):
                asked = {
                    **_COMMON,
                    # Who redirects us elsewhere must not learn the password, nor may the other place.
                    **(login if _origin(here) == home else {}),
                    **headers,
                }
                with self._open(pools, method, here, asked).open() as answer:
                    where = answer.headers.get("location")
                    if answer.status not in _REDIRECTS or where is None:
                        yield answer
                        return
                    here = _redirected(here, where)
            raise SourceRefused(
                f"{redacted(uri)} redirects more than {self._patience.redirects} times, at last to "
                f"{redacted(here.geturl())}; give the address of the file itself"
            )

    @contextmanager
    def send(
        self, method: str, uri: str, headers: Mapping[str, str], body: bytes | Iterable[bytes]
    ) -> Iterator[Answer]:
        """Send `body` to `uri` and yield the answer. Redirects are not followed: a body is sent once.

        A body in pieces needs a Content-Length among the headers; what its iterator raises passes through.
        Raises what `get` raises.
        """
        with closing(_Pools()) as pools:
            asked = {**_COMMON, **headers}
            with self._open(pools, method, urlsplit(uri), asked, body).open() as answer:
                yield answer

    def _open(
        self,
        pools: "_Pools",
        method: str,
        parts: SplitResult,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] | None = None,
    ) -> Answer:
        self._attempt.check()
        shown = redacted(parts.geturl())
        bare = urlunsplit(
            (parts.scheme, parts.netloc.rpartition("@")[2], parts.path or "/", parts.query, "")
        )
        timeout = urllib3.Timeout(
            connect=self._attempt.at_most(self._patience.connect_s),
            read=self._attempt.at_most(self._patience.read_s),
        )
        with _explained(shown, self._plain):
            response = pools.manager_for(parts).request(
                method,
                bare,
                body=body,
                headers=dict(headers),
                timeout=timeout,
                preload_content=False,
                decode_content=False,
                redirect=False,
                retries=False,
            )
        return Answer(response, shown, self._attempt)


class _Pools:
    """Connection pools of one request and its redirects: straight ones, and those through proxies."""

    def __init__(self) -> None:
        self._managers: dict[str, urllib3.PoolManager] = {}

    def manager_for(self, parts: SplitResult) -> urllib3.PoolManager:
        proxy = getproxies().get(parts.scheme, "")
        if proxy and proxy_bypass(parts.netloc.rpartition("@")[2]):
            proxy = ""
        if proxy not in self._managers:
            self._managers[proxy] = urllib3.ProxyManager(proxy) if proxy else urllib3.PoolManager()
        return self._managers[proxy]

    def close(self) -> None:
        for manager in self._managers.values():
            manager.clear()


def _redirected(here: SplitResult, where: str) -> SplitResult:
    shown = redacted(here.geturl())
    try:
        there = urlsplit(urljoin(here.geturl(), where))
        _ = there.port
    except ValueError as error:
        raise SourceRefused(
            f"{shown} redirects to what is no address: {redacted(where)!r}"
        ) from error
    if there.scheme not in {"http", "https"} or not there.hostname:
        raise SourceRefused(
            f"{shown} redirects to {redacted(there.geturl())!r}, which is not http or https"
        )
    if here.scheme == "https" and there.scheme == "http":
        raise SourceRefused(
            f"{shown} redirects from https to http ({redacted(there.geturl())}), where anybody on the way could "
            "change the bytes; give an https address"
        )
    return there._replace(fragment="")


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port


def _login(parts: SplitResult) -> Mapping[str, str]:
    if parts.username is None:
        return {}
    return basic(unquote(parts.username), unquote(parts.password or ""))


def basic(user: str, password: str) -> Mapping[str, str]:
    """Return the header that logs in with a password."""
    return {"Authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"}


@contextmanager
def _explained(shown: str, plain: str = "") -> Iterator[None]:
    """Turn the library's errors into ours. Its texts are not repeated: some hold whole addresses."""
    try:
        yield
    except (exceptions.LocationParseError, exceptions.LocationValueError) as error:
        raise InvalidSource(f"{shown} is not an address that can be asked") from error
    except exceptions.HTTPError as error:
        raise _translated(shown, error, plain) from error


def _translated(shown: str, error: exceptions.HTTPError, plain: str) -> SourceError:
    cause = _innermost(error)
    match error, cause:
        case exceptions.NameResolutionError(), _:
            return SourceUnreachable(
                f"{shown}: the host name is unknown; look for a typing error, or at the DNS"
            )
        case exceptions.ConnectTimeoutError(), _ if not isinstance(
            error, exceptions.NewConnectionError
        ):
            return SourceTimeout(
                f"{shown}: no connection in time; look whether the host is up and the port right"
            )
        case _, ssl.SSLCertVerificationError():
            return SourceRefused(
                f"{shown}: the certificate is not trusted ({shortened(cause.verify_message)}); for a private "
                "authority name its file in SSL_CERT_FILE"
            )
        case _, ssl.SSLError(reason=str(reason)) if reason in _NO_TLS:
            return SourceRefused(f"{shown}: the server does not speak TLS there; {plain}")
        case exceptions.ProxyError(), _:
            return SourceUnreachable(
                f"{shown}: the proxy does not answer; look at HTTP_PROXY and HTTPS_PROXY"
            )
        case exceptions.ReadTimeoutError(), _:
            return SourceTimeout(f"{shown}: the server sent nothing for too long")
        case _, OSError(strerror=str(text)):
            return SourceUnreachable(f"{shown}: {shortened(text)}")
        case _:
            return SourceUnreachable(f"{shown}: the connection broke ({type(cause).__name__})")


def _innermost(error: BaseException) -> BaseException:
    """Return the first cause of the error: the library wraps the socket's error once or twice.

    The context of an error is no cause of it: a caller may fetch while it handles an error of its own.
    """
    while True:
        wrapped = [arg for arg in error.args if isinstance(arg, BaseException)]
        inner = error.__cause__ or (wrapped[0] if wrapped else None)
        if inner is None:
            return error
        error = inner
