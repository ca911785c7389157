"""CPU or GPU for one file."""

from __future__ import annotations

CUDA_FREE_BYTES = 4 << 30
WORTH_SECONDS = 10.0
# One core's throughput in the compressing passes, in multiply-adds of float64 a second. The order
# of magnitude is enough to distinguish files that take seconds from files that take minutes.
CPU_SPEED = 5e9


def predicted_cpu_seconds(parameters_times_rank: float, threads: int) -> float:
    """Seconds on the CPU for a file whose sum over modules of parameters x rank is given."""
    return 3 * parameters_times_rank / (CPU_SPEED * threads)


def choose(setting: str, seconds: float, cuda_free: int | None) -> str:
    """The torch device. `cuda_free` is the GPU's free memory in bytes, None without a GPU.

    `auto` leaves the GPU to the user's image generation, unless the GPU has much free memory and
    the file takes long enough on the CPU.
    """
    if setting != "auto":
        return setting
    has_room = cuda_free is not None and cuda_free >= CUDA_FREE_BYTES
    return "cuda" if has_room and seconds > WORTH_SECONDS else "cpu"
