"""How fast the engine is, against a floor, a bare hello and MLServer, and how still it stands while it swaps.

`python -m benchmarks` (or `make bench`) runs everything; `docs/benchmarks.md` explains the numbers.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOUSE = ROOT / "examples" / "house-price"
MODEL = HOUSE / "models" / "rf.onnx"

# The load generator, the checker and the memory meter are the tests' own: what is trusted there is trusted here.
sys.path.insert(0, str(ROOT / "tests"))
