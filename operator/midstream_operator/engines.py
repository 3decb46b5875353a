"""What engines say of themselves: `/status` of each pod, asked directly. The only door to aiohttp.

Read-only. An engine that does not answer in time has no report; that is no error, for its pod may just be starting.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence

import aiohttp

from midstream_api import names
from midstream_operator.observed import EngineReport

ANSWER_SECONDS = 1.0
"""Longest wait for one engine."""
MAX_ANSWER = 4 << 20
"""Bytes of an answer that are read."""


class Engines:
    """Asks engines; keeps connections open between two looks."""

    def __init__(self, port: int = names.MANAGEMENT_PORT) -> None:
        self._port = port
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, ips: Sequence[str]) -> Mapping[str, EngineReport]:
        """Return the reports of those that answer, by IP address. All are asked at once."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS, connect=ANSWER_SECONDS / 2),
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=15),
                trust_env=False,
            )
        found = await asyncio.gather(*(self._one(self._session, ip) for ip in ips))
        return {ip: report for ip, report in zip(ips, found, strict=True) if report is not None}

    async def _one(self, session: aiohttp.ClientSession, ip: str) -> EngineReport | None:
        host = f"[{ip}]" if ":" in ip else ip
        try:
            address = f"http://{host}:{self._port}/status"
            async with session.get(address, allow_redirects=False) as answer:
                body = await answer.content.read(MAX_ANSWER)
                while len(body) < MAX_ANSWER and (more := await answer.content.read(MAX_ANSWER)):
                    body += more
                return EngineReport.of(json.loads(body))
        except (
            aiohttp.ClientError,
            TimeoutError,
            OSError,
            # Whatever answers there in an engine's place must not end the look.
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
        ):
            return None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
