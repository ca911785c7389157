"""The delta weights that a file means, in float64, computed without any of lensd's code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

SUFFIXES = ((".lora_up.weight", ".lora_down.weight"), (".lora_B.weight", ".lora_A.weight"))


def deltas(path: Path) -> dict[str, Tensor]:
    """Per module alpha/rank * up @ down, [out, in * kernel].

    The alpha is a tensor of its own, or in diffusers' `lora_adapter_metadata`, or the rank.
    """
    tensors = load_file(path)
    adapter = _adapter(path)
    found: dict[str, Tensor] = {}
    for up_suffix, down_suffix in SUFFIXES:
        for name in (k.removesuffix(up_suffix) for k in tensors if k.endswith(up_suffix)):
            up, down = tensors[name + up_suffix].double(), tensors[name + down_suffix].double()
            rank = up.shape[1]
            stored = tensors.get(name + ".alpha")
            alpha = float(stored) if stored is not None else _alpha(adapter, name, rank)
            scale = alpha / rank
            found[name] = scale * (up.reshape(up.shape[0], rank) @ down.reshape(rank, -1))
    return found


def _adapter(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        return json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))


def _alpha(adapter: Mapping[str, Any], name: str, rank: int) -> float:
    part, _, module = name.partition(".")
    default = adapter.get(f"{part}.lora_alpha", rank)
    return float(adapter.get(f"{part}.alpha_pattern", {}).get(module, default))


def ranks(path: Path) -> list[int]:
    """The rank of every module, in rising order."""
    tensors = load_file(path)
    downs = tuple(down for _, down in SUFFIXES)
    return sorted(tensor.shape[0] for key, tensor in tensors.items() if key.endswith(downs))


def relative_error(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """Frobenius norm of all differences over that of all deltas."""
    assert before.keys() == after.keys()
    wrong = sum(float((before[n] - after[n]).square().sum()) for n in before)
    whole = sum(float(d.square().sum()) for d in before.values())
    return (wrong / whole) ** 0.5


def truncated(delta: Tensor, rank: int) -> Tensor:
    """The nearest matrix of this rank (Eckart and Young)."""
    u, s, v = torch.linalg.svd(delta, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]
