"""The plan of an output, and what it is made from: readings, and what earlier attempts showed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from lensd.lora import rank
from lensd.lora.composites import CompositePlan
from lensd.lora.layout import Layout, Module
from lensd.lora.portability import Encoding
from lensd.lora.spectrum import Core
from lensd.lora.tensor_spec import TensorSpec

DTYPES: Mapping[Encoding, str] = {"int8": "I8", "float8": "F8_E4M3"}  # as safetensors names them
EIGHT_BITS = tuple(DTYPES.values())


@dataclass(frozen=True, slots=True)
class Reading:
    """What the first pass finds out about a module."""

    module: Module
    alpha: float  # as in the file; the rank if the file has no alpha or the alpha 0
    values: Tensor  # singular values of delta [min(r, m, n)], descending, float64
    exact_bfloat16: bool  # whether bfloat16 represents every weight exactly
    largest: float  # max |weight|
    kept: Sequence[float]  # `rank.kept_energy` of the values
    # of the factors that `shorten` returns, for `reduce`
    core: Core | None = field(default=None, repr=False, compare=False)

    @property
    def scale(self) -> float:
        """delta = scale * up @ down."""
        return self.alpha / self.module.rank

    @property
    def energy(self) -> float:
        """||delta||_F^2."""
        return self.kept[-1]

    def smallest_rank(self, energy: float) -> int:
        """Return the smallest rank that keeps this share of the energy."""
        return rank.smallest_count(self.kept, energy)

    def without_core(self) -> Reading:
        return Reading(
            self.module, self.alpha, self.values, self.exact_bfloat16, self.largest, self.kept
        )


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
    def needs_core(self) -> bool:
        """Whether its output is computed from its truncation, and not only from stored factors."""
        return not self.same and (self.encoding in EIGHT_BITS or self.rank != self.module.rank)

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


@dataclass(frozen=True, slots=True)
class Findings:
    """What earlier attempts at an output showed, by the names of modules."""

    too_noisy: frozenset[tuple[str, str]] = frozenset()  # with an 8-bit dtype that loses too much
    in_bfloat16: frozenset[str] = frozenset()  # float16 loses more of them than bfloat16
    least_ranks: Mapping[str, int] = field(default_factory=dict)
    energy: float | None = None  # in place of the setting, for the whole file
    rounds: int = 0  # attempts whose error was above that of `strict_energy`
