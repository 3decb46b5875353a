"""The energy class of houses, from kilowatt hours for each square metre and year."""

import numpy as np

from classes import NAMES, bounds


def process(inputs):
    """`use`: [rows] numbers. Gives `class`: [rows] text, and `percent` of the worst class's bound: [rows]."""
    use = inputs["use"]
    return {
        "class": np.array(NAMES, dtype=object)[np.searchsorted(bounds(), use, side="right")],
        "percent": 100.0 * use / bounds()[-1],
    }
