"""Replace factors whose rank exceeds a side of the delta weight by shorter ones.

For up [m, r] and down [r, n] with r > min(m, n) the delta weight [m, n] is smaller than its
factors, and its rank is at most min(m, n). So it is formed here, and only here: I @ delta or
delta @ I are two factors of it with the inner dimension min(m, n). All that is computed of them
costs what min(m, n) costs, however large r is: a file of 132 kB can have r = 8192 for a delta
weight of 4 x 4, and one r x r matrix is then 512 MB.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lensd.lora.products import product

# Most elements of both factors that are float64 at a time.
ELEMENTS = 2**20


def is_excessive(up: Tensor, down: Tensor) -> bool:
    """Whether the rank exceeds a side of the delta weight, for up [..., m, r], down [..., r, n]."""
    return up.shape[-1] > min(up.shape[-2], down.shape[-1])


def shorten(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Return factors of the same delta weight whose rank is at most min(m, n).

    Factors that have such a rank are returned as they are, others as float64.
    """
    if not is_excessive(up, down):
        return up, down
    delta = form_delta(up, down)
    *batch, rows, columns = delta.shape
    identity = torch.eye(min(rows, columns), dtype=delta.dtype, device=delta.device)
    identity = identity.expand(*batch, *identity.shape)
    return (identity, delta) if rows <= columns else (delta, identity)


def form_delta(up: Tensor, down: Tensor) -> Tensor:
    """Return up @ down in float64, for any float dtypes. Only for factors of an excessive rank."""
    rank = up.shape[-1]
    step = max(1, ELEMENTS * rank // (up.numel() + down.numel()))
    parts = (slice(at, at + step) for at in range(0, rank, step))
    result = up.new_zeros(*up.shape[:-1], down.shape[-1], dtype=torch.float64)
    for part in parts:
        result += product(up[..., part].double(), down[..., part, :].double())
    return result
