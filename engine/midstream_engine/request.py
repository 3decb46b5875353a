"""An inference request as it reaches the data plane, free of any HTTP server."""

import enum
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


@dataclass(slots=True)
class Request:
    """One request. Header values are as sent, empty when there was none."""

    target: Target
    body: bytes
    content_type: bytes = b""
    accept: bytes = b""
    content_encoding: bytes = b""
    accept_encoding: bytes = b""
    split_key: bytes = b""
    """`x-midstream-split-key`"""
    json_length: bytes = b""
    """`inference-header-content-length`"""
