"""Read the output back from the disk with the safetensors library, and compare every byte."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lensd.errors import Failed
from lensd.lora.planning import Plan
from lensd.lora.tensor_spec import TensorSpec
from lensd.store.header import tensor_bytes
from lensd.store.tensors import Output
from lensd.worker.protocol import ReportProgress

# Most bytes that are mapped at a time, because mapped pages count as memory of the worker.
MAPPED_BYTES = 32 * 2**20


def verify(output: Output, plan: Plan, progress: ReportProgress) -> None:
    """Raise Failed(`verify_failed`) if a tensor differs from the plan or from what was written."""
    done = 0
    try:
        for names in _split_by_size(plan.tensors, MAPPED_BYTES):
            with safe_open(output.reading_path, framework="pt") as file:
                if not done:
                    _check_shapes(plan, {n: _spec(file, n) for n in file.keys()})  # noqa: SIM118
                for name in names:
                    _check_bytes(output, name, file.get_tensor(name))
                    done += 1
                    progress("verify", done, len(plan.tensors))
    except SafetensorError as error:
        raise Failed("verify_failed", f"the output cannot be read back: {error}") from None


def as_bytes(tensor: Tensor) -> memoryview:
    """Return the little-endian bytes of a tensor, as safetensors stores them."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _split_by_size(tensors: Iterable[tuple[str, TensorSpec]], limit: int) -> Iterator[list[str]]:
    """Yield the names of consecutive tensors that have at most `limit` bytes together."""
    names: list[str] = []
    size = 0
    for name, spec in tensors:
        size += tensor_bytes(spec.dtype, spec.shape)
        if names and size > limit:
            yield names
            names, size = [], tensor_bytes(spec.dtype, spec.shape)
        names.append(name)
    yield names


def _check_bytes(output: Output, name: str, found: Tensor) -> None:
    if not output.is_as_written(name, as_bytes(found)):
        raise Failed(
            "verify_failed",
            f"the tensor {name}, read back from the disk, differs from what was written; the "
            "original was not replaced. Check that disk",
        )


def _spec(file: Any, name: str) -> TensorSpec:
    """What an open safetensors file says of a tensor, without its bytes."""
    tensor = file.get_slice(name)
    return TensorSpec(tensor.get_dtype(), tuple(tensor.get_shape()))


def _check_shapes(plan: Plan, found: dict[str, TensorSpec]) -> None:
    """Compare the tensors of the output with the plan."""
    for key, spec in plan.tensors:
        if found.pop(key, None) != spec:
            raise Failed(
                "verify_failed",
                f"the tensor {key} of the output, read back from the disk, is missing or has "
                "not the planned type and shape; the original was not replaced. Check that disk",
            )
    if found:
        raise Failed(
            "verify_failed",
            f"the output, read back from the disk, has a tensor that was not planned: "
            f"{next(iter(found))}; the original was not replaced. Check that disk",
        )
