"""What the user chose for a file, as far as the numerics are concerned."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the user chose. `mode` is rank, int8 or ultra; sizes in bytes."""

    mode: str = "ultra"
    energy: float = 0.99
    allocation: str = "module"
    target_size: int | None = None
    max_rank: int | None = None
    constant_rank: bool = False
    float32: str = "auto"
    targets: tuple[str, ...] = ("comfyui", "a1111", "forge")
