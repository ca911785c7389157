"""CPU or GPU for one file."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

CUDA_FREE_BYTES = 4 << 30
WORTH_SECONDS = 10.0


class Work(NamedTuple):
    """What the time for a file depends on. Each is a sum over its modules."""

    modules: float
    elements: float  # of both factors: rank x (rows + columns)
    products: float  # rank^2 x (rows + columns)


# Processor time of mode ultra, in seconds of one core for each of these. `python -m
# bench.prediction` fits it to the files of bench.engine, and prints how far off it is.
SECONDS = Work(modules=2.4e-4, elements=8.9e-9, products=2.5e-11)


def predicted_cpu_seconds(work: Work, threads: int, seconds: Work = SECONDS) -> float:
    """Seconds on the CPU for a file, if each thread has a core."""
    return sum(a * b for a, b in zip(work, seconds, strict=True)) / threads


def choose(setting: str, seconds: float, cuda_free: Callable[[], int | None]) -> str:
    """The torch device. `cuda_free()` is the GPU's free memory in bytes, None without a GPU.

    `auto` leaves the GPU to the user's image generation, unless the GPU has much free memory and
    the file takes long enough on the CPU. To ask for the free memory takes some hundred megabytes
    of it (a CUDA context), so that is done only where the answer decides.
    """
    if setting != "auto":
        return setting
    if seconds <= WORTH_SECONDS:
        return "cpu"
    free = cuda_free()
    return "cuda" if free is not None and free >= CUDA_FREE_BYTES else "cpu"
