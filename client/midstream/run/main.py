"""Entry of `midstream run`: command line in, exit code out.

Exit codes: 0 served and stopped, 1 cannot start, 130 stopped before it served or killed by a second Ctrl-C.
"""

import argparse
import asyncio
import contextlib
import fcntl
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from midstream.run.binding import CannotStart
from midstream.run.console import Console
from midstream.run.outlet import Outlet
from midstream.run.supervisor import Settings, Supervisor
from midstream_engine import memory


def run(args: argparse.Namespace) -> int:
    """Serve the manifest until told to stop."""
    _fill_standard_streams()
    outlet = Outlet(sys.stdout) if sys.stdout is not None else None
    console = Console(outlet, json_lines=args.json_logs)
    try:
        with _state(args.state) as state:
            return asyncio.run(_serve(_settings(args, state), console))
    except CannotStart as error:
        if args.json_logs:
            console.say("cannot_start", str(error), reason=error.reason)
        elif sys.stderr is not None:
            sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:  # at the very end, while the temporary folder is removed
        return 130
    finally:
        if outlet is not None:
            outlet.close()


def _fill_standard_streams() -> None:
    """Keep a closed standard stream's number from being given to a socket that workers would then write to."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


async def _serve(settings: Settings, console: Console) -> int:
    return await Supervisor(settings, console).run()


def _settings(args: argparse.Namespace, state: Path) -> Settings:
    limit = args.memory_limit or memory.cgroup_limit() or _machine_memory()
    processors = len(os.sched_getaffinity(0))
    return Settings(
        manifest=args.manifest,
        host=args.host,
        port=args.port,
        workers=args.workers,
        cache=args.cache.absolute(),
        state=state,
        policy=args.policy,
        max_body=args.max_body,
        threads=args.threads or max(1, processors // args.workers),
        # Each worker holds the models once.
        memory_limit=limit // args.workers,
    )


def _machine_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@contextlib.contextmanager
def _state(given: Path | None) -> Iterator[Path]:
    """Lend a folder to this run alone: the given one, or a temporary one that is removed at the end."""
    if given is None:
        with tempfile.TemporaryDirectory(prefix="midstream-") as temporary:
            yield Path(temporary)
        return
    folder = given.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        text = f"cannot use the state folder {given}: {error.strerror}"
        raise CannotStart("StateUnwritable", text) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            text = f"another run uses the state folder {given}; choose another --state"
            raise CannotStart("StateInUse", text) from error
        yield folder
