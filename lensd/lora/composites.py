"""Modules of LoHa, LoKr and Tucker: delta weights that are no product of two factors.

    LoHa    scale * (w1_a @ w1_b) * (w2_a @ w2_b)      elementwise
    LoKr    scale * kron(w1, w2)                       w1 and w2 may be products themselves
    Tucker  scale * up @ (mid x down)                  mid [r, r, kh, kw] lies between the factors

These are the formulas of LyCORIS, which ComfyUI, AUTOMATIC1111, Forge, InvokeAI and SD.Next follow.
Each program converts the tensors to the precision in which it computes, so it reads them in 16 bits
as it reads them in 32. Their delta weights are compared in float64, in pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from lensd.lora.composite_layout import Composite
from lensd.lora.dtypes import TORCH_DTYPE
from lensd.lora.fidelity import squared_norm, squared_rounding
from lensd.lora.parameters import Parameters
from lensd.lora.tensor_spec import WIDE_DTYPES

PIECE = 2**20  # elements of a delta weight that are computed at a time
# Some programs multiply in the precision of the file: float16 must hold all products.
LARGEST_NORM = 45000.0
SMALLEST_MEAN = 1e-5  # root mean square of elements; below it float16 loses digits
MAX_ROUNDING = 0.01  # relative error; modules that lose more by rounding stay as they are
Parts = Mapping[str, Tensor]  # part -> tensor


class Form(NamedTuple):
    """What a delta weight is computed from, in float64; factors are left [m, r] and right [r, n].

    LoHa: the factors of w1 and of w2. LoKr: w1 and w2. Tucker: up, and the core times down. Any
    other kind: up and down.
    """

    kind: str
    matrices: tuple[Tensor, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the delta weight."""
        first, second, *_ = self.matrices
        if self.kind == "LoKr":
            return len(first) * len(second), first.shape[1] * second.shape[1]
        return len(first), second.shape[1]

    def pieces(self, scale: float = 1.0) -> Iterator[Tensor]:
        """Yield the delta weight, PIECE elements or one row at a time."""
        rows, columns = self.shape
        step = max(1, PIECE // columns)
        for start in range(0, rows, step):
            yield scale * self._rows(torch.arange(start, min(start + step, rows)))

    def _rows(self, at: Tensor) -> Tensor:
        first, second, *others = self.matrices
        if self.kind == "LoHa":
            return (first[at] @ second) * (others[0][at] @ others[1])
        if self.kind == "LoKr":
            left, right = first[at // len(second)], second[at % len(second)]
            return (left[:, :, None] * right[:, None, :]).flatten(1)
        return first[at] @ second


@dataclass(frozen=True, slots=True)
class CompositeReading:
    """What the first pass finds out about a module."""

    module: Composite
    scale: float
    energy: float  # ||delta||_F^2; not finite if a weight is not
    roundings: Mapping[str, float]  # dtype -> ||delta - delta in this dtype||_F^2
    narrow: str  # the 16-bit dtype that fits best
    kept: Sequence[float]  # of Tucker: share of the energy in the first k ranks, k = 1, 2, ...


@dataclass(frozen=True, slots=True)
class CompositePlan:
    """The planned output of one module."""

    module: Composite
    scale: float
    rank: int
    encoding: str
    energy: float
    retained: float
    kept: Sequence[float]  # as in its reading

    def smallest_rank(self, energy: float) -> int:
        """Return the smallest rank that keeps this share of the energy."""
        return _smallest_rank(self.kept, energy) or self.module.rank

    @property
    def same(self) -> bool:
        """Whether its tensors are copied bit for bit."""
        return self.rank == self.module.rank and self.encoding == self.module.dtype


@dataclass(frozen=True, slots=True)
class CompositeOutput:
    """The output of one module, and its errors."""

    plan: CompositePlan
    tensors: Mapping[str, Tensor]  # by key
    squared_error: float  # ||delta - delta'||_F^2
    squared_noise: float  # ||delta_k - delta'||_F^2: of the number format alone


def read(module: Composite, parts: Parts, alpha: float | None) -> CompositeReading:
    """Read one module: the stored tensors by part."""
    scale = module.scale(alpha)
    form = form_of(module.kind, parts)
    energy = scale**2 * _squared_norm(form)
    roundings = {}
    if module.dtype in WIDE_DTYPES and scale:
        for dtype in ("F16", "BF16"):
            rounded = {name: t.to(TORCH_DTYPE[dtype]) for name, t in parts.items()}
            roundings[dtype] = scale**2 * _squared_distance(form, form_of(module.kind, rounded))
    fits = roundings and roundings["F16"] <= roundings["BF16"] and _suits_float16(form)
    kept = _split_tucker(parts).kept() if module.reducible and 0 < energy < torch.inf else ()
    return CompositeReading(module, scale, energy, roundings, "F16" if fits else "BF16", kept)


def plan(reading: CompositeReading, p: Parameters, least: int = 1) -> CompositePlan:
    """Choose rank and number format; a module that would lose too much stays as it is.

    `least`: the lowest allowed rank, except for `max_rank`.
    """
    module = reading.module
    allowed = min(MAX_ROUNDING**2, 1 - p.energy) if p.strict_energy else MAX_ROUNDING**2
    encoding, rank = module.dtype, module.rank
    if module.dtype in WIDE_DTYPES:
        wanted = {"float16": "F16", "bfloat16": "BF16", "keep": "F32"}
        encoding = wanted.get(p.float32, reading.narrow)
        error = reading.roundings.get(encoding, 0.0 if encoding == "F32" else torch.inf)
        if not error <= allowed * reading.energy < torch.inf:
            encoding = module.dtype
    if reading.kept and p.mode != "int8":
        enough = _smallest_rank(reading.kept, p.energy) or rank
        rank = min(max(enough, least), p.max_rank or rank, rank)
    retained = reading.kept[rank - 1] if rank < module.rank else 1.0
    return CompositePlan(
        module, reading.scale, rank, encoding, reading.energy, retained, reading.kept
    )


def _smallest_rank(kept: Sequence[float], energy: float) -> int | None:
    return next((k for k, share in enumerate(kept, 1) if share >= energy), None)


def reduce(m: CompositePlan, parts: Parts) -> CompositeOutput:
    """Compute the output of one module from its stored tensors, and measure it."""
    exact = dict(parts)
    if m.rank < m.module.rank:
        exact = _truncate(m, parts)
    encoded = {name: t.to(TORCH_DTYPE[m.encoding]) for name, t in exact.items()}
    kind = m.module.kind
    planned, output = form_of(kind, exact), form_of(kind, encoded)
    # With an alpha, a program divides it by the rank of the output.
    scale = m.scale * (m.module.rank / m.rank if m.module.alpha else 1.0)
    noise = scale**2 * _squared_distance(planned, output)
    lost = max(0.0, 1 - m.retained) * m.energy
    error = noise
    if lost:
        original = form_of(kind, parts)
        error = _squared_difference(m.scale, original.matrices, scale, output.matrices)
    keys = dict(m.module.parts)
    return CompositeOutput(m, {keys[name]: t for name, t in encoded.items()}, error, noise)


def output_shape(m: CompositePlan, shape: tuple[int, ...], part: str) -> tuple[int, ...]:
    """Return the shape of a part at the planned rank."""
    if m.rank == m.module.rank:
        return shape
    return {
        "lora_up.weight": (shape[0], m.rank, *shape[2:]),
        "lora_down.weight": (m.rank, *shape[1:]),
        "lora_mid.weight": (m.rank, m.rank, *shape[2:]),
    }[part]


def form_of(kind: str, stored: Parts) -> Form:
    """Return the form of a module with these parts."""
    parts = {name: t.double() for name, t in stored.items()}
    if kind == "LoHa":
        return Form(kind, (*_factors(parts, "hada_w1"), *_factors(parts, "hada_w2")))
    if kind == "LoKr":
        return Form(kind, (_whole(parts, "lokr_w1"), _whole(parts, "lokr_w2")))
    up, down = (parts[f"lora_{side}.weight"].flatten(1) for side in ("up", "down"))
    return Form(kind, (up, _times_core(parts["lora_mid.weight"], down)))


def _factors(parts: Parts, name: str) -> tuple[Tensor, Tensor]:
    """Return the factors of w1 or w2; with a core, the left one is stored as [r, m]."""
    left, right, core = parts[f"{name}_a"], parts[f"{name}_b"], parts.get(name.replace("w", "t"))
    return (left, right) if core is None else (left.T, _times_core(core, right))


def _whole(parts: Parts, name: str) -> Tensor:
    """Return w1 or w2, which may be stored whole or as factors."""
    if name in parts:
        return parts[name].flatten(1)
    left, right = _factors(parts, name)
    return left @ right


def _times_core(core: Tensor, right: Tensor) -> Tensor:
    """Return [i, n * kernel] for core [i, j, kernel...] and right [j, n]."""
    return torch.einsum("ijk,jn->ink", core.flatten(2), right).flatten(1)


def _squared_norm(form: Form) -> float:
    if form.kind == "LoHa":
        return sum(float(piece.square().sum()) for piece in form.pieces())
    if form.kind == "Tucker":
        return squared_norm(*form.matrices)
    return prod(float(t.square().sum()) for t in form.matrices)


def _squared_distance(a: Form, b: Form) -> float:
    """Return the squared distance of two delta weights that differ by rounding."""
    if a.kind == "LoHa":
        pieces = zip(a.pieces(), b.pieces(), strict=True)
        return sum(float((x - y).square().sum()) for x, y in pieces)
    if a.kind == "Tucker":
        return squared_rounding(*a.matrices, *b.matrices)
    # kron(x1, x2) - kron(y1, y2) = kron(x1 - y1, x2) + kron(y1, x2 - y2)
    (x1, x2), (y1, y2) = a.matrices, b.matrices
    d1, d2 = x1 - y1, x2 - y2
    crossed = 2 * (d1 * y1).sum() * (x2 * d2).sum()
    squares = d1.square().sum() * x2.square().sum() + y1.square().sum() * d2.square().sum()
    return max(0.0, float(squares + crossed))


def _squared_difference(
    scale: float, before: Sequence[Tensor], other: float, after: Sequence[Tensor]
) -> float:
    """Return ||scale * up down - other * up' down'||_F^2, from the QR factors of both sides."""
    left = torch.cat([before[0] * scale, -after[0] * other], dim=1)
    right = torch.cat([before[1], after[1]], dim=0)
    small = torch.linalg.qr(left).R @ torch.linalg.qr(right.T).R.T
    return float(small.square().sum())


def _suits_float16(form: Form) -> bool:
    """Whether float16 can hold each product, and the delta weight without its scale."""
    first, second, *others = form.matrices
    rows, columns = len(first), second.shape[1]
    if form.kind == "LoHa":
        products = (squared_norm(first, second), squared_norm(*others), _squared_norm(form))
        sizes = [(rows * columns, square) for square in products]
    elif form.kind == "LoKr":
        sizes = [(t.numel(), float(t.square().sum())) for t in form.matrices]
        sizes.append((first.numel() * second.numel(), sizes[0][1] * sizes[1][1]))
    else:
        sizes = [(rows * columns, squared_norm(first, second))]
    return all(
        not square or ((square / n) ** 0.5 >= SMALLEST_MEAN and square**0.5 <= LARGEST_NORM)
        for n, square in sizes
    )


class TuckerSplit(NamedTuple):
    """up = left @ a, down = b^T @ right, core = a mid b: left and right are orthonormal.

    The first directions of both sides hold most of the core (a higher-order SVD).
    """

    left: Tensor  # [m, r]
    core: Tensor  # [r, r, kernel]
    right: Tensor  # [r, n]

    def kept(self) -> list[float]:
        """Return the share of the energy in the first k directions of both sides, k = 1 ... r."""
        squares = self.core.square().sum(2)
        total = float(squares.sum())
        return [float(squares[:k, :k].sum()) / total for k in range(1, len(squares) + 1)]


def _split_tucker(parts: Parts) -> TuckerSplit:
    up, down = (parts[f"lora_{side}.weight"].double().flatten(1) for side in ("up", "down"))
    mid = parts["lora_mid.weight"].double().flatten(2)
    left, right = torch.linalg.qr(up), torch.linalg.qr(down.T)
    core = torch.einsum("ai,ijk,bj->abk", left.R, mid, right.R)
    u, v = _leading(core.flatten(1)), _leading(core.transpose(0, 1).flatten(1))
    core = torch.einsum("abk,ai,bj->ijk", core, u, v)
    return TuckerSplit(left.Q @ u, core, (right.Q @ v).T)


def _leading(unfolded: Tensor) -> Tensor:
    """Return the left singular vectors, those of the largest singular values first."""
    return torch.linalg.svd(unfolded, full_matrices=False).U


def _truncate(m: CompositePlan, parts: Parts) -> dict[str, Tensor]:
    """Return the parts at the planned rank, in float64, with elements of similar size."""
    split = _split_tucker(parts)
    k = m.rank
    core = split.core[:k, :k]
    spread = float(core.abs().max()) ** (1 / 3) or 1.0
    # A program multiplies by alpha / k instead of alpha / r.
    gain = k / m.module.rank if m.module.alpha else 1.0
    shapes = {name: output_shape(m, tuple(t.shape), name) for name, t in parts.items()}
    return {
        name: t.reshape(shapes[name])
        for name, t in {
            "lora_up.weight": split.left[:, :k] * spread * gain,
            "lora_down.weight": split.right[:k] * spread,
            "lora_mid.weight": core / spread**2,
        }.items()
    }
