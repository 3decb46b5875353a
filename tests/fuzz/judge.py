"""What an answer to a fuzzed request may be."""

import json
from typing import NamedTuple

from fuzz.pipelines import Fuzzed
from midstream_engine.dataplane import Answer
from reference import wire

LONGEST_ERROR = 8192
"""Bytes of an error's answer: a message names what is wrong, it does not send it back."""


class Verdict(NamedTuple):
    status: int
    reason: str
    reached: bool
    """A model has run."""
    finding: str | None
    """What is wrong with the answer; None when nothing is."""


def judged(fuzzed: Fuzzed, answer: Answer) -> Verdict:
    """503 is no finding: a request may come at a bad time. 502 and 504 are the fault of code, where there is some."""
    status = answer.status
    if status == 404 and not answer.body:
        return Verdict(status, "no inference path", reached=False, finding=None)
    if status == 200:
        return Verdict(status, "", reached=True, finding=_misread(answer))
    try:
        reason = _reason(answer)
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        return Verdict(status, "", reached=False, finding=f"an error without its form: {error!r}")
    codes_fault = status in (502, 504)
    finding = None
    if len(answer.body) > LONGEST_ERROR:
        finding = f"an error of {len(answer.body)} bytes"
    elif status >= 500 and status != 503 and not (codes_fault and fuzzed.has_code):
        finding = f"{status} {reason}: {answer.body[:300]!r}"
    return Verdict(status, reason, reached=codes_fault, finding=finding)


def _misread(answer: Answer) -> str | None:
    """Whether a good answer can be read as what it says it is."""
    try:
        wire.read(answer)
    except Exception as error:  # noqa: BLE001 - whatever a reader says
        return f"a good answer that cannot be read: {error!r}"
    if "x-midstream-version" not in wire.headers_of(answer):
        return "an answer without its version"
    return None


def _reason(answer: Answer) -> str:
    document = json.loads(answer.body)
    assert isinstance(document["error"], str)
    assert document["error"]
    reason = document["reason"]
    assert isinstance(reason, str)
    return reason
