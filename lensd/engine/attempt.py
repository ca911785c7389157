"""What a single pass finds out, before the plan of the file is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from lensd.engine.measured import Measured
from lensd.engine.reducing import Reduction
from lensd.lora.plan import Plan, Reading


class Finished(NamedTuple):
    """A batch after a single pass. Without `reduced`, the draft does not fit the file."""

    readings: list[Reading | None]
    reduced: Reduction | None


@dataclass(slots=True)
class Attempt:
    """What a single pass found out, and the alphas, which it has not written."""

    readings: list[Reading] = field(default_factory=list)
    measured: dict[str, Measured] = field(default_factory=dict)  # by the names of modules
    alphas: dict[str, bytes] = field(default_factory=dict)  # by key

    def fits(self, plan: Plan) -> bool:
        """Whether all modules were reduced as planned."""
        return len(self.measured) == len(plan.modules) and all(
            self.measured[m.module.name].plan == m for m in plan.modules
        )
