"""The one door to OCI registries: one repository, asked and told things, logged in where the registry wants it.

Speaks the distribution API over `http.Web`. Answers a challenge with what the Docker config has (`logins`): the
password itself for Basic, a token for Bearer. Neither ever reaches another machine than the registry and the token
server that it names, nor goes over plain HTTP unless the caller allows plain HTTP. What a manifest says is `layout`'s
business.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

from midstream_artifacts import layout, logins, verdicts
from midstream_artifacts.errors import (
    SourceDenied,
    SourceError,
    SourceNotFound,
    SourceRefused,
    redacted,
    shortened,
)
from midstream_artifacts.http import Answer, Web, basic
from midstream_artifacts.patience import Attempt, Patience
from midstream_artifacts.references import Reference

_MAX_BODY = 4 << 20
"""Bytes of a manifest or a token that are read."""
_CHALLENGE = re.compile(r'([A-Za-z]+) +((?:[a-z_]+=(?:"[^"]*"|[^ ,"]*)(?:, *(?=[a-z_]+=))?)+)')
_PARAMETER = re.compile(r'([a-z_]+)=(?:"([^"]*)"|([^ ,"]*))')


@dataclass(frozen=True, slots=True)
class RegistryAccess:
    """How registries may be asked."""

    config: Path | None = None
    """A Docker config JSON file with logins, read at each fetch; one that is not there is the same as none."""
    insecure: bool = False
    """Over plain HTTP."""


class Repository:
    """One repository, for the length of one attempt. Belongs to one thread."""

    def __init__(
        self,
        reference: Reference,
        access: RegistryAccess,
        patience: Patience,
        attempt: Attempt,
        *,
        writes: bool = False,
    ) -> None:
        self.reference = reference
        self._access = access
        self._actions = "pull,push" if writes else "pull"
        self._base = (
            f"{'http' if access.insecure else 'https'}://{reference.host}/v2/{reference.repository}"
        )
        self._web = Web(
            patience,
            attempt,
            "if the registry speaks plain HTTP, say so: `insecure: true` beside the source's uri, or "
            "`midstream push --plain-http`",
        )
        self._login: Mapping[str, str] = {}
        """The header that the registry wanted; empty as long as it wants none."""
        self._found: logins.Login | None = None

    def uri(self, *parts: str) -> str:
        """Return the address of something in the repository: `uri("blobs", "sha256:…")`."""
        return "/".join((self._base, *parts))

    def manifest(self) -> tuple[bytes, str]:
        """Return the wanted manifest and its SHA-256. Raises a `SourceError`."""
        wanted = self.reference.wanted
        with self.get(self.uri("manifests", wanted), {"Accept": _ACCEPTED}) as answer:
            if answer.status != 200:
                raise self.refusal(answer)
            body = _body(answer)
        return body, layout.digest(body, self.reference)

    @contextmanager
    def get(self, uri: str, headers: Mapping[str, str], method: str = "GET") -> Iterator[Answer]:
        """Ask for an address of this repository and yield the answer; logs in when that is asked for.

        Raises what `Web.get` raises; 401, 403 and 404 as `SourceDenied` and `SourceNotFound`.
        """
        for again in (False, True):
            with self._web.get(uri, headers, login=self._login, method=method) as answer:
                if answer.status == 401 and not again and self._log_in(answer):
                    continue
                if answer.status in {401, 403, 404}:
                    raise self.refusal(answer)
                yield answer
                return

    def has(self, uri: str) -> bool:
        """Tell whether something is at an address of this repository."""
        try:
            with self.get(uri, {"Accept": _ACCEPTED}, method="HEAD") as answer:
                if answer.status == 200:
                    return True
                raise self.refusal(answer)
        except SourceNotFound:
            return False

    def tagged(self) -> str | None:
        """Return the SHA-256 of the manifest that the reference's tag names now; None when there is none."""
        uri = self.uri("manifests", str(self.reference.tag))
        try:
            with self.get(uri, {"Accept": _ACCEPTED}) as answer:
                if answer.status != 200:
                    raise self.refusal(answer)
                return hashlib.sha256(_body(answer)).hexdigest()
        except SourceNotFound:
            return None

    @contextmanager
    def send(
        self, method: str, uri: str, headers: Mapping[str, str], body: bytes | Iterable[bytes]
    ) -> Iterator[Answer]:
        """Send to an address that this registry gave, and yield the answer.

        Logs in when that is asked for and the body is bytes, which can be sent twice.
        """
        for again in (False, True):
            own = urlsplit(uri)[:2] == urlsplit(self._base)[:2]
            login = self._login if own else {}
            with self._web.send(method, uri, {**headers, **login}, body) as answer:
                may_repeat = own and not again and isinstance(body, bytes)
                if answer.status == 401 and may_repeat and self._log_in(answer):
                    continue
                yield answer
                return

    def refusal(self, answer: Answer) -> SourceError:
        """Return the error for an answer that is not the wanted one."""
        said = f"{answer.shown} answers {answer.status}{_cause(answer)}"
        match answer.status:
            case 401 | 403:
                return SourceDenied(f"{said}; {self._advice()}")
            case 404:
                return SourceNotFound(
                    f"{said}: {self.reference} is not there; correct the address, or push the model"
                )
            case _:
                return verdicts.momentary(answer) or SourceRefused(f"{said}; {self._oddity()}")

    def location(self, answer: Answer) -> str:
        """Return where the registry wants the next part of an upload. Raises `SourceRefused`."""
        there = urljoin(self.uri("blobs", "uploads", ""), answer.headers.get("location", ""))
        parts = urlsplit(there)
        schemes = {"http", "https"} if self._access.insecure else {"https"}
        if "location" not in answer.headers or parts.scheme not in schemes or not parts.hostname:
            raise SourceRefused(f"{answer.shown} names no address that may be uploaded to")
        return there

    def _oddity(self) -> str:
        if self._access.insecure:
            return "if the registry speaks TLS, leave `insecure` (--plain-http) out"
        return "this is not what registries answer; look at the address"

    def _advice(self) -> str:
        config = self._access.config
        if self._found is not None:
            what = "write to" if "push" in self._actions else "read"
            return (
                f"the login for {self._found.entry} in {config} is wrong or may not {what} "
                f"{self.reference.repository}"
            )
        where = f"{config} has no login for it" if config else "no login was given"
        if logins.helper(config):
            where += " but names a credential helper, which is not run"
        return (
            f"{where}. Use `docker login {self.reference.registry}`, or, in a cluster, name a Secret of type "
            "kubernetes.io/dockerconfigjson in source.secretRef"
        )

    def _log_in(self, answer: Answer) -> bool:
        """Take up the challenge of an answer; false when there is nothing that could be tried."""
        challenges = {
            scheme.lower(): {
                name: quoted or bare for name, quoted, bare in _PARAMETER.findall(text)
            }
            for scheme, text in _CHALLENGE.findall(answer.headers.get("www-authenticate", ""))
        }
        self._found = logins.find(self._access.config, self.reference)
        if bearer := challenges.get("bearer"):
            self._login = {"Authorization": f"Bearer {self._token(bearer)}"}
            return True
        if "basic" in challenges and self._found is not None and self._found.user:
            fresh = basic(self._found.user, self._found.password)
            is_new, self._login = fresh != self._login, fresh
            return is_new
        return False

    def _token(self, challenge: Mapping[str, str]) -> str:
        """Return a token from the server that the registry names."""
        realm = urlsplit(challenge.get("realm", ""))
        schemes = {"http", "https"} if self._access.insecure else {"https"}
        if realm.scheme not in schemes or not realm.hostname:
            raise SourceRefused(
                f"{self.reference.registry} names {redacted(realm.geturl())!r} as its token server; an https:// "
                "address is expected"
            )
        scope = f"repository:{self.reference.repository}:{self._actions}"
        asked = {"service": challenge.get("service", ""), "scope": challenge.get("scope") or scope}
        asked = {name: value for name, value in asked.items() if value}
        if self._found is not None and self._found.identity_token:
            form = {
                "grant_type": "refresh_token",
                "client_id": "midstream",
                "refresh_token": self._found.identity_token,
                **asked,
            }
            kind = {"Content-Type": "application/x-www-form-urlencoded"}
            asking = self._web.send("POST", realm.geturl(), kind, urlencode(form).encode())
        else:
            found = self._found
            login = basic(found.user, found.password) if found is not None else {}
            query = urlencode([*parse_qsl(realm.query), *asked.items()])
            asking = self._web.get(realm._replace(query=query).geturl(), {}, login=login)
        with asking as answer:
            if answer.status not in {200, 401, 403}:
                raise verdicts.momentary(answer) or SourceRefused(
                    f"the token server of {self.reference.registry}, {answer.shown}, answers {answer.status}"
                )
            if answer.status != 200:
                raise self.refusal(answer)
            return _token_in(_body(answer), answer.shown)


_ACCEPTED = ", ".join((layout.MANIFEST, layout.DOCKER_MANIFEST, *layout.INDEXES))


def _body(answer: Answer) -> bytes:
    body = bytearray()
    while data := answer.read():
        body += data
        if len(body) > _MAX_BODY:
            raise SourceRefused(f"{answer.shown} sends more than {_MAX_BODY} bytes of JSON")
    return bytes(body)


def _token_in(body: bytes, shown: str) -> str:
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    found = document if isinstance(document, dict) else {}
    token = found.get("token") or found.get("access_token")
    if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
        raise SourceRefused(f"{shown} gives no token; look at the registry's token server")
    return token


def _cause(answer: Answer) -> str:
    """Return what the registry says went wrong, in brackets, such as ` (MANIFEST_UNKNOWN)`."""
    try:
        error = json.loads(answer.read())["errors"][0]
        code, message = error["code"], error.get("message", "")
    except (SourceError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""
    return f" ({shortened(f'{code}: {message}' if message else str(code))})"
