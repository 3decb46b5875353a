"""`/healthz`, `/readyz` and `/metrics`, from the first moment on. The only module that serves HTTP.

`/healthz` fails when only a restart helps: a part is stuck. `/readyz` fails until everything has been listed once. An
API server that is away is no reason to restart, so neither speaks of it; the metrics do.
"""

from collections.abc import Callable, Sequence

from aiohttp import web

Check = Callable[[], str | None]
"""Return what is wrong, None when nothing is."""


class Health:
    """An HTTP server that asks checks."""

    def __init__(self, expose: Callable[[], bytes], content_type: str) -> None:
        self._expose = expose
        self._content_type = content_type
        self._live: list[Check] = []
        self._ready: list[Check] = [lambda: "the operator is starting"]
        self._runner: web.AppRunner | None = None

    def watch(self, live: Sequence[Check], ready: Sequence[Check]) -> None:
        """Ask these from now on."""
        self._live, self._ready = list(live), list(ready)

    async def start(self, host: str, port: int) -> int:
        """Serve; return the port: the given one, or a free one for 0. OSError when it is taken."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        bound: int = self._runner.addresses[0][1]
        return bound

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        return _answer(self._live)

    async def _readyz(self, _request: web.Request) -> web.Response:
        return _answer(self._ready)

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._expose(), headers={"Content-Type": self._content_type})


def _answer(checks: Sequence[Check]) -> web.Response:
    wrong = [said for said in (check() for check in checks) if said is not None]
    return web.Response(status=503 if wrong else 200, text="\n".join(wrong or ["ok"]) + "\n")
