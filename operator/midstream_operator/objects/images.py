"""Which images an owned Deployment runs: settings of the operator, not of a Pipeline."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Images:
    engine: str
    """Used where the Pipeline names none."""
    engine_lb: str
    pull_policy: str = "IfNotPresent"
