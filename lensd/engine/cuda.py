"""What only a GPU needs: its memory, its errors, and transfers of many tensors at once.

This has never run on a GPU: no machine of this project had one so far.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence

import torch
from torch import Tensor

from lensd.lora import batches

# Batches are larger than on the CPU: a GPU computes many small problems at once. Most elements of a
# batch, of both factors together: 128 MB as float64.
ELEMENTS = 2**24
# One thread computes while the other one reads, fetches results, hashes and writes.
THREADS = 2
# torch reports only its own allocations as OutOfMemoryError. The libraries that it calls allocate
# as well: their handles (NOT_INITIALIZED), and their work space.
_OUT_OF_MEMORY = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_INTERNAL_ERROR",
    "CUSOLVER_STATUS_NOT_INITIALIZED",
    "cudaErrorMemoryAllocation",
)


def batch_elements(device: torch.device) -> int:
    """Return the most elements of a batch on a device."""
    return ELEMENTS if device.type == "cuda" else batches.ELEMENTS


def free_bytes() -> int | None:
    """Return the free memory of the first GPU, None without a GPU. Creates a CUDA context."""
    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the GPU, or a library that computes on it, could not get memory."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(t in text for t in _OUT_OF_MEMORY)


def release_memory() -> None:
    """Give back what no tensor uses.

    Call it outside of the `except` block of an error: until then the error keeps the frames where
    it was raised, and the frames keep their tensors.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def to_device(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Copy tensors from the CPU, without waiting for the copies."""
    # Pinned memory belongs to the current GPU, which may be another.
    with torch.cuda.device(device):
        return [t.pin_memory().to(device, non_blocking=True) for t in tensors]


def to_cpu(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copy tensors of any dtypes and shapes to the CPU, by one transfer; some may be there already.

    Each transfer waits for all that was computed before.
    """
    away = [t for t in tensors if t.device.type != "cpu"]
    if not away:
        return list(tensors)
    fetched = iter(join_and_split(away, torch.device("cpu")))
    return [t if t.device.type == "cpu" else next(fetched) for t in tensors]


def join_and_split(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Copy at least one tensor to a device as one array of bytes."""
    parts = [t.contiguous().reshape(-1).view(torch.uint8) for t in tensors]
    pieces = torch.cat(parts).to(device).split([len(part) for part in parts])
    # `clone`: a view in another dtype has to begin at a multiple of its size.
    return [
        piece.clone().view(t.dtype).reshape(t.shape)
        for piece, t in zip(pieces, tensors, strict=True)
    ]
