"""Which columns an answer has: the query parameters `dataset`, `dataset_exclude` and `dataset_separator`.

A selection is parsed without knowing the pipeline and applied to the columns that a result has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from urllib.parse import parse_qsl

from midstream_engine.errors import BadInput
from midstream_engine.formats.jsontext import JSONError, loads
from midstream_engine.formats.table import Column
from midstream_engine.formats.values import SHOWN

_ALL = "*"
_METADATA = "metadata"
_FLAT = "."

_MOST = 1000
"""Names in one query."""

_LISTED = 40
"""Names in a message."""

_REMEMBERED = 100
_LONGEST_REMEMBERED = 300

_PARAMETERS = ("dataset", "dataset_exclude", "dataset_separator")

_NEAR = 0.8
"""From this likeness on a parameter is taken for one of these that is misspelt. What is unlike them is not for us."""

_known: dict[bytes, "Selection | None"] = {b"": None}


@dataclass(frozen=True, slots=True)
class Selection:
    include: tuple[str, ...] | None = None
    """Groups (`in`), full names (`out.variable`) or `*`, which is all but metadata; None is all."""
    exclude: tuple[str, ...] = ()
    flat: bool = False
    """Names are joined with dots, not nested."""

    def apply(self, columns: Sequence[Column]) -> list[Column]:
        """The columns that were asked for, in their own order. Raises BadInput for a name that is none.

        Where a column is both in `include` and in `exclude`, the more exact word counts: a full name over its group, a
        group over `*`; of equal ones, `include`.
        """
        for what, names in (("dataset", self.include or ()), ("dataset_exclude", self.exclude)):
            for name in names:
                if name != _ALL and not any(_exactness(name, column) for column in columns):
                    raise BadInput(
                        f"{what} {name[:SHOWN]!r} is not in the answer; there is {_listed(columns)}",
                        reason="UnknownDataset",
                        field=name[:SHOWN],
                    )
        return [column for column in columns if self._keeps(column)]

    def _keeps(self, column: Column) -> bool:
        unwanted = max((_exactness(name, column) for name in self.exclude), default=0)
        if self.include is None:
            return not unwanted
        wanted = max((_exactness(name, column) for name in self.include), default=0)
        return wanted >= max(unwanted, 1)


def _exactness(name: str, column: Column) -> int:
    """How exactly a name speaks of a column: 0 not at all, 1 as `*` does, 2 by its group, 3 by its own name."""
    if name == column.full_name:
        return 3
    # A challenger that failed has one column in the place of those that it would have had.
    if name == column.group or (column.failed and name.startswith(f"{column.full_name}.")):
        return 2
    return int(name == _ALL and column.group != _METADATA)


def parse_selection(query: bytes) -> Selection | None:
    """What a query asks for; None when it says nothing of it, and then the answer has everything, nested.

    query: what is behind the `?`, as sent. A parameter may be there several times, and hold several names with commas
    between them or as a list in JSON. Raises BadInput.
    """
    try:
        return _known[query]
    except KeyError:
        found = _parse(query)
        if len(_known) < _REMEMBERED and len(query) < _LONGEST_REMEMBERED:
            _known[query] = found
        return found


def _parse(query: bytes) -> Selection | None:
    try:
        pairs = parse_qsl(query.decode("latin-1"), max_num_fields=_MOST, errors="strict")
    except ValueError as error:
        raise BadInput(
            f"the query cannot be read: {error}; expected dataset=NAME&dataset=NAME",
            reason="WrongQuery",
        ) from error
    include: list[str] = []
    exclude: list[str] = []
    flat = False
    said = False
    for name, value in pairs:
        if name == "dataset":
            include += _split(name, value)
        elif name == "dataset_exclude":
            exclude += _split(name, value)
        elif name == "dataset_separator":
            if value != _FLAT:
                raise BadInput(
                    f"dataset_separator is {value[:SHOWN]!r}; it can be '.', or left out",
                    reason="WrongQuery",
                )
            flat = said = True
        elif near := get_close_matches(name.lower(), _PARAMETERS, 1, _NEAR):
            raise BadInput(
                f"the query has {name[:SHOWN]!r}; did you mean {near[0]!r}?", reason="WrongQuery"
            )
    if len(include) + len(exclude) > _MOST:
        raise BadInput(f"the query has more than {_MOST} names", reason="WrongQuery")
    said = said or bool(include or exclude)
    return Selection(tuple(include) or None, tuple(exclude), flat) if said else None


def _split(parameter: str, value: str) -> list[str]:
    if not value.startswith("["):
        return [part.strip() for part in value.split(",") if part.strip()]
    try:
        names = loads(value)
    except JSONError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadInput(
            f"{parameter} is {value[:SHOWN]!r}; expected names with commas between them, or a JSON list of them",
            reason="WrongQuery",
        )
    return names


def _listed(columns: Sequence[Column]) -> str:
    names = dict.fromkeys(
        [_ALL, *(column.group for column in columns if column.group)]
        + [column.full_name for column in columns]
    )
    listed = [name[:SHOWN] for name in names]
    return ", ".join(listed[:_LISTED]) + (", …" if len(listed) > _LISTED else "")
