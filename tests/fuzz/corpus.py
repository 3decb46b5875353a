"""The inputs that `make test` runs: chosen from many, so that every kind of answer is there, and kept as they are.

`python -m fuzz.corpus` makes the file anew. It holds the inputs themselves, not how to make them: they stay the same
when what makes them changes.
"""

import json
import logging
import lzma
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from fuzz.campaign import Campaign, Tried, campaign
from fuzz.inputs import BLOCK
from reference.wire import Sent

FILE = Path(__file__).with_name("corpus.xz")

SIZE = 5000
_REACHING = 2000
"""Of these, inputs that reach a model."""

_SEED = 20
_LOOKED_AT = 40_000
_LONGEST = 2000
"""Bytes of a body."""


class Kept(NamedTuple):
    pipeline: str
    sent: Sent


def load() -> list[Kept]:
    """All of them, in the order of their pipelines."""
    found = []
    with lzma.open(FILE) as lines:
        for line in lines:
            head = json.loads(line)
            body = lines.read(head["size"])
            found.append(Kept(head["pipeline"], Sent(body, head["path"], head["headers"])))
    return found


def main() -> None:
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, campaign(Path(folder)) as ground:
        chosen = _chosen(_looked_at(ground))
    place = {each.name: number for number, each in enumerate(ground.pipelines)}
    chosen.sort(key=lambda tried: (place[tried.fuzzed.name], tried.number))
    records = b"".join(map(_record, chosen))
    FILE.write_bytes(lzma.compress(records, preset=9 | lzma.PRESET_EXTREME))
    reached = sum(tried.verdict.reached for tried in chosen)
    sys.stdout.write(
        f"{len(chosen)} inputs, {reached} of them reach a model; {FILE.stat().st_size} bytes\n"
    )


def _looked_at(ground: Campaign) -> Iterable[Tried]:
    for first in range(0, _LOOKED_AT, BLOCK):
        for block in ground.run(_SEED, range(first, first + BLOCK)):
            yield from block


def _chosen(tried: Iterable[Tried]) -> list[Tried]:
    """The rarest first: one of each kind of answer, then a second of each, and so on."""
    kinds: dict[bool, dict[tuple[object, ...], list[Tried]]] = {
        True: defaultdict(list),
        False: defaultdict(list),
    }
    for each in tried:
        if len(each.sent.body) <= _LONGEST:
            verdict = each.verdict
            kinds[verdict.reached][each.fuzzed.name, _form(each.sent), verdict.reason].append(each)
    reaching = _round_robin(kinds[True].values(), _REACHING)
    return [*reaching, *_round_robin(kinds[False].values(), SIZE - len(reaching))]


def _round_robin(kinds: Iterable[list[Tried]], count: int) -> list[Tried]:
    left = [list(reversed(kind)) for kind in kinds]
    found: list[Tried] = []
    while left and len(found) < count:
        found += [kind.pop() for kind in left]
        left = [kind for kind in left if kind]
    return found[:count]


def _form(sent: Sent) -> tuple[str, ...]:
    """What tells requests apart before they are read."""
    headers = sent.headers
    return (
        sent.path.partition("?")[0],
        headers.get("content-type", ""),
        headers.get("content-encoding", ""),
    )


def _record(tried: Tried) -> bytes:
    """A line of JSON, and the body as it is."""
    sent = tried.sent
    head = {
        "pipeline": tried.fuzzed.name,
        "path": sent.path,
        "headers": sent.headers,
        "size": len(sent.body),
    }
    return json.dumps(head, separators=(",", ":")).encode() + b"\n" + sent.body


if __name__ == "__main__":
    main()
