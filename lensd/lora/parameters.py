"""The settings of a watched folder that the numerics use. This module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass

from lensd.lora.portability import DEFAULT_TARGETS, ENCODINGS, Encoding


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the user chose. `mode` is rank, int8 or ultra. `target_size` is in bytes."""

    mode: str = "ultra"
    energy: float = 0.99
    allocation: str = "module"
    target_size: int | None = None
    max_rank: int | None = None
    constant_rank: bool = False
    strict_energy: bool = False
    float32: str = "auto"
    targets: tuple[str, ...] = DEFAULT_TARGETS
    encodings: tuple[Encoding, ...] = ENCODINGS
