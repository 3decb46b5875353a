"""Made-up houses of the King County kind: 18 features each, and a price.

Everything is drawn from one seed, so two runs give the same numbers. No real sale is in here, and
the prices follow a formula of this file's own. Every feature value is a multiple of a step that is
far wider than a 32-bit float's spacing: where a tree splits never depends on rounding.
"""

import numpy as np
import numpy.typing as npt

FEATURES = (
    "bedrooms",
    "bathrooms",
    "sqft_living",
    "sqft_lot",
    "floors",
    "waterfront",
    "view",
    "condition",
    "grade",
    "sqft_above",
    "sqft_basement",
    "lat",
    "long",
    "sqft_living15",
    "sqft_lot15",
    "house_age",
    "renovated",
    "yrs_since_renovated",
)

NORMAL_HOUSE = (
    *(4.0, 2.5, 2900.0, 5505.0, 2.0, 0.0, 0.0, 3.0, 8.0),
    *(2900.0, 0.0, 47.6063, -122.02, 2970.0, 5251.0, 12.0, 0.0, 0.0),
)
LARGE_HOUSE = (
    *(4.0, 3.0, 3710.0, 20000.0, 2.0, 0.0, 2.0, 5.0, 10.0),
    *(2760.0, 950.0, 47.6696, -122.261, 3970.0, 20000.0, 79.0, 0.0, 0.0),
)

_CENTRE = (47.61, -122.28)
_YEARS = 115


def houses(count: int, seed: int) -> npt.NDArray[np.float32]:
    """Draw `count` houses. Returns [count, 18] float32, columns as in `FEATURES`."""
    rng = np.random.default_rng(seed)

    def steps(values: npt.NDArray[np.float64], step: float) -> npt.NDArray[np.float64]:
        return np.round(values / step) * step

    wealth = rng.normal(0.0, 1.0, count)
    grade = np.clip(np.round(7.6 + 1.1 * wealth + rng.normal(0, 0.5, count)), 4, 13)
    living = np.exp(7.55 + 0.28 * (grade - 7.6) / 1.1 + rng.normal(0, 0.27, count))
    living = np.clip(steps(living, 10), 400, 9000)
    has_basement = rng.random(count) < 0.4
    basement = has_basement * steps(living * rng.uniform(0.1, 0.45, count), 10)
    lot = np.clip(np.round(np.exp(rng.normal(8.9, 0.75, count))), 700, 400_000)
    age = np.floor(_YEARS * rng.beta(1.1, 1.6, count))
    renovated = (rng.random(count) < 0.002 * age).astype(np.float64)
    waterfront = (rng.random(count) < 0.012).astype(np.float64)
    columns = {
        "bedrooms": np.clip(np.round(living / 700 + rng.normal(0.7, 0.7, count)), 1, 8),
        "bathrooms": np.clip(steps(living / 1100 + rng.normal(0.5, 0.4, count), 0.25), 0.75, 7),
        "sqft_living": living,
        "sqft_lot": lot,
        "floors": rng.choice([1.0, 1.5, 2.0, 2.5, 3.0], count, p=[0.48, 0.09, 0.37, 0.02, 0.04]),
        "waterfront": waterfront,
        "view": np.where(
            waterfront > 0, 4.0, rng.choice(5, count, p=[0.89, 0.02, 0.05, 0.025, 0.015])
        ),
        "condition": rng.choice([1.0, 2.0, 3.0, 4.0, 5.0], count, p=[0.01, 0.02, 0.64, 0.25, 0.08]),
        "grade": grade,
        "sqft_above": living - basement,
        "sqft_basement": basement,
        "lat": np.clip(steps(rng.normal(47.56, 0.13, count), 1e-4), 47.15, 47.78),
        "long": np.clip(steps(rng.normal(-122.21, 0.14, count), 1e-3), -122.52, -121.31),
        "sqft_living15": np.clip(steps(living * rng.normal(0.97, 0.18, count), 10), 400, 6500),
        "sqft_lot15": np.clip(np.round(lot * np.exp(rng.normal(0, 0.25, count))), 650, 400_000),
        "house_age": age,
        "renovated": renovated,
        "yrs_since_renovated": renovated * np.floor(rng.uniform(0, 0.5, count) * age),
    }
    return np.stack([columns[name] for name in FEATURES], axis=1).astype(np.float32)


def prices(rows: npt.NDArray[np.float32], seed: int) -> npt.NDArray[np.float64]:
    """Price [N, 18] houses, in dollars: a formula and 12 % of noise. Returns [N] float64."""
    rng = np.random.default_rng(seed)
    column = dict(zip(FEATURES, rows.astype(np.float64).T, strict=True))
    distance = np.hypot(column["lat"] - _CENTRE[0], 0.67 * (column["long"] - _CENTRE[1]))
    logarithm = (
        12.62
        + 0.62 * np.log(column["sqft_living"] / 2000)
        + 0.13 * (column["grade"] - 7.6)
        + 0.16 * np.log(column["sqft_living15"] / 2000)
        + 0.04 * np.log(column["sqft_lot"] / 7500)
        - 0.06 * (column["sqft_basement"] > 0)
        + 0.75 * np.exp(-distance / 0.12)
        + 0.45 * column["waterfront"]
        + 0.07 * column["view"]
        + 0.05 * (column["condition"] - 3)
        + 0.06 * column["renovated"] * np.exp(-column["yrs_since_renovated"] / 20)
        + 0.0012 * column["house_age"]
    )
    noisy = np.exp(logarithm + rng.normal(0.0, 0.12, len(rows)))
    rounded: npt.NDArray[np.float64] = np.clip(np.round(noisy / 50) * 50, 75_000, 7_000_000)
    return rounded
