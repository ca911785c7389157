"""plan: spectra and parameters -> ranks, encodings and layout of an output.

A plan is complete before the first byte of an output exists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lensd.lora import portability, rank
from lensd.lora.layout import ITEM_SIZE, Layout, Module, TensorSpec
from lensd.lora.parameters import Parameters
from lensd.lora.spectrum import Core

WIDE_DTYPES = ("F32", "F64")


@dataclass(frozen=True, slots=True)
class Reading:
    """What the first pass learns of a module."""

    module: Module
    alpha: float  # what the file says, or the rank where it says nothing or 0
    values: Tensor  # singular values of delta [r], descending, float64
    exact_bfloat16: bool  # every weight is a bfloat16 number
    largest: float  # max |weight|
    core: Core | None = field(default=None, repr=False, compare=False)  # of up @ down, for `reduce`

    @property
    def scale(self) -> float:
        """delta = scale * up @ down."""
        return self.alpha / self.module.rank

    @property
    def energy(self) -> float:
        """||delta||_F^2."""
        return float(self.values.square().sum())


@dataclass(frozen=True, slots=True)
class ModulePlan:
    """One module's fate: how many ranks, stored how, and with which alpha (None: no key)."""

    module: Module
    scale: float
    rank: int
    encoding: str  # F16, BF16, F32, F64 or I8
    alpha: float | None  # of the output; an I8 module's comes out of reduce
    same: bool  # factors are copied bit for bit
    energy: float  # ||delta||_F^2 of the original
    retained: float  # the share of it that the rank keeps
    held: bool = False  # its rank may not change

    @property
    def out_scale(self) -> float:
        """delta = out_scale * up @ down of the float output."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


@dataclass(frozen=True, slots=True)
class Plan:
    layout: Layout
    modules: tuple[ModulePlan, ...]
    alpha: float | None  # the one alpha of all float modules
    tensors: tuple[tuple[str, TensorSpec], ...]  # of the output, in file order
    forced_by: tuple[str, ...]  # targets that kept the file out of int8
    float_because: Mapping[
        str, int
    ]  # of an int8 mode: why how many modules are floats all the same


def plan(
    layout: Layout,
    tensors: Mapping[str, TensorSpec],
    readings: Sequence[Reading],
    p: Parameters,
    in_floats: Collection[str] = (),
) -> Plan:
    """Ranks, encodings and the output's tensors, from the first pass over every module.

    `in_floats` names modules that were found to lose too much in int8.
    """
    verdict = portability.int8_verdict(layout, p.targets)
    quantized = p.mode in ("int8", "ultra")
    because = [_why_float(r, verdict, in_floats) if quantized else "mode" for r in readings]
    floats = _float_dtypes(readings, p.float32)
    encodings = [dtype if why else "I8" for dtype, why in zip(floats, because, strict=True)]
    held = _held(layout, p.targets)
    ranks = _ranks(readings, encodings, p, held)
    alpha = _uniform_alpha(readings)
    modules = tuple(
        _module_plan(reading, rank_, encoding, alpha, tensors, held)
        for reading, rank_, encoding in zip(readings, ranks, encodings, strict=True)
    )
    return Plan(
        layout=layout,
        modules=modules,
        alpha=alpha,
        tensors=_in_file_order(layout, tensors, modules),
        forced_by=verdict.forced_by if quantized and not verdict.int8 else (),
        float_because=Counter(why for why in because if why and quantized),
    )


def own_energy(p: Parameters) -> float | None:
    """The energy that each module has to keep, where nothing else is asked of its spectrum."""
    of_file = p.allocation == "file" or p.constant_rank or p.target_size is not None
    return None if p.mode == "int8" or of_file else p.energy


def columns(reading: Reading, p: Parameters) -> int:
    """How many singular vectors `reduce` will want of a module; more only where a file decides."""
    energy = own_energy(p)
    return reading.module.rank if energy is None else rank.smallest_rank(reading.values, energy)


def _held(layout: Layout, targets: Sequence[str]) -> set[str]:
    """Modules that keep their rank.

    With another one the alpha of those that are scaled last differs from the others', and diffusers
    misreads alphas that differ.
    """
    if "diffusers" not in portability.constraining(layout, targets):
        return set()
    return {m.name for m in layout.modules if m.scaled_last}


def _why_float(
    reading: Reading, verdict: portability.Verdict, in_floats: Collection[str]
) -> str | None:
    """Why a module is not quantized; None if it is."""
    if not verdict.int8:
        return "targets"
    if reading.module.scaled_last:
        return "dora"
    return "noise" if reading.module.name in in_floats else None


def _ranks(
    readings: Sequence[Reading], encodings: Sequence[str], p: Parameters, held: Collection[str]
) -> list[int]:
    """The ranks to store; modules named in `held` keep theirs, and the others get the rest."""
    own = [r.module.rank for r in readings]
    if p.mode == "int8":
        return own
    costs = [
        ITEM_SIZE[e] * (r.module.out_features + r.module.in_features)
        for r, e in zip(readings, encodings, strict=True)
    ]
    free = [at for at, r in enumerate(readings) if r.module.name not in held]
    if p.target_size is not None:
        spent = sum(costs[at] * k for at, k in enumerate(own) if at not in set(free))
        p = replace(p, target_size=p.target_size - spent)
    demands = [rank.Demand(readings[at].values, costs[at], p.max_rank) for at in free]
    for at, k in zip(free, _asked_ranks(demands, p) if free else (), strict=True):
        own[at] = min(k, own[at])
    return own


def _asked_ranks(demands: Sequence[rank.Demand], p: Parameters) -> list[int]:
    if not p.constant_rank:
        return _own_ranks(demands, p)
    one = _one_rank(demands, p)
    return [one if p.max_rank is None else min(one, p.max_rank)] * len(demands)


def _own_ranks(demands: Sequence[rank.Demand], p: Parameters) -> list[int]:
    """Each module's own rank."""
    if p.target_size is not None:
        return rank.within_size(demands, p.target_size)
    if p.allocation == "file":
        return rank.per_file(demands, p.energy)
    return rank.per_module(demands, p.energy)


def _one_rank(demands: Sequence[rank.Demand], p: Parameters) -> int:
    """One rank for all modules that have as many."""
    if p.target_size is not None:
        return rank.constant_within_size(demands, p.target_size)
    if p.allocation == "file":
        return rank.constant(demands, p.energy)
    return max(rank.per_module(demands, p.energy))


def _float_dtypes(readings: Sequence[Reading], float32: str) -> list[str]:
    """The native 16-bit format stays; wider ones go to 16 bits unless told to `keep` them."""
    wide = [r for r in readings if r.module.dtype in WIDE_DTYPES]
    if float32 == "auto":
        fits = all(r.largest <= torch.finfo(torch.float16).max for r in wide)
        narrow = "BF16" if all(r.exact_bfloat16 for r in wide) or not fits else "F16"
    else:
        narrow = {"float16": "F16", "bfloat16": "BF16", "keep": "F32"}[float32]
    return [narrow if r.module.dtype in WIDE_DTYPES else r.module.dtype for r in readings]


def _uniform_alpha(readings: Sequence[Reading]) -> float | None:
    """The file's most common alpha, None where it has none.

    diffusers misreads alphas that differ from module to module (34 % off, silently), so that all
    get this one and the rest of the scale goes into `up`.
    """
    alphas = Counter(r.alpha for r in readings if r.module.alpha and not r.module.scaled_last)
    return alphas.most_common(1)[0][0] if alphas else None


def _module_plan(
    reading: Reading,
    rank_: int,
    encoding: str,
    alpha: float | None,
    tensors: Mapping[str, TensorSpec],
    held: Collection[str],
) -> ModulePlan:
    module = reading.module
    if module.scaled_last:  # up @ down stays what it is, and so does alpha / rank
        alpha = reading.scale * rank_
    alpha = alpha if module.alpha else None
    out_scale = 1.0 if alpha is None else alpha / rank_
    stored = {tensors[module.up].dtype, tensors[module.down].dtype}
    return ModulePlan(
        module=module,
        scale=reading.scale,
        rank=rank_,
        encoding=encoding,
        alpha=alpha,
        same=rank_ == module.rank and stored == {encoding} and out_scale == reading.scale,
        energy=reading.energy,
        retained=rank.retained(reading.values, rank_),
        held=module.name in held,
    )


def _in_file_order(
    layout: Layout, tensors: Mapping[str, TensorSpec], modules: Sequence[ModulePlan]
) -> tuple[tuple[str, TensorSpec], ...]:
    """All output tensors, wide items first, so that each is aligned to its item, as torch asks."""
    result = [(key, tensors[key]) for key in layout.untouched]
    for m in modules:
        up, down = m.module.shapes_at(m.rank)
        result += [(m.module.down, TensorSpec(m.encoding, down))]
        result += [(m.module.up, TensorSpec(m.encoding, up))]
        if m.alpha is not None or m.encoding == "I8":
            result += [(m.module.alpha_key, TensorSpec("F32", ()))]
    return tuple(sorted(result, key=lambda item: (-ITEM_SIZE.get(item[1].dtype, 0), item[0])))
