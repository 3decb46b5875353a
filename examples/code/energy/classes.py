"""Which use belongs to which class; read from the table beside this file."""

import csv
from pathlib import Path

with (Path(__file__).parent / "classes.csv").open() as _file:
    _TABLE = [(row["class"], row["from"]) for row in csv.DictReader(_file)]

NAMES = [name for name, _ in _TABLE]


def bounds():
    """Where each class but the first begins."""
    return [float(start) for _, start in _TABLE[1:]]
