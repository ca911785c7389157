"""LoRA files as trainers write them, of real size or small, with their true singular values.

`python -m tests.support.realistic OUT` writes the default of `write_lora`, 144 MiB.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tests.support import factors, lora_file, spectra
from tests.support.architectures import FAMILIES, Module
from tests.support.factors import Factors
from tests.support.lora_file import Plan

# Spectral norms of scaled deltas: median and log-normal sigma over a file's modules.
NORM_MEDIAN = 0.5
NORM_SPREAD = 0.7

SMALL_MODULES = (
    Module("te", "text_model.encoder.layers.0.self_attn.q_proj", 64, 64),
    Module("unet", "down_blocks.0.attentions.0.proj_in", 64, 64, (1, 1)),
    Module("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", 64, 64),
    Module("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", 64, 48),
    Module("unet", "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj", 256, 64),
    Module("unet", "down_blocks.0.resnets.0.conv1", 64, 32, (3, 3)),
)


class RealFile(NamedTuple):
    """A written file. `spectra`: per module, the singular values meant for its scaled delta."""

    path: Path
    size: int
    data_sha256: str
    spectra: dict[str, spectra.Floats]


class SmallFile(NamedTuple):
    """A written file. `deltas`: per module, alpha/rank * up @ down of the stored numbers.

    In float64, [out, in * kernel], so exactly what the file means, rounding included.
    """

    path: Path
    deltas: dict[str, Tensor]

    def spectra(self) -> dict[str, spectra.Floats]:
        """Per module, all singular values of its delta in falling order, by a float64 SVD."""
        return {name: torch.linalg.svdvals(delta).numpy() for name, delta in self.deltas.items()}


def write_lora(
    path: Path,
    family: str = "sd15",
    naming: str = "kohya",
    rank: int = 128,
    alpha: float | None = 64.0,
    dtype: str = "F16",
    seed: int = 0,
    modules: Sequence[Module] | None = None,
    effective_rank: float = 24.0,
    zero_modules: int = 0,
) -> RealFile:
    """Write a LoRA of real size for `modules` (default: all that trainers adapt in `family`).

    `effective_rank` is the median, over modules, of the number of singular values that hold 99 % of
    the energy. The last `zero_modules` modules in name order are untrained: their up is zero. One
    module at a time is in memory, and the same arguments write the same bytes.
    """
    plan = Plan(modules or FAMILIES[family](), naming, rank, alpha, dtype)
    truth: dict[str, spectra.Floats] = {}

    def tensors() -> Iterator[Tensor]:
        source = _Source(plan, seed, effective_rank, zero_modules, torch.float32)
        for module, values, pair in source.draw():
            truth[plan.name(module)] = values
            yield from plan.tensors(module, pair)

    with factors.one_thread():
        return RealFile(path, *lora_file.write(path, plan, tensors()), truth)


def small_lora(
    path: Path,
    naming: str = "kohya",
    rank: int = 16,
    alpha: float | None = 8.0,
    dtype: str = "F16",
    seed: int = 0,
    modules: Sequence[Module] = SMALL_MODULES,
    effective_rank: float = 5.0,
    zero_modules: int = 0,
) -> SmallFile:
    """Write a few small modules (linear, 1x1 and 3x3 convolutions) and return their exact deltas.

    Arguments are those of `write_lora`. A rank above a module's sides is allowed, as in real files.
    """
    plan = Plan(modules, naming, rank, alpha, dtype)
    deltas: dict[str, Tensor] = {}

    def tensors() -> Iterator[Tensor]:
        source = _Source(plan, seed, effective_rank, zero_modules, torch.float64)
        for module, _, pair in source.draw():
            stored = Factors(*(factor.to(plan.precision) for factor in pair))
            deltas[plan.name(module)] = plan.scale * (stored.up.double() @ stored.down.double())
            yield from plan.tensors(module, stored)

    with factors.one_thread():
        lora_file.write(path, plan, tensors())
    return SmallFile(path, deltas)


class _Source(NamedTuple):
    """Draws the numbers of a planned file, module by module."""

    plan: Plan
    seed: int
    effective_rank: float
    zero_modules: int
    precision: torch.dtype

    def draw(self) -> Iterator[tuple[Module, spectra.Floats, Factors]]:
        rng, random = np.random.default_rng(self.seed), torch.Generator().manual_seed(self.seed)
        modules = self.plan.in_file_order()
        for index, module in enumerate(modules):
            values = self._spectrum(module, rng)
            pair = self._factors(module, values, random)
            if index >= len(modules) - self.zero_modules:
                values, pair = np.zeros_like(values), pair._replace(up=torch.zeros_like(pair.up))
            yield module, values, pair

    def _spectrum(self, module: Module, rng: np.random.Generator) -> spectra.Floats:
        length = min(self.plan.rank, module.out_features, module.fan_in)
        values = spectra.draw(rng, length, self.effective_rank)
        norm = NORM_MEDIAN * math.exp(NORM_SPREAD * rng.standard_normal())
        return values * (norm / values[0])

    def _factors(self, module: Module, values: spectra.Floats, random: torch.Generator) -> Factors:
        pair = factors.trained(
            values / self.plan.scale, module.out_features, module.fan_in, random, self.precision
        )
        return (
            factors.widened(pair, self.plan.rank, random) if len(values) < self.plan.rank else pair
        )


if __name__ == "__main__":
    write_lora(Path(sys.argv[1]))
