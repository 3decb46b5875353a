"""The API server: the only module that knows `kubernetes.aio`.

Paths are fixed (no discovery), so a call is exactly one request. Every failure is a `ClusterError`, also one of the
network. Nothing is tried again here: the queue and the watches do that. Objects come back as plain JSON with
`apiVersion` and `kind`, without `managedFields`.
"""

import json
import os
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from midstream_api import names
from midstream_operator.errors import ClusterError
from midstream_operator.observed import Object

MANAGER = "midstream-operator"
"""Field manager of owned objects."""
STATUS_MANAGER = "midstream-operator-status"
"""Field manager of a pipeline's status, so that applying one never prunes the other."""

PAGE = 500
"""Objects in one answer to a list."""
WATCH_SECONDS = 50
"""The server ends a watch after this. With it, a connection that died silently is noticed soon: see SILENCE."""
SILENCE_SECONDS = 60
"""Without a byte for so long a watch is taken for dead."""

NO_SUCH_PATH = "NoSuchPath"
"""Reason of a 404 that is not about an object: the kind is not defined, or it is no API server that answers."""

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_CALL = aiohttp.ClientTimeout(total=10, sock_connect=3)
_LIST = aiohttp.ClientTimeout(total=30, sock_connect=3)
_WATCH = aiohttp.ClientTimeout(total=None, sock_connect=3, sock_read=SILENCE_SECONDS)
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_JSON = "application/json"
_LONGEST_MESSAGE = 1000


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object and where the API server keeps it."""

    api_version: str
    kind: str
    plural: str

    def path(self, namespace: str | None, name: str | None = None, sub: str | None = None) -> str:
        """Return the path of an object, or of all in a namespace, or of all there are."""
        parts = [("api/" if "/" not in self.api_version else "apis/") + self.api_version]
        if namespace is not None:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        parts += [quote(each, safe="") for each in (name, sub) if each is not None]
        return "/" + "/".join(parts)


PIPELINE = Kind(names.API_VERSION, names.PIPELINE_KIND, names.PIPELINE_PLURAL)
DEPLOYMENT = Kind("apps/v1", "Deployment", "deployments")
CONTROLLER_REVISION = Kind("apps/v1", "ControllerRevision", "controllerrevisions")
SERVICE = Kind("v1", "Service", "services")
CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps")
SECRET = Kind("v1", "Secret", "secrets")
SERVICE_ACCOUNT = Kind("v1", "ServiceAccount", "serviceaccounts")
POD = Kind("v1", "Pod", "pods")
EVENT = Kind("events.k8s.io/v1", "Event", "events")

KINDS = (
    PIPELINE,
    DEPLOYMENT,
    CONTROLLER_REVISION,
    SERVICE,
    CONFIG_MAP,
    SECRET,
    SERVICE_ACCOUNT,
    POD,
    EVENT,
)
_BY_NAME = {(each.api_version, each.kind): each for each in KINDS}


def kind_of(obj: Object) -> Kind:
    """Return the kind of an object; KeyError when this module does not know it."""
    return _BY_NAME[obj["apiVersion"], obj["kind"]]


@dataclass(frozen=True, slots=True)
class Login:
    """What another client needs to be let in as this one is."""

    server: str
    ca_file: str | None
    ca_data: str | bytes | None
    insecure: bool
    token: str | None
    certificate_file: str | None
    key_file: str | None


def _in_a_pod() -> bool:
    return _SERVICE_ACCOUNT.exists()


def _nobody(_verb: str, _status: int, _seconds: float) -> None:
    """Nobody counts."""


def _unnoticed(_obj: Object) -> None:
    """Nobody wants to know."""


class Cluster:
    """A connection to the API server; safe to use by many tasks at once."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        # Python 3.13 refuses authorities without a key usage or key identifier, which those of many clusters are. The
        # chain, the dates and the host name are still verified.
        configuration.disable_strict_ssl_verification = True
        api = ApiClient(configuration)
        self._rest = api.rest_client
        # Idle connections are kept for longer than aiohttp would: the first patch of a swap should not pay for a
        # TLS handshake. Their number is bound by the callers', and watches must not use up a pool.
        context: ssl.SSLContext = self._rest.ssl_context
        self._connector = aiohttp.TCPConnector(
            limit=0, ssl=context, keepalive_timeout=75, enable_cleanup_closed=False
        )
        configuration.client_session_kwargs = {"connector": self._connector}
        self.observe: Callable[[str, int, float], None] = _nobody
        """Told of each call: verb, HTTP status (0: no answer), seconds."""
        self.written: Callable[[Object], None] = _unnoticed
        """Told of each object as the API server returned it from a write."""

    @classmethod
    async def connect(cls) -> "Cluster":
        """Log in as `KUBECONFIG` says, else with the pod's service account, else with the user's own kubeconfig.

        Asks the API server nothing yet. ClusterError when there is no usable login.
        """
        configuration = Configuration()
        file = os.environ.get("KUBECONFIG")
        try:
            if not file and _in_a_pod():
                config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            else:
                await config.load_kube_config(  # type: ignore[no-untyped-call]
                    config_file=file or None,
                    client_configuration=configuration,
                    persist_config=False,
                )
        except (config.ConfigException, OSError, ValueError) as error:
            raise ClusterError(
                0,
                "NoLogin",
                f"no way to log in at a cluster: {error}; set KUBECONFIG, or run in a pod with a service account",
            ) from error
        return cls(configuration)

    async def close(self) -> None:
        """Close all connections; calls under way fail."""
        await self._rest.close()
        await self._connector.close()

    async def login(self) -> Login:
        """Return the login as it is now; a token may have been rotated since the last time."""
        of = self._configuration
        token = await of.get_api_key_with_prefix("BearerToken")
        return Login(
            server=of.host,
            ca_file=of.ssl_ca_cert,
            ca_data=of.ca_cert_data,
            insecure=not of.verify_ssl,
            token=token.split(maxsplit=1)[-1] if token else None,
            certificate_file=of.cert_file,
            key_file=of.key_file,
        )

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """Return the object, None when there is none."""
        try:
            return await self._call("get", kind, namespace, name)
        except ClusterError as error:
            if error.status == 404 and error.reason != NO_SUCH_PATH:
                return None
            raise

    async def list(
        self, kind: Kind, namespace: str | None = None, labels: str = ""
    ) -> tuple[list[Object], str]:
        """Return all objects as they were at one moment, and the resource version to watch from."""
        found: list[Object] = []
        query = {"limit": str(PAGE)}
        if labels:
            query["labelSelector"] = labels
        while True:
            page = await self._call("list", kind, namespace, query=query, within=_LIST)
            for each in page.get("items") or ():
                # Items of a list do not say what they are.
                each.setdefault("apiVersion", kind.api_version)
                each.setdefault("kind", kind.kind)
                found.append(_slim(each))
            metadata = page["metadata"]
            if not metadata.get("continue"):
                return found, metadata["resourceVersion"]
            query["continue"] = metadata["continue"]

    async def watch(
        self, kind: Kind, resource_version: str, namespace: str | None = None, labels: str = ""
    ) -> AsyncGenerator[tuple[str, Object], None]:
        """Yield what happens after the resource version: `ADDED`, `MODIFIED`, `DELETED` and `BOOKMARK` with the object.

        The first is a bookmark of that version itself, as soon as the API server listens. Ends when the server ends it,
        about every minute. ClusterError with status 410 when the resource version is too old: what was missed then can
        only be found by a list.
        """
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
            "resourceVersion": resource_version,
        }
        if labels:
            query["labelSelector"] = labels
        what = f"watch {kind.plural}{_where(namespace)}"
        response = await self._send(
            "watch", "GET", kind.path(namespace), what, query=query, within=_WATCH
        )
        try:
            yield "BOOKMARK", {"metadata": {"resourceVersion": resource_version}}
            async for line in response.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise _refusal(what, event["object"].get("code") or 500, event["object"])
                yield event["type"], _slim(event["object"])
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise _unanswered(what, error) from error
        finally:
            response.close()

    async def apply(self, obj: Object) -> Object:
        """Give the object these fields, by server-side apply; fields that were given before and are not now go."""
        metadata = obj["metadata"]
        query = {"fieldManager": MANAGER, "force": "true"}
        return self._noted(
            await self._call(
                "apply",
                kind_of(obj),
                metadata["namespace"],
                metadata["name"],
                query=query,
                body=obj,
                content_type=_APPLY,
            )
        )

    async def apply_status(self, obj: Object) -> Object:
        """Make the object's status the given one. ClusterError with status 404 when the object is gone."""
        metadata = obj["metadata"]
        query = {"fieldManager": STATUS_MANAGER, "force": "true"}
        return self._noted(
            await self._call(
                "apply_status",
                kind_of(obj),
                metadata["namespace"],
                metadata["name"],
                sub="status",
                query=query,
                body=obj,
                content_type=_APPLY,
            )
        )

    async def annotate(
        self, kind: Kind, namespace: str, name: str, annotations: Mapping[str, str | None]
    ) -> Object:
        """Set annotations, and remove those given as None."""
        return await self.merge(
            kind, namespace, name, {"metadata": {"annotations": dict(annotations)}}
        )

    async def merge(self, kind: Kind, namespace: str, name: str, patch: Object) -> Object:
        """Change the given fields, by a JSON merge patch."""
        query = {"fieldManager": MANAGER}
        return self._noted(
            await self._call(
                "patch", kind, namespace, name, query=query, body=patch, content_type=_MERGE
            )
        )

    async def create(self, obj: Object) -> Object:
        """Create the object. ClusterError with status 409 when there is one of this name."""
        query = {"fieldManager": MANAGER}
        return self._noted(
            await self._call(
                "create", kind_of(obj), obj["metadata"]["namespace"], query=query, body=obj
            )
        )

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str | None = None) -> None:
        """Delete the object, what it owns in the background. None there: fine. Another uid: ClusterError 409."""
        body: Object = {"propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            await self._call("delete", kind, namespace, name, body=body)
        except ClusterError as error:
            if error.status != 404:
                raise

    def _noted(self, obj: Object) -> Object:
        self.written(obj)
        return obj

    async def _call(
        self,
        verb: str,
        kind: Kind,
        namespace: str | None,
        name: str | None = None,
        *,
        sub: str | None = None,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = _JSON,
        within: aiohttp.ClientTimeout = _CALL,
    ) -> Object:
        what = f"{verb} {kind.plural if name is None else f'{kind.kind} {name}'}{_where(namespace)}"
        response = await self._send(
            verb,
            _METHODS[verb],
            kind.path(namespace, name, sub),
            what,
            query=query,
            body=body,
            content_type=content_type,
            within=within,
        )
        try:
            answer = json.loads(await response.read())
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise _unanswered(what, error) from error
        return _slim(answer)

    async def _send(
        self,
        verb: str,
        method: str,
        path: str,
        what: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = _JSON,
        within: aiohttp.ClientTimeout = _CALL,
    ) -> aiohttp.ClientResponse:
        """Send one request and return its answer with the body still to be read."""
        started = time.monotonic()
        status = 0
        try:
            # The client adds no Authorization to a raw request; this also reads a rotated token again.
            token = await self._configuration.get_api_key_with_prefix("BearerToken")
            headers = {"Accept": _JSON, "Content-Type": content_type, "User-Agent": MANAGER}
            if token:
                headers["Authorization"] = token
            url = self._configuration.host + path + (f"?{urlencode(query)}" if query else "")
            raw = await self._rest.request(  # type: ignore[no-untyped-call]
                method, url, headers=headers, body=body, _request_timeout=within
            )
            response: aiohttp.ClientResponse = raw.response
            status = response.status
            if status >= 400:
                raise _refusal(what, status, await _explanation(response))
        except (aiohttp.ClientError, OSError, TimeoutError, config.ConfigException) as error:
            raise _unanswered(what, error) from error
        finally:
            self.observe(verb, status, time.monotonic() - started)
        return response


_METHODS = {
    "get": "GET",
    "list": "GET",
    "apply": "PATCH",
    "apply_status": "PATCH",
    "patch": "PATCH",
    "create": "POST",
    "delete": "DELETE",
}


def _slim(obj: Object) -> Object:
    """Drop what fills most of an object and is never used."""
    obj.get("metadata", {}).pop("managedFields", None)
    return obj


def _where(namespace: str | None) -> str:
    return f" in namespace {namespace}" if namespace is not None else ""


async def _explanation(response: aiohttp.ClientResponse) -> Any:
    """Read the `Status` object of a refusal; what stands before an API server may answer with anything."""
    text = await response.text(errors="replace")
    try:
        return json.loads(text)
    except ValueError:
        return {"message": text}


def _refusal(what: str, status: int, said: Any) -> ClusterError:
    known = said if isinstance(said, dict) else {}
    message = str(known.get("message") or "no reason given")[:_LONGEST_MESSAGE]
    reason = str(known.get("reason") or f"HTTP{status}")
    if status == 404 and not (known.get("details") or {}).get("name"):
        reason = NO_SUCH_PATH
    return ClusterError(status, reason, f"{what}: {message} (status {status})")


def _unanswered(what: str, error: BaseException) -> ClusterError:
    if isinstance(error, TimeoutError):
        return ClusterError(0, "Timeout", f"{what}: no answer in time")
    return ClusterError(0, "Unreachable", f"{what}: {error or type(error).__name__}")
