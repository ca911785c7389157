"""Make factors of all kinds and whole files in memory, and compute their delta weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from lensd.lora import compress, planning
from lensd.lora.layout import Layout, read_layout
from lensd.lora.parameters import Parameters
from lensd.lora.plan import Findings, Plan, Reading
from lensd.lora.reading import read_module
from lensd.lora.tensor_spec import TensorSpec

DTYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "I32": torch.int32,
    "I64": torch.int64,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
KINDS = ("random", "decaying", "flat", "deficient", "zero", "graded", "gauge", "duplicate")
PAIRS = {
    ".lora_down.weight": ".lora_up.weight",
    ".lora_A.weight": ".lora_B.weight",
    "_lora.down.weight": "_lora.up.weight",
}

Tensors = dict[str, Tensor]


class Made(NamedTuple):
    """One module as stored in a file: up [out, r(, 1, 1)], down [r, in(, kh, kw)]."""

    up: Tensor
    down: Tensor
    alpha: float | None

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def delta(self) -> Tensor:
        """alpha/rank * up @ down [out, in * kernel], float64."""
        return (self.alpha or self.rank) / self.rank * product(self.up, self.down)


def product(up: Tensor, down: Tensor) -> Tensor:
    """Return up @ down of the flattened factors, float64."""
    return up.double().flatten(1) @ down.double().flatten(1)


def spectrum(delta: Tensor) -> Tensor:
    """Return all singular values of the full matrix, float64, descending."""
    return torch.linalg.svdvals(delta)


def tail(values: Tensor, rank: int) -> float:
    """Return the error of the best approximation of that rank (Eckart and Young)."""
    return float(values[rank:].square().sum().sqrt())


def factors(kind: str, out: int, width: int, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return up [out, rank] and down [rank, width] of one of KINDS, float64.

    Their elements are about 0.03 to 1.
    """
    random = torch.Generator().manual_seed(seed)

    def normal(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=random, dtype=torch.float64)

    up, down = normal(out, rank) * 0.05, normal(rank, width) * 0.2
    index = torch.arange(rank, dtype=torch.float64)
    if kind == "decaying":
        up = up * torch.exp(-index)
    elif kind == "flat":
        up, down = torch.linalg.qr(normal(out, rank)).Q, torch.linalg.qr(normal(width, rank)).Q.T
        rank_ = min(up.shape[1], down.shape[0])
        up = torch.nn.functional.pad(up[:, :rank_], (0, rank - rank_))
        down = torch.nn.functional.pad(down[:rank_], (0, 0, 0, rank - rank_))
    elif kind == "deficient":
        inner = max(1, rank // 3)
        up = normal(out, inner) @ normal(inner, rank) * 0.05
    elif kind == "zero":
        up = torch.zeros_like(up)
    elif kind == "graded":  # up's columns are scaled by the inverse of what scales down's rows
        size = 10 ** (index % 5 - 2)
        up, down = up * size, down / size[:, None]
    elif kind == "gauge":  # factors far larger than their product
        left, right = torch.linalg.qr(normal(rank, rank)).Q, torch.linalg.qr(normal(rank, rank)).Q
        size = torch.logspace(-2, 2, rank, dtype=torch.float64)
        up, down = up @ left * size @ right, right.T / size @ left.T @ down
    elif kind == "duplicate":
        up[:, -1], down[-1] = up[:, 0], down[0]
    return up, down


@st.composite
def modules(draw: st.DrawFn, largest: int = 24) -> Made:
    """Draw linear layers and 3x3 convolutions in F16, BF16 and F32.

    Their ranks go from 1 to more than every dimension.
    """
    out, rank = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    kernel = draw(st.sampled_from([(), (3, 3)]))
    inputs = draw(st.integers(1, largest if not kernel else 4))
    width = inputs * (9 if kernel else 1)
    kind, seed = draw(st.sampled_from(KINDS)), draw(st.integers(0, 2**32))
    up, down = factors(kind, out, width, rank, seed)
    dtype = DTYPES[draw(st.sampled_from(["F16", "BF16", "F32"]))]
    one = [1] * len(kernel)
    return Made(
        up.reshape(out, rank, *one).to(dtype),
        down.reshape(rank, inputs, *kernel).to(dtype),
        draw(st.sampled_from([None, 0.0, 1.0, rank / 2, float(rank), 3.7, -2.0])),
    )


def small_file(seed: int = 0, dtype: torch.dtype = torch.float16, alpha: float = 4.0) -> Tensors:
    """Return a kohya file with three linear modules and a convolution, all of rank 8."""
    tensors: Tensors = {}
    shapes = [("a", 40, 32), ("b", 24, 48), ("c", 64, 16)]
    for at, (name, out, width) in enumerate(shapes):
        up, down = factors("decaying", out, width, 8, seed + at)
        tensors |= kohya(f"lora_unet_{name}", Made(up.to(dtype), down.to(dtype), alpha))
    up, down = factors("random", 20, 36, 8, seed + 9)
    conv = Made(up.to(dtype)[..., None, None], down.to(dtype).reshape(8, 4, 3, 3), alpha)
    return tensors | kohya("lora_unet_conv", conv)


def ballast() -> Tensors:
    """Return a tensor of 2 MB beside which a small file saves about 1 %: nothing reduces it."""
    return {"bundle_emb.large.string_to_param.*": torch.zeros(1024, 1024, dtype=torch.float16)}


def kohya(name: str, made: Made) -> Tensors:
    """Return the tensors of a module in kohya's naming; alpha has the dtype of the factors."""
    tensors = {f"{name}.lora_up.weight": made.up, f"{name}.lora_down.weight": made.down}
    if made.alpha is not None:
        tensors[f"{name}.alpha"] = torch.tensor(made.alpha, dtype=made.up.dtype)
    return tensors


def peft(name: str, made: Made) -> Tensors:
    """Return the tensors of a module in peft's naming, which has no alpha."""
    return {f"{name}.lora_B.weight": made.up, f"{name}.lora_A.weight": made.down}


def specs_of(tensors: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    return {k: TensorSpec(NAMES[t.dtype], tuple(t.shape)) for k, t in tensors.items()}


def meaning(tensors: Mapping[str, Tensor]) -> Tensors:
    """Return module name -> alpha/rank * up @ down, as programs that merge compute it, float64."""
    deltas = {}
    for key, down in tensors.items():
        for suffix, other in PAIRS.items():
            if key.endswith(suffix):
                name = key.removesuffix(suffix)
                alpha = float(tensors.get(f"{name}.alpha", torch.tensor(0.0))) or down.shape[0]
                deltas[name] = alpha / down.shape[0] * product(tensors[name + other], down)
    return deltas


def pair_of(tensors: Mapping[str, Tensor], up: str, down: str) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(tensors[up].dtype, tensors[down].dtype)
    return tensors[up].to(wide), tensors[down].to(wide)


def read(tensors: Mapping[str, Tensor]) -> tuple[Layout, list[Reading]]:
    """Run the first pass over a file in memory."""
    layout = read_layout(specs_of(tensors))
    readings = []
    for m in layout.modules:
        alpha = float(tensors[m.alpha]) if m.alpha else None
        reading = read_module(m, *pair_of(tensors, m.up, m.down), alpha)
        assert reading is not None
        readings.append(reading)
    return layout, readings


def plan_of(tensors: Mapping[str, Tensor], parameters: Parameters) -> Plan:
    layout, readings = read(tensors)
    return planning.plan(layout, specs_of(tensors), readings, parameters, Findings())


def compressed(tensors: Mapping[str, Tensor], parameters: Parameters) -> Tensors:
    """Plan and reduce a whole file in memory."""
    plan = plan_of(tensors, parameters)
    result = {key: tensors[key] for key in plan.layout.untouched}
    for m in plan.modules:
        result |= compress.reduce(m, *pair_of(tensors, m.module.up, m.module.down)).tensors
    return result


def distance(a: Tensor, b: Tensor) -> float:
    """Return ||a - b|| / ||a||; 0 if both are zero."""
    norm = float(a.norm())
    return float((a - b).norm()) / norm if norm else float(b.norm())
