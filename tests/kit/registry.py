"""A real OCI registry on loopback: Debian's `docker-registry`, open, with passwords, or with a token server.

`scripts/environment.sh dev` fetches the program where the machine has none. Where it cannot be had, `require` skips the
test and says so.
"""

import base64
import json
import secrets
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from kit import certificate
from kit.origin import Handler, Origin

PROGRAM = "docker-registry"
FETCHED = Path(__file__).parents[2] / ".cache" / "debian" / PROGRAM / "usr" / "bin" / PROGRAM
USER, PASSWORD = "ann", "open sesame"
IDENTITY = "ann-herself"
"""Stands for both at the token server."""
_HASH = "$2b$04$abcdefghijklmnopqrstuu/LVz6MZlItEy42I2juLihZ66HnQx/cy"
"""bcrypt of PASSWORD, the one kind that the registry reads."""


def program() -> str | None:
    """Return the registry's program; None when there is none."""
    return shutil.which(PROGRAM) or (str(FETCHED) if FETCHED.exists() else None)


def require() -> None:
    """Skip the test where there is no registry."""
    if program() is None:
        pytest.skip(f"{PROGRAM} is missing; on Debian `scripts/environment.sh dev` fetches it")


def docker_config(path: Path, entry: str, user: str = USER, password: str = PASSWORD) -> Path:
    """Write a Docker config with one login, as `docker login` does."""
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    path.write_text(json.dumps({"auths": {entry: {"auth": auth}}}))
    return path


class Registry:
    """The program, and the folder it keeps everything in."""

    def __init__(self, folder: Path, settings: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._settings = settings
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self.address = "127.0.0.1:0"
        """Host and port; stays the same when the registry is stopped and started."""

    def start(self) -> None:
        """Start, and return when it takes connections."""
        config = self._folder / "config.yml"
        config.write_text(
            "version: 0.1\n"
            "log: {level: info}\n"
            f"storage: {{filesystem: {{rootdirectory: {self._folder / 'data'}}}}}\n"
            f"http: {{addr: '{self.address}'}}\n{self._settings}"
        )
        listening = threading.Event()
        with (self._folder / "access.log").open("a") as log:
            self._process = subprocess.Popen(
                [str(program()), "serve", str(config)],
                stdout=log,
                stderr=subprocess.PIPE,
                text=True,
            )
        self._reader = threading.Thread(target=self._read, args=(self._process, listening))
        self._reader.start()
        assert listening.wait(20), "the registry does not start"

    def _read(self, process: "subprocess.Popen[str]", listening: threading.Event) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            if "listening on " in line:
                self.address = line.partition("listening on ")[2].partition('"')[0].strip()
                listening.set()

    def stop(self) -> None:
        """End at once, as a crash would."""
        if self._process is not None and self._reader is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._reader.join()
            assert self._process.stderr is not None
            self._process.stderr.close()
            self._process = None

    def uri(self, path: str) -> str:
        """Return the address of a repository."""
        return f"oci://{self.address}/{path}"

    def blob(self, sha256: str) -> Path:
        """Return where it keeps a blob."""
        return self._folder / "data/docker/registry/v2/blobs/sha256" / sha256[:2] / sha256 / "data"

    def written(self) -> int:
        """Return how many requests brought it something."""
        log = (self._folder / "access.log").read_text()
        return sum(log.count(f'"{method} /v2/') for method in ("POST", "PUT", "PATCH"))


@contextmanager
def running(folder: Path, login: str = "none") -> Iterator[Registry]:
    """Run a registry for the length of the block; `login` is `none`, `password` or `token`."""
    settings = ""
    with ExitStack() as stack:
        if login == "password":
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "htpasswd").write_text(f"{USER}:{_HASH}\n")
            settings = f"auth: {{htpasswd: {{realm: test, path: {folder / 'htpasswd'}}}}}\n"
        elif login == "token":
            settings = stack.enter_context(_token_server(folder))
        registry = Registry(folder, settings)
        stack.callback(registry.stop)
        registry.start()
        yield registry


@contextmanager
def _token_server(folder: Path) -> Iterator[str]:
    """Run a server that gives tokens: to everybody for pulling from `open/…`, to USER for everything else."""
    folder.mkdir(parents=True, exist_ok=True)
    pem = certificate.write(folder / "token.pem")
    with Origin().running() as origin:

        def give(handler: Handler) -> None:
            asked = parse_qs(urlsplit(handler.path).query or handler.body().decode())
            expected = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            given = handler.asked("Authorization") or asked.get("refresh_token", [""])[0]
            if given not in {"", f"Basic {expected}", IDENTITY}:
                handler.start(401, {"Content-Length": "0"})
                return
            access: list[dict[str, object]] = []
            for scope in asked.get("scope", []):
                kind, name, actions = scope.split(":")
                granted = actions.split(",") if given else ["pull"] * name.startswith("open/")
                access.append({"type": kind, "name": name, "actions": granted})
            body = json.dumps({"token": _token(pem, asked["service"][0], access)}).encode()
            handler.start(200, {"Content-Length": str(len(body))})
            handler.wfile.write(body)

        origin.serve_queries("/token", give)
        yield (
            f"auth: {{token: {{realm: '{origin.url('/token')}', service: test, issuer: test, "
            f"rootcertbundle: {pem}}}}}\n"
        )


def _token(pem: Path, service: str, access: list[dict[str, object]]) -> str:
    now = int(time.time())
    head = {"typ": "JWT", "alg": "ES256", "x5c": [certificate.body(pem)]}
    claims = {
        "iss": "test",
        "sub": USER,
        "aud": service,
        "iat": now,
        "nbf": now - 60,
        "exp": now + 300,
        "jti": secrets.token_hex(8),
        "access": access,
    }
    parts = [_base64(json.dumps(part).encode()) for part in (head, claims)]
    signature = certificate.sign(pem, ".".join(parts).encode())
    return ".".join((*parts, _base64(signature)))


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
