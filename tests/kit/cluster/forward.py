"""A TCP forwarder: `python -m kit.cluster.forward PORT HOST:PORT`.

It stands before a real server that a test must not stop; where the forwarder is not, the server is down.
"""

import asyncio
import contextlib
import sys


async def main(port: int, host: str, there: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # a side that is gone is what this is for
            far_reader, far_writer = await asyncio.open_connection(host, there)
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))

    server = await asyncio.start_server(serve, "0.0.0.0", port)  # noqa: S104 - in a pod of its own
    async with server:
        await server.serve_forever()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
    finally:
        sink.close()


if __name__ == "__main__":
    far_host, _, far_port = sys.argv[2].rpartition(":")
    asyncio.run(main(int(sys.argv[1]), far_host, int(far_port)))
