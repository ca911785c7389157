"""Predict from the shapes of a file what it costs, and refuse a file that costs far too much.

A file of some megabytes can ask for hours: the work grows with the square and the cube of the rank,
and with the area of the delta weight. The numbers are bounds for the worst factors of a shape
(docs/decisions/0032-what-a-file-may-cost.md has the measurements).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from lensd.errors import Reason, Skipped
from lensd.lora.layout import Module

SPEED = 5e9  # multiply-adds of float64 a second that a core of a home server does at least
REAL_RANK = 512  # the largest rank that people use


class Cost(NamedTuple):
    """Multiply-adds of float64, and bytes of memory at the worst moment."""

    work: float
    memory: float

    def __str__(self) -> str:
        return f"{self.work / SPEED:,.0f} s on one core and {self.memory / 2**20:,.0f} MiB"


# Of one module: ten times the work of the largest real one of rank 128 (FLUX.2, 6144 to 55296), and
# twice that of rank 512.
MODULE_LIMIT = Cost(work=1.5e11, memory=2.0 * 2**30)
# Predicted bytes of a module whose rank exceeds REAL_RANK: measured, 512 MiB. Some take a sixth
# more than predicted.
TIGHT_MEMORY = 384.0 * 2**20
# Of all modules of a file: fifty times the work of the largest real file of rank 128.
FILE_WORK = 1e14


def of_module(module: Module) -> Cost:
    """Return the cost of a module, in the mode that costs most."""
    rows, columns, rank = module.out_features, module.in_features, module.rank
    inner = inner_rank(module)
    return Cost(
        work=(rows * columns * rank if rank > inner else 0)  # the delta weight that `shorten` forms
        + 1.5 * (rows + columns) * inner**2  # Gram matrices and products
        + 20 * inner**3  # QR decompositions and an SVD
        + 0.3 * rows * columns * inner,  # products of int8 elements, for the guard
        memory=8 * (4 * rank * (rows + columns) + 14 * inner**2),
    )


def limit_of(module: Module) -> Cost:
    """Return the most that a module of this rank may cost."""
    is_real = module.rank <= REAL_RANK
    return MODULE_LIMIT if is_real else MODULE_LIMIT._replace(memory=TIGHT_MEMORY)


def inner_rank(module: Module) -> int:
    """Return the rank of the factors that are computed with: that of `shorten`."""
    return min(module.rank, module.out_features, module.in_features)


def require_affordable(modules: Iterable[Module]) -> None:
    """Raise Skipped(`too_costly`) for a file that costs far more than any real LoRA."""
    costs = [(module, of_module(module)) for module in modules]
    for module, found in costs:
        limit = limit_of(module)
        if found.work > limit.work or found.memory > limit.memory:
            raise _too_costly(
                f"its module {module.name} (rank {module.rank}, {module.in_features} to "
                f"{module.out_features}) would take {found}; the limit of a module is {limit}"
            )
    work = sum(found.work for _, found in costs)
    if work > FILE_WORK:
        raise _too_costly(
            f"its {len(costs)} modules would take {work / SPEED / 3600:.0f} hours on one core; "
            f"the limit of a file is {FILE_WORK / SPEED / 3600:.1f} hours"
        )


def _too_costly(what: str) -> Skipped:
    return Skipped(
        Reason.TOO_COSTLY,
        f"{what}. The LoRAs that people train cost far less; the file stays unchanged. If it is a "
        "real one, please report its shapes",
    )
