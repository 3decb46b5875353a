"""JSON that is changed as a tree, then written in one of the many ways that JSON can be written."""

import copy
import json
import random
from collections.abc import Callable
from typing import Any

from fuzz.rows import Raw, anything

_LOOKED_AT = 300
"""Places of one tree."""

Place = tuple[Any, Any]
"""A list or dict, and an index or key of it."""


class Pairs(list[tuple[str, Any]]):
    """An object that may have a name twice."""


def changed(rng: random.Random, tree: Any) -> Any:
    """The tree with something else somewhere."""
    tree = copy.deepcopy(tree)
    places = _places(tree)
    if not places or rng.random() < 0.02:
        return rng.choice((anything(rng), [tree], {"a": tree}, None))
    holder, key = rng.choice(places)
    rng.choice(_CHANGES)(rng, holder, key)
    return tree


def _places(tree: Any) -> list[Place]:
    found: list[Place] = []
    level = [tree] if _is_changeable(tree) else []
    while level and len(found) < _LOOKED_AT:
        holder = level.pop(0)
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        found += [(holder, key) for key in keys]
        level += [holder[key] for key in keys if _is_changeable(holder[key])]
    return found


def _is_changeable(node: Any) -> bool:
    return isinstance(node, dict | list) and not isinstance(node, Pairs)


def _replace(rng: random.Random, holder: Any, key: Any) -> None:
    holder[key] = anything(rng)


def _other_kind(rng: random.Random, holder: Any, key: Any) -> None:
    value = holder[key]
    if isinstance(value, bool) or value is None:
        holder[key] = rng.choice((1, 0, "true", "null"))
    elif isinstance(value, int | float):
        holder[key] = rng.choice((str(value), [value], bool(value), float(value), value * 2**40))
    elif isinstance(value, str):
        holder[key] = rng.choice(([value], len(value), value + "x", {"a": value}))
    elif isinstance(value, list):
        holder[key] = rng.choice((value[:1], value[0] if value else None, tuple(value), str(value)))
    else:
        holder[key] = [value]


def _remove(_: random.Random, holder: Any, key: Any) -> None:
    del holder[key]


def _repeat(rng: random.Random, holder: Any, key: Any) -> None:
    if isinstance(holder, list):
        holder[key:key] = [copy.deepcopy(holder[key])] * rng.choice((1, 1, 2, 30))
    else:
        holder[f"{key}{rng.choice(('x', ' ', '', '.'))}"] = copy.deepcopy(holder[key])


def _rename(rng: random.Random, holder: Any, key: Any) -> None:
    if isinstance(holder, dict):
        name = rng.choice(
            (key.upper(), key + " ", "", "x", key[:-1], "a" * 200, "é", "\x00", "\ud800")
        )
        holder[name] = holder.pop(key)
    else:
        rng.shuffle(holder)


def _wrap(rng: random.Random, holder: Any, key: Any) -> None:
    holder[key] = rng.choice(([holder[key]], [[holder[key]]], [holder[key], holder[key]]))


def _twice(rng: random.Random, holder: Any, key: Any) -> None:
    """A name twice in an object."""
    value = holder[key]
    if isinstance(value, dict) and value:
        pairs = Pairs(value.items())
        pairs.insert(rng.randrange(len(pairs) + 1), rng.choice(pairs))
        holder[key] = pairs
    else:
        holder[key] = anything(rng)


_CHANGES: tuple[Callable[[random.Random, Any, Any], None], ...] = (
    *(_replace, _replace, _other_kind, _other_kind),
    *(_remove, _repeat, _rename, _wrap, _twice),
)


def written(rng: random.Random, tree: Any) -> bytes:
    """One of the texts of a tree."""
    style = rng.choice((",:", ",:", ", : ", ", : ", " ,\n : "))
    comma, _, colon = style.partition(":")
    text = _text(tree, comma or ",", f":{colon}", ascii_only=rng.random() < 0.7)
    if rng.random() < 0.05:
        text = rng.choice((" {} ", "\n{}\n", "\ufeff{}", "{};", "{},", "{}\x00", "{}{}")).replace(
            "{}", text
        )
    if rng.random() < 0.02:
        return text.encode(rng.choice(("utf-16", "utf-8-sig", "utf-32-le")), "replace")
    return text.encode("utf-8", "surrogatepass")


def _text(node: Any, comma: str, colon: str, *, ascii_only: bool) -> str:
    def text(one: Any) -> str:
        if isinstance(one, Raw):
            return str(one)
        if isinstance(one, Pairs | dict):
            pairs = one if isinstance(one, Pairs) else one.items()
            return (
                f"{{{comma.join([f'{text(name)}{colon}{text(value)}' for name, value in pairs])}}}"
            )
        if isinstance(one, list | tuple):
            return f"[{comma.join([text(each) for each in one])}]"
        return json.dumps(one, ensure_ascii=ascii_only)

    return text(node)
