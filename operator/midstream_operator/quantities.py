"""Kubernetes quantities (`250m`, `1`, `512Mi`) as exact numbers, so that two spellings of one amount are equal.

Pure. Knows no units beyond the suffixes: whether a number is processors or bytes is the caller's affair.
"""

import re
from fractions import Fraction

_FORM = re.compile(r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))(?:[eE]([+-]?[0-9]{1,3})|([A-Za-z]*))")

_SUFFIXES = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    "": Fraction(1),
    **{letter: Fraction(1000**power) for power, letter in enumerate("kMGTPE", 1)},
    **{f"{letter}i": Fraction(1024**power) for power, letter in enumerate("KMGTPE", 1)},
}


def parse(quantity: str | float) -> Fraction:
    """Give the exact value of a quantity. Raises ValueError for what is none."""
    match = _FORM.fullmatch(str(quantity))
    if match is not None:
        number, exponent, suffix = match.groups()
        if exponent is not None:
            return Fraction(number) * Fraction(10) ** int(exponent)
        if suffix in _SUFFIXES:
            return Fraction(number) * _SUFFIXES[suffix]
    raise ValueError(f"{quantity!r} is not a quantity; write one such as 250m, 1 or 512Mi")


def same(one: object, other: object) -> bool:
    """Whether both are quantities, and of one value."""
    if not (_may_be_quantity(one) and _may_be_quantity(other)):
        return False
    try:
        return parse(str(one)) == parse(str(other))
    except ValueError:
        return False


def _may_be_quantity(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)
