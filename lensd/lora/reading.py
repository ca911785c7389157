"""The first pass: compute from the stored factors of a module what a plan needs to know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lensd.lora import rank, spectrum
from lensd.lora._kernels import calls
from lensd.lora.fidelity import largest_elements
from lensd.lora.layout import Module
from lensd.lora.plan import Reading
from lensd.lora.shortening import is_excessive, shorten
from lensd.lora.spectrum import Core
from lensd.lora.tensor_spec import WIDE_DTYPES

QUICK_RANK = 64  # from this rank on float32 is tried first; below it float64 costs little
PIECE = 2**20  # elements
FLOAT32_MAX = torch.finfo(torch.float32).max


def flatten(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Return the factors of one module as matrices: up [out, r], down [r, in * kh * kw]."""
    return up.reshape(up.shape[0], up.shape[1]), down.reshape(down.shape[0], -1)


def widen(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Convert 16-bit floats to float32, which represents them exactly: torch is slow with them.

    Those that the kernels can take are returned as they are.
    """
    if up.itemsize >= 4 or calls.can_take(up.mT, down):
        return up, down
    return up.float(), down.float()


def read_module(module: Module, up: Tensor, down: Tensor, alpha: float | None) -> Reading | None:
    """Read one module: up [out, r, ...] and down [r, in, ...] as stored.

    Returns None if a weight, the alpha or the delta weight is NaN, infinite, or too large for
    float32.
    """
    up, down = flatten(up, down)
    return read_modules([module], up[None], down[None], [alpha])[0]


def read_modules(
    modules: Sequence[Module],
    up: Tensor,
    down: Tensor,
    alphas: Sequence[float | None],
    energy: float | None = None,
) -> list[Reading | None]:
    """Read b modules of one shape: up [b, out, r], down [b, r, in].

    `energy`: the caller needs only the smallest rank for this share of the energy; then modules of
    large rank may be solved in float32. None: the caller needs the whole spectrum.
    """
    if not is_excessive(up, down):
        up, down = widen(up, down)
    sizes = torch.stack([largest_elements(up), largest_elements(down)])
    sound = (sizes <= FLOAT32_MAX).all(0)  # NaN compares as false
    if not sound.all():
        up, down = (t.where(sound[:, None, None], 0.0) for t in (up, down))
    exact = _find_exact_bfloat16(modules[0], up, down)
    cores = _compute_cores(*shorten(up, down), energy)
    readings = _make_readings(modules, alphas, cores, sizes.amax(0).tolist(), exact)
    return [r if is_sound else None for r, is_sound in zip(readings, sound.tolist(), strict=True)]


def _compute_cores(up: Tensor, down: Tensor, energy: float | None) -> list[Core]:
    """Compute the core of each module, in float32 where that is certain to be enough."""
    if energy is None or up.shape[-1] < QUICK_RANK or up.dtype == torch.float64:
        return _split_stack(spectrum.core(up, down))
    quick, certain = spectrum.quick_core(up, down, energy)
    cores, doubtful = _split_stack(quick), (~certain).nonzero().flatten()
    if len(doubtful):
        exact = _split_stack(spectrum.core(up[doubtful], down[doubtful]))
        for at, core in zip(doubtful.tolist(), exact, strict=True):
            cores[at] = core
    return cores


def _split_stack(cores: Core) -> list[Core]:
    """Split the cores of b modules, stacked in one Core, into b cores."""
    return [Core(*parts) for parts in zip(*cores, strict=True)]


def _make_readings(
    modules: Sequence[Module],
    alphas: Sequence[float | None],
    cores: Sequence[Core],
    largest: Sequence[float],
    exact: Sequence[bool],
) -> Iterator[Reading | None]:
    """Yield the readings of modules, None where float32 cannot hold the alpha or the delta weight.

    `largest`: the largest elements. `exact`: whether bfloat16 represents every weight.
    """
    # In kohya's files 0 means the rank.
    known = [alpha or float(m.rank) for m, alpha in zip(modules, alphas, strict=True)]
    scales = [abs(alpha / m.rank) for m, alpha in zip(modules, known, strict=True)]
    # From a GPU, one transfer brings the numbers of all modules.
    values = torch.stack([core.values for core in cores]).cpu()
    values *= torch.tensor(scales, dtype=torch.float64)[:, None]
    highest, kept = values[:, 0].tolist(), rank.kept_energy(values).tolist()
    every = zip(modules, known, values, exact, largest, kept, cores, strict=True)
    for high, each in zip(highest, every, strict=True):
        fits = abs(each[1]) <= FLOAT32_MAX and high <= FLOAT32_MAX
        yield Reading(*each) if fits else None


def _find_exact_bfloat16(module: Module, *factors: Tensor) -> list[bool]:
    """Return for each of b modules whether bfloat16 represents every weight exactly.

    It is False for modules of 16 bits, where nothing depends on it.
    """
    if module.dtype not in WIDE_DTYPES:
        return [False] * len(factors[0])
    # Piece by piece: a second copy of a large module would be its largest use of memory.
    pieces = [piece for t in factors for piece in t.flatten(1).split(PIECE, dim=1)]
    same = [(piece.bfloat16().to(piece.dtype) == piece).all(1) for piece in pieces]
    return torch.stack(same).all(0).tolist()
