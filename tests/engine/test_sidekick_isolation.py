"""What a worker is given of its surroundings, that it ends with its engine, and that nothing of it is left behind."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kit import sidekicks as kit
from midstream_engine.errors import SidekickFailed
from midstream_engine.sidekicks.launch import Limits
from midstream_engine.sidekicks.settings import SidekickSettings

LOOK = """
    import json, os, resource, sys
    from pathlib import Path

    def descriptors():
        folder = Path("/proc/self/fd")
        # What listing them needs is closed again when it is looked at.
        return [os.readlink(folder / n) for n in os.listdir(folder) if os.path.lexists(folder / n)]

    def process(inputs):
        return {"y": [json.dumps(eval(inputs["x"][0]))]}
"""

ENGINE = """
import asyncio, sys
from pathlib import Path
from midstream_engine.sidekicks.pool import Sidekicks
from midstream_engine.sidekicks.settings import SidekickSettings

CODE = b'''
import os, pandas
pid = os.getpid()
def process(inputs):
    print("called", flush=True)
    while inputs["x"][0]:
        pass
    return {"y": [pid]}
'''

async def main():
    import numpy as np
    called = asyncio.Event()
    emit = lambda event, **_: called.set() if event == "sidekick_output" else None
    host = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    settings = SidekickSettings(folder=Path(sys.argv[1]), host=host)
    sidekicks = Sidekicks(settings, emit=emit)
    sidekick = await asyncio.to_thread(sidekicks.acquire, "pre", CODE, "sha")
    answer = await sidekick.call({"x": np.zeros(1)}, 1, 30.0)
    called.clear()
    looping = asyncio.create_task(sidekick.call({"x": np.ones(1)}, 1, 1000.0))
    await called.wait()
    print(int(answer["y"][0]), "pandas" in sys.modules, flush=True)
    await looping

asyncio.run(main())
"""


@pytest.fixture(scope="module", params=["child", "host"])
def ground(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[kit.Ground]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGISTRY_PASSWORD", "secret")
        patch.setenv("HTTPS_PROXY", "http://user:secret@proxy")
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        if request.param == "child":
            with kit.ground() as made:
                yield made
        else:
            with (
                kit.host(tmp_path_factory.mktemp("host")) as host,
                kit.ground(SidekickSettings(host=host.path)) as made,
            ):
                yield made


def look(ground: kit.Ground, expression: str) -> Any:
    """What this is in a worker."""
    with ground.use(LOOK) as sidekick:
        return json.loads(kit.ask(sidekick, kit.column(expression))["y"][0])


def test_the_environment_is_cut_down(ground: kit.Ground) -> None:
    """No secrets, no proxies, nothing of the engine's; one thread for each library."""
    environment = look(ground, "dict(os.environ)")
    names = {name for name in environment if not name.endswith("_NUM_THREADS")}
    assert names <= {
        *("PATH", "HOME", "TMPDIR", "LANG", "PYTHONSAFEPATH", "PYTHONNOUSERSITE"),
        *("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONHASHSEED"),
        "ARROW_DEFAULT_MEMORY_POOL",
        "LC_CTYPE",  # Python itself adds it
    }
    assert {"1"} == {v for name, v in environment.items() if name.endswith("_NUM_THREADS")}
    assert "secret" not in json.dumps(environment)


def test_the_arguments_and_the_path_are_those_of_the_code(ground: kit.Ground) -> None:
    """What the worker itself was given is not there, and the code's folder comes first."""
    assert ["-c"] == look(ground, "sys.argv")
    assert "code" == Path(look(ground, "sys.path[0]")).name


def test_the_folder_is_its_own_and_goes_with_it(ground: kit.Ground) -> None:
    """It may write there, and finds it as home and for temporary files; nobody else may look."""
    with ground.use(LOOK) as sidekick:

        def ask(expression: str) -> Any:
            return json.loads(kit.ask(sidekick, kit.column(expression))["y"][0])

        folder, home, temporary, pid = ask(
            "[os.getcwd(), os.environ['HOME'], os.environ['TMPDIR'], os.getpid()]"
        )
        assert folder == home == temporary
        assert 0o700 == stat.S_IMODE(Path(folder).stat().st_mode)
        assert 2 == ask("Path('file').write_text('no')")
        assert ["code", "file"] == sorted(ask("os.listdir()"))
        ground.forget()
        with pytest.raises(SidekickFailed):
            kit.ask(sidekick, kit.column("os._exit(0)"))
        assert kit.gone(pid)
        ground.wait("sidekick_started")
        assert folder != ask("os.getcwd()")
        assert kit.becomes(lambda: not Path(folder).exists())


def test_no_descriptor_is_inherited(ground: kit.Ground) -> None:
    """But for no input, the two for prints, and the connection."""
    with Path(__file__).open() as file:
        os.set_inheritable(file.fileno(), True)
        opened = look(ground, "descriptors()")
    kinds = [name.partition(":")[0] for name in opened]
    assert ["/dev/null", "pipe", "pipe", "socket"] == sorted(kinds)
    assert "" == look(ground, "sys.stdin.read()")


def test_limits_are_set(ground: kit.Ground) -> None:
    """No core files, files and memory bounded, first to go when memory runs out, after the engine in turn."""
    limits = Limits()
    assert [0, 0] == look(ground, "resource.getrlimit(resource.RLIMIT_CORE)")
    assert limits.file_bytes == look(ground, "resource.getrlimit(resource.RLIMIT_FSIZE)")[0]
    assert limits.memory >= look(ground, "resource.getrlimit(resource.RLIMIT_DATA)")[0]
    assert "1000" == look(ground, "Path('/proc/self/oom_score_adj').read_text().strip()")
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    assert min(19, nice + limits.niceness) == look(ground, "os.getpriority(os.PRIO_PROCESS, 0)")
    assert look(ground, "os.getpid() == os.getpgid(0)")


def test_a_file_that_grows_too_large_is_an_error_of_the_code(ground: kit.Ground) -> None:
    """Not a full disk."""
    with ground.use(LOOK) as sidekick, pytest.raises(SidekickFailed, match="File too large"):
        kit.ask(sidekick, kit.column(f"os.truncate(os.open('f', 66), {Limits().file_bytes + 1})"))


def test_workers_order_sets_alike(ground: kit.Ground) -> None:
    """Answers do not depend on which worker gives them."""
    assert 1 == len({look(ground, "hash('any text')") for _ in range(2)})


def test_a_worker_starts_with_little(ground: kit.Ground) -> None:
    """Of the engine it has the modules of its own; of libraries numpy only."""
    modules = set(look(ground, "list(sys.modules)"))
    own = {name for name in modules if name.startswith("midstream")}
    package = "midstream_engine.sidekicks"
    parts = ("entry", "isolation", "values", "wire", "worker")
    assert {"midstream_engine", package, *(f"{package}.{part}" for part in parts)} == own
    heavy = {
        "onnxruntime",
        "fastapi",
        "pydantic",
        "orjson",
        "uvloop",
        "asyncio",
        "pandas",
        "pyarrow",
    }
    assert set() == modules & heavy


@contextmanager
def engine(folder: Path, host: Path | None = None) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A process with a worker that is busy for ever, and the worker's pid."""
    arguments = [str(folder), *([str(host)] if host else [])]
    process = subprocess.Popen(
        [sys.executable, "-c", ENGINE, *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        pid, has_pandas = process.stdout.readline().split()
        assert "False" == has_pandas, "the engine has imported what the code imports"
        yield process, int(pid)
    finally:
        process.kill()
        process.communicate()


def test_a_busy_worker_ends_with_its_engine(tmp_path: Path) -> None:
    """However that ends; what is left of it on disk is removed by the next one."""
    with engine(tmp_path) as (process, pid):
        process.kill()
        assert kit.gone(pid)
    (left,) = tmp_path.iterdir()
    settings = SidekickSettings(folder=tmp_path)
    with kit.ground(settings) as one, kit.ground(settings) as other:
        assert [1, 1] == [look(one, "1"), look(other, "1")]
        assert not left.exists()
        assert 2 == len(list(tmp_path.iterdir()))
    assert [] == list(tmp_path.iterdir())


def test_a_busy_worker_of_a_host_ends_with_its_engine(tmp_path: Path) -> None:
    """The connection is closed, and that is enough."""
    with kit.host(tmp_path) as host, engine(tmp_path, host.path) as (process, pid):
        process.kill()
        assert kit.gone(pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_ends_with_its_host(tmp_path: Path, number: int) -> None:
    """The engine sees it, and goes on when there is a host again."""
    settings = SidekickSettings(host=tmp_path / "host.sock")
    with kit.ground(settings) as ground:
        with kit.host(tmp_path) as host:
            sidekick = ground.acquire(LOOK)
            pid = ground.sidekicks.report()[0]["pid"]
            host.process.send_signal(number)
            assert (0 if number == signal.SIGTERM else -number) == host.wait()
            assert kit.gone(pid)
            ground.wait("sidekick_ended")
        with pytest.raises(SidekickFailed, match="times in a row"):
            kit.ask(sidekick, kit.column("1"))
        with kit.host(tmp_path):
            ground.forget()
            ground.wait("sidekick_started")
            assert {"y": ["1"]} == kit.ask(sidekick, kit.column("1"))
            ground.sidekicks.release(sidekick)


def test_only_the_same_user_may_use_a_host(tmp_path: Path) -> None:
    """Its socket is nobody else's to open; when it ends the socket is gone."""
    with kit.host(tmp_path) as host:
        assert 0o600 == stat.S_IMODE(host.path.stat().st_mode)
        assert 0 == host.stop()
        assert not host.path.exists()


@pytest.mark.parametrize(
    "message", [b"{", b"[]", b'{"limits": {"memory": "much"}}', b'{"limits": {}}']
)
def test_a_host_survives_what_it_does_not_understand(tmp_path: Path, message: bytes) -> None:
    """It says so, and serves the next one."""
    with kit.host(tmp_path) as host:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(str(host.path))
            connection.settimeout(kit.WAIT_SECONDS)
            connection.send(message)
            assert "error" in json.loads(connection.recv(4096))
            assert b"" == connection.recv(4096)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(str(host.path))  # and goes away without a word
        with kit.ground(SidekickSettings(host=host.path)) as ground:
            assert 2 == look(ground, "1 + 1")


def test_a_worker_may_have_half_of_the_container() -> None:
    """One that eats memory leaves the engine's half alone."""
    limits = Limits(memory=1 << 30)
    assert 1 << 30 == limits.within(None).memory
    assert 1 << 30 == limits.within(4 << 30).memory
    assert 1 << 29 == limits.within(1 << 30).memory
