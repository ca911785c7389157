"""Read the contents of a LoRA file, and measure the error between two files.

This module uses no code of lensd: its numbers check those that lensd reports.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file

DOWN, UP, ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"

Tensors = Mapping[str, NDArray[Any]]


class Facts(NamedTuple):
    """The contents of a file in kohya's naming."""

    size: int
    sha256: str
    formats: tuple[str, ...]  # number formats of the factors
    ranks: tuple[int, ...]  # one per module, in name order
    metadata: Mapping[str, str]

    @property
    def rank_range(self) -> str:
        return f"{min(self.ranks)} / {median(self.ranks):g} / {max(self.ranks)}"


def facts(path: Path) -> Facts:
    with safe_open(path, framework="numpy") as file:
        names = sorted(file.keys())
        downs = [file.get_slice(name) for name in names if name.endswith(DOWN)]
        formats = {down.get_dtype() for down in downs}
        ranks = tuple(down.get_shape()[0] for down in downs)
        metadata = file.metadata() or {}
    return Facts(path.stat().st_size, sha256(path), tuple(sorted(formats)), ranks, metadata)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def module_names(tensors: Tensors) -> set[str]:
    return {name.removesuffix(DOWN) for name in tensors if name.endswith(DOWN)}


def not_finite(path: Path) -> list[str]:
    """Load all tensors, and return the names of those with a NaN or infinite number."""
    return [name for name, tensor in load_file(path).items() if not np.isfinite(tensor).all()]


def delta_error(before: Path, after: Path) -> float:
    """Return the relative error of the second file's delta weights over all modules.

    Raises ValueError if the files have different modules.
    """
    old, new = load_file(before), load_file(after)
    if module_names(old) != module_names(new):
        raise ValueError(f"{before} and {after} adapt different modules")
    error = norm = 0.0
    for name in module_names(old):
        up, down = _factors(old, name)
        other_up, other_down = _factors(new, name)
        error += _energy(np.hstack([up, -other_up]), np.vstack([down, other_down]))
        norm += _energy(up, down)
    return float(np.sqrt(error / norm))


def _factors(tensors: Tensors, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return up [out, rank] times the scale alpha/rank, and down [rank, in]."""
    down = tensors[name + DOWN].astype(np.float64)
    up = tensors[name + UP].astype(np.float64)
    rank = len(down)
    scale = float(tensors[name + ALPHA]) / rank
    return scale * up.reshape(-1, rank), down.reshape(rank, -1)


def _energy(up: NDArray[np.float64], down: NDArray[np.float64]) -> float:
    """Return ||up @ down||^2 by the Gram matrices of the factors: tr(up^T up down down^T)."""
    return float(((up.T @ up) * (down @ down.T)).sum())
