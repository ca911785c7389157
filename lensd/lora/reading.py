"""The first pass: a module's factors, as stored -> what a plan needs to know of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lensd.lora import spectrum
from lensd.lora.fidelity import largest_elements
from lensd.lora.layout import Module
from lensd.lora.planning import WIDE_DTYPES, Reading
from lensd.lora.spectrum import Core

QUICK_RANK = 64  # below it float64 costs little
FLOAT32_MAX = torch.finfo(torch.float32).max


def flatten(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """One module's factors as matrices: up [out, r], down [r, in * kh * kw]."""
    return up.reshape(up.shape[0], up.shape[1]), down.reshape(down.shape[0], -1)


def read_module(module: Module, up: Tensor, down: Tensor, alpha: float | None) -> Reading | None:
    """Of up [out, r, ...], down [r, in, ...], as stored.

    None if a weight, the alpha or the delta weight is NaN or infinite, in float32 at the latest.
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
    """The same of b modules of one shape: up [b, out, r], down [b, r, in].

    With `energy` nothing is asked of them but the smallest rank for it, and large ones may be
    solved in float32.
    """
    if up.itemsize < 4:  # exact, and torch is slow with these
        up, down = up.float(), down.float()
    sizes = torch.stack([largest_elements(up), largest_elements(down)])
    sound = (sizes <= FLOAT32_MAX).all(0)  # NaN compares as false
    if not sound.all():
        up, down = (t.where(sound[:, None, None], 0.0) for t in (up, down))
    cores = _cores(up, down, energy)
    exact = _are_bfloat16(modules[0], up, down)
    largest = sizes.amax(0).tolist()
    return [
        _reading(module, alpha, cores[at], largest[at], exact=exact[at]) if sound[at] else None
        for at, (module, alpha) in enumerate(zip(modules, alphas, strict=True))
    ]


def _cores(up: Tensor, down: Tensor, energy: float | None) -> list[Core]:
    if energy is None or up.shape[-1] < QUICK_RANK or up.dtype == torch.float64:
        return _each(spectrum.core(up, down))
    quick, hold = spectrum.quick_core(up, down, energy)
    cores, doubtful = _each(quick), (~hold).nonzero().flatten()
    if len(doubtful):
        careful = _each(spectrum.core(up[doubtful], down[doubtful]))
        for at, core in zip(doubtful.tolist(), careful, strict=True):
            cores[at] = core
    return cores


def _each(cores: Core) -> list[Core]:
    return [Core(*parts) for parts in zip(*cores, strict=True)]


def _reading(
    module: Module, alpha: float | None, core: Core, largest: float, *, exact: bool
) -> Reading | None:
    alpha = alpha or float(module.rank)  # kohya: 0 means the rank
    values = core.values.cpu() * abs(alpha / module.rank)
    if not (abs(alpha) <= FLOAT32_MAX and float(values[0]) <= FLOAT32_MAX):
        return None
    return Reading(module, alpha, values, exact, largest, core)


def _are_bfloat16(module: Module, *factors: Tensor) -> list[bool]:
    """Of which of b modules every weight is a bfloat16 number; not asked of 16-bit ones."""
    if module.dtype not in WIDE_DTYPES:
        return [False] * len(factors[0])
    same = [(t.bfloat16().to(t.dtype) == t).flatten(1).all(1) for t in factors]
    return torch.stack(same).all(0).tolist()
