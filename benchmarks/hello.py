"""Bare uvicorn: no routing, no body, no work. Shows what the HTTP server itself costs."""

from typing import Any

START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain"), (b"content-length", b"5")],
}
BODY = {"type": "http.response.body", "body": b"hello"}


async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001
    if scope["type"] == "http":
        await send(START)
        await send(BODY)
