"""Which columns of an answer a query keeps."""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode


@dataclass(frozen=True)
class Selection:
    """A query's words."""

    wanted: Sequence[str] = ()
    """Of `dataset`."""
    unwanted: Sequence[str] = ()
    """Of `dataset_exclude`."""
    flat: bool = False
    always: Sequence[str] = ()
    """Wanted, too, where anything is said at all."""

    @property
    def query(self) -> str:
        pairs = [("dataset_exclude", name) for name in self.unwanted]
        pairs += [("dataset", name) for name in self._words]
        return urlencode([*pairs, *([("dataset_separator", ".")] if self.flat else [])])

    def keeps(self, name: str) -> bool:
        """A full name speaks louder than a group, a group louder than `*`, `dataset` louder than `dataset_exclude`."""
        unwanted = max((_loudness(word, name) for word in self.unwanted), default=0)
        if not self._words:
            return not unwanted
        wanted = max(_loudness(word, name) for word in self._words)
        return wanted > 0 and wanted >= unwanted

    @property
    def _words(self) -> list[str]:
        said = self.wanted or self.unwanted
        return [*self.wanted, *(self.always if said else ())]


def _loudness(word: str, name: str) -> int:
    if word == name:
        return 3
    if name.startswith(f"{word}."):
        return 2
    return int(word == "*" and not name.startswith("metadata."))
