"""Plan an output: choose ranks, encodings and tensors from the spectra and the parameters.

A plan is complete, with every tensor's dtype and shape, before the first byte of an output is
written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lensd.lora import float8, portability, rank
from lensd.lora.composites import CompositePlan, output_shape
from lensd.lora.layout import Layout, Module
from lensd.lora.parameters import Parameters
from lensd.lora.portability import Encoding, Verdict
from lensd.lora.spectrum import Core
from lensd.lora.tensor_spec import ITEM_SIZE, WIDE_DTYPES, TensorSpec

QUANTIZING = ("int8", "ultra")  # modes
DTYPES: Mapping[Encoding, str] = {"int8": "I8", "float8": "F8_E4M3"}  # as safetensors names them
EIGHT_BITS = tuple(DTYPES.values())
NARROW = {"float16": "F16", "bfloat16": "BF16", "keep": "F32"}  # values of the setting `float32`
ALPHA = TensorSpec("F32", ())  # of an output
# Largest relative delta error of an 8-bit encoding alone. 0.015 is typical of int8, 0.025 of
# float8; truncation at 99 % of the energy has 0.1.
MAX_NOISE = 0.05
NOISE_TO_AVOID = 0.048  # expected of a module that then is not tried: an attempt takes long


@dataclass(frozen=True, slots=True)
class Reading:
    """What the first pass finds out about a module."""

    module: Module
    alpha: float  # as in the file; the rank if the file has no alpha or the alpha 0
    values: Tensor  # singular values of delta [min(r, m, n)], descending, float64
    exact_bfloat16: bool  # whether bfloat16 represents every weight exactly
    largest: float  # max |weight|
    # of the factors that `shorten` returns, for `reduce`
    core: Core | None = field(default=None, repr=False, compare=False)

    @property
    def scale(self) -> float:
        """delta = scale * up @ down."""
        return self.alpha / self.module.rank

    @property
    def energy(self) -> float:
        """||delta||_F^2."""
        return float(np.square(self.values.numpy()).sum())


@dataclass(frozen=True, slots=True)
class ModulePlan:
    """The planned output of one module."""

    module: Module
    scale: float  # of the original: delta = scale * up @ down
    rank: int
    encoding: str  # a dtype: F16, BF16, F32, F64, I8 or F8_E4M3
    alpha: float | None  # of the output, None without an alpha key; `reduce` sets that of I8
    same: bool  # whether the factors are copied bit for bit
    energy: float  # ||delta||_F^2 of the original
    retained: float  # the share of that energy that the rank keeps
    keeps_rank: bool = False  # whether its rank must not change

    @property
    def has_alpha(self) -> bool:
        """Whether the output has an alpha for it."""
        return self.alpha is not None or self.encoding == "I8"

    @property
    def factors(self) -> tuple[tuple[str, TensorSpec], tuple[str, TensorSpec]]:
        """The keys and specs of down and up in the output."""
        up, down = self.module.shapes_at(self.rank)
        return (
            (self.module.down, TensorSpec(self.encoding, down)),
            (self.module.up, TensorSpec(self.encoding, up)),
        )

    @property
    def out_scale(self) -> float:
        """The scale of the output if stored in floats: delta = out_scale * up @ down."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


@dataclass(frozen=True, slots=True)
class Plan:
    layout: Layout
    modules: tuple[ModulePlan, ...]
    alpha: float | None  # of all modules that are not int8
    alpha_is_added: bool  # the original has no alphas
    tensors: tuple[tuple[str, TensorSpec], ...]  # of the output, in file order
    forced_by: tuple[str, ...]  # targets because of which some module is not in int8
    # In modes int8 and ultra: reason -> number of modules that stay in floats for that reason.
    float_because: Mapping[str, int]
    composites: tuple[CompositePlan, ...] = ()  # without those that are copied bit for bit

    @property
    def all_modules(self) -> tuple[ModulePlan | CompositePlan, ...]:
        return (*self.modules, *self.composites)

    @property
    def untouched(self) -> list[str]:
        """The keys of the tensors that are copied bit for bit."""
        converted = {key for c in self.composites for _, key in c.module.parts}
        converted |= {c.module.alpha for c in self.composites if c.module.alpha}
        return [key for key in self.layout.untouched if key not in converted]


class CommonAlpha(NamedTuple):
    """The alpha of all modules that are not int8; None: they have none.

    `is_added`: the original has no alphas, and every module gets this one.
    """

    value: float | None
    is_added: bool = False

    def of(self, module: Module) -> float | None:
        return self.value if module.alpha or self.is_added else None


@dataclass(frozen=True, slots=True)
class Findings:
    """What earlier attempts at an output showed, by the names of modules."""

    too_noisy: frozenset[tuple[str, str]] = frozenset()  # with an 8-bit dtype that loses too much
    in_bfloat16: frozenset[str] = frozenset()  # float16 loses more of them than bfloat16
    least_ranks: Mapping[str, int] = field(default_factory=dict)
    energy: float | None = None  # in place of the setting, for the whole file
    rounds: int = 0  # attempts whose error was above that of `strict_energy`


def plan(
    layout: Layout,
    tensors: Mapping[str, TensorSpec],
    readings: Sequence[Reading],
    p: Parameters,
    found: Findings = Findings(),
    composites: Sequence[CompositePlan] = (),
    order: Sequence[str] = (),
    *,
    may_add_alpha: bool = True,
) -> Plan:
    """Plan an output from the readings of all modules, which are in the order of the layout.

    `tensors`: the original's header. `composites`: their plans. `order`: the names of the modules
    in the order in which the output has their factors; that of the layout if it is empty.
    `may_add_alpha`: False if the header has a strength, which an alpha would replace in diffusers.
    """
    if found.energy is not None:
        p = replace(p, energy=found.energy)
    verdict = portability.verdict(layout, p.targets, p.encodings)
    encodings, float_because = _choose_encodings(verdict, readings, p, found)
    fixed = modules_with_fixed_rank(layout, p.targets)
    ranks = choose_ranks(readings, encodings, p, fixed, found.least_ranks)
    may_add_alpha &= verdict.may_add_alpha and not composites
    alpha = _common_alpha(readings, encodings, ranks, may_add=may_add_alpha)
    if noisy := _expect_noise(readings, encodings, ranks, alpha):
        more = replace(found, too_noisy=found.too_noisy | noisy)
        return plan(
            layout, tensors, readings, p, more, composites, order, may_add_alpha=may_add_alpha
        )
    modules = tuple(
        plan_module(reading, rank_, encoding, alpha, tensors, fixed)
        for reading, rank_, encoding in zip(readings, ranks, encodings, strict=True)
    )
    converted = tuple(c for c in composites if not c.same)
    return Plan(
        layout=layout,
        modules=modules,
        alpha=alpha.value,
        alpha_is_added=alpha.is_added,
        tensors=_order_tensors(layout, tensors, modules, converted, order),
        forced_by=verdict.forced_by if p.mode in QUANTIZING else (),
        float_because=float_because,
        composites=converted,
    )


def own_energy(p: Parameters) -> float | None:
    """Return the energy that each module must keep, if only that decides its rank; else None."""
    of_file = p.allocation != "module" or p.constant_rank or p.target_size is not None
    return None if p.mode == "int8" or of_file else p.energy


def columns(reading: Reading, p: Parameters) -> int:
    """Return how many singular vectors `reduce` needs: all ranks if the whole file decides.

    With `strict_energy` a module may need a few more, and `reduce` computes the others again.
    """
    energy = own_energy(p)
    if energy is None:
        return reading.module.rank
    return rank.smallest_rank(reading.values, 1 - 0.9 * (1 - energy) if p.strict_energy else energy)


def modules_with_fixed_rank(layout: Layout, targets: Sequence[str]) -> set[str]:
    """Return the names of modules whose rank must not change.

    At another rank, a module that is scaled last would need an alpha of its own, and diffusers
    misreads a file with different alphas.
    """
    if "diffusers" not in portability.constraining(layout, targets):
        return set()
    return {m.name for m in layout.modules if m.scaled_last}


def _choose_encodings(
    verdict: Verdict, readings: Sequence[Reading], p: Parameters, found: Findings
) -> tuple[list[str], Counter[str]]:
    """Return the dtype of each module, and why how many of them are not in 8 bits."""
    encodings = _float_dtypes(readings, p.float32, found.in_bfloat16)
    float_because: Counter[str] = Counter()
    for at, reading in enumerate(readings if p.mode in QUANTIZING else ()):
        dtype, reason = eight_bits(reading.module, verdict, found.too_noisy)
        encodings[at] = dtype or encodings[at]
        float_because.update([reason] if reason else [])
    return encodings, float_because


def eight_bits(
    module: Module, verdict: Verdict, too_noisy: Collection[tuple[str, str]] = ()
) -> tuple[str | None, str | None]:
    """Return the 8-bit dtype of a module, or the reason why it stays in floats."""
    choices = [DTYPES[encoding] for encoding in verdict.choices[module.name]]
    if not choices:
        return None, "targets"
    if module.scaled_last:
        return None, "dora"
    usable = [dtype for dtype in choices if (module.name, dtype) not in too_noisy]
    return (usable[0], None) if usable else (None, "noise")


def choose_ranks(
    readings: Sequence[Reading],
    encodings: Sequence[str],
    p: Parameters,
    fixed: Collection[str],
    least: Mapping[str, int],
) -> list[int]:
    """Return the rank of each module.

    The modules named in `fixed` keep their rank. A target size is first reduced by their bytes.
    Others whose number format changes get at most the rank that their delta weight can have. The
    ranks in `least` are the lowest allowed, except for `max_rank`.
    """
    ranks = [
        r.module.rank if r.module.name in fixed or r.module.dtype == encoding else len(r.values)
        for r, encoding in zip(readings, encodings, strict=True)
    ]
    if p.mode == "int8":
        return ranks
    costs = [
        ITEM_SIZE[e] * (r.module.out_features + r.module.in_features)
        for r, e in zip(readings, encodings, strict=True)
    ]
    variable = [at for at, r in enumerate(readings) if r.module.name not in fixed]
    if p.target_size is not None:
        spent = sum(costs[at] * k for at, k in enumerate(ranks) if at not in set(variable))
        p = replace(p, target_size=p.target_size - spent)
    demands = [
        rank.Demand(_counted_values(readings[at], p), costs[at], p.max_rank) for at in variable
    ]
    floors = [least.get(readings[at].module.name, 1) for at in variable]
    chosen = _allocate_ranks(demands, p, floors) if variable else ()
    for at, k in zip(variable, chosen, strict=True):
        ranks[at] = min(k, ranks[at])
    return ranks


def _counted_values(reading: Reading, p: Parameters) -> Tensor:
    """Return the singular values with which a module counts in the file."""
    if p.allocation == "balanced":
        return rank.balance(reading.values)
    return reading.values


def _allocate_ranks(
    demands: Sequence[rank.Demand], p: Parameters, floors: Sequence[int]
) -> list[int]:
    if p.constant_rank:
        ranks = [max(_constant_rank(demands, p), *floors)] * len(demands)
    else:
        ranks = [max(pair) for pair in zip(_individual_ranks(demands, p), floors, strict=True)]
    return ranks if p.max_rank is None else [min(k, p.max_rank) for k in ranks]


def _individual_ranks(demands: Sequence[rank.Demand], p: Parameters) -> list[int]:
    """Return a rank for each module."""
    if p.target_size is not None:
        return rank.within_size(demands, p.target_size)
    if p.allocation == "module":
        return rank.per_module(demands, p.energy)
    return rank.per_file(demands, p.energy)


def _constant_rank(demands: Sequence[rank.Demand], p: Parameters) -> int:
    """Return one rank for all modules; modules with fewer ranks keep theirs."""
    if p.target_size is not None:
        return rank.constant_within_size(demands, p.target_size)
    if p.allocation == "module":
        return max(rank.per_module(demands, p.energy))
    return rank.constant(demands, p.energy)


def _float_dtypes(
    readings: Sequence[Reading], float32: str, in_bfloat16: Collection[str]
) -> list[str]:
    """Return each module's dtype for storing it in floats.

    16-bit modules keep their dtype. Wider ones get the 16-bit dtype that `float32` (a setting)
    names or implies, or bfloat16 if `in_bfloat16` has them; `keep` stores them as float32.
    """
    wide = [r for r in readings if r.module.dtype in WIDE_DTYPES]
    if float32 == "auto":
        fits = all(r.largest <= torch.finfo(torch.float16).max for r in wide)
        narrow = "BF16" if all(r.exact_bfloat16 for r in wide) or not fits else "F16"
    else:
        narrow = NARROW[float32]
    return [
        "BF16"
        if changes_width(r.module) and r.module.name in in_bfloat16
        else narrow
        if changes_width(r.module)
        else r.module.dtype
        for r in readings
    ]


def changes_width(module: Module) -> bool:
    """Whether a module that is stored in floats gets another dtype."""
    return module.dtype in WIDE_DTYPES and not module.naming.keeps_dtype


def _common_alpha(
    readings: Sequence[Reading], encodings: Sequence[str], ranks: Sequence[int], *, may_add: bool
) -> CommonAlpha:
    """Return the alpha of all modules that are not int8.

    With float8 modules the file's alpha is divided by a power of two, because their elements would
    be too small otherwise; a file without alphas gets one for that reason alone.
    """
    in_float8 = [
        (r, k) for r, dtype, k in zip(readings, encodings, ranks, strict=True) if dtype == "F8_E4M3"
    ]

    def divided(alpha: CommonAlpha) -> CommonAlpha:
        spectra = [_spectrum(r, k, alpha) for r, k in in_float8 if alpha.of(r.module)]
        return alpha._replace(value=(alpha.value or 1.0) / float8.alpha_divisor(spectra))

    stored = most_common_alpha((r.module, r.alpha) for r in readings)
    if stored is not None:
        return divided(CommonAlpha(stored))
    nothing = CommonAlpha(None)
    is_large = float8.alpha_divisor(_spectrum(r, k, nothing) for r, k in in_float8) == 1
    if is_large or not may_add or any(r.module.scaled_last or r.module.alpha for r in readings):
        return nothing
    return divided(CommonAlpha(float(max(k for _, k in in_float8)), is_added=True))


def most_common_alpha(modules: Iterable[tuple[Module, float]]) -> float | None:
    """Return the alpha for all modules, given that of each; None if the file has no alphas.

    It is the file's most common one, and the rest of a module's scale goes into its `up`: diffusers
    misreads alphas that differ between modules, by 34 % and without any message.
    """
    alphas = Counter(alpha for m, alpha in modules if m.alpha and not m.scaled_last)
    return alphas.most_common(1)[0][0] if alphas else None


def _expect_noise(
    readings: Sequence[Reading],
    encodings: Sequence[str],
    ranks: Sequence[int],
    alpha: CommonAlpha,
) -> set[tuple[str, str]]:
    """Return the modules whose elements would be too small for float8, each with its dtype."""
    return {
        (r.module.name, dtype)
        for r, dtype, k in zip(readings, encodings, ranks, strict=True)
        if dtype == "F8_E4M3" and _spectrum(r, k, alpha).expected_noise > NOISE_TO_AVOID
    }


def _spectrum(reading: Reading, rank_: int, alpha: CommonAlpha) -> float8.Spectrum:
    """Return the spectrum of up @ down in an output with that alpha."""
    m = reading.module
    own = alpha.of(m)
    scale = 1.0 if own is None else own / rank_
    return float8.Spectrum(reading.values[:rank_] / abs(scale), m.out_features, m.in_features)


def plan_module(
    reading: Reading,
    rank_: int,
    encoding: str,
    common: CommonAlpha,
    tensors: Mapping[str, TensorSpec],
    fixed: Collection[str],
) -> ModulePlan:
    module = reading.module
    alpha = common.of(module)
    if module.scaled_last and module.alpha:  # neither up @ down nor alpha / rank may change
        alpha = reading.scale * rank_
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
        keeps_rank=module.name in fixed,
    )


def _order_tensors(
    layout: Layout,
    tensors: Mapping[str, TensorSpec],
    modules: Sequence[ModulePlan],
    composites: Sequence[CompositePlan],
    order: Sequence[str],
) -> tuple[tuple[str, TensorSpec], ...]:
    """Return all tensors of the output, those with the widest elements first.

    So the data of each tensor begins at a multiple of its element size, which torch requires. Of
    one size, factors come last.
    """
    others = {key: tensors[key] for key in layout.untouched}
    for c in composites:
        for part, key in c.module.parts:
            others[key] = TensorSpec(c.encoding, output_shape(c, tensors[key].shape, part))
    others |= {m.module.alpha_key: ALPHA for m in modules if m.has_alpha}
    if order:
        planned = {m.module.name: m for m in modules}
        modules = [planned[name] for name in order]
    factors = [item for m in modules for item in m.factors]
    return tuple(sorted([*sorted(others.items()), *factors], key=lambda item: -width(item[1])))


def width(spec: TensorSpec) -> int:
    """Return the bytes of an element; 0 if it has less than one."""
    return ITEM_SIZE.get(spec.dtype, 0)
