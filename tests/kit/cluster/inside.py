"""What runs in the load pod: `python -m kit.cluster.inside load|ask`.

It is spoken to over its standard streams, in JSON lines. `load` reads a plan, keeps asking at fixed times, and answers
each line that it is sent: `mark` with the time on its own clock, `stop` with the whole record. `ask` asks each of some
addresses once.
"""

import http.client
import json
import signal
import socket
import sys
import time
from typing import Any

from kit import load, wire

_DEADLINE = 60.0  # seconds for one question: longer than an engine lets a step run
_KNOWN_SECONDS = (
    10.0  # nodes learn of a Service's new address a moment after the pod is ready, and tell nobody
)


def main(arguments: list[str]) -> None:
    (what,) = arguments
    plan = json.loads(sys.stdin.readline())
    if what == "load":
        _load(plan)
    else:
        _ask(plan)


def _load(plan: dict[str, Any]) -> None:
    signal.alarm(plan["seconds"])  # bounded in time, also when nobody listens any more
    requests = [wire.records(plan["path"], rows) for rows in plan["requests"]]
    _until_known(plan["host"], plan["port"])
    with load.open_loop(
        plan["port"],
        requests,
        host=plan["host"],
        rate=plan["rate"],
        connections=plan["connections"],
        realtime=False,
        read_answers=True,
    ) as running:
        running.wait_until_answering(plan["seconds"])
        _say(time.monotonic())
        while sys.stdin.readline().strip() == "mark":
            _say(time.monotonic())
        record = running.stop()
    _say(
        {
            "answers": [
                [
                    *(answer.request, answer.status, answer.version),
                    [[*row[:2], row.out.decode(), row.echoed] for row in answer.rows],
                    answer.problem,
                ]
                for answer in record.answers
            ],
            "kind": list(record.kind),
            "scheduled": list(record.scheduled),
            "sent": list(record.sent),
            "ended": list(record.ended),
            "late": list(record.late),
            "cpu_seconds": record.cpu_seconds,
        }
    )


def _until_known(host: str, port: int) -> None:
    """Wait, for a bounded time, while the node refuses connections to an address; what then happens is not judged."""
    deadline = time.monotonic() + _KNOWN_SECONDS
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, port), timeout=_DEADLINE).close()
        except ConnectionRefusedError:
            time.sleep(0.05)  # between two tries; what is waited for is the connection
        except OSError:
            return
        else:
            return


def _ask(plan: list[dict[str, Any]]) -> None:
    for question in plan:
        _until_known(question["host"], question["port"])
        connection = http.client.HTTPConnection(
            question["host"], question["port"], timeout=_DEADLINE
        )
        try:
            body = question.get("body")
            headers = {"Content-Type": wire.RECORDS} if body is not None else {}
            connection.request(question["method"], question["path"], body, headers)
            answer = connection.getresponse()
            version = answer.headers.get("x-midstream-version", "")
            _say([answer.status, version, answer.read().decode()])
        except OSError as error:
            _say([load.CUT, "", str(error)])
        finally:
            connection.close()


def _say(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
