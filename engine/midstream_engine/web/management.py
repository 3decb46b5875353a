"""What people and tools ask about an engine: state, metrics, health, OpenAPI. The only door to FastAPI.

Answers come from a `Reporter`: of this engine alone, or, under `midstream run`, of the supervisor that speaks for all
workers.
"""

from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict

from midstream_api import __version__
from midstream_engine import metrics
from midstream_engine.formats.jsontext import dumps, loads
from midstream_engine.oip import metadata

JSON = "application/json"

_NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {"description": "Nothing serves; the body says why"}
}


class Report(BaseModel):
    """What is sent for one question."""

    model_config = ConfigDict(frozen=True)

    status: int
    content_type: str
    body: str


class Reporter(Protocol):
    async def ask(self, what: str) -> Report:
        """Answer `status`, `metrics`, `logs`, `readyz`, `pipelines` or `models`."""


class EngineReporter:
    """Answers for this engine alone."""

    def __init__(
        self,
        report: Callable[[], dict[str, Any]],
        exposition: metrics.Exposition,
        logs: Callable[[], bytes],
    ) -> None:
        self._report = report
        self._exposition = exposition
        self._logs = logs

    async def ask(self, what: str) -> Report:
        if what == "metrics":
            return Report(
                status=200, content_type=metrics.CONTENT_TYPE, body=self._exposition.render()
            )
        if what == "logs":
            return Report(status=200, content_type=JSON, body=self._logs().decode())
        report = self._report()
        status = 200
        content: Any = report
        if what == "readyz":
            status = 200 if report["ready"] else 503
            content = {"ready": report["ready"], "reasons": reasons(report)}
        elif what == "pipelines":
            content = {"pipelines": pipelines(report)}
        elif what == "models":
            content = {"models": models(report)}
        return Report(status=status, content_type=JSON, body=dumps(content).decode())


def reasons(report: dict[str, Any]) -> list[str]:
    """Why an engine is not ready, in sentences."""
    said = [
        f"{revision['reason']}: {revision['message']}"
        for revision in report["revisions"]
        if revision["reason"]
    ]
    config = report["config"]
    if not config["accepted"] and config["reason"]:
        said.append(f"{config['reason']}: {config['message']}")
    return said if said or report["ready"] else ["still loading"]


def pipelines(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What `GET /pipelines` says."""
    if report["pipeline"] is None:
        return []
    serving = report["serving"]
    return [
        {
            "id": report["pipeline"],
            "version": serving["version"] if serving else None,
            "status": "Running" if serving else "Error",
        }
    ]


def models(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What `GET /models` says."""
    serving = report["serving"]
    return [
        {
            "sha": model["sha256"],
            "name": model["name"],
            "version": model["version"],
            "status": "Running",
        }
        for revision in report["revisions"]
        if serving is not None and revision["revision"] == serving["revision"]
        for model in revision["models"]
    ]


def create(reporter: Reporter) -> FastAPI:
    """The management application, with its OpenAPI document at `/openapi.json`."""
    app = FastAPI(
        title="Midstream engine",
        version=__version__,
        description="State, metrics and health of an inference engine.",
        # Their pages load scripts from other hosts, and nothing here phones out.
        docs_url=None,
        redoc_url=None,
        # A redirect would be made from whatever host the client names.
        redirect_slashes=False,
        exception_handlers={404: _not_found, 405: _not_allowed, 500: _defect},
    )

    async def answer(what: str) -> Response:
        report = await reporter.ask(what)
        return Response(report.body, report.status, media_type=report.content_type)

    @app.get("/livez", tags=["health"], summary="The event loop turns")
    async def livez() -> dict[str, bool]:
        return {"live": True}

    @app.get(
        "/readyz",
        tags=["health"],
        summary="A revision serves",
        responses=_NOT_READY,
    )
    async def readyz() -> Response:
        return await answer("readyz")

    @app.get("/status", tags=["state"], summary="Revisions, their states and stage times")
    async def status() -> Response:
        return await answer("status")

    @app.get("/pipelines", tags=["state"], summary="The pipeline that serves")
    async def list_pipelines() -> Response:
        return await answer("pipelines")

    @app.get("/models", tags=["state"], summary="The models that serve")
    async def list_models() -> Response:
        return await answer("models")

    @app.get("/metrics", tags=["state"], summary="Prometheus' text format")
    async def get_metrics() -> Response:
        return await answer("metrics")

    @app.post("/logs", tags=["state"], summary="The rows answered last, oldest first")
    async def post_logs() -> Response:
        return await answer("logs")

    _add_open_inference(app, reporter)
    return app


def _add_open_inference(app: FastAPI, reporter: Reporter) -> None:
    """The Open Inference Protocol's paths, but for inference. A pipeline is what it calls a model."""

    async def tell(
        what: Callable[[metadata.Status, str, str | None], metadata.Said],
        name: str,
        version: str | None = None,
    ) -> Response:
        code, said = what(loads((await reporter.ask("status")).body), name, version)
        return Response(dumps(said), code, media_type=JSON)

    tags: list[str | Enum] = ["open inference protocol"]

    @app.get("/v2", tags=tags, summary="Name, version and extensions of the server")
    async def server() -> dict[str, Any]:
        return metadata.server()

    @app.get("/v2/health/live", tags=tags, summary="The event loop turns")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready", tags=tags, summary="A revision serves", responses=_NOT_READY)
    async def ready() -> Response:
        report = await reporter.ask("readyz")
        return Response(report.body, report.status, media_type=report.content_type)

    @app.get("/v2/models/{name}", tags=tags, summary="A pipeline's inputs and outputs")
    async def model(name: str) -> Response:
        return await tell(metadata.model, name)

    @app.get("/v2/models/{name}/ready", tags=tags, summary="A pipeline serves")
    async def model_ready(name: str) -> Response:
        return await tell(metadata.model_ready, name)

    @app.get("/v2/models/{name}/versions/{version}", tags=tags, summary="The same of a version")
    async def model_version(name: str, version: str) -> Response:
        return await tell(metadata.model, name, version)

    @app.get("/v2/models/{name}/versions/{version}/ready", tags=tags, summary="A version serves")
    async def version_ready(name: str, version: str) -> Response:
        return await tell(metadata.model_ready, name, version)


async def _not_found(request: Request, _: Exception) -> Response:
    paths = ", ".join(path for path in _paths(request.app) if path != "/logs")
    return _problem(
        404,
        "NotFound",
        f"there is nothing at {request.url.path[:100]!r}; there are POST /infer, POST /pipelines/{{name}}, "
        f"POST /v2/models/{{name}}/infer, POST /logs, GET {paths}",
    )


async def _not_allowed(request: Request, error: Exception) -> Response:
    allowed = (getattr(error, "headers", None) or {}).get("Allow", "GET")
    return _problem(
        405,
        "MethodNotAllowed",
        f"method {request.method} is not allowed here; use {allowed}",
        {"Allow": allowed},
    )


async def _defect(_request: Request, _error: Exception) -> Response:
    # The exception is raised again behind this answer, and logged by the server.
    return _problem(500, "InternalError", "the engine failed on this request; its log says why")


def _problem(
    status: int, reason: str, message: str, headers: dict[str, str] | None = None
) -> Response:
    """An error in the same form as those of inference."""
    return Response(dumps({"error": message, "reason": reason}), status, headers, JSON)


def _paths(app: FastAPI) -> list[str]:
    return sorted(app.openapi()["paths"])
