"""An inference request as it reaches the data plane, free of any HTTP server."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class Protocol(enum.Enum):
    """Which family of paths the request came by."""

    RECORDS = "records"
    """`POST /infer` and `POST /pipelines/{name}`: formats by content type."""
    OIP = "oip"
    """`POST /v2/models/{name}[/versions/{version}]/infer`: Open Inference Protocol."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a path leads to."""

    pipeline: str | None
    """None for `POST /infer`, which takes whatever serves."""
    protocol: Protocol = Protocol.RECORDS
    version: str | None = None
    """The version that the path asks for; None is the one that serves."""
    query: bytes = b""
    """Behind the `?`, as sent."""


HEADERS: Mapping[bytes, str] = {
    b"content-type": "content_type",
    b"accept": "accept",
    b"content-encoding": "content_encoding",
    b"accept-encoding": "accept_encoding",
    b"x-midstream-split-key": "split_key",
    b"inference-header-content-length": "json_length",
    b"traceparent": "trace",
}
"""The headers that mean something here, and the field of `Headers` that has their value."""


@dataclass(slots=True)
class Headers:
    """Values as sent, empty when there was none."""

    content_type: bytes = b""
    accept: bytes = b""
    content_encoding: bytes = b""
    accept_encoding: bytes = b""
    split_key: bytes = b""
    """`x-midstream-split-key`"""
    json_length: bytes = b""
    """`inference-header-content-length`"""
    trace: bytes = b""
    """`traceparent`: sent back, nothing else yet."""


@dataclass(slots=True)
class Request:
    """One request."""

    target: Target
    body: bytes
    headers: Headers
