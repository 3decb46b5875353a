"""wrk as the load generator: closed loop, one thread, cycling through several bodies."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.machine import LOAD_CORE, Missing

_SCRIPT = """\
local requests = {}
local number = 0
init = function(args)
  for index = 1, %(count)d do
    local file = assert(io.open("%(folder)s/" .. index, "rb"))
    local body = file:read("*a")
    file:close()
    local headers = {}
    if #body > 0 then headers["Content-Type"] = "%(content_type)s" end
    if "%(accept)s" ~= "" then headers["Accept"] = "%(accept)s" end
    requests[index] = wrk.format("%(method)s", "%(path)s", headers, body)
  end
end
request = function()
  number = number %% #requests + 1
  return requests[number]
end
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\\nRESULT {"requests":%%d,"microseconds":%%d,"failed":%%d,"p50":%%d,"p99":%%d}\\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


class Timing(NamedTuple):
    requests: int
    seconds: float
    failed: int
    """Connect, read, write and time-out errors, and answers other than 2xx and 3xx."""
    p50: float
    """Milliseconds."""
    p99: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


class Script:
    """A set of bodies on disk, ready to be sent over and over."""

    def __init__(
        self,
        folder: Path,
        path: str,
        content_type: str,
        bodies: Sequence[bytes],
        accept: str = "",
    ) -> None:
        folder.mkdir()
        for number, body in enumerate(bodies, 1):
            (folder / str(number)).write_bytes(body)
        self._file = folder / "requests.lua"
        self._file.write_text(
            _SCRIPT
            % {
                "count": len(bodies),
                "folder": folder,
                "path": path,
                "content_type": content_type,
                "accept": accept,
                "method": "POST" if any(bodies) else "GET",
            }
        )

    def run(self, port: int, *, clients: int, seconds: float) -> Timing:
        program = shutil.which("wrk")
        if program is None:
            raise Missing("wrk is not installed; on Debian: apt-get install wrk")
        command = ["taskset", "-c", str(LOAD_CORE), program, "--latency", "--timeout", "10s"]
        command += ["-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", "-s", str(self._file)]
        command.append(f"http://127.0.0.1:{port}/")
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.partition("RESULT ")[2].splitlines()[0])
        return Timing(
            found["requests"],
            found["microseconds"] / 1e6,
            found["failed"],
            found["p50"] / 1e3,
            found["p99"] / 1e3,
        )
