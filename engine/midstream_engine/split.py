"""Which variant of a split answers a row.

Pure but for the random numbers, which come from outside. A key goes to the same variant in every engine, and a change
of weights or variants moves only the keys that it must. The bytes that are hashed are a promise to users, who can
compute them elsewhere: `docs/split-and-shadow.md` has them with test vectors. Runs no model.
"""

import math
import random
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from itertools import accumulate
from json import dumps
from typing import Any

import numpy as np

from midstream_engine.errors import BadInput

IntArray = np.ndarray[Any, np.dtype[np.intp]]

HEADER = "x-midstream-split-key"

_DEEPEST = 32
"""Lists in lists that a key may have."""

_FLOAT64_BYTES = 8

_NUMBER = re.compile(r"[0-9.]+(e-?[0-9]+)?", re.ASCII | re.IGNORECASE)


class Chooser:
    """Chooses for one split step. Thread-safe if `random` is."""

    __slots__ = (
        "_bounds",
        "_default",
        "_options",
        "_random",
        "_rows",
        "_seeds",
        "_sole",
        "_sum",
        "_weighed",
        "field",
        "names",
    )

    def __init__(
        self,
        variants: Sequence[tuple[str, int]],
        hash_key: str | None = None,
        key: str | None = None,
        options: Mapping[str, str] | None = None,
        default: str | None = None,
        random: Callable[[], float] = random.random,
    ) -> None:
        """Take the fields of a split.

        variants: name and weight of each, in the manifest's order; weights count unless `key` is given. hash_key, key:
        at most one of them. options: variant by canonical text of the key's value. default: the variant for other
        values. random: gives numbers in [0, 1). Raises ValueError for what a valid manifest cannot say.
        """
        self.names = tuple(name for name, _ in variants)
        weights = [weight for _, weight in variants]
        if hash_key is not None and key is not None:
            raise ValueError("a split has one of hash_key and key")
        if key is None and (min(weights, default=0) < 0 or not any(weights)):
            raise ValueError(
                f"weights are positive integers or 0, at least one is not 0: {weights}"
            )
        self.field = hash_key or key
        """The field whose values `choose` takes as `keys`."""
        self._bounds = list(accumulate(weights))
        self._sum = sum(weights)
        self._random = random
        self._seeds = [
            (number, weight, blake2b(name.encode() + b"\0", digest_size=8))
            for number, (name, weight) in enumerate(variants)
            if weight
        ]
        # With one variant to choose from nothing is left to chance, and no key needs a hash.
        self._sole = self._seeds[0][0] if key is None and len(self._seeds) == 1 else None
        self._weighed = self._sole is None and self.field is None
        """Nothing but a random number decides."""
        self._options: dict[str, int] | None = None
        self._default = 0
        if key is not None:
            index = {name: number for number, name in enumerate(self.names)}
            try:
                self._options = {text: index[name] for text, name in (options or {}).items()}
                self._default = index[default or ""]
            except KeyError as error:
                raise ValueError(f"{error} is not a variant: {', '.join(self.names)}") from error

    def choose(
        self, rows: int, keys: Sequence[Any] | None = None, literal: float | None = None
    ) -> IntArray:
        """The index of the variant for each row, shape (rows,).

        keys: the field's value for each row, None or NaN where a row has none; None when no row has any. literal: a
        number from 0.0 to 1.0 that stands for the random number of all rows, and goes before keys that are hashed; a
        split by options has no random number and does not look at it. Raises BadInput for a key of lists in lists
        without end.
        """
        if self._sole is not None:
            return np.full(rows, self._sole, dtype=np.intp)
        if self._options is not None:
            if keys is None:
                return np.full(rows, self._default, dtype=np.intp)
            return np.fromiter(map(self._option, keys), np.intp, rows)
        if literal is not None:
            return np.full(rows, self._at(literal), dtype=np.intp)
        if self.field is None or keys is None:
            return np.fromiter((self._at(self._random()) for _ in range(rows)), np.intp, rows)
        known: dict[str, int] = {}
        return np.fromiter((self._of(key, known) for key in keys), np.intp, rows)

    def choose_one(self, keys: Sequence[Any] | None = None, literal: float | None = None) -> int:
        """The same for a single row, without an array around it: a request of one row is the most frequent one."""
        if self._weighed and literal is None:
            return bisect_right(self._bounds, self._random() * self._sum)
        return self.choose(1, keys, literal).item()

    def _at(self, number: float) -> int:
        """The variant at a number from 0.0 to 1.0 of the cumulated weights; a bound belongs to the variant above it."""
        if number >= 1.0:
            return self._seeds[-1][0]
        return bisect_right(self._bounds, number * self._sum)

    def _option(self, key: Any) -> int:
        assert self._options is not None
        text = canonical(key)
        return self._default if text is None else self._options.get(text, self._default)

    def _of(self, key: Any, known: dict[str, int]) -> int:
        text = canonical(key)
        if text is None:
            return self._at(self._random())
        chosen = known.get(text)
        if chosen is None:
            chosen = known[text] = self._hashed(text)
        return chosen

    def _hashed(self, text: str) -> int:
        """The variant with the highest score, -weight / ln(u), where u is the hash of variant and key in (0, 1)."""
        data = text.encode("utf-8", "surrogatepass")
        best, chosen = -1.0, 0
        for number, weight, seed in self._seeds:
            digest = seed.copy()
            digest.update(data)
            # 52 bits and a half: a double holds it exactly, and it is neither 0 nor 1.
            u = ((int.from_bytes(digest.digest(), "big") >> 12) + 0.5) * 2.0**-52
            score = -weight / math.log(u)
            if score > best:
                best, chosen = score, number
        return chosen


def keys_of(array: "np.ndarray[Any, Any]") -> list[Any]:
    """The rows of an array as keys, in Python's own types.

    A fraction of less than 64 bits becomes the float64 that its shortest decimal stands for, and so has the same text
    as in JSON.
    """
    if array.dtype.kind == "f" and array.dtype.itemsize < _FLOAT64_BYTES:
        wide = array.astype(np.float64)
        short = np.array([float(str(value)) for value in array.ravel()], np.float64)
        array = np.where(wide == np.trunc(wide), wide, short.reshape(array.shape))
    found: list[Any] = array.tolist()
    return found


def canonical(value: Any, depth: int = 0) -> str | None:
    """The text that stands for a key's value, the same for JSON and for arrays; None when there is no value.

    Text stands for itself; a whole number is written in decimal, whether it came as integer or as float; another float
    as the shortest decimal that gives the same number in its own type; `true`, `false`; lists and objects as JSON
    without spaces, objects sorted by name. NaN is no value. depth: of the lists around it. Raises BadInput.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating):
        return _decimal(value)
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return canonical(value[()], depth)
    if isinstance(value, list | tuple | np.ndarray | Mapping):
        return _json(value, depth + 1)
    return str(value)


def _decimal(value: "float | np.floating[Any]") -> str | None:
    number = float(value)
    if math.isnan(number):
        return None
    if number.is_integer():
        return str(int(number))
    # numpy's text is the shortest for the type; parsed again it is written as Python writes a float.
    return repr(number if isinstance(value, float) else float(str(value)))


def _json(value: "Sequence[Any] | Mapping[Any, Any] | np.ndarray[Any, Any]", depth: int) -> str:
    if depth > _DEEPEST:
        raise BadInput(f"a key of a split has more than {_DEEPEST} lists in each other")
    if isinstance(value, Mapping):
        items = sorted((str(name), each) for name, each in value.items())
        return f"{{{','.join(f'{_quoted(name)}:{_nested(each, depth)}' for name, each in items)}}}"
    return f"[{','.join(_nested(each, depth) for each in value)}]"


def _nested(value: Any, depth: int) -> str:
    if isinstance(value, str):
        return _quoted(value)
    text = canonical(value, depth)
    return "null" if text is None else text


def _quoted(text: str) -> str:
    return dumps(text, ensure_ascii=False)


def literal_key(value: bytes) -> float:
    """The number in the header `x-midstream-split-key`. Raises BadInput unless it is from 0.0 to 1.0."""
    text = value.decode("latin-1").strip()
    try:
        number = float(text) if _NUMBER.fullmatch(text) else math.nan
    except ValueError:  # several points
        number = math.nan
    if 0.0 <= number <= 1.0:
        return number
    raise BadInput(
        f"the header {HEADER} is {text[:60]!r}; send a number from 0.0 to 1.0, such as 0.4",
        field=HEADER,
    )
