"""Choose and load the compiled kernels for this processor, once per process."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

import torch

VARIABLE = "LENSD_KERNELS"  # python, avx2, avx512 or generic in place of the best ones
FOLDER = Path(__file__).parent
# What torch says of the processor and the operating system -> the files that run there, best first
USABLE = {"AVX512": ("avx512", "avx2"), "AVX2": ("avx2",)}


@cache
def library() -> ctypes.CDLL | None:
    """Return the kernels, or None where the Python functions compute."""
    name = _chosen()
    return ctypes.CDLL(str(FOLDER / f"{name}.so")) if name else None


def described() -> str:
    """Return how products are computed: `native avx2`, `native generic` or `python`."""
    return f"native {_chosen()}" if library() else "python"


@cache
def _chosen() -> str | None:
    capability = torch.backends.cpu.get_cpu_capability()
    usable = [*USABLE.get(capability, ()), "generic"]
    wanted = os.environ.get(VARIABLE, "")
    if wanted:
        usable = [name for name in usable if name == wanted]
    return next((name for name in usable if (FOLDER / f"{name}.so").is_file()), None)
