"""Compute delta weights as other programs do, in their arithmetic.

Each function restates the code of one program (docs/formats.md names the versions): the cast of the
factors, the product in that precision, and alpha / rank as a Python float. None uses lensd's code.
tests/loading runs diffusers itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

# up, down, alpha (None: no key), precision -> the delta weight [out, in * kernel]
Merge = Callable[[Tensor, Tensor, float | None, torch.dtype], Tensor]
EXACT = {torch.float32: 1e-6, torch.float16: 5e-4, torch.bfloat16: 5e-3}


def comfyui(up: Tensor, down: Tensor, alpha: float | None, dtype: torch.dtype) -> Tensor:
    """LoRAAdapter.calculate_weight: ((strength * alpha) * lora_diff).type(weight.dtype)."""
    scale = 1.0 if alpha is None else alpha / down.shape[0]
    return (1.0 * scale) * torch.mm(up.to(dtype).flatten(1), down.to(dtype).flatten(1))


def a1111(up: Tensor, down: Tensor, alpha: float | None, dtype: torch.dtype) -> Tensor:
    """rebuild_conventional, then finalize_updown: the scale comes last."""
    updown = up.to(dtype).reshape(up.size(0), -1) @ down.to(dtype).reshape(down.size(0), -1)
    scale = 1.0 if alpha is None else alpha / down.shape[0]
    return updown * scale * 1.0


def kohya(up: Tensor, down: Tensor, alpha: float | None, dtype: torch.dtype) -> Tensor:
    """LoRAModule.merge_to: weight + multiplier * (up @ down) * scale; 3x3 as a convolution."""
    scale = (alpha or down.shape[0]) / down.shape[0]
    up, down = up.to(dtype), down.to(dtype)
    if down.dim() == 4 and down.shape[2:] != (1, 1):
        product = torch.nn.functional.conv2d(down.permute(1, 0, 2, 3), up).permute(1, 0, 2, 3)
        return (1.0 * product * scale).flatten(1)
    return 1.0 * (up.flatten(1) @ down.flatten(1)) * scale


def invokeai(up: Tensor, down: Tensor, alpha: float | None, dtype: torch.dtype) -> Tensor:
    """LoRALayer.get_weight, then times weight * scale."""
    product = up.to(dtype).reshape(up.shape[0], -1) @ down.to(dtype).reshape(down.shape[0], -1)
    return product * (1.0 * (1.0 if alpha is None else alpha / down.shape[0]))


class Loader(NamedTuple):
    """How a program merges, and the precisions in which it is known to run."""

    merge: Merge
    precisions: tuple[torch.dtype, ...]


ALL = tuple(EXACT)
FULL = (torch.float32, torch.bfloat16)
LOADERS: Mapping[str, Loader] = {
    "comfyui": Loader(comfyui, ALL),  # float16: DynamicVRAM and lowvram
    "a1111": Loader(a1111, ALL),
    "forge": Loader(comfyui, ALL),  # ComfyUI's lines; float16: online
    "kohya": Loader(kohya, FULL),
    "invokeai": Loader(invokeai, FULL),
    "sdnext": Loader(a1111, ALL),  # A1111's lines
}


def a1111_dora(weight: Tensor, up: Tensor, down: Tensor, alpha: float, magnitude: Tensor) -> Tensor:
    """apply_weight_decompose on the bare product; alpha / rank is applied afterwards."""
    merged = weight + up.to(weight).flatten(1) @ down.to(weight).flatten(1)
    norm = merged.norm(dim=1, keepdim=True)
    decomposed = merged * (magnitude.to(weight).reshape(-1, 1) / norm)
    return (decomposed - weight) * (alpha / down.shape[0])


def unmerged(up: Tensor, down: Tensor, x: Tensor) -> Tensor:
    """Return up(down(x)) in float16, as ComfyUI's bypass nodes, A1111's functional and InvokeAI's
    sidecar compute it.
    """
    down, up = (t.to(torch.float16).flatten(1) for t in (down, up))
    inner = torch.nn.functional.linear(x.to(torch.float16), down)
    return torch.nn.functional.linear(inner, up)
