"""Whether an object in the cluster still is what is wanted of it, and the first thing that is not.

Pure. Looks only at fields that are wanted: what the API server, a cloud's controller or an autoscaler adds is nobody's
drift. So a hand edit of an owned field is found and repaired, and a reconcile with nothing to do writes nothing.
Does not see a field that was wanted once and is no longer: the digest annotation, compared last, does.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from midstream_api import names
from midstream_operator import quantities
from midstream_operator.observed import Object

_MERGE_KEYS = ("mountPath", "containerPort", "port", "name", "topologyKey", "type", "key")
"""Fields that tell the entries of a list apart, the most telling one first: a volume may be mounted twice."""

_AMOUNTS = frozenset({"requests", "limits"})
"""Fields whose values are quantities."""

_LONGEST = 100
"""Characters of a value that are shown."""


def differs(desired: Object, observed: Object | None) -> str | None:
    """Say the first difference, as `spec.replicas: want 2, found 3`; None when there is none.

    desired: complete with its digest. observed: as the API server gives it; None when it is not there.
    """
    if observed is None:
        return f"{desired['kind']} {desired['metadata']['name']} is missing"
    metadata = desired["metadata"]
    annotations = metadata.get("annotations") or {}
    rest = {key: value for key, value in annotations.items() if key != names.DIGEST_ANNOTATION}
    bare = {key: value for key, value in metadata.items() if key != "annotations"}
    plain = {**desired, "metadata": {**bare, "annotations": rest} if rest else bare}
    found = _mapping("", plain, observed)
    if found is None and names.DIGEST_ANNOTATION in annotations:
        return _mapping("", {"metadata": {"annotations": annotations}}, observed)
    return found


def _value(path: str, want: Any, found: Any, *, amount: bool) -> str | None:
    if isinstance(want, Mapping):
        if isinstance(found, Mapping):
            return _mapping(path, want, found, amounts=amount)
    elif isinstance(want, list):
        if isinstance(found, list):
            return _sequence(path, want, found)
    elif _equal(want, found) or (amount and quantities.same(want, found)):
        return None
    return f"{path}: want {_shown(want)}, found {_shown(found)}"


def _mapping(
    path: str, want: Mapping[str, Any], found: Mapping[str, Any], *, amounts: bool = False
) -> str | None:
    for key, value in want.items():
        below = f"{path}[{key}]" if "/" in key or "." in key else f"{path}.{key}" if path else key
        if value is None and found.get(key) is None:
            continue
        if key not in found:
            return f"{below}: want {_shown(value)}, found nothing"
        difference = _value(below, value, found[key], amount=amounts or key in _AMOUNTS)
        if difference is not None:
            return difference
    return None


def _sequence(path: str, want: Sequence[Any], found: Sequence[Any]) -> str | None:
    key = _merge_key(want)
    if key is None:
        if len(want) != len(found):
            return f"{path}: want {_shown(want)}, found {_shown(found)}"
        pairs = zip(want, found, strict=True)
        differences = (
            _value(f"{path}[{index}]", one, other, amount=False)
            for index, (one, other) in enumerate(pairs)
        )
        return next((each for each in differences if each is not None), None)
    for entry in want:
        below = f"{path}[{entry[key]}]"
        # One of several with the same key is enough: only the server knows by which others it tells them apart.
        tried = [
            _mapping(below, entry, other)
            for other in found
            if isinstance(other, Mapping) and _equal(other.get(key), entry[key])
        ]
        if not tried:
            return f"{below}: want {_shown(entry)}, found nothing"
        if None not in tried:
            return tried[0]
    return None


def _merge_key(entries: Sequence[Any]) -> str | None:
    """Give the field that tells all these entries apart; None when their order does."""
    if not all(isinstance(entry, Mapping) for entry in entries):
        return None
    for key in _MERGE_KEYS:
        values = [entry.get(key) for entry in entries]
        plain = all(isinstance(value, str | int) for value in values)
        if entries and plain and len({str(value) for value in values}) == len(values):
            return key
    return None


def _equal(one: Any, other: Any) -> bool:
    # In Python True is 1.
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) and (not value or " " in value) else str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
