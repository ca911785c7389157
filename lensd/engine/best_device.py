"""Choose the device for one file, and compute on the CPU what a GPU cannot take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from msgspec import structs

from lensd.engine import cuda
from lensd.engine.passes import Engine
from lensd.engine.pool import threads_of
from lensd.engine.reader import Source
from lensd.errors import Failed, Reason, Skipped
from lensd.logs.measures import Measures
from lensd.lora import cost
from lensd.lora.layout import Module
from lensd.store.tensors import empty_temporary
from lensd.worker import device as devices
from lensd.worker.device import Work
from lensd.worker.protocol import ReportProgress
from lensd.worker.request import AnyRequest, CompressRequest

M = TypeVar("M", bound=Measures)


def compute_on_best_device(
    source: Source, request: AnyRequest, work: Callable[[Engine], M], progress: ReportProgress
) -> M:
    """Return what `work` returns, computed on the device that the request names or that pays off.

    Without the GPU, or with too little memory on it, the CPU computes and the result has a note.
    Raises Skipped(`changed`) if the file is no longer the one that was opened.
    """
    cost.require_affordable(source.layout.modules)
    try:
        result = _compute(source, request, work, progress)
    except Exception:  # numbers of bytes that have been replaced may cause any error
        if source.unchanged():
            raise
        raise _changed() from None
    if not source.unchanged():
        raise _changed()
    return result


def _compute(
    source: Source, request: AnyRequest, work: Callable[[Engine], M], progress: ReportProgress
) -> M:
    source.leave_alpha_zero()
    threads = threads_of(request.processes)
    seconds = devices.predicted_cpu_seconds(_work_of(source.layout.modules), threads)
    device = devices.choose(request.device, seconds, cuda.free_bytes)
    if device == "cpu":
        return _compute_on_cpu(source, request, work, progress)
    note = f"there is no {device} here; computed on the CPU"
    if torch.cuda.is_available():
        result = compute_on_gpu(source, device, work, progress)
        if result is not None:
            return result
        cuda.release_memory()
        if isinstance(request, CompressRequest):
            empty_temporary(request.temporary, request.temporary_inode)
        note = f"{device} ran out of memory; computed on the CPU"
    return structs.replace(_compute_on_cpu(source, request, work, progress), device_note=note)


def compute_on_gpu(
    source: Source, device: str, work: Callable[[Engine], M], progress: ReportProgress
) -> M | None:
    """Return what `work` returns, or None if the GPU has not enough memory."""
    try:
        return work(Engine(source, device, progress))
    except RuntimeError as error:
        if not cuda.is_out_of_memory(error):
            raise
        return None


def _compute_on_cpu(
    source: Source, request: AnyRequest, work: Callable[[Engine], M], progress: ReportProgress
) -> M:
    try:
        return work(Engine(source, "cpu", progress, request.processes))
    except (MemoryError, RuntimeError) as error:
        # torch has no class of its own for the error of its CPU allocator
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise _out_of_memory() from None
        raise


def _changed() -> Skipped:
    return Skipped(
        Reason.CHANGED, "another program wrote to the file while lensd read it; it starts over"
    )


def _out_of_memory() -> Failed:
    return Failed(
        Reason.OUT_OF_MEMORY,
        "there was not enough memory for this file; close other programs or add swap, "
        "then `lensd retry`",
    )


def _work_of(modules: Sequence[Module]) -> Work:
    """Return what the seconds for these modules are predicted from."""
    ranks = [cost.inner_rank(m) for m in modules]
    elements = [(m.out_features + m.in_features) * k for m, k in zip(modules, ranks, strict=True)]
    products = sum(n * k for n, k in zip(elements, ranks, strict=True))
    return Work(len(modules), sum(elements), products)
