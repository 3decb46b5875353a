"""Tables and verdicts as text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line that says whether a promise holds."""

    what: str
    value: float | None
    """None: it could not be measured here, which is not a pass."""
    relation: Literal[">=", "<="]
    limit: float
    note: str = ""

    @property
    def holds(self) -> bool:
        if self.value is None:
            return False
        return self.value >= self.limit if self.relation == ">=" else self.value <= self.limit

    def __str__(self) -> str:
        outcome = "NOT MEASURED" if self.value is None else "PASS" if self.holds else "FAIL"
        value = "-" if self.value is None else f"{self.value:.3g}"
        note = f"  [{self.note}]" if self.note else ""
        return f"{outcome:12} {self.what}: {value} (wanted {self.relation} {self.limit:g}){note}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be: the first to the left, numbers to the right."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  " + "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    )
