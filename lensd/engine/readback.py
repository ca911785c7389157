"""The output, read back from the disk through the safetensors library, byte for byte."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lensd.errors import Failed
from lensd.lora.layout import TensorSpec
from lensd.lora.planning import Plan
from lensd.store.header import tensor_bytes
from lensd.store.staging import Output
from lensd.worker.protocol import ReportProgress

# What is mapped at a time: mapped pages count as the worker's memory.
MAPPED_BYTES = 32 * 2**20


def verify(output: Output, plan: Plan, progress: ReportProgress) -> None:
    """Raises Failed(`verify_failed`) where a tensor is not what was planned and written."""
    done = 0
    try:
        for names in _by_size(plan.tensors, MAPPED_BYTES):
            with safe_open(output.reading_path, framework="pt") as judge:
                if not done:
                    _check_shapes(plan, {n: judge.get_slice(n) for n in judge.keys()})  # noqa: SIM118
                for name in names:
                    _check_bytes(output, name, judge.get_tensor(name))
                    done += 1
                    progress("verify", done, len(plan.tensors))
    except SafetensorError as error:
        raise Failed("verify_failed", f"the output cannot be read back: {error}") from None


def as_bytes(tensor: Tensor) -> memoryview:
    """The little-endian bytes of a tensor, as safetensors stores them."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _by_size(tensors: Iterable[tuple[str, TensorSpec]], most: int) -> Iterator[list[str]]:
    """Names of tensors that follow each other, with at most so many bytes together."""
    names: list[str] = []
    size = 0
    for name, spec in tensors:
        size += tensor_bytes(spec.dtype, spec.shape)
        if names and size > most:
            yield names
            names, size = [], tensor_bytes(spec.dtype, spec.shape)
        names.append(name)
    yield names


def _check_bytes(output: Output, name: str, found: Tensor) -> None:
    if not output.is_as_written(name, as_bytes(found)):
        raise Failed(
            "verify_failed",
            f"tensor {name} read back from the disk is not what was written to it; nothing was "
            "replaced: check that disk",
        )


def _check_shapes(plan: Plan, found: dict[str, Any]) -> None:
    """`found`: what safe_open's get_slice says of each tensor that the output has."""
    for key, spec in plan.tensors:
        there = found.pop(key, None)
        if there is None or (there.get_dtype(), tuple(there.get_shape())) != spec:
            raise Failed("verify_failed", f"the output's tensor {key} is not as planned")
    if found:
        raise Failed("verify_failed", f"the output has a tensor too many: {next(iter(found))}")
